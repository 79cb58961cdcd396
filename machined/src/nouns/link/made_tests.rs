//! Tests of `made.rs`: plans against a machine of the test's own, which takes their steps.

use super::super::{
    plan, publish, select,
    tests::{card, machine},
};
use super::*;
use crate::netlink;
use crate::wireguard::tests as tunnel;
use keelson_config::{BondMode, LacpRate, LinkSelector, Peer, XmitHashPolicy};

/// An entry that makes a link.
fn entry(name: &str, made: Made) -> Link {
    Link {
        select: LinkSelector {
            name: Some(name.into()),
            ..LinkSelector::default()
        },
        made: Some(made),
        ..Link::any_dhcp()
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn vlan(name: &str, parent: &str, id: u16) -> Link {
    let parent = parent.to_owned();
    entry(name, Made::Vlan { parent, id })
}

fn bond(links: &[&str], mode: BondMode, miimon: u32) -> Link {
    let links = names(links);
    entry(
        "bond0",
        Made::Bond {
            links,
            mode,
            miimon,
            lacp_rate: None,
            xmit_hash_policy: None,
        },
    )
}

/// A bond that speaks to its switch.
fn lacp(rate: LacpRate, policy: XmitHashPolicy) -> Link {
    entry(
        "bond0",
        Made::Bond {
            links: names(&["eth0"]),
            mode: BondMode::Ieee8023Ad,
            miimon: 100,
            lacp_rate: Some(rate),
            xmit_hash_policy: Some(policy),
        },
    )
}

fn bridge(links: &[&str], stp: bool) -> Link {
    let links = names(links);
    entry("br1", Made::Bridge { links, stp })
}

fn network(links: &[Link]) -> Network {
    Network {
        links: links.to_vec(),
        ..Network::default()
    }
}

fn find<'s>(seen: &'s mut [Seen], name: &str) -> &'s mut netlink::Link {
    let found = seen.iter_mut().find(|seen| seen.link.name == name);
    &mut found.unwrap_or_else(|| panic!("{name} is not there")).link
}

fn kind_of(made: &Made) -> Kind {
    match made {
        Made::Vlan { id, .. } => Kind::Vlan(*id),
        Made::Bond {
            mode,
            miimon,
            lacp_rate,
            xmit_hash_policy,
            ..
        } => Kind::Bond {
            mode: *mode as u8,
            miimon: *miimon,
            lacp_rate: lacp_rate.map_or(0, |it| it as u8),
            xmit_hash_policy: xmit_hash_policy.map_or(0, |it| it as u8),
        },
        Made::Bridge { stp, .. } => Kind::Bridge { stp: *stp },
        Made::Dummy => Kind::Dummy,
        Made::Wireguard(_) => Kind::Wireguard,
    }
}

/// Takes a step as the kernel does, with its rules.
fn take(seen: &mut Vec<Seen>, step: &Step) {
    match step {
        Step::Remove(index, _) => {
            let mut gone = BTreeSet::from([*index]);
            while let Some(index) = gone.pop_first() {
                let bond = seen.iter().any(|it| {
                    it.link.index == index && matches!(it.link.kind, Some(Kind::Bond { .. }))
                });
                seen.retain(|it| it.link.index != index);
                for it in seen.iter_mut() {
                    if it.link.part_of == Some(index) {
                        it.link.part_of = None;
                        it.link.up &= !bond;
                    }
                    let vlan = matches!(it.link.kind, Some(Kind::Vlan(_)));
                    if vlan && it.link.parent == Some(index) {
                        gone.insert(it.link.index);
                    }
                }
            }
        }
        Step::Release(_, name, of) => {
            let of = find(seen, of).index;
            let link = find(seen, name);
            assert_eq!(link.part_of, Some(of), "{step}");
            link.part_of = None;
        }
        Step::Make(name, made) => {
            assert!(!seen.iter().any(|it| it.link.name == *name), "{step}");
            let index = seen.iter().map(|it| it.link.index).max().unwrap() + 1;
            let mut new = card(index, name);
            (new.physical, new.driver) = (false, None);
            (new.link.ours, new.link.kind) = (true, Some(kind_of(made)));
            if let Made::Vlan { parent, .. } = made {
                let parent = find(seen, parent);
                assert!(parent.up, "{step}: its parent is off");
                new.link.parent = Some(parent.index);
            }
            let tunnel = matches!(made, Made::Wireguard(_));
            new.tunnel = tunnel.then(Device::default);
            seen.push(new);
        }
        Step::Configure(_, name, made) => {
            find(seen, name).kind = Some(kind_of(made));
        }
        Step::Tunnel(name, change) => {
            let found = seen.iter_mut().find(|seen| seen.link.name == *name);
            found.unwrap().tunnel.as_mut().unwrap().take(change);
        }
        Step::Join { link, of, bond } => {
            let of = find(seen, of).index;
            let link = find(seen, link);
            link.part_of = Some(of);
            link.up |= bond;
        }
        Step::SetUp(index, name) => {
            let link = find(seen, name);
            assert_eq!((link.index, link.up), (*index, false), "{step}");
            link.up = true;
        }
        Step::SetMtu(_, name, mtu) => find(seen, name).mtu = *mtu,
    }
}

