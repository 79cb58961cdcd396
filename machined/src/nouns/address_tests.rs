//! The plan of addresses, as tables and as a model of the kernel.

use super::*;
use crate::{
    dhcp::tests::bound,
    dhcp6,
    nouns::link::tests::{machine, named, network},
    resource::Phase,
};
use keelson_config::{self as config, LeaseUse, LinkSelector, MacAddr};
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    let (addr, prefix) = text.split_once('/').unwrap();
    Cidr {
        addr: addr.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
    }
}

fn address(link: u32, text: &str, lifetime: Option<u64>, mark: Option<Mark>) -> netlink::Address {
    netlink::Address {
        link,
        cidr: cidr(text),
        lifetime: lifetime.map(Duration::from_secs),
        preferred: None,
        unique: netlink::Unique::Yes,
        mark,
    }
}

fn have(addresses: Vec<netlink::Address>, status: Option<Status>) -> Have {
    let mut have = Have {
        now: Instant::now(),
        links: machine(),
        addresses,
        clients: vec![settings("")],
        leases: BTreeMap::new(),
        leases6: Leases6::new(),
        duplicates: BTreeMap::new(),
    };
    have.leases.extend(status.map(|status| (2, status)));
    have
}

fn settings(hostname: &str) -> Settings {
    Settings {
        family: Family::V4,
        link: 2,
        name: "eth0".into(),
        mac: MacAddr([0x52, 0x54, 0, 0, 0, 2]),
        hostname: hostname.into(),
        association: 0,
        lease: LeaseUse::default(),
    }
}

/// eth0 with DHCP and the addresses.
fn want(addresses: &[&str]) -> Network {
    let mut network = network(&[named("eth0")]);
    network.links[0].addresses = addresses.iter().map(|text| cidr(text)).collect();
    network
}

fn words(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

/// Shows: network.links.addresses
#[test]
fn each_case_has_its_steps() {
    const LEASED: &str = "10.0.2.15/24";
    let lease = Some(Mark::Lease);
    let config = Some(Mark::Config);
    let lost = || Some(Status::Lost("the server refused the address"));
    let ours = |seconds| vec![address(2, LEASED, Some(seconds), lease)];
    type Case = (
        &'static str,
        Vec<netlink::Address>,
        Option<Status>,
        &'static [&'static str],
        &'static [&'static str],
    );
    let cases: Vec<Case> = vec![
        (
            "a lease is set",
            vec![],
            Some(bound(|_| ())),
            &[],
            &["set 10.0.2.15/24 on eth0"],
        ),
        ("and is there", ours(3600), Some(bound(|_| ())), &[], &[]),
        (
            "the kernel rounds",
            ours(3597),
            Some(bound(|_| ())),
            &[],
            &[],
        ),
        (
            "a renewed lease lives longer",
            ours(1800),
            Some(bound(|_| ())),
            &[],
            &["set 10.0.2.15/24 on eth0"],
        ),
        (
            "an endless lease",
            vec![address(2, LEASED, None, lease)],
            Some(bound(|lease| lease.duration = None)),
            &[],
            &[],
        ),
        (
            "a lease of another address",
            vec![address(2, "10.0.2.99/24", Some(900), lease)],
            Some(bound(|_| ())),
            &[],
            &["remove 10.0.2.99/24 from eth0", "set 10.0.2.15/24 on eth0"],
        ),
        (
            "machined began anew and has no answer yet",
            ours(900),
            Some(Status::Asking),
            &[],
            &[],
        ),
        (
            "nor has one for long",
            ours(900),
            Some(Status::Unanswered),
            &[],
            &[],
        ),
        (
            "the server said no",
            ours(900),
            lost(),
            &[],
            &["remove 10.0.2.15/24 from eth0"],
        ),
        (
            "a fixed address",
            vec![],
            None,
            &["10.1.0.5/24"],
            &["set 10.1.0.5/24 on eth0"],
        ),
        (
            "two of one network",
            vec![address(2, "10.1.0.5/24", None, config)],
            None,
            &["10.1.0.5/24", "10.1.0.6/24"],
            &["set 10.1.0.6/24 on eth0"],
        ),
        (
            "a fixed address that is not wanted any more, even while DHCP is undecided",
            vec![address(2, "10.1.0.5/24", None, config)],
            Some(Status::Asking),
            &[],
            &["remove 10.1.0.5/24 from eth0"],
        ),
        (
            "what was leased is now fixed",
            ours(900),
            lost(),
            &[LEASED],
            &["set 10.0.2.15/24 on eth0"],
        ),
        (
            "fixed and leased is fixed",
            vec![address(2, LEASED, None, config)],
            Some(bound(|_| ())),
            &[LEASED],
            &[],
        ),
        (
            "what others added stays",
            vec![address(2, "192.168.9.9/24", None, None)],
            lost(),
            &[],
            &[],
        ),
        (
            "what others added is good enough",
            vec![address(2, "10.1.0.5/24", None, None)],
            None,
            &["10.1.0.5/24"],
            &[],
        ),
        (
            "addresses of pods' links stay",
            vec![address(4, "10.42.0.1/24", None, None)],
            None,
            &[],
            &[],
        ),
        (
            "what was added to a link that is selected no more is taken back",
            vec![
                address(3, "10.9.0.1/24", None, config),
                address(3, "10.9.1.1/24", Some(9), lease),
            ],
            None,
            &[],
            &[
                "remove 10.9.0.1/24 from eth1",
                "remove 10.9.1.1/24 from eth1",
            ],
        ),
        (
            "IPv6",
            vec![],
            None,
            &["fd00::5/64"],
            &["set fd00::5/64 on eth0"],
        ),
    ];
    for (rule, addresses, status, fixed, want_steps) in cases {
        let steps = plan(&have(addresses, status), &want(fixed), "");
        assert_eq!(words(&steps), want_steps, "{rule}");
    }
}

