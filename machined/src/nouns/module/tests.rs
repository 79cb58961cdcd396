//! What the noun of kernel modules plans and publishes.

use super::*;
use crate::resource::Phase;
use keelson_config::Role;
use std::fs;

fn have(fixed: &[(&str, Status)], new: &[(&str, &str, bool)]) -> Have {
    let named = |name: &str| name.to_owned();
    Have {
        fixed: fixed
            .iter()
            .map(|(name, status)| (named(name), *status))
            .collect(),
        new: new
            .iter()
            .map(|(name, device, network)| {
                let new = New {
                    device: named(device),
                    network: *network,
                };
                (named(name), new)
            })
            .collect(),
        ..Have::default()
    }
}

#[test]
fn plans() {
    let load = |name: &str| Step::Load {
        module: name.to_owned(),
        parameters: String::new(),
    };
    let drive = |module: &str, device: &str, network: bool| Step::Drive {
        module: module.to_owned(),
        device: device.to_owned(),
        network,
    };
    let (card, key) = ("virtio:d1v2", "acpi:QEMU0002:");
    let cases = [
        ("nothing wanted", have(&[], &[]), vec![]),
        ("there", have(&[("overlay", Status::There)], &[]), vec![]),
        (
            "in the image",
            have(&[("overlay", Status::InImage)], &[]),
            vec![load("overlay")],
        ),
        (
            "nowhere: no step, no failure",
            have(&[("overlay", Status::Nowhere)], &[]),
            vec![],
        ),
        (
            "being loaded",
            have(&[("overlay", Status::Loading)], &[]),
            vec![],
        ),
        (
            "network cards first, then other devices",
            have(
                &[("bridge", Status::InImage)],
                &[("qemu_fw_cfg", key, false), ("virtio_net", card, true)],
            ),
            vec![
                drive("virtio_net", card, true),
                drive("qemu_fw_cfg", key, false),
                load("bridge"),
            ],
        ),
    ];
    for (name, have, want) in cases {
        assert_eq!(plan(&have, &Parameters::new()), want, "{name}");
    }
}

#[test]
fn where_a_module_stands() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("modules.dep"),
        "kernel/net/xt_MASQUERADE.ko:\nkernel/fs/overlay.ko:\n",
    )
    .unwrap();
    fs::write(dir.path().join("modules.builtin"), "kernel/net/bridge.ko\n").unwrap();
    let index = Index::open(dir.path()).unwrap();
    let running = BTreeSet::from(["overlay".to_owned()]);
    let loading = BTreeSet::from(["overlay".to_owned(), "veth".to_owned()]);
    let cases = [
        ("overlay", Status::There),
        ("veth", Status::Loading),
        ("bridge", Status::There),
        ("xt_MASQUERADE", Status::InImage),
        ("xt-MASQUERADE", Status::InImage),
        ("vxlan", Status::Nowhere),
    ];
    for (name, want) in cases {
        assert_eq!(status(name, &running, &loading, &index), want, "{name}");
    }
}

#[test]
fn an_empty_machine_wants_no_modules() {
    let mut machine = Machine::maintenance();
    let names = |machine: &Machine| needed(machine).map(|(name, _)| name).collect::<Vec<_>>();
    assert!(names(&machine).is_empty());
    machine.swap = Some(keelson_config::Swap {
        size: keelson_config::SwapSize::Percent(25),
        algorithm: keelson_config::ZramAlgorithm::Zstd,
        pods: false,
    });
    assert_eq!(names(&machine), ["zram"]);
    machine.swap = None;
    machine.role = Role::Server;
    let server = names(&machine);
    machine.role = Role::Agent;
    assert_eq!(names(&machine), server);
}

#[tokio::test]
async fn published() {
    let mut noun = Modules::new(Wake::default(), BTreeSet::new());
    noun.refused
        .insert("bridge".to_owned(), "the kernel refused it".to_owned());
    let driver = Driver {
        device: "virtio:d1v2".to_owned(),
        tried: true,
    };
    noun.drivers.insert("virtio_net".to_owned(), driver);
    let mut machine = Machine::maintenance();
    machine.role = Role::Server;
    let have = have(
        &[
            ("overlay", Status::There),
            ("bridge", Status::InImage),
            ("veth", Status::Loading),
            ("vxlan", Status::Nowhere),
        ],
        &[],
    );
    let published = noun.publish(&have, &machine);
    let phase = |name: &str| {
        published
            .iter()
            .find(|resource| resource.name == name)
            .unwrap()
            .phase
    };
    assert_eq!(phase("overlay"), Phase::Ready);
    assert_eq!(phase("bridge"), Phase::Failed);
    assert_eq!(phase("veth"), Phase::Pending);
    assert_eq!(phase("vxlan"), Phase::Pending);
    assert_eq!(phase("virtio_net"), Phase::Ready);
}

