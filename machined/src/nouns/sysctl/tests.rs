//! Parameters as they are found, planned and set.

use super::*;
use keelson_config::SysctlKey;
use std::collections::BTreeSet;

fn want(value: &str, how: How) -> Wanted {
    Wanted {
        value: value.to_owned(),
        how,
        why: None,
    }
}

/// Shows: machine.sysctls
#[test]
fn plans() {
    let is = |value: &str| Value::Is(value.to_owned());
    let cases = [
        ("as wanted", is("1"), want("1", How::Exactly), false),
        ("other", is("0"), want("1", How::Exactly), true),
        (
            "more than wanted is not exactly",
            is("2"),
            want("1", How::Exactly),
            true,
        ),
        (
            "more than wanted is enough",
            is("2"),
            want("1", How::AtLeast),
            false,
        ),
        (
            "numbers are not compared as text",
            is("100"),
            want("20", How::AtLeast),
            false,
        ),
        ("less than wanted", is("9"), want("10", How::AtLeast), true),
        ("less than allowed", is("9"), want("10", How::AtMost), false),
        (
            "more than allowed",
            is("100"),
            want("20", How::AtMost),
            true,
        ),
        ("missing", Value::Missing, want("1", How::Exactly), true),
        (
            "missing, and that is fine",
            Value::Missing,
            want("1", How::IfThere),
            false,
        ),
        (
            "there, so it is set",
            is("0"),
            want("1", How::IfThere),
            true,
        ),
        (
            "unreadable",
            Value::Unreadable("no".to_owned()),
            want("1", How::IfThere),
            true,
        ),
    ];
    for (name, value, wanted, missing) in cases {
        let have = Have {
            values: [("a.b".to_owned(), value)].into(),
            ..Have::default()
        };
        let step = Step::Set {
            key: "a.b".to_owned(),
            value: wanted.value.clone(),
        };
        let steps = if missing { vec![step] } else { vec![] };
        assert_eq!(
            plan(&have, &[("a.b".to_owned(), wanted)].into()),
            steps,
            "{name}"
        );
    }
}

#[test]
fn what_is_not_wanted_goes_back() {
    let have = Have {
        originals: [("a.b".to_owned(), "7".to_owned())].into(),
        ..Have::default()
    };
    assert_eq!(
        plan(&have, &BTreeMap::new()),
        [Step::Restore {
            key: "a.b".to_owned(),
            value: "7".to_owned()
        }]
    );
}

#[test]
fn paths() {
    let cases = [
        ("vm.swappiness", "/p/vm/swappiness"),
        (
            "net.ipv4.conf.eth0/100.forwarding",
            "/p/net/ipv4/conf/eth0.100/forwarding",
        ),
    ];
    for (key, file) in cases {
        assert_eq!(path(Path::new("/p"), key), Path::new(file));
    }
}

#[test]
fn every_default_is_a_valid_key_and_there_once() {
    let mut keys: Vec<_> = DEFAULTS.iter().map(|default| default.key).collect();
    assert!(keys.iter().all(|key| key.parse::<SysctlKey>().is_ok()));
    keys.sort_unstable();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

/// A machine whose kernel has these parameters.
fn kernel(values: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (key, value) in values {
        let file = path(&root.path().join("sys"), key);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, value).unwrap();
    }
    root
}

fn config(sysctls: &[(&str, &str)]) -> Machine {
    let mut machine = Machine::maintenance();
    machine.sysctls = sysctls
        .iter()
        .map(|(key, value)| (key.parse().unwrap(), (*value).to_owned()))
        .collect();
    machine
}

/// Takes every step; says what failed.
async fn pass(noun: &mut Sysctls, machine: &Machine) -> Vec<String> {
    let have = noun.observe(machine).await.unwrap();
    let mut failed = Vec::new();
    for step in noun.plan(&have, machine) {
        if let Err(error) = noun.apply(&step).await {
            failed.push(format!("{step}: {error:#}"));
        }
    }
    failed
}

#[tokio::test]
async fn a_removed_key_goes_back_even_over_a_restart() {
    let mut all: Vec<_> = DEFAULTS
        .iter()
        .map(|default| (default.key, default.value))
        .collect();
    all.push(("vm.own", "1\t2 \t3\n"));
    let root = kernel(&all);
    let noun = || Sysctls::below(&root.path().join("sys"), &root.path().join("originals"));
    let read = || normalise(&fs::read_to_string(root.path().join("sys/vm/own")).unwrap());
    assert_eq!(
        pass(&mut noun(), &config(&[("vm.own", "1 2 3")])).await,
        Vec::<String>::new()
    );
    assert!(
        !root.path().join("originals").exists(),
        "nothing was changed"
    );
    pass(&mut noun(), &config(&[("vm.own", "4")])).await;
    pass(&mut noun(), &config(&[("vm.own", "5 5")])).await;
    assert_eq!(read(), "5 5");
    let mut last = noun();
    pass(&mut last, &config(&[])).await;
    assert_eq!(read(), "1 2 3");
    assert_eq!(last.originals, BTreeMap::new());
}