/// Shows: network.links.dhcp.v4
#[test]
fn clients_run_where_the_config_says() {
    let mut have = have(vec![], None);
    assert_eq!(plan(&have, &want(&[]), ""), [], "it runs");
    assert_eq!(
        plan(&have, &want(&[]), "server-1"),
        [Step::StartDhcp(
            settings("server-1"),
            Told {
                up: true,
                duplicate: None
            }
        )],
        "it is to tell another name"
    );
    let mut less = want(&[]);
    less.links[0].lease.nameservers = false;
    assert_eq!(
        words(&plan(&have, &less, "")),
        ["ask for an address on eth0"],
        "it is to take less"
    );
    // What a route's metric is, the server need not be asked.
    less.links[0].lease = LeaseUse {
        route_metric: Some(7),
        ..LeaseUse::default()
    };
    assert_eq!(plan(&have, &less, ""), []);
    let mut without = want(&[]);
    without.links[0].dhcp_v4 = false;
    assert_eq!(
        plan(&have, &without, ""),
        [Step::StopDhcp(2, Family::V4, "eth0".into())]
    );
    have.links.retain(|seen| seen.link.index != 2);
    assert_eq!(
        words(&plan(&have, &want(&[]), "")),
        ["stop asking for an address on eth0"]
    );
    have.clients.clear();
    assert_eq!(
        words(&plan(&have, &network(&[LinkSelector::default()]), "")),
        ["ask for an address on eth1"]
    );
}

