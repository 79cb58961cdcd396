//! The links that the machine makes: which are missing, which have to be made anew, what
//! is part of what. Pure. What carries machined's mark and is not of the config any more
//! goes; a link that somebody else made is never changed, even if it has the name of one
//! that is to be made.

use super::{Managed, Seen, Step};
use crate::{netlink::Kind, resource::Phase, wireguard::Device};
use keelson_config::{Link, Made, Network, PublicKey, Wireguard};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// How the links that are to be made stand to those that are there.
#[derive(Debug)]
pub(super) struct Stack<'a> {
    seen: &'a [Seen],
    /// What is to be made, each behind all that it stands on.
    wanted: Vec<(&'a str, &'a Made)>,
    /// The links that go, by number: those to be removed, and the VLANs on them.
    gone: BTreeSet<u32>,
    /// Which link a link is to be part of.
    parts: BTreeMap<&'a str, &'a str>,
}

/// The links that the config makes, with their names.
fn wanted(network: &Network) -> impl Iterator<Item = (&str, &Made)> {
    network
        .links
        .iter()
        .filter_map(|link| Some((link.select.name.as_deref()?, link.made.as_ref()?)))
}

/// The links that are to be parts of others: each, and of which.
pub(super) fn parts(network: &Network) -> BTreeMap<&str, &str> {
    wanted(network)
        .flat_map(|(name, made)| made.members().iter().map(move |part| (part.as_str(), name)))
        .collect()
}

/// Where the config says that the peers of the tunnels are.
pub(super) fn endpoints(network: &Network) -> BTreeMap<(String, PublicKey), SocketAddr> {
    wanted(network)
        .filter_map(|(name, made)| match made {
            Made::Wireguard(wireguard) => Some((name, &wireguard.peers)),
            _ => None,
        })
        .flat_map(|(name, peers)| {
            (peers.iter())
                .filter_map(|peer| Some(((name.to_owned(), peer.public_key), peer.endpoint?)))
        })
        .collect()
}

/// Whether a link is the one that an entry makes.
pub(super) fn is(want: &Link, made: &Made, seen: &Seen) -> bool {
    want.select.name.as_ref() == Some(&seen.link.name)
        && seen.link.ours
        && kind(&seen.link.kind) == Some(made.kind())
}

fn kind(kind: &Option<Kind>) -> Option<&'static str> {
    match kind.as_ref()? {
        Kind::Vlan(_) => Some("vlan"),
        Kind::Bond { .. } => Some("bond"),
        Kind::Bridge { .. } => Some("bridge"),
        Kind::Dummy => Some("dummy"),
        Kind::Wireguard => Some("wireguard"),
        Kind::Other => None,
    }
}

