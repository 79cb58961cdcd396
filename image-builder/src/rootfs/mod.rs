//! Assembles the root tree and the initramfs tree from packages, the orchestrator's payload,
//! our own programs and the static files of `rootfs/`.
//!
//! ```text
//! rootfs/packages.yaml ── packages ──> single files, libraries, certificates ─┐
//! kernel/kernel.yaml ──── modules ───> modules and their index ───────────────┤
//! rootfs/layout.yaml, rootfs/files/ ── folders, links, static files ──────────┼──> root tree
//! orchestrator ── payload ────────────────────────────────────────────────────┤
//! programs ── init, machined, apid ───────────────────────────────────────────┘
//!                                       allow-list check ──> RootTree, or every violation
//! ```

pub mod allow;
pub(crate) mod elf;
mod libraries;
mod modules;
pub(crate) mod pattern;
pub(crate) mod recipe;
pub(crate) mod resolve;
mod sbom;
mod sources;
mod take;
pub(crate) mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::inputs::{Carried, Inputs, Release, RootTree};
use crate::orchestrator::{self, payload};
use crate::packages::{self, Package, lock::Lock};
use crate::report::{Report, Step};
use modules::{Modules, Selection};
use sbom::Part;
use sources::Sources;
use tree::Tree;

/// Where the keys are whose bundles are taken as upgrades.
const KEYS: &str = "usr/share/keelson/keys";

/// Our own programs, as `Inputs::programs` holds them.
const PROGRAMS: [&str; 3] = ["init", "machined", "apid"];

/// What an image says of itself.
const RELEASE: &str = "usr/lib/keelson/release.json";

/// The stamp that says from what the trees were assembled.
const STAMP: &str = "rootfs.json";

/// Builds the trees below `out`, which is kept between builds.
pub fn assemble(inputs: &Inputs, out: &Path, report: &Report) -> anyhow::Result<RootTree> {
    assemble_for(Arch::Amd64, inputs, out, report)
}

/// Builds the trees for an architecture.
pub fn assemble_for(
    arch: Arch,
    inputs: &Inputs,
    out: &Path,
    report: &Report,
) -> anyhow::Result<RootTree> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let recipes = Recipes::read(&inputs.source)?;

    // First what may be out of reach, so that a build that cannot be ends before it begins.
    let step = report.step("orchestrator");
    let orchestrator = orchestrator::prepare(inputs, arch, report, &step)?;
    match &orchestrator {
        Some(_) => step.done(None),
        None => drop(step),
    }

    let step = report.step("packages");
    let sources = Sources::gather(arch, inputs, &recipes, &step)?;
    if sources.changed {
        step.done(None);
    } else {
        step.fresh(None);
    }

    let step = report.step("root tree");
    let parts = Parts {
        arch,
        inputs,
        recipes: &recipes,
        sources: &sources,
        orchestrator: orchestrator.as_ref(),
    };
    let fingerprint = parts.fingerprint()?;
    if let Some(tree) = stamped(out, &fingerprint) {
        step.fresh(None);
        return Ok(tree);
    }
    let tree = parts.assemble(out, &step)?;
    let stamp = Stamp { fingerprint, tree };
    let path = out.join(STAMP);
    fs::write(&path, serde_json::to_string(&stamp)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    step.done(Some(size(&stamp.tree.root)?));
    Ok(stamp.tree)
}

/// Checks a tree (a root that was assembled, or an image unpacked again) against the allow-list
/// of the source tree at `source`. Every violation is in the error.
pub fn check(source: &Path, root: &Path) -> anyhow::Result<()> {
    let list: allow::AllowList = recipe::read(&source.join("rootfs/allow.yaml"))?;
    let violations = allow::check(root, &list)?;
    if violations.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = violations.iter().map(|v| format!("  {v}")).collect();
    bail!(
        "{} files may not be in the image (rootfs/allow.yaml says what may):\n{}",
        lines.len(),
        lines.join("\n")
    )
}

