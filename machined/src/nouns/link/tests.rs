//! Tests of `link.rs`, and the machine that tests of links begin with.

use super::*;
use crate::dhcp::tests::bound;
use keelson_config::{self as config, LinkSelector, MacAddr};

/// A network card.
pub(crate) fn card(index: u32, name: &str) -> Seen {
    let mac = MacAddr([0x52, 0x54, 0, 0, 0, index as u8]);
    Seen {
        link: netlink::Link {
            index,
            name: name.into(),
            ethernet: true,
            mac: Some(mac),
            permanent: Some(mac),
            up: true,
            carrier: true,
            mtu: 1500,
            largest_mtu: 9216,
            ..netlink::Link::default()
        },
        physical: true,
        driver: Some("virtio_net".into()),
        tunnel: None,
    }
}

/// A machine that runs pods.
pub(crate) fn machine() -> Vec<Seen> {
    let mut loopback = card(1, "lo");
    (loopback.physical, loopback.driver) = (false, None);
    (loopback.link.loopback, loopback.link.ethernet) = (true, false);
    let mut all = vec![loopback, card(2, "eth0"), card(3, "eth1")];
    all[2].driver = Some("e1000e".into());
    for (index, name) in [(4, "cni0"), (5, "flannel.1"), (6, "veth1a2b"), (7, "br0")] {
        let mut made = card(index, name);
        (made.physical, made.driver) = (false, None);
        made.link.kind = Some(netlink::Kind::Other);
        all.push(made);
    }
    all
}

/// A config with these selectors, all with DHCP.
pub(crate) fn network(selectors: &[LinkSelector]) -> Network {
    let links = selectors.iter().map(|select| config::Link {
        select: select.clone(),
        ..config::Link::any_dhcp()
    });
    Network {
        links: links.collect(),
        ..Network::default()
    }
}

pub(crate) fn named(name: &str) -> LinkSelector {
    LinkSelector {
        name: Some(name.into()),
        ..LinkSelector::default()
    }
}

#[test]
fn what_is_selected_and_the_loopback_is_switched_on() {
    let mut seen = machine();
    for seen in &mut seen {
        seen.link.up = false;
    }
    let network = network(&[named("eth1")]);
    let steps = plan(&seen, &network, &BTreeMap::new());
    assert_eq!(
        steps,
        [Step::SetUp(1, "lo".into()), Step::SetUp(3, "eth1".into())]
    );
    for step in steps {
        let Step::SetUp(index, _) = step else {
            continue;
        };
        seen[index as usize - 1].link.up = true;
    }
    assert_eq!(plan(&seen, &network, &BTreeMap::new()), []);
}

/// Shows: network.links.mtu
#[test]
fn a_lease_sets_the_mtu_if_the_link_can_have_it() {
    let seen = machine();
    let mut network = network(&[named("eth0")]);
    let mut leases = BTreeMap::new();
    for (mtu, want) in [
        (None, None),
        (Some(1500), None),
        (Some(1400), Some(1400)),
        (Some(65000), None),
    ] {
        leases.insert(2, bound(|lease| lease.mtu = mtu));
        let want = want.map(|mtu| Step::SetMtu(2, "eth0".into(), mtu));
        assert_eq!(
            plan(&seen, &network, &leases),
            Vec::from_iter(want),
            "{mtu:?}"
        );
    }
    leases.insert(2, bound(|lease| lease.mtu = Some(1400)));
    // The config's wins, and is tried whatever the link says of itself.
    for (mtu, want) in [(1500, None), (9000, Some(9000)), (65000, Some(65000))] {
        network.links[0].mtu = Some(mtu);
        let want = want.map(|mtu| Step::SetMtu(2, "eth0".into(), mtu));
        assert_eq!(
            plan(&seen, &network, &leases),
            Vec::from_iter(want),
            "{mtu}"
        );
    }
    network.links[0].mtu = None;
    network.links[0].dhcp_v4 = false;
    assert_eq!(plan(&seen, &network, &leases), []);
}

#[test]
fn the_device_behind_a_link_is_found_in_sysfs() {
    let sysfs = tempfile::tempdir().unwrap();
    let device = sysfs.path().join("eth0/device");
    fs::create_dir_all(&device).unwrap();
    std::os::unix::fs::symlink("../../bus/drivers/virtio_net", device.join("driver")).unwrap();
    let link = card(2, "eth0").link;
    assert_eq!(with_device(sysfs.path(), link), card(2, "eth0"));
    assert!(!with_device(sysfs.path(), card(3, "eth1").link).physical);
}