/// The steps from one config to the next, on a machine that takes them. Behind each there
/// is nothing left to do.
fn run(seen: &mut Vec<Seen>, links: &[Link]) -> Vec<String> {
    let network = network(links);
    let steps = plan(seen, &network, &BTreeMap::new());
    for step in &steps {
        take(seen, step);
    }
    // What is new has its MTU set by the pass after.
    for step in plan(seen, &network, &BTreeMap::new()) {
        assert!(matches!(step, Step::SetMtu(..)), "left: {step}");
        take(seen, &step);
    }
    let left = plan(seen, &network, &BTreeMap::new());
    assert_eq!(left, [], "after {steps:?}");
    steps.iter().map(ToString::to_string).collect()
}

/// Shows: network.links.vlan, network.links.bond, network.links.bridge, network.links.dummy
#[test]
fn from_one_config_to_the_next() {
    use BondMode::{ActiveBackup, Ieee8023Ad};
    type Case = (&'static str, Vec<Link>, &'static [&'static str]);
    let with_mtu = |link: Link, mtu| Link {
        mtu: Some(mtu),
        ..link
    };
    let cases: [Case; 20] = [
        ("nothing", vec![], &[]),
        (
            "from the ground up, whatever the order of the config",
            vec![
                vlan("bond0.5", "bond0", 5),
                bond(&["eth0", "eth1"], ActiveBackup, 100),
            ],
            &[
                "make bond0, a bond (active-backup)",
                "make eth0 a part of bond0",
                "make eth1 a part of bond0",
                "make bond0.5, the VLAN 5 of bond0",
            ],
        ),
        (
            "what can be changed is",
            vec![
                vlan("bond0.5", "bond0", 5),
                bond(&["eth0", "eth1"], ActiveBackup, 50),
            ],
            &["have bond0 look at its links every 50 ms"],
        ),
        (
            "a part goes, and is free",
            vec![
                vlan("bond0.5", "bond0", 5),
                bond(&["eth0"], ActiveBackup, 50),
            ],
            &["take eth1 out of bond0"],
        ),
        (
            "another mode makes it anew, with what stands on it",
            vec![vlan("bond0.5", "bond0", 5), bond(&["eth0"], Ieee8023Ad, 50)],
            &[
                "remove bond0",
                "make bond0, a bond (802.3ad)",
                "make eth0 a part of bond0",
                "make bond0.5, the VLAN 5 of bond0",
            ],
        ),
        (
            "another number makes a VLAN anew",
            vec![vlan("bond0.5", "bond0", 6), bond(&["eth0"], Ieee8023Ad, 50)],
            &["remove bond0.5", "make bond0.5, the VLAN 6 of bond0"],
        ),
        (
            "a part moves",
            vec![bond(&["eth1"], Ieee8023Ad, 50), bridge(&["eth0"], false)],
            &[
                "remove bond0.5",
                "make eth1 a part of bond0",
                "make br1, a bridge",
                "make eth0 a part of br1",
            ],
        ),
        (
            "a bridge learns to break loops",
            vec![bond(&["eth1"], Ieee8023Ad, 50), bridge(&["eth0"], true)],
            &["switch the spanning tree of br1 on"],
        ),
        (
            "a VLAN can be a port",
            vec![
                bond(&["eth1"], Ieee8023Ad, 50),
                vlan("storage", "bond0", 7),
                bridge(&["storage"], true),
            ],
            &[
                "take eth0 out of br1",
                "make storage, the VLAN 7 of bond0",
                "make storage a part of br1",
            ],
        ),
        (
            "all is taken back",
            vec![],
            &["remove storage", "remove br1", "remove bond0"],
        ),
        (
            "what is wanted of a part is that it is on",
            vec![bridge(&["eth0", "eth1"], false)],
            &[
                "make br1, a bridge",
                "make eth0 a part of br1",
                "make eth1 a part of br1",
                "switch eth1 on",
            ],
        ),
        (
            "one kind becomes another",
            vec![entry("br1", Made::Dummy)],
            &["remove br1", "make br1, a dummy link"],
        ),
        (
            "a dummy by a usual name",
            vec![entry("dummy0", Made::Dummy)],
            &["remove br1", "make dummy0, a dummy link"],
        ),
        (
            "a VLAN waits for its parent",
            vec![vlan("far", "eth9", 5)],
            &["remove dummy0"],
        ),
        (
            "a bond begins with the links that are there",
            vec![bond(&["eth9", "eth0"], ActiveBackup, 100)],
            &[
                "make bond0, a bond (active-backup)",
                "make eth0 a part of bond0",
            ],
        ),
        (
            "the same again",
            vec![bond(&["eth9", "eth0"], ActiveBackup, 100)],
            &[],
        ),
        (
            "the MTU of a parent comes first",
            vec![
                vlan("storage", "eth1", 5),
                with_mtu(vlan("backup", "storage", 6), 8000),
                with_mtu(bond(&["eth0"], ActiveBackup, 100), 9000),
            ],
            &[
                "make storage, the VLAN 5 of eth1",
                "make backup, the VLAN 6 of storage",
                "set the MTU of bond0 to 9000",
            ],
        ),
        (
            "a link is moved to one that is new",
            vec![bridge(&["eth0", "eth1"], false)],
            &[
                "remove backup",
                "remove storage",
                "remove bond0",
                "make br1, a bridge",
                "make eth0 a part of br1",
                "switch eth0 on",
                "make eth1 a part of br1",
            ],
        ),
        (
            "two VLANs of a new bond",
            vec![
                vlan("a", "bond0", 1),
                vlan("b", "bond0", 2),
                bond(&["eth0"], ActiveBackup, 100),
            ],
            &[
                "remove br1",
                "make bond0, a bond (active-backup)",
                "make eth0 a part of bond0",
                "make a, the VLAN 1 of bond0",
                "make b, the VLAN 2 of bond0",
            ],
        ),
        (
            "a bond becomes a parent's parent",
            vec![vlan("bond0", "eth0", 3), vlan("a", "bond0", 1)],
            &[
                "remove b",
                "remove bond0",
                "switch eth0 on",
                "make bond0, the VLAN 3 of eth0",
                "make a, the VLAN 1 of bond0",
            ],
        ),
    ];
    let mut seen = machine();
    for (rule, links, want) in cases {
        if rule == "what is wanted of a part is that it is on" {
            find(&mut seen, "eth0").up = true;
            find(&mut seen, "eth1").up = false;
        }
        assert_eq!(run(&mut seen, &links), want, "{rule}");
    }
}

/// Shows: network.links.bond.lacpRate, network.links.bond.xmitHashPolicy
#[test]
fn what_a_bond_agrees_on_with_its_switch() {
    use LacpRate::{Fast, Slow};
    use XmitHashPolicy::{Layer2, Layer34};
    let mut seen = machine();
    let (make, join) = ("make bond0, a bond (802.3ad)", "make eth0 a part of bond0");
    assert_eq!(run(&mut seen, &[lacp(Slow, Layer2)]), [make, join]);
    let steps = ["have bond0 look at its links every 100 ms, and choose by layer3+4"];
    assert_eq!(run(&mut seen, &[lacp(Slow, Layer34)]), steps);
    let steps = ["remove bond0", make, join];
    assert_eq!(run(&mut seen, &[lacp(Fast, Layer34)]), steps);
    assert_eq!(run(&mut seen, &[lacp(Fast, Layer34)]), [""; 0]);
    let shown = publish(&seen, &network(&[lacp(Fast, Layer34)]));
    let bond0 = shown.iter().find(|it| it.name == "bond0").unwrap();
    assert_eq!(bond0.spec["lacpRate"], "fast");
    assert_eq!(bond0.spec["xmitHashPolicy"], "layer3+4");
}

#[test]
fn a_tunnel_is_made_and_set_up() {
    let peers = [tunnel::peer(0xa1, &["10.8.0.2/32"])];
    let wg0 = |peers: &[Peer]| entry("wg0", Made::Wireguard(tunnel::wireguard(peers)));
    let mut seen = machine();
    let steps = [
        "make wg0, a WireGuard link",
        "set up wg0: its key, port 51820, new peer oaGhoaGh…",
    ];
    assert_eq!(run(&mut seen, &[wg0(&peers)]), steps);
    assert_eq!(run(&mut seen, &[wg0(&peers)]), [""; 0]);
    // It is changed, not made anew: what goes through it to others goes on.
    let steps = ["set up wg0: no more peer oaGhoaGh…"];
    assert_eq!(run(&mut seen, &[wg0(&[])]), steps);

    let shown = |seen: &[Seen], peers: &[Peer]| {
        let shown = publish(seen, &network(&[wg0(peers)]));
        let found = shown.iter().find(|it| it.name == "wg0").unwrap();
        let spec = serde_json::Value::from(found.spec.clone());
        (found.phase, found.message.clone(), spec)
    };
    let (phase, message, _) = shown(&seen, &peers);
    let lacks = "is not set up yet: new peer oaGhoaGh…";
    assert_eq!((phase, message.as_str()), (Phase::Pending, lacks));
    run(&mut seen, &[wg0(&peers)]);
    let (phase, _, spec) = shown(&seen, &peers);
    assert_eq!(phase, Phase::Ready);
    assert_eq!(spec["listenPort"], 51820);
    assert_eq!(spec["peers"][0]["allowedIPs"][0], "10.8.0.2/32");
    let text = spec.to_string();
    let secret = PublicKey([0x48; 32]).to_string();
    assert!(
        !text.contains(&secret) && text.contains("7u7u7u7u"),
        "{text}"
    );
    // A link that is its own peer would wait for ever.
    let itself = [tunnel::peer(0xee, &["10.8.0.9/32"])];
    assert_eq!(shown(&seen, &itself).0, Phase::Failed);

    let steps = ["remove wg0"];
    assert_eq!(run(&mut seen, &[]), steps);
}

#[test]
fn what_others_made_is_never_touched() {
    // The machine has a br0 that is not machined's.
    let of_others = |made| entry("br0", made);
    let mut seen = machine();
    let links = [
        of_others(Made::Bridge {
            links: names(&["eth0"]),
            stp: true,
        }),
        entry("dummy0", Made::Dummy),
    ];
    assert_eq!(run(&mut seen, &links), ["make dummy0, a dummy link"]);
    let network = network(&links);
    let taken: Vec<_> = select(&seen, &network)
        .iter()
        .map(|it| it.seen.link.name.as_str())
        .collect();
    assert_eq!(taken, ["dummy0"]);
    let shown = publish(&seen, &network);
    let br0 = shown.iter().find(|it| it.name == "br0").unwrap();
    assert_eq!(
        (br0.phase, br0.message.as_str()),
        (
            Phase::Failed,
            "a link of this name is there already, and not made by the config"
        )
    );
    // A dummy that others made is none of ours, even where the config makes one.
    find(&mut seen, "dummy0").ours = false;
    assert!(select(&seen, &network).is_empty());
}

#[test]
fn the_ports_that_pods_add_to_a_bridge_stay() {
    let mut seen = machine();
    run(&mut seen, &[bridge(&["eth0"], false)]);
    let index = find(&mut seen, "br1").index;
    find(&mut seen, "veth1a2b").part_of = Some(index);
    assert_eq!(
        run(&mut seen, &[bridge(&[], false)]),
        ["take eth0 out of br1"]
    );
    assert_eq!(find(&mut seen, "veth1a2b").part_of, Some(index));
}

#[test]
fn a_part_is_not_selected_by_what_it_is() {
    let seen = machine();
    let any = Link::any_dhcp();
    let network = network(&[bond(&["eth0"], BondMode::ActiveBackup, 100), any]);
    let taken: Vec<_> = select(&seen, &network)
        .iter()
        .map(|it| it.seen.link.name.as_str())
        .collect();
    assert_eq!(taken, ["eth1"]);
}

#[test]
fn what_is_shown() {
    let mut seen = machine();
    let links = [
        bond(&["eth0", "eth9"], BondMode::ActiveBackup, 100),
        vlan("far", "eth8", 5),
        bridge(&[], false),
        vlan("storage", "bond0", 7),
    ];
    run(&mut seen, &links);
    find(&mut seen, "br1").carrier = false;
    find(&mut seen, "eth0").carrier = false;
    let rows = |seen: &[Seen], links: &[Link]| -> Vec<String> {
        let shown = publish(seen, &network(links));
        let rows = shown
            .iter()
            .map(|it| format!("{} {:?} {}", it.name, it.phase, it.message));
        rows.map(|row| row.trim().to_owned()).collect()
    };
    assert_eq!(
        rows(&seen, &links),
        [
            "lo Ready",
            "eth0 Ready no carrier",
            "eth1 Ready no entry of the config selects it",
            "bond0 Pending waits for eth9",
            "br1 Ready no carrier",
            "storage Ready",
            "far Pending waits for eth8",
        ]
    );
    let shown = publish(&seen, &network(&links));
    let spec = |name: &str| {
        let found = shown.iter().find(|it| it.name == name).unwrap();
        serde_json::Value::from(found.spec.clone())
    };
    assert_eq!(spec("eth0")["partOf"], "bond0");
    assert_eq!(spec("bond0")["mode"], "active-backup");
    assert_eq!(
        (&spec("storage")["parent"], &spec("storage")["id"]),
        (&"bond0".into(), &7.into())
    );
}