/// What the tree says of itself; nothing if it is not one of ours.
pub(crate) fn release(root: &Path) -> anyhow::Result<Option<Release>> {
    let path = root.join(RELEASE);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("cannot read {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// What a finished tree was made from.
#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    fingerprint: String,
    tree: RootTree,
}

/// The trees that an earlier build has left in `out`.
pub fn built(out: &Path) -> anyhow::Result<RootTree> {
    let path = out.join(STAMP);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: build the image first", path.display()))?;
    let stamp: Stamp =
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(stamp.tree)
}

fn stamped(out: &Path, fingerprint: &str) -> Option<RootTree> {
    let text = fs::read_to_string(out.join(STAMP)).ok()?;
    let stamp: Stamp = serde_json::from_str(&text).ok()?;
    (stamp.fingerprint == fingerprint && stamp.tree.root.is_dir()).then_some(stamp.tree)
}

/// The data folders of the source tree.
struct Recipes {
    packages: recipe::Packages,
    layout: recipe::Layout,
    kernel: recipe::Kernel,
    /// Digests of the data files, by path.
    digest: String,
}

impl Recipes {
    fn read(source: &Path) -> anyhow::Result<Recipes> {
        let mut digest = String::new();
        for folder in ["kernel", "rootfs"] {
            let folder = source.join(folder);
            for path in tree::walk(&folder)? {
                let full = folder.join(&path);
                if full.is_file() {
                    digest.push_str(&format!("{path} {}\n", packages::file_sha256(&full)?));
                }
            }
        }
        Ok(Recipes {
            packages: recipe::read(&source.join("rootfs/packages.yaml"))?,
            layout: recipe::read(&source.join("rootfs/layout.yaml"))?,
            kernel: recipe::read(&source.join("kernel/kernel.yaml"))?,
            digest,
        })
    }
}

/// All that one assembly reads.
struct Parts<'a> {
    arch: Arch,
    inputs: &'a Inputs,
    recipes: &'a Recipes,
    sources: &'a Sources,
    orchestrator: Option<&'a orchestrator::Source>,
}

