//! What is stored, and what is left of it after a cut of power or damage.

use super::*;
use crate::identity::tests::api;
use std::os::unix::fs::PermissionsExt as _;

/// A config that is valid on a machine, with `comment` in it.
pub(crate) fn config(comment: &str) -> Vec<u8> {
    let api = api();
    let indent = |pem: &str| {
        pem.lines()
            .map(|line| format!("        {line}\n"))
            .collect::<String>()
    };
    format!(
        "# {comment}\napiVersion: keelson.dev/v1alpha1\nkind: Machine\nmachine:\n  hostname: server-1\n  \
         role: none\n  api:\n    ca: |\n{}    issuer:\n      cert: |\n{}      key: |\n{}",
        indent(&api.ca),
        indent(&api.issuer.cert),
        indent(api.issuer.key.reveal()),
    )
    .into_bytes()
}

pub(crate) fn store() -> (tempfile::TempDir, Configs) {
    let dir = tempfile::tempdir().unwrap();
    let configs = Configs::new(dir.path().join("config"), "0.1.0");
    (dir, configs)
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn names(configs: &Configs) -> Vec<String> {
    let entries = fs::read_dir(&configs.dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_is_loaded_and_two_are_kept() {
    let (_dir, configs) = store();
    let loaded = configs.load();
    assert!(loaded.config.is_none() && loaded.problems.is_empty());
    for n in 1..=4u64 {
        assert_eq!(
            configs
                .save(&config(&n.to_string()), "CN=admin", at(n))
                .unwrap(),
            n
        );
    }
    let loaded = configs.load();
    assert_eq!(loaded.problems, [""; 0]);
    let stored = loaded.config.unwrap();
    assert_eq!(
        (stored.generation, stored.applied, stored.source.as_str()),
        (4, at(4), "CN=admin")
    );
    assert!(stored.bytes.starts_with(b"# 4\n"));
    assert_eq!(
        stored.machine.hostname.as_ref().map(|name| name.as_str()),
        Some("server-1")
    );
    assert_eq!(
        names(&configs),
        ["3.json", "3.yaml", "4.json", "4.yaml", "current"]
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&configs.dir), mode(&configs.dir.join("4.yaml"))),
        (0o700, 0o600)
    );
}

/// Power is cut after each prefix of the changes, and in the middle of each write.
#[test]
fn a_cut_of_power_at_any_point_leaves_the_old_or_the_new() {
    let (old, new) = (config("old"), config("new"));
    for before in 0..3u64 {
        for cut in 0.. {
            let (_dir, configs) = store();
            for n in 0..before {
                configs.save(&old, "before", at(n)).unwrap();
            }
            make_private(&configs.dir).unwrap();
            let known = configs.known().unwrap();
            let (_, ops) = plan(&known, configs.current(), &new, "cut", "0.1.0", at(9));
            if cut > ops.len() {
                break;
            }
            for op in &ops[..cut] {
                configs.apply(op).unwrap();
            }
            if let Some(Op::Put(name, bytes)) = ops.get(cut) {
                let torn = configs.dir.join(name).with_extension("tmp");
                fs::write(torn, &bytes[..bytes.len() / 2]).unwrap();
            }
            let loaded = configs.load().config;
            let is = |wanted: &[u8]| loaded.as_ref().is_some_and(|stored| stored.bytes == wanted);
            match cut {
                0 | 1 if before == 0 => assert!(loaded.is_none(), "{cut}"),
                // Whole, but not switched to: with no other it is as good as stored.
                2 if before == 0 => assert!(is(&new)),
                0..=2 => assert!(is(&old), "{before} {cut}"),
                _ => assert!(is(&new), "{before} {cut}"),
            }
            // And what comes next works.
            let next = configs.save(&new, "after", at(10)).unwrap();
            assert!(loaded.is_none_or(|loaded| loaded.generation < next));
            assert_eq!(configs.load().config.unwrap().generation, next);
        }
    }
}

#[test]
fn what_is_damaged_is_passed_over_and_told() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 6] = [
        ("a torn config", |dir| {
            fs::write(dir.join("2.yaml"), "apiVersion: keel").unwrap()
        }),
        ("no config", |dir| {
            fs::remove_file(dir.join("2.yaml")).unwrap()
        }),
        ("no facts", |dir| {
            fs::remove_file(dir.join("2.json")).unwrap()
        }),
        ("torn facts", |dir| {
            fs::write(dir.join("2.json"), "{").unwrap()
        }),
        ("facts of a newer version", |dir| {
            let text = fs::read_to_string(dir.join("2.json")).unwrap();
            fs::write(
                dir.join("2.json"),
                text.replace("\"formatVersion\":1", "\"formatVersion\":9"),
            )
            .unwrap();
        }),
        ("a note that makes no sense", |dir| {
            fs::write(dir.join("current"), "\0\0").unwrap();
            fs::write(dir.join("2.yaml"), "").unwrap();
        }),
    ];
    for (name, damage) in cases {
        let (_dir, configs) = store();
        configs.save(&config("one"), "a", at(1)).unwrap();
        configs.save(&config("two"), "b", at(2)).unwrap();
        damage(&configs.dir);
        let loaded = configs.load();
        assert_eq!(
            loaded.config.map(|stored| stored.generation),
            Some(1),
            "{name}"
        );
        assert!(!loaded.problems.is_empty(), "{name}");
    }
}