impl<'a> Stack<'a> {
    pub(super) fn new(seen: &'a [Seen], network: &'a Network) -> Stack<'a> {
        let mut stack = Stack {
            seen,
            wanted: in_order(network),
            gone: BTreeSet::new(),
            parts: parts(network),
        };
        let removed: Vec<u32> = stack.removed().map(|seen| seen.link.index).collect();
        stack.gone.extend(removed);
        // The kernel takes the VLANs of a link along with it, and theirs.
        loop {
            let more: Vec<u32> = seen
                .iter()
                .filter(|seen| {
                    matches!(seen.link.kind, Some(Kind::Vlan(_)))
                        && (seen.link.parent).is_some_and(|index| stack.gone.contains(&index))
                        && !stack.gone.contains(&seen.link.index)
                })
                .map(|seen| seen.link.index)
                .collect();
            if more.is_empty() {
                return stack;
            }
            stack.gone.extend(more);
        }
    }

    fn by_name(&self, name: &str) -> Option<&'a Seen> {
        self.seen.iter().find(|seen| seen.link.name == name)
    }

    fn by_index(&self, index: u32) -> Option<&'a Seen> {
        self.seen.iter().find(|seen| seen.link.index == index)
    }

    /// What machined made, and the config does not want, or wants otherwise than what is
    /// there can be changed to.
    fn removed(&self) -> impl Iterator<Item = &'a Seen> {
        // The newest first: what stands on another is newer.
        self.seen.iter().rev().filter(|seen| {
            let mut wanted = self.wanted.iter();
            seen.link.ours
                && !wanted.any(|(name, made)| *name == seen.link.name && self.can_be(seen, made))
        })
    }

    fn can_be(&self, seen: &Seen, made: &Made) -> bool {
        match (made, seen.link.kind) {
            (Made::Vlan { parent, id }, Some(Kind::Vlan(number))) => {
                let below = seen.link.parent.and_then(|index| self.by_index(index));
                number == *id && below.is_some_and(|below| below.link.name == *parent)
            }
            // The kernel changes the mode of a bond only while it is off and has no links, and
            // its rate only while it is off.
            (
                Made::Bond {
                    mode, lacp_rate, ..
                },
                Some(Kind::Bond {
                    mode: number,
                    lacp_rate: rate,
                    ..
                }),
            ) => number == *mode as u8 && lacp_rate.is_none_or(|it| it as u8 == rate),
            (Made::Bridge { .. }, Some(Kind::Bridge { .. })) => true,
            (Made::Dummy, Some(Kind::Dummy)) | (Made::Wireguard(_), Some(Kind::Wireguard)) => true,
            _ => false,
        }
    }

    /// Whether a link goes in this pass.
    pub(super) fn goes(&self, seen: &Seen) -> bool {
        self.gone.contains(&seen.link.index)
    }

    /// Whether a link is to be part of a bond, and is not yet: it must be off for that.
    pub(super) fn waits_for_bond(&self, seen: &Seen) -> bool {
        let Some(of) = self.parts.get(seen.link.name.as_str()) else {
            return false;
        };
        let bond = |(name, made): &&(&str, &Made)| name == of && matches!(made, Made::Bond { .. });
        self.wanted.iter().any(|it| bond(&it)) && !self.is_part(seen, of)
    }

    fn is_part(&self, seen: &Seen, of: &str) -> bool {
        let upper = seen.link.part_of.and_then(|index| self.by_index(index));
        upper.is_some_and(|upper| upper.link.name == of && !self.goes(upper))
    }

    /// How far above the ground a link is: those below it count less.
    pub(super) fn height(&self, name: &str) -> usize {
        let at = self.wanted.iter().position(|(wanted, _)| *wanted == name);
        at.map_or(0, |at| at + 1)
    }

    /// The steps that take away.
    pub(super) fn clear(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self
            .removed()
            .map(|seen| Step::Remove(seen.link.index, seen.link.name.clone()))
            .collect();
        for seen in self.seen {
            let upper = seen.link.part_of.and_then(|index| self.by_index(index));
            let Some(upper) = upper.filter(|upper| upper.link.ours && !self.goes(upper)) else {
                continue;
            };
            // What is a part of another is moved there in one step. A bridge may have
            // ports that others connected: they stay.
            let kept = self.parts.contains_key(seen.link.name.as_str());
            let bridge = matches!(upper.link.kind, Some(Kind::Bridge { .. }));
            let others = bridge && !seen.physical && !seen.link.ours;
            if !kept && !others && !self.goes(seen) {
                let (name, of) = (seen.link.name.clone(), upper.link.name.clone());
                steps.push(Step::Release(seen.link.index, name, of));
            }
        }
        steps
    }

    /// The steps that make, from the ground up.
    pub(super) fn build(&self, on: &mut BTreeSet<u32>) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut new: BTreeSet<&str> = BTreeSet::new();
        for &(name, made) in &self.wanted {
            let there = self.by_name(name).filter(|seen| !self.goes(seen));
            let is_there = |name: &str, new: &BTreeSet<&str>| {
                new.contains(name) || self.by_name(name).is_some_and(|seen| !self.goes(seen))
            };
            if let Made::Vlan { parent, .. } = made
                && let Some(below) = self.by_name(parent)
            {
                steps.extend(self.switch_on(below, on));
            }
            match there {
                Some(seen) if !seen.link.ours => continue,
                Some(seen) => {
                    if is_different(seen, made) {
                        let (index, name) = (seen.link.index, name.to_owned());
                        steps.push(Step::Configure(index, name, made.clone()));
                    }
                }
                None => {
                    if let Made::Vlan { parent, .. } = made
                        && !is_there(parent, &new)
                    {
                        continue;
                    }
                    steps.push(Step::Make(name.to_owned(), made.clone()));
                    new.insert(name);
                }
            }
            if let Made::Wireguard(want) = made {
                // What is there and was not looked into was made a moment ago.
                let have = there.map_or_else(|| Some(Device::default()), |it| it.tunnel.clone());
                let change = have.and_then(|have| have.lacks(want));
                steps.extend(change.map(|change| Step::Tunnel(name.to_owned(), change)));
            }
            for part in made.members() {
                let seen = self.by_name(part);
                if is_there(part, &new) && !seen.is_some_and(|seen| self.is_part(seen, name)) {
                    steps.push(Step::Join {
                        link: part.clone(),
                        of: name.to_owned(),
                        bond: matches!(made, Made::Bond { .. }),
                    });
                }
                // A bond does it by itself.
                let port = matches!(made, Made::Bridge { .. });
                if let Some(seen) = seen.filter(|seen| port || self.is_part(seen, name)) {
                    steps.extend(self.switch_on(seen, on));
                }
            }
            if let Some(seen) = there {
                steps.extend(self.switch_on(seen, on));
            }
        }
        steps
    }

    /// Switches a link on, unless that is done.
    pub(super) fn switch_on(&self, seen: &Seen, on: &mut BTreeSet<u32>) -> Option<Step> {
        let link = &seen.link;
        let upper = link.part_of.and_then(|index| self.by_index(index));
        let bond = |it: &&Seen| matches!(it.link.kind, Some(Kind::Bond { .. }));
        // A bond that goes leaves its links switched off.
        let stays_up = link.up && !upper.filter(bond).is_some_and(|upper| self.goes(upper));
        let needless = stays_up || self.goes(seen) || !on.insert(link.index);
        (!needless).then(|| Step::SetUp(link.index, link.name.clone()))
    }
}

