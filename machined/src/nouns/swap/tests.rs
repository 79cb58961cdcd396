//! The noun swap: its plans, and its devices in a folder that looks like sysfs.

use super::{
    device::{self, Device, Places},
    plan::{does_not_fit, plan},
    *,
};
use keelson_config::parse;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn of_config(storage: &str) -> Machine {
    let text = include_str!("../../../../config/tests/cases/valid/smallest.yaml");
    let text = format!("{text}storage: {storage}\n");
    let outcome = parse("m.yaml", text.as_bytes());
    outcome
        .machine
        .unwrap_or_else(|| panic!("{:?}", outcome.diagnostics))
}

fn wished(storage: &str) -> Option<Wish> {
    let machine = of_config(storage);
    let swap = machine.swap?;
    Some(Wish::new(&swap, 1000 * MIB, 4096))
}

fn device(name: &str, wish: &Wish, used: Option<u64>) -> Device {
    Device {
        name: name.into(),
        label: wish.label.clone(),
        size: wish.bytes,
        algorithm: wish.algorithm.into(),
        used,
        memory: 0,
    }
}

fn have(ours: Vec<Device>) -> Have {
    Have {
        ours,
        memory: 1000 * MIB,
        loading: false,
    }
}

/// Shows: storage.swap.zram.size, storage.swap.zram.algorithm
#[test]
fn each_case_has_its_steps() {
    let quarter = wished("{swap: {zram: {}}}").unwrap();
    assert_eq!((quarter.bytes, quarter.algorithm), (250 * MIB, "zstd"));
    let half = wished("{swap: {zram: {size: 50%}}}").unwrap();
    assert_eq!(half.bytes, 500 * MIB);
    let small = wished("{swap: {zram: {size: 100Mi, algorithm: lz4}}}").unwrap();
    assert_eq!((small.bytes, small.algorithm), (100 * MIB, "lz4"));
    let larger = wished("{swap: {zram: {size: 200Mi, algorithm: lz4}}}").unwrap();
    let other = wished("{swap: {zram: {size: 25%, algorithm: lz4}}}").unwrap();
    assert_eq!(wished("{}"), None);

    let zram0 = |wish: &Wish| device("zram0", wish, Some(0));
    let name = || "zram0".to_owned();
    let mut grown = zram0(&quarter);
    grown.size += MIB;
    let loading = Have {
        loading: true,
        ..have(vec![])
    };
    let cases = [
        ("nothing is wanted", have(vec![]), None, vec![]),
        (
            "it is made",
            have(vec![]),
            Some(&quarter),
            vec![Step::Make(quarter.clone())],
        ),
        ("its module is waited for", loading, Some(&quarter), vec![]),
        (
            "it is as wanted",
            have(vec![zram0(&quarter)]),
            Some(&quarter),
            vec![],
        ),
        (
            "the memory changed a little",
            have(vec![grown]),
            Some(&quarter),
            vec![],
        ),
        (
            "machined ended between making it and using it",
            have(vec![device("zram0", &quarter, None)]),
            Some(&quarter),
            vec![Step::Begin(name())],
        ),
        (
            "another share",
            have(vec![zram0(&quarter)]),
            Some(&half),
            vec![Step::Remake(name(), half.clone())],
        ),
        (
            "another size",
            have(vec![zram0(&small)]),
            Some(&larger),
            vec![Step::Remake(name(), larger.clone())],
        ),
        (
            "another algorithm",
            have(vec![zram0(&quarter)]),
            Some(&other),
            vec![Step::Remake(name(), other.clone())],
        ),
        (
            "it is not wanted any more",
            have(vec![zram0(&quarter)]),
            None,
            vec![Step::Remove(name())],
        ),
        (
            "one is enough",
            have(vec![zram0(&quarter), device("zram2", &quarter, None)]),
            Some(&quarter),
            vec![Step::Remove("zram2".into())],
        ),
    ];
    for (rule, have, wish, steps) in cases {
        assert_eq!(plan(&have, wish), steps, "{rule}");
    }
}

#[test]
fn what_is_done_is_said() {
    let wish = wished("{swap: {zram: {}}}").unwrap();
    let said = Step::Remake("zram0".into(), wish).to_string();
    assert_eq!(
        said,
        "make zram0 anew: 250 MiB of swap in memory, compressed with zstd"
    );
}

