//! The noun link: which of the machine's links the config selects, that they and the
//! loopback are switched on, and their MTU where the config or a lease gives one; and the
//! links that the config makes (`made.rs`). A link that the orchestrator made is never
//! touched, and never shown.

mod made;

use crate::{
    dhcp::{Leases, Status},
    netlink::{self, Netlink},
    noun::Noun,
    resource::{Phase, Resource},
    wireguard,
};
use anyhow::Context as _;
use keelson_config::{self as config, LinkSelector, Machine, Made, Network, PublicKey, is_of_pods};
use made::Stack;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::SocketAddr,
    path::Path,
};

/// A link, with what sysfs knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What netlink says.
    pub link: netlink::Link,
    /// A device is behind it: it is not made of software.
    pub physical: bool,
    /// The driver that serves it.
    pub driver: Option<String>,
    /// The keys and peers of a tunnel of machined's own; only this noun looks at them.
    pub tunnel: Option<wireguard::Device>,
}

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
    fn is_empty(&self) -> bool {
        matches!(&self.want.made, Some(Made::Bridge { links, .. }) if links.is_empty())
    }
}

/// Looks at the links.
pub(crate) async fn look(netlink: &Netlink) -> anyhow::Result<Vec<Seen>> {
    let links = netlink.links().await?;
    Ok(links
        .into_iter()
        .map(|link| with_device(Path::new("/sys/class/net"), link))
        .collect())
}

