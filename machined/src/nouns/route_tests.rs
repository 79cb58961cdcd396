//! The plan of routes, as tables and as a model of the kernel.

use super::*;
use crate::{
    dhcp::tests::bound,
    nouns::link::tests::{machine, named, network},
};
use keelson_config as config;
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    let (addr, prefix) = text.split_once('/').unwrap();
    Cidr {
        addr: addr.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
    }
}

fn route(link: u32, to: &str, via: &str, metric: u32, mark: Option<Mark>) -> Route {
    let source = (mark == Some(Mark::Lease)).then(|| "10.0.2.15".parse().unwrap());
    Route {
        link,
        to: cidr(to),
        via: via.parse().ok(),
        source,
        metric,
        table: MAIN_TABLE,
        mark,
    }
}

const LEASE: Option<Mark> = Some(Mark::Lease);
const CONFIG: Option<Mark> = Some(Mark::Config);

/// The default route of the usual lease, on eth0 alone.
fn leased() -> Route {
    route(2, "0.0.0.0/0", "10.0.2.2", 1025, LEASE)
}

fn have(routes: Vec<Route>, status: Option<Status>) -> Have {
    let address = IpAddr::from(Ipv4Addr::new(10, 0, 2, 15));
    Have {
        links: machine(),
        routes,
        addresses: vec![(2, address), (3, address)],
        leases: status.map(|s| (2, s)).into_iter().collect(),
    }
}

/// eth0 with DHCP and a fixed route.
fn want(fixed: &[(&str, &str, u32)]) -> Network {
    let mut network = network(&[named("eth0")]);
    network.links[0].routes = fixed
        .iter()
        .map(|&(to, via, metric)| config::Route {
            to: cidr(to),
            via: via.parse().ok(),
            metric,
            table: MAIN_TABLE,
        })
        .collect();
    network
}

fn words(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

/// Shows: network.links.routes
#[test]
fn each_case_has_its_steps() {
    let lost = || Some(Status::Lost("expired"));
    let add = "add the route to 0.0.0.0/0 via 10.0.2.2 on eth0";
    type Fixed = &'static [(&'static str, &'static str, u32)];
    type Case = (
        &'static str,
        Vec<Route>,
        Option<Status>,
        Fixed,
        Vec<&'static str>,
    );
    let cases: Vec<Case> = vec![
        (
            "a lease brings its router",
            vec![],
            Some(bound(|_| ())),
            &[],
            vec![add],
        ),
        (
            "and it is there",
            vec![leased()],
            Some(bound(|_| ())),
            &[],
            vec![],
        ),
        (
            "machined began anew and has no answer yet",
            vec![leased()],
            Some(Status::Asking),
            &[],
            vec![],
        ),
        (
            "the lease is lost",
            vec![leased()],
            lost(),
            &[],
            vec!["remove the route to 0.0.0.0/0 via 10.0.2.2 on eth0"],
        ),
        (
            "another router",
            vec![route(2, "0.0.0.0/0", "10.0.2.9", 1025, LEASE)],
            Some(bound(|_| ())),
            &[],
            vec!["remove the route to 0.0.0.0/0 via 10.0.2.9 on eth0", add],
        ),
        (
            "a fixed route, its destination as the kernel has it",
            vec![route(2, "10.9.0.0/16", "10.0.2.9", 1024, CONFIG)],
            None,
            &[("10.9.3.1/16", "10.0.2.9", 1024)],
            vec![],
        ),
        (
            "what is on the link comes first",
            vec![],
            None,
            &[
                ("0.0.0.0/0", "169.254.1.1", 1024),
                ("169.254.1.1/32", "", 1024),
            ],
            vec![
                "add the route to 169.254.1.1/32 on eth0",
                "add the route to 0.0.0.0/0 via 169.254.1.1 on eth0",
            ],
        ),
        (
            "a fixed route that is not wanted any more",
            vec![route(2, "10.9.0.0/16", "10.0.2.9", 1024, CONFIG)],
            Some(Status::Asking),
            &[],
            vec!["remove the route to 10.9.0.0/16 via 10.0.2.9 on eth0"],
        ),
        (
            "what others added stays",
            vec![
                route(2, "0.0.0.0/0", "10.0.2.7", 100, None),
                route(4, "10.42.0.0/24", "", 0, None),
            ],
            lost(),
            &[],
            vec![],
        ),
        (
            "what others added is good enough",
            vec![route(2, "10.9.0.0/16", "10.0.2.9", 1024, None)],
            None,
            &[("10.9.0.0/16", "10.0.2.9", 1024)],
            vec![],
        ),
        (
            "what was added to a link that is selected no more is taken back",
            vec![route(3, "10.9.0.0/16", "10.0.3.9", 1024, CONFIG)],
            None,
            &[],
            vec!["remove the route to 10.9.0.0/16 via 10.0.3.9 on eth1"],
        ),
        (
            "IPv6",
            vec![],
            None,
            &[("::/0", "fe80::1", 1024)],
            vec!["add the route to ::/0 via fe80::1 on eth0"],
        ),
        (
            "one destination and metric twice",
            vec![],
            None,
            &[
                ("10.9.0.0/16", "10.0.2.9", 5),
                ("10.9.1.0/16", "10.0.2.8", 5),
            ],
            vec!["add the route to 10.9.0.0/16 via 10.0.2.9 on eth0"],
        ),
    ];
    for (rule, routes, status, fixed, steps) in cases {
        assert_eq!(
            words(&plan(&have(routes, status), &want(fixed))),
            steps,
            "{rule}"
        );
    }
}

/// Shows: network.links.routes.table
#[test]
fn a_table_of_its_own() {
    let mut network = want(&[
        ("0.0.0.0/0", "10.0.2.9", 1024),
        ("0.0.0.0/0", "10.0.2.9", 1024),
    ]);
    network.links[0].routes[1].table = 100;
    let other = Route {
        table: 100,
        ..route(2, "0.0.0.0/0", "10.0.2.9", 1024, CONFIG)
    };
    let words = |routes: &[Route]| words(&plan(&have(routes.to_vec(), None), &network));
    let main = "add the route to 0.0.0.0/0 via 10.0.2.9 on eth0";
    assert_eq!(words(&[]), [main, &format!("{main}, in table 100")]);
    assert_eq!(words(&[other]), [main]);
    // Its table is a part of what a route is.
    let elsewhere = Route {
        table: 101,
        ..other
    };
    let steps = words(&[elsewhere, other]);
    assert_eq!(
        steps,
        [
            "remove the route to 0.0.0.0/0 via 10.0.2.9 on eth0, in table 101",
            main
        ]
    );
}

#[test]
fn two_leases_do_not_stand_in_each_others_way() {
    let mut have = have(vec![], Some(bound(|_| ())));
    have.leases.insert(3, bound(|_| ()));
    let steps = plan(&have, &network(&[named("eth0"), named("eth1")]));
    let metrics: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Add(route, name) => (name.as_str(), route.metric),
            Step::Remove(..) => panic!("{step}"),
        })
        .collect();
    assert_eq!(metrics, [("eth0", 1025), ("eth1", 1026)]);
}

