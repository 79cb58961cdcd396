//! The plan of addresses, as tables.

mod dhcp6;
mod model;

use super::*;
use crate::{
    dhcp::tests::bound,
    nouns::link::tests::{machine, named, network},
    resource::Phase,
};
use keelson_config::{LeaseUse, LinkSelector, MacAddr};

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
