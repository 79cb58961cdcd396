//! What modules are loaded with: where each parameter stands, and what the machine
//! remembers of those that the kernel does not show, or shows in other words.

use crate::nouns::file::{RenderedFile, ensure};
use anyhow::Context as _;
use keelson_config::Machine;
use keelson_sys::module::Parameters;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Where the kernel shows its modules.
pub(crate) const SYS_MODULE: &str = "/sys/module";

/// Where is kept what modules were given: machined may be started again, a reboot loads
/// them anew.
pub(super) const GIVEN: &str = "/run/keelson/modules.json";

/// Where one parameter of a module that is there stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// It is as wanted.
    InForce,
    /// The module was loaded with it, and does not show it.
    Unseen,
    /// It has another value, which can be changed.
    Changeable(String),
    /// It has another value, which the kernel changes of no loaded module.
    Fixed(String),
    /// The module shows no such parameter, and was loaded without it.
    Unknown,
}

/// What a parameter was given, and what the kernel showed after that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gift {
    value: String,
    shown: Option<String>,
}

/// The parameters of the kernel's modules.
pub(super) struct Table {
    root: PathBuf,
    store: PathBuf,
    /// By module, by parameter.
    given: BTreeMap<String, BTreeMap<String, Gift>>,
}

impl Table {
    /// The running kernel's; `root` is `/sys/module`.
    pub(super) fn new(root: &Path, store: &Path) -> Self {
        let given = fs::read(store)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Table {
            root: root.to_owned(),
            store: store.to_owned(),
            given,
        }
    }

    /// Where a parameter of a module that is there stands.
    pub(super) fn stand(&self, module: &str, key: &str, want: &str) -> Stand {
        let gift = self.given.get(module).and_then(|keys| keys.get(key));
        stand(&path(&self.root, module, key), want, gift)
    }

    /// Remembers what a module was just loaded with.
    pub(super) fn loaded(&mut self, module: &str, parameters: &Parameters) -> anyhow::Result<()> {
        let Some(keys) = parameters.get(module) else {
            return Ok(());
        };
        for (key, value) in keys {
            self.remember(module, key, value);
        }
        self.save()
    }

    /// Changes a parameter of a module that is there.
    pub(super) fn set(&mut self, module: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let path = path(&self.root, module, key);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        // In one write: the kernel takes each for a whole value.
        let written = rustix::io::write(&mut file, value.as_bytes())
            .with_context(|| format!("the kernel refuses {value:?} for {key} of {module}"))?;
        anyhow::ensure!(
            written == value.len(),
            "the kernel takes only a part of {value:?} for {key} of {module}"
        );
        self.remember(module, key, value);
        self.save()
    }

    fn remember(&mut self, module: &str, key: &str, value: &str) {
        let shown = fs::read_to_string(path(&self.root, module, key));
        let gift = Gift {
            value: value.to_owned(),
            shown: shown.ok().map(|text| text.trim().to_owned()),
        };
        let keys = self.given.entry(module.to_owned()).or_default();
        keys.insert(key.to_owned(), gift);
    }

    fn save(&self) -> anyhow::Result<()> {
        let json = serde_json::to_vec(&self.given)?;
        ensure(&[RenderedFile::file(&self.store, 0o600, json)]).map(drop)
    }
}

fn path(root: &Path, module: &str, key: &str) -> PathBuf {
    root.join(module).join("parameters").join(key)
}

fn stand(path: &Path, want: &str, gift: Option<&Gift>) -> Stand {
    let gift = gift.filter(|gift| gift.value == want);
    let shown = match fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match gift {
                Some(_) => Stand::Unseen,
                None => Stand::Unknown,
            };
        }
        // Some can be written and not be read.
        Err(_) if gift.is_some() => return Stand::Unseen,
        Err(_) => String::new(),
    };
    // The kernel rounds some, and writes some in its own words.
    let as_given = gift.is_some_and(|gift| gift.shown.as_deref() == Some(&*shown));
    if as_given || same(want, &shown) {
        return Stand::InForce;
    }
    let writable = path
        .metadata()
        .is_ok_and(|about| about.permissions().mode() & 0o200 != 0);
    match writable {
        true => Stand::Changeable(shown),
        false => Stand::Fixed(shown),
    }
}