impl Parts<'_> {
    /// A text that changes whenever the trees would.
    fn fingerprint(&self) -> anyhow::Result<String> {
        let mut text = format!(
            "{:?} {:?} {} {} {} {:?}\n{}",
            self.arch,
            self.inputs.variant,
            self.inputs.version,
            self.inputs.security_floor,
            self.inputs.build_time,
            self.inputs.trust,
            self.recipes.digest
        );
        for package in &self.sources.packages {
            text.push_str(&format!("{} {}\n", package.name, package.sha256));
        }
        for name in PROGRAMS {
            text.push_str(&format!("{name} {}\n", self.program_digest(name)?));
        }
        if let Some(source) = self.orchestrator {
            text.push_str(&format!("{:?}\n", source.installed));
        }
        // A builder that was changed builds again.
        if let Ok(builder) = std::env::current_exe() {
            text.push_str(&packages::file_sha256(&builder)?);
        }
        Ok(packages::bytes_sha256(text.as_bytes()))
    }

    fn program(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.inputs.programs.join(name);
        if !path.is_file() {
            bail!(
                "there is no {name} in {}; build it first, or name the right folder with --programs",
                self.inputs.programs.display()
            );
        }
        Ok(path)
    }

    fn program_digest(&self, name: &str) -> anyhow::Result<String> {
        Ok(packages::file_sha256(&self.program(name)?)?)
    }

    fn assemble(&self, out: &Path, step: &Step<'_>) -> anyhow::Result<RootTree> {
        let stamp = out.join(STAMP);
        if stamp.exists() {
            fs::remove_file(&stamp)
                .with_context(|| format!("cannot remove {}", stamp.display()))?;
        }
        let root = Tree::create(&out.join("root"))?;
        step.detail("files");
        self.lay_out(&root)?;
        for name in PROGRAMS {
            root.write(
                &format!("usr/bin/{name}"),
                &read(&self.program(name)?)?,
                0o755,
            )?;
        }
        for package in &self.recipes.packages.packages {
            let folder = self.sources.folder(&package.name)?;
            take::take(package, folder, self.arch, &root)?;
        }
        let own_path = self.payload(&root)?;
        step.detail("libraries");
        let used = self.libraries(&root, &own_path)?;
        step.detail("kernel modules");
        let initramfs = Tree::create(&out.join("initramfs"))?;
        initramfs.write("init", &read(&self.program("init")?)?, 0o755)?;
        self.modules(&root, &initramfs)?;
        step.detail("papers");
        let os_release = self.os_release()?;
        root.write("usr/lib/os-release", os_release.as_bytes(), 0o644)?;
        root.write(RELEASE, self.release()?.as_bytes(), 0o644)?;
        for key in &self.inputs.trust {
            let path = format!("{KEYS}/{}.pub", key.id());
            root.write(&path, key.to_pem().as_bytes(), 0o644)?;
        }
        let papers = self.papers(&root, &used, out)?;
        step.detail("allow-list");
        check(&self.inputs.source, &root.path(""))?;
        self.tree(out, os_release, papers)
    }

    /// Folders, links and static files.
    fn lay_out(&self, root: &Tree) -> anyhow::Result<()> {
        for directory in &self.recipes.layout.directories {
            let mode = u32::from_str_radix(&directory.mode, 8)
                .with_context(|| format!("rootfs/layout.yaml: {} is no mode", directory.mode))?;
            root.directory(&directory.path, mode)?;
        }
        for link in &self.recipes.layout.links {
            if recipe::applies(&link.architectures, self.arch) {
                root.link(&link.path, &link.to)?;
            }
        }
        let files = self.inputs.source.join("rootfs/files");
        for path in tree::walk(&files)? {
            let full = files.join(&path);
            if full.is_file() {
                root.write(&path, &read(&full)?, 0o644)?;
            }
        }
        Ok(())
    }

    /// The orchestrator's payload; returns where its programs find libraries of its own.
    fn payload(&self, root: &Tree) -> anyhow::Result<Vec<String>> {
        let Some(source) = self.orchestrator else {
            return Ok(Vec::new());
        };
        payload::copy(&source.folder, root, orchestrator::FOLDER)?;
        let search = source.installed.description.env.get("LD_LIBRARY_PATH");
        Ok(search
            .into_iter()
            .flat_map(|search| search.split(':'))
            .map(|folder| folder.trim_matches('/').to_string())
            .collect())
    }

    /// Completes the programs with their libraries; returns the packages that gave something.
    fn libraries(&self, root: &Tree, own_path: &[String]) -> anyhow::Result<BTreeSet<String>> {
        let list = &self.recipes.packages;
        let mut holders = BTreeMap::new();
        for library in &list.libraries {
            let folder = self.sources.folder(&library.name)?;
            holders.insert(library.name.clone(), folder.to_path_buf());
        }
        let mut used =
            libraries::complete(root, self.arch, &holders, orchestrator::FOLDER, own_path)?;
        let idle: Vec<&str> = holders
            .keys()
            .filter(|name| !used.contains(*name))
            .map(String::as_str)
            .collect();
        if !idle.is_empty() {
            bail!(
                "nothing in the image needs a library of {}; take it out of rootfs/packages.yaml",
                idle.join(", ")
            );
        }
        used.extend(list.packages.iter().map(|package| package.name.clone()));
        used.insert(self.sources.kernel_package.clone());
        // The boot loader and the stub are on the disk too, if not in this tree.
        let packed = list.tools.iter().filter(|tool| tool.libraries.is_empty());
        used.extend(packed.map(|tool| tool.name.clone()));
        Ok(used)
    }

    fn modules(&self, root: &Tree, initramfs: &Tree) -> anyhow::Result<()> {
        let kernel = &self.recipes.kernel;
        let (variant, arch) = (self.inputs.variant, self.arch);
        let folder = self.sources.folder(&self.sources.kernel_package)?;
        let modules = Modules::open(folder, &self.sources.kernel_release)?;
        let mut seen = Selection::default();
        for (wanted, tree, lib) in [
            (kernel.root_modules(variant, arch), root, "usr/lib/modules"),
            (
                kernel.initramfs_modules(variant, arch),
                initramfs,
                "lib/modules",
            ),
        ] {
            let selection = modules.select(&wanted, &mut seen)?;
            modules.write(&selection, tree, lib)?;
        }
        Ok(())
    }

    fn os_release(&self) -> anyhow::Result<String> {
        let path = self.inputs.source.join("rootfs/os-release");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text
            .replace("{version}", &self.inputs.version.to_string())
            .replace("{loader-version}", &self.inputs.version.loader())
            .replace("{variant}", self.inputs.variant.name())
            .replace("{build}", &self.inputs.build_time.to_string()))
    }

    fn release(&self) -> anyhow::Result<String> {
        let release = Release {
            version: self.inputs.version.clone(),
            arch: self.arch.name().to_string(),
            variant: self.inputs.variant,
            build_time: self.inputs.build_time,
            kernel: self.sources.kernel_release.clone(),
            orchestrator: self.orchestrator.map(|source| Carried {
                name: source.installed.name.clone(),
                version: source.installed.version.clone(),
                sha256: source.installed.sha256.clone(),
            }),
            security_floor: self.inputs.security_floor.clone(),
        };
        Ok(serde_json::to_string_pretty(&release)? + "\n")
    }

    /// The lock beside the image, and the bill of materials both there and in the image.
    fn papers(
        &self,
        root: &Tree,
        used: &BTreeSet<String>,
        out: &Path,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let release = &self.recipes.packages.release;
        let lock = Lock::new(release, self.arch, &self.sources.packages);
        let lock_path = out.join(packages::lock::FILE_NAME);
        fs::write(&lock_path, lock.text()?)
            .with_context(|| format!("cannot write {}", lock_path.display()))?;

        let inside: Vec<Package> = lock
            .packages
            .iter()
            .filter(|package| used.contains(&package.name))
            .cloned()
            .collect();
        let part = |name: &str, version: &str, sha256: String| Part {
            name: name.to_string(),
            version: version.to_string(),
            sha256,
        };
        let version = self.inputs.version.to_string();
        let mut programs = Vec::new();
        for name in PROGRAMS {
            programs.push(part(name, &version, self.program_digest(name)?));
        }
        let orchestrator = self.orchestrator.map(|source| {
            let installed = &source.installed;
            part(
                &installed.name,
                &installed.version,
                installed.sha256.clone(),
            )
        });
        let bill = sbom::text(&sbom::Bill {
            version: &version,
            build_time: self.inputs.build_time,
            arch: self.arch,
            release,
            packages: &inside,
            programs: &programs,
            orchestrator: orchestrator.as_ref(),
        })?;
        root.write("usr/share/keelson/sbom.spdx.json", bill.as_bytes(), 0o644)?;
        let bill_path = out.join("sbom.spdx.json");
        fs::write(&bill_path, bill)
            .with_context(|| format!("cannot write {}", bill_path.display()))?;
        Ok(vec![lock_path, bill_path])
    }

    fn tree(
        &self,
        out: &Path,
        os_release: String,
        papers: Vec<PathBuf>,
    ) -> anyhow::Result<RootTree> {
        let kernel = self.sources.folder(&self.sources.kernel_package)?;
        let efi = self
            .sources
            .folder("systemd-boot-efi")?
            .join("usr/lib/systemd/boot/efi");
        let word = self.arch.efi();
        Ok(RootTree {
            root: out.join("root"),
            initramfs: out.join("initramfs"),
            kernel: kernel
                .join("boot")
                .join(format!("vmlinuz-{}", self.sources.kernel_release)),
            kernel_release: self.sources.kernel_release.clone(),
            stub: efi.join(format!("linux{word}.efi.stub")),
            boot_loader: efi.join(format!("systemd-boot{word}.efi")),
            mkfs_erofs: self.sources.mkfs_erofs.clone(),
            os_release,
            kernel_options: self.recipes.kernel.options(self.inputs.variant, self.arch),
            version: self.inputs.version.to_string(),
            build_time: self.inputs.build_time,
            papers,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The bytes of all files of a tree.
fn size(root: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    for path in tree::walk(root)? {
        let meta = root.join(path).symlink_metadata()?;
        if meta.is_file() {
            total += meta.len();
        }
    }
    Ok(total)
}