fn with_device(sysfs: &Path, link: netlink::Link) -> Seen {
    // Most links of a machine that runs pods were made by software: sysfs is not asked.
    if link.kind.is_some() || !link.ethernet {
        return Seen {
            link,
            ..Seen::default()
        };
    }
    let device = sysfs.join(&link.name).join("device");
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    Seen {
        physical: device.exists(),
        driver,
        link,
        tunnel: None,
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
fn matches(want: &config::Link, seen: &Seen, part: bool) -> bool {
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

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove a link that machined made: its number and name.
    Remove(u32, String),
    /// Take a link out of another: its number and name, and the other's name.
    Release(u32, String, String),
    /// Make a link of this name.
    Make(String, Made),
    /// Change a link that was made.
    Configure(u32, String, Made),
    /// Set up a tunnel, which a step before this one may make.
    Tunnel(String, wireguard::Change),
    /// Make a link part of another. Either may be one that a step before this one makes.
    Join {
        /// Its name.
        link: String,
        /// The other's.
        of: String,
        /// The other is a bond.
        bond: bool,
    },
    /// Switch a link on: its number and name.
    SetUp(u32, String),
    /// Set a link's MTU.
    SetMtu(u32, String, u32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Remove(_, name) => write!(f, "remove {name}"),
            Step::Release(_, name, of) => write!(f, "take {name} out of {of}"),
            Step::Make(name, made) => f.write_str(&made::words(name, made)),
            Step::Configure(_, name, made) => f.write_str(&made::change(name, made)),
            Step::Tunnel(name, change) => write!(f, "set up {name}: {change}"),
            Step::Join { link, of, .. } => write!(f, "make {link} a part of {of}"),
            Step::SetUp(_, name) => write!(f, "switch {name} on"),
            Step::SetMtu(_, name, mtu) => write!(f, "set the MTU of {name} to {mtu}"),
        }
    }
}

/// The missing steps. What goes, goes first; what is made is made from the ground up. Its
/// MTU is set in the next pass: the kernel tells of a new link at once.
pub(crate) fn plan(seen: &[Seen], network: &Network, leases: &BTreeMap<u32, Status>) -> Vec<Step> {
    let stack = Stack::new(seen, network);
    let mut steps = stack.clear();
    let mut on = BTreeSet::new();
    let loopbacks = seen.iter().filter(|seen| seen.link.loopback);
    let mut managed = select(seen, network);
    managed.retain(|managed| !stack.goes(managed.seen));
    // No packet of a VLAN is larger than its parent's.
    managed.sort_by_key(|managed| stack.height(&managed.seen.link.name));
    let found = managed.iter().filter(|managed| managed.want.made.is_none());
    for seen in loopbacks.chain(found.map(|managed| managed.seen)) {
        if !stack.waits_for_bond(seen) {
            steps.extend(stack.switch_on(seen, &mut on));
        }
    }
    steps.extend(stack.build(&mut on));
    for Managed {
        seen: Seen { link, .. },
        want,
        ..
    } in managed
    {
        let lease = leases
            .get(&link.index)
            .and_then(Status::bound)
            .filter(|_| want.dhcp_v4);
        // One that the config wants and the link cannot have is an error of the step's.
        let leased = lease
            .and_then(|bound| bound.lease.mtu)
            .filter(|&mtu| link.largest_mtu == 0 || mtu <= link.largest_mtu);
        let Some(mtu) = want.mtu.or(leased) else {
            continue;
        };
        if mtu != link.mtu {
            steps.push(Step::SetMtu(link.index, link.name.clone(), mtu));
        }
    }
    steps
}

/// The noun.
#[derive(Debug)]
pub(crate) struct Links {
    leases: Leases,
    /// Where the peers of each tunnel are, as was said last.
    told: BTreeMap<(String, PublicKey), SocketAddr>,
}

impl Links {
    /// The noun; leases may bring an MTU.
    pub(crate) fn new(leases: Leases) -> Links {
        Links {
            leases,
            told: BTreeMap::new(),
        }
    }
}

impl Noun for Links {
    const KIND: &'static str = "link";
    type Have = Vec<Seen>;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Vec<Seen>> {
        let mut seen = look(&Netlink::connect()?).await?;
        let wanted = made::endpoints(&want.network);
        for Seen { link, tunnel, .. } in &mut seen {
            if !link.ours || link.kind != Some(netlink::Kind::Wireguard) {
                continue;
            }
            *tunnel = wireguard::read(link.index).await?;
            for (key, peer) in tunnel.iter_mut().flat_map(|it| &mut it.peers) {
                let key = (link.name.clone(), *key);
                // What is there was said by a machined before this one.
                if let Some(endpoint) = wanted.get(&key) {
                    self.told.entry(key.clone()).or_insert(*endpoint);
                }
                peer.told = self.told.get(&key).copied();
            }
        }
        Ok(seen)
    }

    fn plan(&self, seen: &Vec<Seen>, want: &Machine) -> Vec<Step> {
        plan(seen, &want.network, &self.leases.all())
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let netlink = Netlink::connect()?;
        match step {
            Step::Remove(link, _) => netlink.remove_link(*link).await,
            Step::Release(link, ..) => netlink.release(*link).await,
            Step::Make(name, made) => {
                let parent = match made {
                    Made::Vlan { parent, .. } => Some(number(&netlink, parent).await?),
                    _ => None,
                };
                netlink.make(name, made, parent).await
            }
            Step::Configure(link, _, made) => netlink.configure(*link, made).await,
            Step::Tunnel(name, change) => {
                wireguard::set(number(&netlink, name).await?, change).await?;
                let told = change.endpoints();
                self.told
                    .extend(told.map(|(key, at)| ((name.clone(), key), at)));
                Ok(())
            }
            Step::Join { link, of, bond } => {
                let (link, of) = (number(&netlink, link).await?, number(&netlink, of).await?);
                netlink.join(link, of, *bond).await
            }
            Step::SetUp(link, _) => netlink.set_up(*link).await,
            Step::SetMtu(link, _, mtu) => netlink.set_mtu(*link, *mtu).await,
        }
    }

    fn publish(&self, seen: &Vec<Seen>, want: &Machine) -> Vec<Resource> {
        publish(seen, &want.network)
    }
}

/// The number of a link.
async fn number(netlink: &Netlink, name: &str) -> anyhow::Result<u32> {
    let links = netlink.links().await?;
    let link = links.iter().find(|link| link.name == name);
    Ok(link.with_context(|| format!("{name} is not there"))?.index)
}

fn publish(all: &[Seen], network: &Network) -> Vec<Resource> {
    let managed = select(all, network);
    let parts = made::parts(network);
    let mut resources = Vec::new();
    for seen in all {
        let link = &seen.link;
        let managed = managed
            .iter()
            .find(|managed| managed.seen.link.index == link.index);
        if managed.is_none() && !seen.physical && !link.loopback {
            continue;
        }
        let part_of = parts.get(link.name.as_str());
        let lacks = managed.and_then(|managed| {
            let made = managed.want.made.as_ref()?;
            made::lacks(all, managed.want, made)
        });
        let (phase, message) = match (managed, part_of) {
            (None, None) if link.loopback => (Phase::Ready, ""),
            (None, None) => (Phase::Ready, "no entry of the config selects it"),
            _ if link.carrier => (Phase::Ready, ""),
            (Some(managed), None) if managed.named() && !managed.is_empty() => {
                (Phase::Pending, "no carrier: is a cable in?")
            }
            // Of a part: what it is part of tells whether the others do.
            _ => (Phase::Ready, "no carrier"),
        };
        let (phase, message) = lacks.unwrap_or_else(|| (phase, message.to_owned()));
        let mut resource = Resource::new(Links::KIND, &link.name, phase)
            .message(message)
            .field("up", link.up)
            .field("carrier", link.carrier)
            .field("mtu", link.mtu)
            .field("managed", managed.is_some());
        for (key, value) in managed.map(made::shown).unwrap_or_default() {
            resource = resource.field(key, value);
        }
        let upper = all.iter().find(|it| Some(it.link.index) == link.part_of);
        if let Some(upper) = upper {
            resource = resource.field("partOf", upper.link.name.as_str());
        }
        if let Some(mac) = link.mac {
            resource = resource.field("mac", mac.to_string());
        }
        if let Some(permanent) = link.permanent {
            resource = resource.field("permanentMac", permanent.to_string());
        }
        if let Some(driver) = &seen.driver {
            resource = resource.field("driver", driver.as_str());
        }
        resources.push(resource);
    }
    for want in &network.links {
        let part = |seen: &Seen| parts.contains_key(seen.link.name.as_str());
        let found = all.iter().any(|seen| matches(want, seen, part(seen)));
        if found || want.select == LinkSelector::default() {
            continue;
        }
        let none = || (Phase::Pending, "no link of this machine matches".to_owned());
        let made = want.made.as_ref();
        let (phase, message) = made
            .and_then(|made| made::lacks(all, want, made))
            .unwrap_or_else(none);
        resources.push(Resource::new(Links::KIND, describe(&want.select), phase).message(message));
    }
    resources
}

/// A selector, in few words.
fn describe(select: &LinkSelector) -> String {
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
pub(crate) mod tests {
    use super::*;
    use crate::dhcp::tests::bound;
    use keelson_config::MacAddr;

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
    fn what_is_shown() {
        let mut seen = machine();
        seen[1].link.carrier = false;
        let shown = |selectors: &[LinkSelector]| {
            let all = publish(&seen, &network(selectors));
            all.into_iter()
                .map(|r| (r.name, r.phase, r.message))
                .collect::<Vec<_>>()
        };
        let row = |name: &str, phase, message: &str| (name.to_owned(), phase, message.to_owned());
        assert_eq!(
            shown(&[named("eth0"), named("eth9")]),
            [
                row("lo", Phase::Ready, ""),
                row("eth0", Phase::Pending, "no carrier: is a cable in?"),
                row("eth1", Phase::Ready, "no entry of the config selects it"),
                row("eth9", Phase::Pending, "no link of this machine matches"),
            ]
        );
        assert_eq!(
            shown(&[LinkSelector::default()])[1],
            row("eth0", Phase::Ready, "no carrier")
        );
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
}