fn is_different(seen: &Seen, made: &Made) -> bool {
    match (made, seen.link.kind) {
        (
            Made::Bond {
                miimon,
                xmit_hash_policy,
                ..
            },
            Some(Kind::Bond {
                miimon: every,
                xmit_hash_policy: policy,
                ..
            }),
        ) => every != *miimon || xmit_hash_policy.is_some_and(|it| it as u8 != policy),
        (Made::Bridge { stp, .. }, Some(Kind::Bridge { stp: on })) => on != *stp,
        _ => false,
    }
}

/// What is to be made, each behind what it stands on. The config has no circles.
fn in_order(network: &Network) -> Vec<(&str, &Made)> {
    let mut left: Vec<(&str, &Made)> = wanted(network).collect();
    let mut sorted = Vec::new();
    while !left.is_empty() {
        let waiting: BTreeSet<&str> = left.iter().map(|(name, _)| *name).collect();
        let (ready, rest): (Vec<_>, Vec<_>) = left.iter().partition(|(_, made)| {
            let mut below = made.below().iter();
            !below.any(|name| waiting.contains(name.as_str()))
        });
        if ready.is_empty() {
            break;
        }
        sorted.extend(ready);
        left = rest;
    }
    sorted
}

/// Why a link that is to be made is not as it should be, where that is so.
pub(super) fn lacks(seen: &[Seen], want: &Link, made: &Made) -> Option<(Phase, String)> {
    let there = |name: &str| seen.iter().find(|seen| seen.link.name == name);
    let name = want.select.name.as_deref()?;
    match there(name) {
        Some(seen) if !seen.link.ours => {
            let message = "a link of this name is there already, and not made by the config";
            return Some((Phase::Failed, message.to_owned()));
        }
        _ => {}
    }
    let missing: Vec<&str> = made
        .below()
        .iter()
        .map(String::as_str)
        .filter(|below| there(below).is_none())
        .collect();
    if !missing.is_empty() {
        return Some((Phase::Pending, format!("waits for {}", missing.join(", "))));
    }
    let Some(seen) = seen.iter().find(|seen| is(want, made, seen)) else {
        return Some((Phase::Pending, "is not made yet".to_owned()));
    };
    if let (Made::Wireguard(want), Some(have)) = (made, &seen.tunnel) {
        if let Some(peer) = want.peers.iter().find(|peer| have.is_itself(peer)) {
            let message = format!("the peer {} is this link itself", peer.public_key);
            return Some((Phase::Failed, message));
        }
        let change = have.lacks(want)?;
        return Some((Phase::Pending, format!("is not set up yet: {change}")));
    }
    None
}

