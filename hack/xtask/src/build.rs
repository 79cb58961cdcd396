//! Builds the programs, an orchestrator's payload and an image. Each part is
//! rebuilt only when what it is made of has changed: cargo, the payload's own
//! script and image-builder each see to that.

use crate::step::{log, logged, step};
use anyhow::{Context, Result, bail};
use keelson_tests::{Flavor, Image};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the programs of the machine are compiled for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// image-builder's exit code when an orchestrator could not be downloaded.
const UNREACHABLE: i32 = 4;

/// An image, and the orchestrator's executable as far as this host can run it.
pub(crate) struct Built {
    pub(crate) image: Image,
    pub(crate) flavor: Flavor,
    /// Runs `kubectl` as its first argument.
    pub(crate) kubectl: Option<PathBuf>,
}

/// Builds the programs for the machine (static, small) and those for the desk.
pub(crate) fn programs(root: &Path) -> Result<()> {
    step("build the machine's programs", || {
        let mut cargo = cargo(root);
        cargo
            .args(["build", "--locked", "--release", "--target", TARGET])
            .args([
                "-p",
                "keelson-init",
                "-p",
                "keelson-machined",
                "-p",
                "keelson-apid",
                "-p",
                "keelson-standin",
            ])
            // Nothing on the machine shares a C library with them.
            .env(
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
                "-C target-feature=+crt-static",
            );
        logged(&mut cargo, &log(root, "programs"))
    })?;
    step("build osctl and image-builder", || {
        let mut cargo = cargo(root);
        cargo.args([
            "build",
            "--locked",
            "-p",
            "keelson-osctl",
            "-p",
            "keelson-image-builder",
        ]);
        logged(&mut cargo, &log(root, "tools"))
    })
}

/// Builds an image with this orchestrator, and everything it is made of. K3s
/// becomes real Kubernetes from Debian where its release cannot be downloaded.
pub(crate) fn image(root: &Path, flavor: Flavor) -> Result<Built> {
    programs(root)?;
    if flavor == Flavor::K3s {
        match builder(root, flavor, "k3s".as_ref())? {
            Outcome::Built(image) => {
                let kubectl = k3s(&cache(root));
                return Ok(Built {
                    image,
                    flavor,
                    kubectl,
                });
            }
            Outcome::Unreachable(why) => {
                eprintln!("  · {why}; going on with Kubernetes from Debian's packages")
            }
        }
        return kubernetes(root);
    }
    match flavor {
        Flavor::Kubernetes => kubernetes(root),
        Flavor::Standin => {
            let payload = standin(root)?;
            Ok(Built {
                image: built(builder(root, flavor, &payload)?)?,
                flavor,
                kubectl: None,
            })
        }
        Flavor::Bare | Flavor::K3s => Ok(Built {
            image: built(builder(root, flavor, "none".as_ref())?)?,
            flavor,
            kubectl: None,
        }),
    }
}

fn kubernetes(root: &Path) -> Result<Built> {
    let payload = root.join("target/payload/kubernetes");
    step("build Kubernetes from Debian's packages", || {
        logged(
            Command::new(root.join("tests/kubernetes/build")).arg(&payload),
            &log(root, "kubernetes"),
        )
    })?;
    let image = built(builder(root, Flavor::Kubernetes, &payload)?)?;
    Ok(Built {
        image,
        flavor: Flavor::Kubernetes,
        kubectl: Some(payload.join("bin/kubernetes-standin")),
    })
}

/// The K3s executable that the image was made from: the newest in the cache.
fn k3s(cache: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(cache.join("k3s")).ok()?.flatten();
    versions
        .map(|entry| entry.path().join("k3s"))
        .filter(|path| path.exists())
        .max()
}

/// Lays the tiny stand-in out as a payload.
fn standin(root: &Path) -> Result<PathBuf> {
    let payload = root.join("target/payload/standin");
    fs::create_dir_all(payload.join("bin"))?;
    fs::copy(release(root).join("standin"), payload.join("bin/standin"))
        .context("copying the stand-in")?;
    let manifest = serde_json::json!({
        "formatVersion": 1,
        "name": "standin",
        "version": env!("CARGO_PKG_VERSION"),
        "exec": "bin/standin",
        "path": ["bin"],
        "env": {},
        "dataDir": "/var/lib/rancher/k3s",
        "config": "/etc/rancher/k3s/config.yaml",
        "kubeconfig": "/etc/rancher/k3s/k3s.yaml",
        "binds": [],
        "directories": [],
    });
    fs::write(payload.join("orchestrator.json"), format!("{manifest:#}\n"))?;
    Ok(payload)
}

enum Outcome {
    Built(Image),
    Unreachable(String),
}

fn built(outcome: Outcome) -> Result<Image> {
    match outcome {
        Outcome::Built(image) => Ok(image),
        Outcome::Unreachable(why) => bail!("{why}"),
    }
}

/// The key pair of this checkout, made at the first build: what is built here takes upgrades that
/// are built here. It is no release's key and never leaves the target folder.
pub(crate) fn key(root: &Path) -> Result<PathBuf> {
    let name = root.join("target/keys/development");
    let key = name.with_extension("key");
    if !key.exists() || !name.with_extension("pub").exists() {
        fs::create_dir_all(root.join("target/keys"))?;
        let mut command = Command::new(root.join("target/debug/image-builder"));
        command.args(["key", "new"]).arg(&name);
        logged(&mut command, &log(root, "key"))?;
    }
    Ok(key)
}

/// Runs image-builder.
fn builder(root: &Path, flavor: Flavor, orchestrator: &Path) -> Result<Outcome> {
    let output = root.join("target/image").join(flavor.name());
    let trust = key(root)?.with_extension("pub");
    step(&format!("build the image ({})", flavor.name()), || {
        let log = log(root, &format!("image-{}", flavor.name()));
        let mut command = Command::new(root.join("target/debug/image-builder"));
        command
            .current_dir(root)
            .arg("build")
            .arg("--programs")
            .arg(release(root))
            .arg("--orchestrator")
            .arg(orchestrator)
            .arg("--cache")
            .arg(cache(root))
            .arg("--trust")
            .arg(trust)
            .arg("--output")
            .arg(&output)
            .stdin(Stdio::null());
        if flavor == Flavor::K3s {
            let run = command.output().context("starting image-builder")?;
            if run.status.code() == Some(UNREACHABLE) {
                let text = String::from_utf8_lossy(&run.stderr).into_owned();
                let line = text
                    .lines()
                    .find(|line| line.contains("error"))
                    .unwrap_or("K3s cannot be downloaded");
                return Ok(Outcome::Unreachable(
                    line.trim_start_matches("error: ").to_owned(),
                ));
            }
        }
        logged(&mut command, &log)?;
        Ok(Outcome::Built(Image::at(&output)?))
    })
}

/// Where downloads are kept: shared by all checkouts of this user.
fn cache(root: &Path) -> PathBuf {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let shared = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home);
    env::var_os("KEELSON_CACHE")
        .map(PathBuf::from)
        .or_else(|| shared.map(|dir| dir.join("keelson")))
        .unwrap_or_else(|| root.join("target/cache"))
}

/// Where the programs for the machine are.
pub(crate) fn release(root: &Path) -> PathBuf {
    root.join("target").join(TARGET).join("release")
}

/// cargo, as it was called.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).env_remove("RUSTFLAGS");
    command
}
