//! Addresses by DHCPv6: their plan, whom they wait for, and what another machine has.

use super::*;
use crate::dhcp6;
use keelson_config as config;

/// eth0 with DHCPv6, and its client.
fn six(addresses: Vec<netlink::Address>, status: Option<Status<dhcp6::Bound>>) -> (Have, Network) {
    let mut network = want(&[]);
    (network.links[0].dhcp_v4, network.links[0].dhcp_v6) = (false, true);
    let mut have = have(addresses, None);
    have.clients = vec![Settings {
        family: Family::V6,
        association: 2,
        ..settings("")
    }];
    have.leases6.extend(status.map(|status| (2, status)));
    (have, network)
}

/// An address as the kernel has it.
fn address6(text: &str, mark: Option<Mark>, unique: Unique) -> netlink::Address {
    netlink::Address {
        preferred: mark.map(|_| Duration::from_secs(3600)),
        unique,
        ..address(2, text, mark.map(|_| 7200), mark)
    }
}

/// Shows: network.links.dhcp.v6
#[test]
fn each_case_of_ipv6_has_its_steps() {
    const LEASED: &str = "2001:db8::15/128";
    let lease = Some(Mark::Lease);
    let there = || address6(LEASED, lease, Unique::Yes);
    let old = || address6("2001:db8::99/128", lease, Unique::Yes);
    // What the kernel made of a router's word.
    let router = || address6("2001:db8::5054:ff/64", None, Unique::Yes);
    let bound = || Some(dhcp6::tests::bound(|_| ()));
    let set = "set 2001:db8::15/128 on eth0";
    type Case = (
        &'static str,
        Vec<netlink::Address>,
        Option<Status<dhcp6::Bound>>,
        Vec<&'static str>,
    );
    let cases: Vec<Case> = vec![
        ("a lease is set", vec![router()], bound(), vec![set]),
        ("and is there", vec![router(), there()], bound(), vec![]),
        (
            "another",
            vec![old()],
            bound(),
            vec!["remove 2001:db8::99/128 from eth0", set],
        ),
        ("no answer yet", vec![old()], Some(Status::Asking), vec![]),
        (
            "nor for long",
            vec![old()],
            Some(Status::Unanswered),
            vec![],
        ),
        (
            "lost",
            vec![router(), old()],
            Some(Status::Lost("expired")),
            vec!["remove 2001:db8::99/128 from eth0"],
        ),
        (
            "preferred for longer",
            vec![netlink::Address {
                preferred: Some(Duration::from_secs(60)),
                ..there()
            }],
            bound(),
            vec![set],
        ),
    ];
    for (rule, addresses, status, steps) in cases {
        let (have, network) = six(addresses, status);
        assert_eq!(words(&plan(&have, &network, "")), steps, "{rule}");
    }
    let (mut have, mut network) = six(vec![], bound());
    let [Step::Add(added, _)] = &plan(&have, &network, "")[..] else {
        panic!("one step")
    };
    assert!(is_close(added.lifetime, Some(Duration::from_secs(7200))));
    assert!(is_close(added.preferred, Some(Duration::from_secs(3600))));
    have.duplicates.insert(2, "2001:db8::15".parse().unwrap());
    assert_eq!(plan(&have, &network, ""), [], "another machine has it");
    network.links[0].dhcp_v6 = false;
    let stop = Step::StopDhcp(2, Family::V6, "eth0".into());
    assert_eq!(plan(&have, &network, ""), [stop]);
}

#[test]
fn a_link_is_ready_for_dhcpv6_with_its_own_link_local_address() {
    for (text, unique, up) in [
        ("fe80::1/64", Unique::Yes, true),
        ("fe80::1/64", Unique::Unknown, false),
        ("fe80::1/64", Unique::No, false),
        ("2001:db8::5/64", Unique::Yes, false),
    ] {
        let (mut have, _) = six(vec![address6(text, None, unique)], None);
        let link = have.links[1].link.clone();
        assert_eq!(told(&have, &link, Family::V6).up, up, "{text} {unique:?}");
        assert!(told(&have, &link, Family::V4).up);
        have.links[1].link.carrier = false;
        assert!(!told(&have, &have.links[1].link, Family::V6).up);
    }
}

#[test]
fn links_of_one_hardware_address_ask_for_addresses_of_their_own() {
    let links = machine();
    let mut network = network(&[named("eth0")]);
    network.links[0].dhcp_v6 = true;
    let of = |network: &Network| {
        let managed = link::select(&links, network);
        association(&managed[0], MacAddr([0x52, 0x54, 0, 0, 0, 2]))
    };
    assert_eq!(of(&network), 2);
    let mut vlan = link::select(&links, &network)[0];
    let made = config::Link {
        made: Some(config::Made::Dummy),
        ..vlan.want.clone()
    };
    vlan.want = &made;
    assert_ne!(association(&vlan, MacAddr([0x52, 0x54, 0, 0, 0, 2])), 2);
}

#[test]
fn nothing_waits_for_dhcpv6_where_the_link_has_another_address() {
    let local = address6("fe80::1/64", None, Unique::Yes);
    for (status, alone) in [
        (Status::Asking, Phase::Pending),
        (Status::Unanswered, Phase::Failed),
        (Status::Lost("expired"), Phase::Failed),
        (dhcp6::tests::bound(|_| ()), Phase::Ready),
    ] {
        let (mut have, mut network) = six(vec![local.clone()], Some(status));
        let phase = |have: &Have, network: &Network| {
            let all = publish(have, network);
            let shown = all.into_iter().find(|it| it.name == "eth0/dhcpv6");
            shown.unwrap().phase
        };
        assert_eq!(phase(&have, &network), alone, "{have:?}");
        network.links[0].dhcp_v4 = true;
        assert_eq!(phase(&have, &network), alone, "no address yet");
        have.leases.insert(2, bound(|_| ()));
        assert_eq!(phase(&have, &network), Phase::Ready);
    }
}

/// Shows: network.links.dhcp.v6
#[test]
fn an_address_that_vanishes_while_it_is_found_out_about_is_anothers() {
    let leases = Leases6::from([(2, dhcp6::tests::bound(|_| ()))]);
    let other = Leases6::from([(
        2,
        dhcp6::tests::bound(|lease| lease.address = "2001:db8::16".parse().unwrap()),
    )]);
    let links = machine();
    let there = |unique| vec![address6("2001:db8::15/128", Some(Mark::Lease), unique)];
    let mut detection = Detection::default();
    assert!(
        detection.look(&links, &[], &leases).is_empty(),
        "not set yet"
    );
    detection.look(&links, &there(Unique::Unknown), &leases);
    assert!(
        detection
            .look(&links, &there(Unique::Yes), &leases)
            .is_empty()
    );
    assert!(
        detection.look(&links, &[], &leases).is_empty(),
        "removed by hand"
    );
    detection.look(&links, &there(Unique::Unknown), &leases);
    assert_eq!(detection.look(&links, &[], &leases).len(), 1);
    assert_eq!(
        detection.look(&links, &[], &leases).len(),
        1,
        "it stays known"
    );
    assert!(
        detection.look(&links, &[], &other).is_empty(),
        "another lease"
    );
    let failed = detection.look(&links, &there(Unique::No), &leases);
    assert_eq!(failed.len(), 1, "one that never ends stays, and says so");
}