/// Shows: network.links.dhcp.routeMetric
#[test]
fn the_config_may_say_how_a_leases_routes_count() {
    let mut have = have(vec![], Some(bound(|_| ())));
    have.leases.insert(3, bound(|_| ()));
    let metrics = |network: &Network| -> Vec<u32> {
        let steps = plan(&have, network);
        let metric = |step: &Step| match step {
            Step::Add(route, _) => route.metric,
            Step::Remove(..) => panic!("{step}"),
        };
        steps.iter().map(metric).collect()
    };
    let mut two = network(&[named("eth0"), named("eth1")]);
    two.links[0].lease.route_metric = Some(2000);
    assert_eq!(metrics(&two), [2000, 1026]);
    // One entry for several links: they stand beside each other.
    let mut any = network(&[Default::default()]);
    any.links[0].lease.route_metric = Some(2000);
    assert_eq!(metrics(&any), [2000, 2001]);
}

#[test]
fn a_lease_whose_address_is_not_set_brings_no_routes_yet() {
    let mut have = have(vec![], Some(bound(|_| ())));
    have.addresses.clear();
    assert_eq!(plan(&have, &want(&[])), []);
}

#[test]
fn the_network_of_an_address() {
    for (given, network) in [
        ("10.1.2.3/24", "10.1.2.0/24"),
        ("10.1.2.3/32", "10.1.2.3/32"),
        ("10.1.2.3/0", "0.0.0.0/0"),
        ("fd00:1:2:3::5/48", "fd00:1:2::/48"),
        ("fd00::5/0", "::/0"),
    ] {
        assert_eq!(network_of(cidr(given)), cidr(network));
    }
}

fn any_route() -> impl Strategy<Value = Route> {
    let mark = prop_oneof![Just(None), Just(CONFIG), Just(LEASE)];
    let to = prop::sample::select(vec!["0.0.0.0/0", "10.9.0.0/16", "::/0"]);
    (
        2u32..5,
        to,
        0u8..3,
        prop::sample::select(vec![0u32, 5, 1024, 1025]),
        mark,
    )
        .prop_map(|(link, to, via, metric, mark)| {
            let via = match (via, to) {
                (0, _) => "",
                (_, "::/0") => "fe80::1",
                (1, _) => "10.0.2.2",
                _ => "10.0.2.9",
            };
            route(link, to, via, metric, mark)
        })
}

proptest! {
    #[test]
    fn after_all_steps_none_is_missing_and_others_routes_are_there(
        routes in prop::collection::vec(any_route(), 0..8),
        status in 0u8..4,
        fixed in prop::sample::subsequence(
            vec![("0.0.0.0/0", "10.0.2.9", 5), ("10.9.1.1/16", "", 1024), ("::/0", "fe80::1", 1024)],
            0..3,
        ),
    ) {
        let status = match status {
            0 => None,
            1 => Some(Status::Asking),
            2 => Some(Status::Lost("expired")),
            _ => Some(bound(|_| ())),
        };
        let mut have = have(routes, status);
        let others: Vec<_> = have.routes.iter().filter(|r| r.mark.is_none()).copied().collect();
        let network = want(&fixed);
        for step in plan(&have, &network) {
            match step {
                Step::Remove(route, _) => have.routes.retain(|there| *there != route),
                Step::Add(route, _) => have.routes.push(route),
            }
        }
        prop_assert_eq!(plan(&have, &network), vec![]);
        prop_assert!(others.iter().all(|other| have.routes.contains(other)));
    }
}
