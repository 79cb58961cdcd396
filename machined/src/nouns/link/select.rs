//! Which of the machine's links the config selects.

use super::{Seen, made};
use keelson_config::{self as config, LinkSelector, Made, Network, is_of_pods};

/// A link that the config selects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Managed<'a> {
    /// The link.
    pub seen: &'a Seen,
    /// What the config wants of it.
    pub want: &'a config::Link,
    /// Its place among the selected links, from 0, by the kernel's numbers.
    pub rank: u32,
}

impl Managed<'_> {
    /// Whether the config means this link and no other: what is wrong with it is then
    /// wrong with the machine. An empty selector takes in sockets without a cable, too.
    pub(crate) fn named(&self) -> bool {
        self.want.select != LinkSelector::default()
    }

    /// Its place among the links of its entry, from 0.
    pub(crate) fn place(&self, all: &[Managed<'_>]) -> u32 {
        let of_entry = |other: &&Managed<'_>| std::ptr::eq(other.want, self.want);
        let before = all.iter().filter(of_entry);
        before.filter(|other| other.rank < self.rank).count() as u32
    }

    /// Whether it is a switch that the config puts no cable into.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.want.made, Some(Made::Bridge { links, .. }) if links.is_empty())
    }
}

/// Which links the config selects: of each, the first entry that matches it.
pub(crate) fn select<'a>(seen: &'a [Seen], network: &'a Network) -> Vec<Managed<'a>> {
    let parts = made::parts(network);
    let mut managed = Vec::new();
    for seen in seen {
        let part = parts.contains_key(seen.link.name.as_str());
        let mut entries = network.links.iter();
        if let Some(want) = entries.find(|want| matches(want, seen, part)) {
            managed.push(Managed {
                seen,
                want,
                rank: managed.len() as u32,
            });
        }
    }
    managed
}

/// Whether an entry means a link, which the config may make a part of another.
pub(super) fn matches(want: &config::Link, seen: &Seen, part: bool) -> bool {
    let (link, select) = (&seen.link, &want.select);
    if let Some(made) = &want.made {
        return made::is(want, made, seen);
    }
    if link.loopback || !link.ethernet || is_of_pods(&link.name) {
        return false;
    }
    // Without a name only the machine's own devices are meant, and not one that is part of
    // another: a virtual function below its network card, a bridge's port.
    if select.name.is_none() && (!seen.physical || link.part_of.is_some() || part) {
        return false;
    }
    let permanent = link.permanent.or(link.mac);
    select.name.as_ref().is_none_or(|name| *name == link.name)
        && select.mac.is_none_or(|mac| permanent == Some(mac))
        && select
            .driver
            .as_ref()
            .is_none_or(|driver| seen.driver.as_ref() == Some(driver))
}

/// A selector, in few words.
pub(super) fn describe(select: &LinkSelector) -> String {
    let name = select.name.clone();
    let mac = select.mac.map(|mac| format!("mac={mac}"));
    let driver = select
        .driver
        .as_ref()
        .map(|driver| format!("driver={driver}"));
    [name, mac, driver]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{machine, named, network},
        *,
    };
    use keelson_config::MacAddr;

    /// Shows: network.links.name, network.links.select.mac, network.links.select.driver
    #[test]
    fn each_selector_takes_what_it_says() {
        let any = LinkSelector::default;
        let mac = |last| LinkSelector {
            mac: Some(MacAddr([0x52, 0x54, 0, 0, 0, last])),
            ..any()
        };
        let driver = |name: &str| LinkSelector {
            driver: Some(name.into()),
            ..any()
        };
        type Case = (
            &'static str,
            Vec<LinkSelector>,
            &'static [(&'static str, u32)],
        );
        let cases: [Case; 12] = [
            (
                "empty: every card",
                vec![any()],
                &[("eth0", 0), ("eth1", 1)],
            ),
            ("a name", vec![named("eth1")], &[("eth1", 0)]),
            (
                "a name of what software made",
                vec![named("br0")],
                &[("br0", 0)],
            ),
            ("the orchestrator's, even by name", vec![named("cni0")], &[]),
            ("one end of a pod's pair", vec![named("veth1a2b")], &[]),
            ("the loopback", vec![named("lo")], &[]),
            ("a hardware address", vec![mac(3)], &[("eth1", 0)]),
            ("the same address on a bridge", vec![mac(7)], &[]),
            ("a driver", vec![driver("virtio_net")], &[("eth0", 0)]),
            (
                "all that is said must match",
                vec![LinkSelector {
                    name: Some("eth0".into()),
                    ..driver("e1000e")
                }],
                &[],
            ),
            ("none there", vec![named("eth9")], &[]),
            (
                "the first that matches",
                vec![named("eth1"), any()],
                &[("eth0", 0), ("eth1", 1)],
            ),
        ];
        for (rule, selectors, want) in cases {
            let (seen, network) = (machine(), network(&selectors));
            let got = select(&seen, &network);
            let got: Vec<_> = got
                .iter()
                .map(|m| (m.seen.link.name.as_str(), m.rank))
                .collect();
            assert_eq!(got, want, "{rule}");
        }
        let (seen, network) = (machine(), network(&[named("eth1"), any()]));
        assert!(select(&seen, &network)[1].named());
        assert!(!select(&seen, &network)[0].named());
    }

    #[test]
    fn a_card_below_another_is_not_taken_by_chance() {
        let mut seen = machine();
        seen[2].link.part_of = Some(7);
        let network = network(&[LinkSelector::default()]);
        assert_eq!(select(&seen, &network).len(), 1);
    }

    #[test]
    fn the_address_that_it_was_built_with_counts() {
        let mut seen = machine();
        seen[1].link.mac = Some(MacAddr([2, 0, 0, 0, 0, 99]));
        let built = LinkSelector {
            mac: Some(MacAddr([0x52, 0x54, 0, 0, 0, 2])),
            ..Default::default()
        };
        assert_eq!(select(&seen, &network(&[built])).len(), 1);
        let given = LinkSelector {
            mac: seen[1].link.mac,
            ..Default::default()
        };
        assert_eq!(select(&seen, &network(&[given])).len(), 0);
    }
}