#[tokio::test]
async fn a_missing_parameter_is_named() {
    let defaults: Vec<_> = DEFAULTS
        .iter()
        .map(|default| (default.key, default.value))
        .collect();
    let root = kernel(&defaults);
    let mut noun = Sysctls::below(&root.path().join("sys"), &root.path().join("originals"));
    let machine = config(&[("vm.nowhere", "1")]);
    let failed = pass(&mut noun, &machine).await;
    assert_eq!(failed.len(), 1);
    assert!(failed[0].contains("no parameter vm.nowhere"), "{failed:?}");
    let have = noun.observe(&machine).await.unwrap();
    let published = noun.publish(&have, &machine);
    let resource = published
        .iter()
        .find(|resource| resource.name == "vm.nowhere")
        .unwrap();
    assert_eq!(resource.phase, Phase::Failed);
    assert!(!root.path().join("sys/vm/nowhere").exists());
}

#[tokio::test]
async fn a_missing_parameter_is_waited_for_while_modules_are_loaded() {
    let root = kernel(&[]);
    let machine = config(&[("net.netfilter.nf_conntrack_max", "262144")]);
    let loading = watch::Sender::new(BTreeSet::from(["nf_conntrack".to_owned()]));
    let mut noun = Sysctls {
        loading: loading.subscribe(),
        ..Sysctls::below(&root.path().join("sys"), &root.path().join("originals"))
    };
    let have = noun.observe(&machine).await.unwrap();
    assert_eq!(noun.plan(&have, &machine), []);
    let pending = |resource: &Resource| resource.phase == Phase::Pending;
    assert!(noun.publish(&have, &machine).iter().any(pending));
    loading.send_replace(BTreeSet::new());
    let have = noun.observe(&machine).await.unwrap();
    assert!(!noun.plan(&have, &machine).is_empty());
    assert!(!noun.publish(&have, &machine).iter().any(pending));
}

#[test]
fn the_kernels_reserve_is_bounded_by_the_memory() {
    const MIB: u64 = 1024;
    for (memory, reserve) in [
        (256 * MIB, 2 * MIB),
        (1024 * MIB, 4 * MIB),
        (4 * 1024 * MIB, 16 * MIB),
        (64 * 1024 * MIB, 256 * MIB),
    ] {
        assert_eq!(defaults::reserve(memory), reserve, "{memory}");
    }
    let mut machine = Machine::maintenance();
    let of = |machine: &Machine| {
        wanted(machine, Some(1024 * MIB), &BTreeMap::new())["vm.min_free_kbytes"].clone()
    };
    assert_eq!(
        (of(&machine).value.as_str(), of(&machine).how),
        ("4096", How::AtMost)
    );
    machine.sysctls = [("vm.min_free_kbytes".parse().unwrap(), "65536".to_owned())].into();
    assert_eq!(of(&machine), want("65536", How::Exactly));
}

#[test]
fn pods_need_more_than_an_empty_machine() {
    let mut machine = Machine::maintenance();
    assert!(!wanted(&machine, None, &BTreeMap::new()).contains_key("net.ipv4.ip_forward"));
    machine.role = Role::Agent;
    assert!(wanted(&machine, None, &BTreeMap::new()).contains_key("net.ipv4.ip_forward"));
    machine.sysctls = [("net.ipv4.ip_forward".parse().unwrap(), "0".to_owned())].into();
    assert_eq!(
        wanted(&machine, None, &BTreeMap::new())["net.ipv4.ip_forward"],
        want("0", How::Exactly)
    );
}

/// Shows: storage.swap
#[test]
fn swap_in_memory_is_used_before_files_are_dropped() {
    let mut machine = Machine::maintenance();
    let key = "vm.swappiness";
    assert!(!wanted(&machine, None, &BTreeMap::new()).contains_key(key));
    machine.swap = Some(keelson_config::Swap {
        size: keelson_config::SwapSize::Percent(25),
        algorithm: keelson_config::ZramAlgorithm::Zstd,
        pods: false,
    });
    assert_eq!(wanted(&machine, None, &BTreeMap::new())[key].value, "100");
    assert_eq!(
        wanted(&machine, None, &BTreeMap::new())["vm.page-cluster"].value,
        "0"
    );
    let other = key.parse::<SysctlKey>().unwrap();
    machine.sysctls.insert(other, "60".to_owned());
    assert_eq!(
        wanted(&machine, None, &BTreeMap::new())[key].value,
        "60",
        "the config wins"
    );
    // Without swap they go back to what they were.
    machine = Machine::maintenance();
    let have = Have {
        originals: [(key.to_owned(), "60".to_owned())].into(),
        ..Have::default()
    };
    let back = Step::Restore {
        key: key.to_owned(),
        value: "60".to_owned(),
    };
    assert!(plan(&have, &wanted(&machine, None, &BTreeMap::new())).contains(&back));
}