/// Whether two texts are the same value to the kernel: numbers in any base, and the
/// words of kstrtobool() against the letter that the kernel shows.
fn same(want: &str, shown: &str) -> bool {
    if want == shown {
        return true;
    }
    if let (Some(want), Some(shown)) = (number(want), number(shown)) {
        return want == shown;
    }
    let word = match shown {
        "Y" => ["1", "y", "t", "on", "yes", "true"],
        "N" => ["0", "n", "f", "off", "no", "false"],
        _ => return false,
    };
    word.contains(&want.to_ascii_lowercase().as_str())
}

fn number(text: &str) -> Option<i128> {
    match text.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// What all modules of a config are given.
pub(super) fn wanted(machine: &Machine) -> Parameters {
    let modules = machine.modules.iter();
    modules
        .filter(|module| !module.parameters.is_empty())
        .map(|module| (module.name.as_str().to_owned(), module.parameters.clone()))
        .collect()
}

/// The parameters that differ between two configs and that only a reboot puts in force, as
/// paths: those of modules that are loaded and that the kernel does not let be changed. Those
/// that are loaded before a config is read never take them.
pub(crate) fn after_reboot(
    before: &Machine,
    after: &Machine,
    root: &Path,
    early: &BTreeSet<String>,
) -> Vec<String> {
    let late = |mut wanted: Parameters| {
        wanted.retain(|module, _| !early.contains(module));
        wanted
    };
    let (before, mut after) = (late(wanted(before)), late(wanted(after)));
    let mut found = Vec::new();
    for (module, had) in &before {
        let wants = after.remove(module).unwrap_or_default();
        // A module that is in the kernel without being loaded has no such file: it never
        // takes them.
        if !root.join(module).join("initstate").exists() {
            continue;
        }
        let gone = had.keys().filter(|key| !wants.contains_key(*key));
        let fixed = wants.iter().filter(|(key, value)| {
            had.get(*key) != Some(*value) && is_fixed(root, module, key, value)
        });
        found.extend(
            fixed
                .map(|(key, _)| key)
                .chain(gone)
                .map(|key| config_path(module, key)),
        );
    }
    for (module, wants) in &after {
        if root.join(module).join("initstate").exists() {
            let fixed = wants
                .iter()
                .filter(|(key, value)| is_fixed(root, module, key, value));
            found.extend(fixed.map(|(key, _)| config_path(module, key)));
        }
    }
    found
}

fn is_fixed(root: &Path, module: &str, key: &str, value: &str) -> bool {
    let stand = stand(&path(root, module, key), value, None);
    matches!(stand, Stand::Fixed(_) | Stand::Unknown)
}

fn config_path(module: &str, key: &str) -> String {
    format!("machine.kernel.modules[{module}].parameters.{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that is loaded, with its parameters: name, value, whether it can be written.
    fn module(root: &Path, name: &str, parameters: &[(&str, &str, bool)]) {
        let folder = root.join(name).join("parameters");
        fs::create_dir_all(&folder).unwrap();
        fs::write(root.join(name).join("initstate"), "live\n").unwrap();
        for (key, value, writable) in parameters {
            let path = folder.join(key);
            fs::write(&path, format!("{value}\n")).unwrap();
            let mode = if *writable { 0o644 } else { 0o444 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn where_a_parameter_stands() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("module");
        module(
            &root,
            "nf_conntrack",
            &[
                ("hashsize", "4096", true),
                ("acct", "N", true),
                ("max", "9", false),
            ],
        );
        let table = Table::new(&root, &dir.path().join("given"));
        let other = |value: &str| Stand::Changeable(value.to_owned());
        for (key, want, stands) in [
            ("hashsize", "4096", Stand::InForce),
            ("hashsize", "0x1000", Stand::InForce),
            ("hashsize", "65536", other("4096")),
            ("acct", "0", Stand::InForce),
            ("acct", "off", Stand::InForce),
            ("acct", "1", other("N")),
            ("max", "9", Stand::InForce),
            ("max", "10", Stand::Fixed("9".to_owned())),
            ("nonesuch", "1", Stand::Unknown),
        ] {
            assert_eq!(
                table.stand("nf_conntrack", key, want),
                stands,
                "{key} {want}"
            );
        }
    }

    #[test]
    fn what_was_given_is_remembered_also_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let (root, store) = (dir.path().join("module"), dir.path().join("given"));
        module(
            &root,
            "m",
            &[("size", "4096", true), ("fixed", "128", false)],
        );
        let mut table = Table::new(&root, &store);
        let loaded = [("fixed", "100"), ("hidden", "7")];
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let keys: BTreeMap<String, String> = loaded.map(owned).into();
        let parameters = Parameters::from([("m".to_owned(), keys)]);
        table.loaded("m", &parameters).unwrap();
        table.loaded("another", &parameters).unwrap();
        table.set("m", "size", "5000").unwrap();
        assert_eq!(
            fs::read_to_string(path(&root, "m", "size")).unwrap(),
            "5000"
        );
        let table = Table::new(&root, &store);
        for (key, want, stands) in [
            // The kernel rounded it.
            ("fixed", "100", Stand::InForce),
            ("fixed", "200", Stand::Fixed("128".to_owned())),
            ("hidden", "7", Stand::Unseen),
            ("hidden", "8", Stand::Unknown),
            ("size", "5000", Stand::InForce),
        ] {
            assert_eq!(table.stand("m", key, want), stands, "{key} {want}");
        }
        assert!(table_refuses(&root, &store));
    }

    fn table_refuses(root: &Path, store: &Path) -> bool {
        Table::new(root, store).set("m", "nonesuch", "1").is_err()
    }

    fn machine(modules: &str) -> Machine {
        let text = include_str!("../../../../config/tests/cases/valid/smallest.yaml");
        let text = text.replace(
            "  role: none\n",
            &format!("  role: none\n  kernel: {{modules: [{modules}]}}\n"),
        );
        let outcome = keelson_config::parse("m.yaml", text.as_bytes());
        outcome
            .machine
            .unwrap_or_else(|| panic!("{:?}", outcome.diagnostics))
    }

    #[test]
    fn what_waits_for_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        module(root, "m", &[("live", "1", true), ("fixed", "1", false)]);
        module(root, "early", &[("fixed", "0", false)]);
        let early = BTreeSet::from(["early".to_owned()]);
        fs::create_dir_all(root.join("part_of_the_kernel/parameters")).unwrap();
        let cases = [
            ("{name: m}", "{name: m, parameters: {live: 2}}", vec![]),
            (
                "{name: m}",
                "{name: m, parameters: {fixed: 2}}",
                vec!["m].parameters.fixed"],
            ),
            (
                "",
                "{name: m, parameters: {fixed: 2}}",
                vec!["m].parameters.fixed"],
            ),
            ("", "{name: m, parameters: {fixed: 1}}", vec![]),
            (
                "",
                "{name: m, parameters: {hidden: 1}}",
                vec!["m].parameters.hidden"],
            ),
            (
                "{name: m, parameters: {fixed: 2}}",
                "{name: m, parameters: {fixed: 2, live: 3}}",
                vec![],
            ),
            (
                "{name: m, parameters: {fixed: 1, live: 1}}",
                "{name: m, parameters: {fixed: 2}}",
                vec!["m].parameters.fixed", "m].parameters.live"],
            ),
            ("", "{name: not_loaded, parameters: {a: 1}}", vec![]),
            ("", "{name: early, parameters: {fixed: 1}}", vec![]),
            ("", "{name: part-of-the-kernel, parameters: {a: 1}}", vec![]),
        ];
        for (before, after, waits) in cases {
            let found = after_reboot(&machine(before), &machine(after), root, &early);
            let waits: Vec<String> = waits
                .into_iter()
                .map(|path| format!("machine.kernel.modules[{path}"))
                .collect();
            assert_eq!(found, waits, "{before} -> {after}");
        }
    }
}
