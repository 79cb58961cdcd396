//! The plan of addresses against a model of the kernel.

use super::*;
use proptest::prelude::*;

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