#[test]
fn what_does_not_fit_into_memory_is_not_tried() {
    let memory = 1600 * MIB;
    assert_eq!(too_large(3200 * MIB, memory), None);
    let why = too_large(3300 * MIB, memory).unwrap();
    assert!(
        why.contains("more than twice the memory, which is 1600 MiB"),
        "{why}"
    );
    // A sixteenth of the memory is left free.
    assert_eq!(does_not_fit(300 * MIB, 400 * MIB, memory), None);
    let why = does_not_fit(301 * MIB, 400 * MIB, memory).unwrap();
    assert!(why.contains("301 MiB are swapped out"), "{why}");
}

/// A folder with two devices of zram, of which the first is another's.
fn kernel() -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in [("zram0", "8192"), ("zram1", "0")] {
        let block = dir.path().join("sys/block").join(name);
        fs::create_dir_all(&block).unwrap();
        for (attribute, value) in [
            ("disksize", size),
            ("comp_algorithm", "[lz4] zstd"),
            ("mm_stat", "0 0 4096 0 0"),
            ("reset", ""),
        ] {
            fs::write(block.join(attribute), value).unwrap();
        }
        fs::create_dir_all(dir.path().join("dev")).unwrap();
        fs::write(dir.path().join("dev").join(name), vec![7; 8192]).unwrap();
    }
    fs::create_dir_all(dir.path().join("proc")).unwrap();
    fs::write(dir.path().join("proc/swaps"), "").unwrap();
    let places = Places::below(dir.path());
    (dir, places)
}

#[test]
fn another_ones_device_is_neither_seen_nor_used() {
    let (dir, places) = kernel();
    assert_eq!(device::ours(&places).unwrap(), []);
    let wish = wished("{swap: {zram: {size: 16Mi}}}").unwrap();
    // A file is no device to swap to: what was begun is given up.
    let error = places.make(&wish).unwrap_err();
    assert!(format!("{error:#}").contains("zram1"), "{error:#}");
    let read = |path: &str| fs::read(dir.path().join(path)).unwrap();
    assert!(read("sys/block/zram1/reset").starts_with(b"1"));
    assert_eq!(read("dev/zram0"), vec![7; 8192]);
    assert_eq!(read("sys/block/zram0/disksize"), b"8192");

    // As the kernel shows what was written.
    fs::write(
        dir.path().join("sys/block/zram1/comp_algorithm"),
        "lz4 [zstd]",
    )
    .unwrap();
    let ours = device::ours(&places).unwrap();
    let [device] = &ours[..] else {
        panic!("{ours:?}")
    };
    assert!(wish.is(device) && device.used.is_none(), "{device:?}");
}

#[test]
fn without_the_module_it_is_said_where_to_look() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::below(dir.path());
    assert_eq!(device::ours(&places).unwrap(), []);
    let wish = wished("{swap: {zram: {}}}").unwrap();
    let error = places.make(&wish).unwrap_err();
    assert!(error.to_string().contains("osctl get module"), "{error:#}");
}

proptest! {
    #[test]
    fn after_all_steps_none_is_missing(
        before in prop::collection::vec((0usize..4, any::<bool>()), 0..3),
        want in 0usize..5,
    ) {
        let wishes: Vec<Wish> = [
            "{swap: {zram: {}}}",
            "{swap: {zram: {size: 50%}}}",
            "{swap: {zram: {size: 100Mi}}}",
            "{swap: {zram: {size: 100Mi, algorithm: lz4}}}",
        ]
        .iter()
        .filter_map(|storage| wished(storage))
        .collect();
        let devices = before.iter().enumerate().map(|(number, (wish, on))| {
            device(&format!("zram{number}"), &wishes[*wish], on.then_some(MIB))
        });
        let mut have = have(devices.collect());
        let wish = wishes.get(want);
        for step in plan(&have, wish) {
            let name = match &step {
                Step::Make(_) => "zram9",
                Step::Begin(name) | Step::Remake(name, _) | Step::Remove(name) => name,
            };
            match &step {
                Step::Begin(_) => {
                    for device in have.ours.iter_mut().filter(|device| device.name == *name) {
                        device.used = Some(0);
                    }
                }
                Step::Make(wish) | Step::Remake(_, wish) => {
                    have.ours.retain(|device| device.name != *name);
                    have.ours.push(device(name, wish, Some(0)));
                }
                Step::Remove(_) => have.ours.retain(|device| device.name != *name),
            }
        }
        prop_assert_eq!(plan(&have, wish), vec![]);
        prop_assert_eq!(have.ours.len(), usize::from(wish.is_some()));
    }
}
