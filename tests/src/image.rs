//! Where the built artifacts are.

use anyhow::{Result, ensure};
use std::{
    env,
    path::{Path, PathBuf},
};

/// Which orchestrator an image carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// The tiny stand-in: starts at once, orchestrates nothing.
    Standin,
    /// Real Kubernetes built from Debian's packages.
    Kubernetes,
    /// K3s.
    K3s,
    /// No orchestrator at all.
    Bare,
}

impl Flavor {
    /// The name of the folder that `cargo xtask image` builds it in.
    pub fn name(self) -> &'static str {
        match self {
            Flavor::Standin => "standin",
            Flavor::Kubernetes => "kubernetes",
            Flavor::K3s => "k3s",
            Flavor::Bare => "none",
        }
    }
}

/// A built image.
#[derive(Clone, Debug)]
pub struct Image {
    dir: PathBuf,
}

impl Image {
    /// Finds a built image: below `KEELSON_IMAGES`, or where `cargo xtask image` puts it.
    pub fn find(flavor: Flavor) -> Result<Image> {
        let images =
            env::var_os("KEELSON_IMAGES").map_or_else(|| target().join("image"), PathBuf::from);
        Image::at(&images.join(flavor.name()))
    }

    /// The image in this folder.
    pub fn at(dir: &Path) -> Result<Image> {
        let image = Image {
            dir: dir.to_owned(),
        };
        ensure!(
            image.disk().exists(),
            "there is no image at {}: build it with `cargo xtask image`",
            image.disk().display()
        );
        Ok(image)
    }

    /// The disk image, qcow2.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("keelson.qcow2")
    }

    /// The root image: EROFS with the hash tree behind it.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.img")
    }

    /// The folder that holds all of it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The workspace's target folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

/// The `image-builder` that built the images.
pub fn image_builder() -> PathBuf {
    let given = env::var_os("KEELSON_IMAGE_BUILDER").map(PathBuf::from);
    given.unwrap_or_else(|| target().join("debug/image-builder"))
}