#[test]
fn a_release_that_comes_back_finds_the_last_that_it_reads() {
    let (dir, old) = store();
    let first = config("of the old release");
    old.save(&first, "a", at(1)).unwrap();
    let new = Configs::new(dir.path().join("config"), "0.2.0");
    // A key that only the new release knows, many times over.
    let text = String::from_utf8(config("new")).unwrap();
    let text = text.replace("  role: none", "  role: none\n  hover: true");
    for n in 0..5 {
        new.save(text.as_bytes(), "a", at(2 + n)).unwrap();
    }
    let loaded = old.load();
    assert_eq!(loaded.config.unwrap().bytes, first);
    assert!(!loaded.problems.is_empty());
    assert_eq!(old.save(&config("again"), "a", at(9)).unwrap(), 7);
}

#[test]
fn of_long_gone_releases_nothing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for n in 1..9 {
        let configs = Configs::new(dir.path().join("config"), &format!("0.{n}.0"));
        configs.save(&config("x"), "a", at(n)).unwrap();
    }
    let configs = Configs::new(dir.path().join("config"), "0.8.0");
    let mut kept = configs.generations().unwrap();
    kept.sort_unstable();
    assert_eq!(kept, [6, 7, 8]);
}

#[test]
fn a_generation_is_never_used_again() {
    let (_dir, configs) = store();
    configs.save(&config("one"), "a", at(1)).unwrap();
    configs.save(&config("two"), "a", at(1)).unwrap();
    fs::remove_file(configs.dir.join("2.yaml")).unwrap();
    assert_eq!(configs.save(&config("three"), "a", at(1)).unwrap(), 3);
}

#[test]
fn the_facts_as_they_are_on_disk() {
    let known = [6, 7].map(|generation| Known {
        generation,
        release: "0.1.0".into(),
    });
    let time = at(1_790_000_000);
    let (_, ops) = plan(&known, Some(7), b"x", "CN=admin", "0.1.0", time);
    let put = |name: &str, text: &str| Op::Put(name.into(), text.into());
    let facts = format!(
        r#"{{"formatVersion":1,"applied":1790000000,"source":"CN=admin","sha256":"{}","release":"0.1.0"}}"#,
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    );
    let wanted = [
        put("8.yaml", "x"),
        put("8.json", &facts),
        put("current", "8\n"),
        Op::Delete("staged".into()),
        Op::Delete("6.yaml".into()),
        Op::Delete("6.json".into()),
    ];
    assert_eq!(ops, wanted);
}