#[test]
fn what_is_shown() {
    let shown = |have: &Have, network: &Network| -> Vec<(String, Phase)> {
        publish(have, network)
            .into_iter()
            .map(|r| (r.name, r.phase))
            .collect()
    };
    let row = |name: &str, phase| (name.to_owned(), phase);
    let addresses = vec![
        address(1, "127.0.0.1/8", None, None),
        address(2, "10.0.2.15/24", Some(3600), Some(Mark::Lease)),
        address(2, "fe80::1/64", None, None),
        address(4, "10.42.0.1/24", None, None),
    ];
    let good = have(addresses, Some(bound(|_| ())));
    let want = want(&[]);
    assert_eq!(
        shown(&good, &want),
        [
            row("lo/127.0.0.1/8", Phase::Ready),
            row("eth0/10.0.2.15/24", Phase::Ready),
            row("eth0/fe80::1/64", Phase::Ready),
            row("eth0/dhcp", Phase::Ready),
        ]
    );
    assert_eq!(
        shown(&have(vec![], None), &want),
        [row("eth0/dhcp", Phase::Pending)]
    );
    let dead = have(vec![], Some(Status::Unanswered));
    assert_eq!(shown(&dead, &want), [row("eth0/dhcp", Phase::Failed)]);

    // A card in a network without a server does not spoil a machine that has an address.
    let any = network(&[LinkSelector::default()]);
    let mut two = have(vec![], Some(bound(|_| ())));
    two.leases.insert(3, Status::Unanswered);
    assert_eq!(
        shown(&two, &any),
        [
            row("eth0/dhcp", Phase::Ready),
            row("eth1/dhcp", Phase::Ready)
        ]
    );
    two.leases.remove(&2);
    two.links[1].link.carrier = false;
    assert_eq!(
        shown(&two, &any),
        [
            row("eth0/dhcp", Phase::Ready),
            row("eth1/dhcp", Phase::Failed)
        ]
    );
}

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

/// What the kernel does.
fn take(have: &mut Have, step: Step) {
    match step {
        Step::StartDhcp(settings, _) => {
            have.clients.retain(|client| client.link != settings.link);
            have.clients.push(settings);
        }
        Step::StopDhcp(link, ..) => {
            have.clients.retain(|client| client.link != link);
            have.leases.remove(&link);
        }
        Step::Remove(address, _) => {
            assert!(address.mark.is_some(), "only what is ours is removed");
            have.addresses
                .retain(|a| (a.link, a.cidr) != (address.link, address.cidr));
        }
        Step::Add(address, _) => {
            have.addresses
                .retain(|a| (a.link, a.cidr) != (address.link, address.cidr));
            have.addresses.push(address);
        }
    }
}

fn any_have() -> impl Strategy<Value = Have> {
    let mark = prop_oneof![
        Just(None),
        Just(Some(Mark::Config)),
        Just(Some(Mark::Lease))
    ];
    let cidr = prop::sample::select(vec![
        "10.0.2.15/24",
        "10.1.0.5/24",
        "10.1.0.6/16",
        "fd00::5/64",
    ]);
    let address = (1u32..5, cidr, prop::option::of(1u64..4000), mark)
        .prop_map(|(link, text, lifetime, mark)| address(link, text, lifetime, mark));
    let status = (0u8..5).prop_map(|kind| match kind {
        0 => None,
        1 => Some(Status::Asking),
        2 => Some(Status::Unanswered),
        3 => Some(Status::Lost("expired")),
        _ => Some(bound(|_| ())),
    });
    (prop::collection::vec(address, 0..8), status, any::<bool>()).prop_map(
        |(mut addresses, status, running)| {
            addresses.sort_by_key(|a| (a.link, a.cidr));
            addresses.dedup_by_key(|a| (a.link, a.cidr));
            let mut have = have(addresses, status);
            if !running {
                have.clients.clear();
            }
            have
        },
    )
}

proptest! {
    #[test]
    fn after_all_steps_none_is_missing_and_others_addresses_are_there(
        mut have in any_have(),
        fixed in prop::sample::subsequence(vec!["10.0.2.15/24", "10.1.0.5/24", "fd00::5/64"], 0..3),
        dhcp: bool,
        any: bool,
    ) {
        let mut network = want(&fixed);
        network.links[0].dhcp_v4 = dhcp;
        if any {
            network.links[0].select = LinkSelector::default();
        }
        let others = |have: &Have| -> Vec<_> {
            have.addresses.iter().filter(|a| a.mark.is_none()).cloned().collect()
        };
        let before = others(&have);
        for step in plan(&have, &network, "") {
            take(&mut have, step);
        }
        let mut rest = plan(&have, &network, "");
        // A client that was stopped takes its lease along: what hung on it goes next.
        for step in std::mem::take(&mut rest) {
            prop_assert!(matches!(step, Step::Remove(..)), "{}", step);
            take(&mut have, step);
        }
        prop_assert_eq!(plan(&have, &network, ""), rest);
        for other in before {
            prop_assert!(have.addresses.contains(&other), "{:?} is gone", other);
        }
    }
}
