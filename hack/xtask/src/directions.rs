//! Who may depend on whom among our own crates. The table is the design's; what
//! cargo says is held against it.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::Path;

/// Each crate and the crates of ours that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("keelson-api", &[]),
    ("keelson-config", &[]),
    ("keelson-disk", &[]),
    ("keelson-sys", &[]),
    (
        "keelson-init",
        &["keelson-api", "keelson-disk", "keelson-sys"],
    ),
    (
        "keelson-machined",
        &[
            "keelson-api",
            "keelson-config",
            "keelson-disk",
            "keelson-sys",
        ],
    ),
    ("keelson-apid", &["keelson-api"]),
    (
        "keelson-osctl",
        &["keelson-api", "keelson-config", "keelson-disk"],
    ),
    ("keelson-image-builder", &["keelson-config", "keelson-disk"]),
    (
        "keelson-tests",
        &["keelson-api", "keelson-config", "keelson-disk"],
    ),
    ("keelson-standin", &[]),
    ("xtask", &["keelson-api", "keelson-config", "keelson-tests"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<String>,
}

/// Holds the workspace against the table.
pub(crate) fn run(root: &Path) -> Result<()> {
    let output = crate::build::cargo(root)
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .output()
        .context("starting cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let wrong = violations(&metadata);
    ensure!(
        wrong.is_empty(),
        "dependencies that the design does not allow:\n  {}",
        wrong.join("\n  ")
    );
    Ok(())
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
            wrong.push(format!(
                "{} is not in the table (hack/xtask/src/directions.rs)",
                package.name
            ));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
        {
            if !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} → {}", package.name, dependency.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency {
            name: (*name).to_owned(),
            path: Some(String::new()),
        };
        Package {
            name: name.to_owned(),
            dependencies: uses.iter().map(dependency).collect(),
        }
    }

    #[test]
    fn what_the_table_does_not_allow_is_found() {
        let metadata = Metadata {
            packages: vec![
                package("keelson-init", &["keelson-sys"]),
                package("keelson-config", &["keelson-sys"]),
                package("keelson-new", &[]),
            ],
        };
        let wrong = violations(&metadata);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(wrong[0], "keelson-config → keelson-sys");
        assert!(wrong[1].starts_with("keelson-new"));
    }
}