/// What the config says of a link that it makes, for people.
pub(super) fn shown(managed: &Managed<'_>) -> Vec<(&'static str, serde_json::Value)> {
    let Some(made) = &managed.want.made else {
        return Vec::new();
    };
    let mut fields = vec![("kind", made.kind().into())];
    match made {
        Made::Vlan { parent, id } => {
            fields.push(("parent", parent.as_str().into()));
            fields.push(("id", (*id).into()));
        }
        Made::Bond {
            links,
            mode,
            miimon,
            lacp_rate,
            xmit_hash_policy,
        } => {
            let (rate, policy) = (lacp_rate.as_ref(), xmit_hash_policy.as_ref());
            fields.extend(rate.map(|it| ("lacpRate", it.word().into())));
            fields.extend(policy.map(|it| ("xmitHashPolicy", it.word().into())));
            fields.push(("links", links.clone().into()));
            fields.push(("mode", mode.word().into()));
            fields.push(("miimon", (*miimon).into()));
        }
        Made::Bridge { links, stp } => {
            fields.push(("links", links.clone().into()));
            fields.push(("stp", (*stp).into()));
        }
        Made::Dummy => {}
        Made::Wireguard(want) => tunnel(managed, want, &mut fields),
    }
    fields
}

/// A tunnel and its peers, as the kernel has them; of the keys the public ones.
fn tunnel(
    managed: &Managed<'_>,
    want: &Wireguard,
    fields: &mut Vec<(&'static str, serde_json::Value)>,
) {
    let Some(have) = &managed.seen.tunnel else {
        return;
    };
    if let Some(key) = have.public_key {
        fields.push(("publicKey", key.to_string().into()));
    }
    fields.push(("listenPort", have.listen_port.into()));
    let peers = want.peers.iter().filter_map(|peer| {
        let seen = have.peers.get(&peer.public_key)?;
        let networks: Vec<String> = seen.allowed_ips.iter().map(ToString::to_string).collect();
        let mut shown = serde_json::Map::new();
        shown.insert("publicKey".into(), peer.public_key.to_string().into());
        shown.insert("allowedIPs".into(), networks.into());
        if let Some(endpoint) = seen.endpoint {
            shown.insert("endpoint".into(), endpoint.to_string().into());
        }
        if let Some(at) = seen.last_handshake {
            shown.insert("lastHandshake".into(), at.into());
        }
        Some(serde_json::Value::from(shown))
    });
    fields.push(("peers", peers.collect()));
}

/// A step that makes a link, in words.
pub(super) fn words(name: &str, made: &Made) -> String {
    match made {
        Made::Vlan { parent, id } => format!("make {name}, the VLAN {id} of {parent}"),
        Made::Bond { mode, .. } => format!("make {name}, a bond ({})", mode.word()),
        Made::Bridge { .. } => format!("make {name}, a bridge"),
        Made::Dummy => format!("make {name}, a dummy link"),
        Made::Wireguard(_) => format!("make {name}, a WireGuard link"),
    }
}

/// A step that changes a link, in words.
pub(super) fn change(name: &str, made: &Made) -> String {
    match made {
        Made::Bond {
            miimon,
            xmit_hash_policy,
            ..
        } => {
            let by = xmit_hash_policy.map(|it| format!(", and choose by {}", it.word()));
            let by = by.unwrap_or_default();
            format!("have {name} look at its links every {miimon} ms{by}")
        }
        Made::Bridge { stp: true, .. } => format!("switch the spanning tree of {name} on"),
        Made::Bridge { stp: false, .. } => format!("switch the spanning tree of {name} off"),
        Made::Vlan { .. } | Made::Dummy | Made::Wireguard(_) => format!("set up {name}"),
    }
}

#[cfg(test)]
#[path = "made_tests.rs"]
mod tests;
