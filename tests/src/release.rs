//! Releases to upgrade to: a built image again under another version, as it is or with
//! something in it broken on purpose.

use crate::{Image, image::target, image_builder, run};
use anyhow::{Context, Result};
use keelson_disk::bundle::{self, Head, Manifest, SigningKey};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The key that images of this checkout trust: `cargo xtask image` makes it.
pub fn development_key() -> PathBuf {
    target().join("keys/development.key")
}

/// A release in the making.
pub struct Release {
    version: String,
    floor: Option<String>,
    folder: TempDir,
    tree: Value,
    kernel_options: String,
}

impl Release {
    /// The image again, under this version.
    pub fn of(image: &Image, version: &str) -> Result<Release> {
        let built = image.dir().join("trees/rootfs.json");
        let text =
            fs::read_to_string(&built).with_context(|| format!("reading {}", built.display()))?;
        let stamp: Value = serde_json::from_str(&text)?;
        let tree = stamp["tree"].clone();
        let folder = tempfile::Builder::new()
            .prefix("keelson-release-")
            .tempdir_in(target())?;
        let release = Release {
            version: version.to_owned(),
            floor: None,
            kernel_options: text_of(&tree, "kernel_options")?,
            folder,
            tree,
        };
        // Links cost nothing; a file that changes is made anew.
        let root = text_of(&release.tree, "root")?;
        run(Command::new("cp").arg("-al").arg(&root).arg(release.root()))?;
        release.say_version()?;
        Ok(release)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Writes the version where the image says it.
    fn say_version(&self) -> Result<()> {
        let path = "usr/lib/keelson/release.json";
        let mut facts: Value = serde_json::from_slice(&fs::read(self.root().join(path))?)?;
        facts["version"] = self.version.clone().into();
        self.put(path, format!("{facts:#}\n").as_bytes(), 0o644)?;
        let path = "usr/lib/os-release";
        let lines: String = fs::read_to_string(self.root().join(path))?
            .lines()
            .map(|line| {
                let (key, _) = line.split_once('=').unwrap_or((line, ""));
                let version = &self.version;
                match key {
                    "VERSION_ID" => format!("VERSION_ID={version}\n"),
                    "VERSION" => format!("VERSION=\"{version}\"\n"),
                    "IMAGE_VERSION" => {
                        format!("IMAGE_VERSION={}\n", version.replacen('-', "~", 1))
                    }
                    _ => format!("{line}\n"),
                }
            })
            .collect();
        self.put(path, lines.as_bytes(), 0o644)
    }

    /// With another file in the root.
    pub fn file(self, path: &str, bytes: &[u8], mode: u32) -> Result<Release> {
        self.put(path, bytes, mode)?;
        Ok(self)
    }

    /// With another program in the root.
    pub fn program(self, path: &str, program: &Path) -> Result<Release> {
        let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
        self.file(path, &bytes, 0o755)
    }

    /// With more words on the kernel's command line.
    pub fn kernel_options(mut self, words: &str) -> Release {
        self.kernel_options = format!("{} {words}", self.kernel_options);
        self
    }

    /// With this security floor.
    pub fn floor(mut self, version: &str) -> Release {
        self.floor = Some(version.to_owned());
        self
    }

    fn put(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.root().join(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Its UKI, once [`Release::bundle`] has built it.
    pub fn uki(&self) -> PathBuf {
        self.folder.path().join("image/keelson.efi")
    }

    /// Builds it and packs it into a bundle that is signed with this key.
    pub fn bundle(&self, key: &Path, to: &Path) -> Result<()> {
        let image = self.folder.path().join("image");
        let mkfs: Vec<String> = self.tree["mkfs_erofs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(os_text)
            .collect();
        run(Command::new(image_builder())
            .arg("disk")
            .arg("--root-tree")
            .arg(self.root())
            .args(["--initramfs-tree", &text_of(&self.tree, "initramfs")?])
            .args(["--kernel", &text_of(&self.tree, "kernel")?])
            .args(["--stub", &text_of(&self.tree, "stub")?])
            .args(["--boot-loader", &text_of(&self.tree, "boot_loader")?])
            .args(["--mkfs-erofs", &mkfs.join(" ")])
            .args(["--kernel-release", &text_of(&self.tree, "kernel_release")?])
            .args(["--kernel-options", &self.kernel_options])
            .args(["--image-version", &self.version])
            .args(["--build-time", "1790000000"])
            .args(["--compression", "lz4"])
            .args(["--format", "qcow2"])
            .arg("--output")
            .arg(&image))?;
        let mut bundle = Command::new(image_builder());
        bundle
            .arg("bundle")
            .arg(&image)
            .arg("--key")
            .arg(key)
            .args(["--level", "1"])
            .arg("--output")
            .arg(to);
        if let Some(floor) = &self.floor {
            bundle.args(["--security-floor", floor]);
        }
        run(&mut bundle)
    }
}

/// A bundle again with something else in its manifest, signed with this key.
pub fn signed_again(
    bundle: &Path,
    key: &Path,
    change: impl FnOnce(&mut Manifest),
    to: &Path,
) -> Result<()> {
    let mut bundle = BufReader::new(File::open(bundle)?);
    let mut manifest = Head::read(&mut bundle)?.manifest()?;
    let uki = manifest.uki.bytes;
    change(&mut manifest);
    let key = SigningKey::from_pem(&fs::read_to_string(key)?)?;
    let mut parts = [Vec::new(), Vec::new()];
    bundle.by_ref().take(uki).read_to_end(&mut parts[0])?;
    bundle.read_to_end(&mut parts[1])?;
    let [uki, image] = &parts;
    let mut file = File::create(to)?;
    bundle::write(&manifest, &[key], &mut &uki[..], &mut &image[..], &mut file)?;
    Ok(())
}

fn text_of(tree: &Value, key: &str) -> Result<String> {
    os_text(&tree[key]).with_context(|| format!("the image's record has no {key}"))
}

/// A text, or a path as serde writes an `OsString`.
fn os_text(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let bytes = value["Unix"].as_array()?;
    let bytes = bytes
        .iter()
        .map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()));
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}