/// A machine with these modules, written as in a config.
fn configured(modules: &str) -> Machine {
    let text = include_str!("../../../../config/tests/cases/valid/smallest.yaml");
    let with = format!("  role: none\n  kernel: {{modules: [{modules}]}}\n");
    let text = text.replace("  role: none\n", &with);
    let outcome = keelson_config::parse("m.yaml", text.as_bytes());
    outcome
        .machine
        .unwrap_or_else(|| panic!("{:?}", outcome.diagnostics))
}

fn stands(all: &[(&str, &str, Stand)]) -> BTreeMap<String, BTreeMap<String, Stand>> {
    let mut stands: BTreeMap<String, BTreeMap<String, Stand>> = BTreeMap::new();
    for (module, key, stand) in all {
        let keys = stands.entry((*module).to_owned()).or_default();
        keys.insert((*key).to_owned(), stand.clone());
    }
    stands
}

/// Shows: machine.kernel.modules
#[test]
fn parameters_are_given_or_changed() {
    let machine = configured("{name: zram, parameters: {num-devices: 2}}, {name: dummy}");
    let given = parameter::wanted(&machine);
    let load = |module: &str, parameters: &str| Step::Load {
        module: module.to_owned(),
        parameters: parameters.to_owned(),
    };
    let both = [("zram", Status::InImage), ("dummy", Status::InImage)];
    let steps = plan(&have(&both, &[]), &given);
    assert_eq!(steps, [load("dummy", ""), load("zram", "num_devices=2")]);
    assert_eq!(
        steps[1].to_string(),
        "load the module zram with num_devices=2"
    );
    let one = || "1".to_owned();
    for (stand, changed) in [
        (Stand::Changeable(one()), true),
        (Stand::Fixed(one()), false),
        (Stand::InForce, false),
        (Stand::Unseen, false),
        (Stand::Unknown, false),
    ] {
        let have = Have {
            stands: stands(&[("zram", "num_devices", stand.clone())]),
            ..have(&[("zram", Status::There)], &[])
        };
        let set = Step::Set {
            module: "zram".to_owned(),
            key: "num_devices".to_owned(),
            value: "2".to_owned(),
        };
        let wanted = if changed { vec![set] } else { vec![] };
        assert_eq!(plan(&have, &given), wanted, "{stand:?}");
    }
}

#[tokio::test]
async fn what_the_config_wants_is_published_with_what_is_wrong() {
    let machine = configured(
        "{name: nf-conntrack, parameters: {hashsize: 65536, acct: 1}},
         {name: zramm}, {name: printk, parameters: {time: 0}}, {name: dummy}, {name: softdog, parameters: {soft_margin: 9}}, {name: loop, parameters: {max_loop: 4}}",
    );
    let other = |text: &str| text.to_owned();
    let have = Have {
        stands: stands(&[
            ("nf_conntrack", "hashsize", Stand::Fixed(other("4096"))),
            ("nf_conntrack", "acct", Stand::InForce),
            ("printk", "time", Stand::Fixed(other("Y"))),
            ("loop", "max_loop", Stand::Unseen),
            ("softdog", "soft_margin", Stand::Fixed(other("60"))),
        ]),
        early: BTreeSet::from([other("softdog")]),
        built_in: BTreeSet::from([other("printk")]),
        nearest: BTreeMap::from([(other("zramm"), other("zram"))]),
        ..have(
            &[
                ("nf_conntrack", Status::There),
                ("zramm", Status::Nowhere),
                ("printk", Status::There),
                ("dummy", Status::There),
                ("loop", Status::There),
                ("softdog", Status::There),
            ],
            &[],
        )
    };
    let published = Modules::new(Wake::default(), BTreeSet::new()).publish(&have, &machine);
    let said: Vec<(&str, Phase, &str)> = published
        .iter()
        .map(|it| (it.name.as_str(), it.phase, it.message.as_str()))
        .collect();
    let wanted = [
        ("dummy", Phase::Ready, "wanted by the config"),
        (
            "loop",
            Phase::Ready,
            "it was loaded with max_loop=4, which it does not show; `osctl dmesg` tells if it knows no such parameter",
        ),
        (
            "nf_conntrack",
            Phase::Pending,
            "hashsize is 4096 and waits for a reboot to become 65536",
        ),
        (
            "printk",
            Phase::Failed,
            "time stays Y: the module is a part of this kernel, which takes it from the signed boot image alone",
        ),
        (
            "softdog",
            Phase::Failed,
            "soft_margin stays 60: the module is loaded from the signed boot image, before a config is read",
        ),
        (
            "zramm",
            Phase::Failed,
            "is not in the image; did you mean zram?",
        ),
    ];
    assert_eq!(said, wanted);
    assert_eq!(published[2].spec["parameters"], "acct=1 hashsize=65536");
    assert_eq!(published[2].spec["for"], "config");
}
