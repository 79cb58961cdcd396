//! The links that the machine makes.

use super::{super::link::tests::named, FAR, Machined, NEAR, apart, number};
use crate::{
    netlink::{self, Kind, Netlink},
    wireguard,
};
use keelson_config::{self as config, BondMode, Cidr, LacpRate, Machine, Made, XmitHashPolicy};
use rtnetlink::{LinkBridge, LinkVeth};

/// An entry that makes a link, with a fixed address.
fn entry(name: &str, made: Made, address: &str) -> config::Link {
    config::Link {
        select: named(name),
        made: Some(made),
        dhcp_v4: false,
        addresses: vec![Cidr {
            addr: address.parse().unwrap(),
            prefix: 24,
        }],
        ..config::Link::any_dhcp()
    }
}

#[test]
fn links_that_the_machine_makes() {
    apart(make_links());
}

async fn make_links() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let others = [
        LinkVeth::new(NEAR, FAR).build(),
        LinkVeth::new("left0", "right0").build(),
        LinkBridge::new("theirs0").build(),
    ];
    for other in others {
        handle.link().add(other).execute().await.unwrap();
    }
    let netlink = Netlink::connect().unwrap();
    let part = |name: &str| vec![name.to_owned()];
    let bridge = |stp| Made::Bridge {
        links: part(NEAR),
        stp,
    };
    let vlan = Made::Vlan {
        parent: "br0".into(),
        id: 100,
    };
    let bond = |mode, miimon| {
        let lacp = mode == BondMode::Ieee8023Ad;
        Made::Bond {
            links: part("left0"),
            mode,
            miimon,
            lacp_rate: lacp.then_some(LacpRate::Fast),
            xmit_hash_policy: lacp.then_some(XmitHashPolicy::Layer34),
        }
    };
    let peer = wireguard::tests::peer(0xa1, &["10.6.0.2/32", "fd06::/64"]);
    let tunnel = Made::Wireguard(wireguard::tests::wireguard(&[peer]));
    let bond_anew = bond(BondMode::Ieee8023Ad, 100);
    let mut entries = vec![
        entry("br0", bridge(false), "10.1.0.5"),
        entry("br0.100", vlan, "10.2.0.5"),
        entry("bond0", bond(BondMode::ActiveBackup, 100), "10.3.0.5"),
        entry("dummy0", Made::Dummy, "10.4.0.5"),
        entry("theirs0", bridge(true), "10.5.0.5"),
        entry("wg0", tunnel.clone(), "10.6.0.5"),
    ];
    // Not every kernel that tests run on has them all; those of the images have.
    let mut known = Vec::new();
    for entry in entries.drain(..) {
        let made = entry.made.clone().unwrap();
        let parent = Some(number(&netlink, NEAR).await);
        match netlink.make("probe0", &made, parent).await {
            Ok(()) => {
                let probe = number(&netlink, "probe0").await;
                netlink.remove_link(probe).await.unwrap();
                netlink.remove_link(probe).await.unwrap();
                known.push(entry);
            }
            Err(error) => eprintln!("skipped: no {}: {error:#}", made.kind()),
        }
    }
    let has = |name: &str| known.iter().any(|entry| entry.select == named(name));
    let mut want = Machine::maintenance();
    want.network.links = known.clone();
    let memory = tempfile::tempdir().unwrap();
    let mut machined = Machined::start(want, memory.path());
    machined.rest().await;

    // Everything is there, has its parts and its address, and nothing is done twice.
    let all = netlink.links().await.unwrap();
    let link = |all: &[netlink::Link], name: &str| {
        let found = all.iter().find(|link| link.name == name);
        found.cloned().unwrap_or_else(|| panic!("no {name}"))
    };
    let addresses = netlink.addresses().await.unwrap();
    for entry in known.iter().filter(|it| it.select != named("theirs0")) {
        let name = entry.select.name.as_deref().unwrap();
        let made = link(&all, name);
        assert!(made.ours && made.up, "{made:?}");
        let cidr = entry.addresses[0];
        let set = addresses
            .iter()
            .any(|it| (it.link, it.cidr) == (made.index, cidr));
        assert!(set, "{name} has no {cidr}");
    }
    let near = link(&all, NEAR);
    assert!(near.up && near.part_of == Some(link(&all, "br0").index));
    if has("br0.100") {
        assert_eq!(link(&all, "br0.100").kind, Some(Kind::Vlan(100)));
    }
    if has("wg0") {
        let device = wireguard::read(link(&all, "wg0").index).await.unwrap();
        let Made::Wireguard(wanted) = &tunnel else {
            panic!("{tunnel:?}");
        };
        assert_eq!(device.unwrap().lacks(wanted), None);
    }
    if has("bond0") {
        let left = link(&all, "left0");
        assert!(left.up && left.part_of == Some(link(&all, "bond0").index));
    }
    let theirs = link(&all, "theirs0");
    assert!(!theirs.ours && theirs.kind == Some(Kind::Bridge { stp: false }));

    // What can be changed is, and a new machined knows its own.
    let mut want = machined.want.clone();
    drop(machined);
    for entry in &mut want.network.links {
        if entry.select == named("br0") {
            entry.made = Some(bridge(true));
        }
        if entry.select == named("bond0") {
            entry.made = Some(bond(BondMode::ActiveBackup, 50));
        }
    }
    let mut machined = Machined::start(want, memory.path());
    machined.rest().await;
    let after = netlink.links().await.unwrap();
    let br0 = link(&after, "br0");
    assert_eq!(br0.index, link(&all, "br0").index);
    assert_eq!(br0.kind, Some(Kind::Bridge { stp: true }));
    if has("bond0") {
        let bond = link(&after, "bond0");
        assert_eq!(bond.index, link(&all, "bond0").index);
        let kind = Kind::Bond {
            mode: BondMode::ActiveBackup as u8,
            miimon: 50,
            lacp_rate: 0,
            xmit_hash_policy: 0,
        };
        assert_eq!(bond.kind, Some(kind));
        // Another mode makes it anew.
        let entries = &mut machined.want.network.links;
        for entry in entries.iter_mut().filter(|it| it.select == named("bond0")) {
            entry.made = Some(bond_anew.clone());
        }
        machined.rest().await;
        let anew = netlink.links().await.unwrap();
        assert_ne!(link(&anew, "bond0").index, bond.index);
        let bond = link(&anew, "bond0").index;
        assert_eq!(link(&anew, "left0").part_of, Some(bond));
    }

    // All of it goes with the config, and nothing else does.
    machined.want.network.links.clear();
    machined.rest().await;
    let left = netlink.links().await.unwrap();
    assert!(!left.iter().any(|link| link.ours), "{left:?}");
    for name in [NEAR, FAR, "left0", "right0", "theirs0"] {
        assert_eq!(link(&left, name).part_of, None, "{name}");
    }
}
