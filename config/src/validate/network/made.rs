//! The rules of links that the machine makes: what each is, that what it stands on can
//! carry it, and that nothing stands on itself.

use super::{
    super::{checked, items},
    bond, wireguard,
};
use crate::{
    LinkSelector, Made,
    document::LinkSection,
    read::{Given, Located, Reader, nearest},
    tree::NodeId,
    value::{self, Wrong},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

/// IEEE 802.1Q, 9.6: 0 and 4095 are reserved.
const VLAN_ID: RangeInclusive<u32> = 1..=4094;
/// How the names of links begin that somebody made.
const LIKE_MADE: [&str; 5] = ["bond", "br", "dummy", "vlan", "wg"];
/// How many names a misspelt one is compared with.
const COMPARED: usize = 256;

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A network card, or something else that is there.
    There,
    Vlan,
    Bond,
    Bridge,
    Dummy,
    Wireguard,
}

/// The keys that say so, where they are written.
fn keys(section: &LinkSection) -> impl Iterator<Item = (What, &'static str, Option<NodeId>)> {
    fn at<T>(given: &Given<T>) -> Option<Option<NodeId>> {
        (!given.is_absent()).then(|| given.is().map(|it| it.at))
    }
    let LinkSection {
        vlan,
        bond,
        bridge,
        dummy,
        wireguard,
        ..
    } = section;
    [
        at(vlan).map(|at| (What::Vlan, "vlan", at)),
        at(bond).map(|at| (What::Bond, "bond", at)),
        at(bridge).map(|at| (What::Bridge, "bridge", at)),
        at(dummy).map(|at| (What::Dummy, "dummy", at)),
        at(wireguard).map(|at| (What::Wireguard, "wireguard", at)),
    ]
    .into_iter()
    .flatten()
}

fn what(section: &LinkSection) -> What {
    keys(section).next().map_or(What::There, |(what, ..)| what)
}

/// Whether an entry says that the link is made.
pub(super) fn is_made(section: &LinkSection) -> bool {
    what(section) != What::There
}

/// A link that another stands on.
struct Below<'d> {
    /// Its name, as written.
    name: &'d Located<String>,
    /// The name of the one that stands on it.
    upper: &'d str,
    /// What that one is.
    what: What,
}

/// Which links stand on which, as written.
pub(super) struct Stack<'d> {
    /// In the order of the text.
    below: Vec<Below<'d>>,
    /// The entries by name.
    entries: BTreeMap<&'d str, &'d LinkSection>,
    /// The names of those that others stand on.
    names: BTreeSet<&'d str>,
}

impl<'d> Stack<'d> {
    /// That of these entries.
    pub(super) fn of(links: &'d [Located<LinkSection>]) -> Stack<'d> {
        let (mut below, mut entries) = (Vec::new(), BTreeMap::new());
        for link in links {
            let section = &link.value;
            let upper = section.name.is().map_or("", |name| name.value.as_str());
            if !upper.is_empty() {
                entries.entry(upper).or_insert(section);
            }
            let what = what(section);
            let names: Vec<&Located<String>> = match what {
                What::Vlan => (section.vlan.is())
                    .and_then(|vlan| vlan.value.parent.is())
                    .into_iter()
                    .collect(),
                What::Bond => (section.bond.is())
                    .map_or(&[][..], |bond| items(&bond.value.links))
                    .iter()
                    .collect(),
                What::Bridge => (section.bridge.is())
                    .map_or(&[][..], |bridge| items(&bridge.value.links))
                    .iter()
                    .collect(),
                What::There | What::Dummy | What::Wireguard => Vec::new(),
            };
            below.extend(names.into_iter().map(|name| Below { name, upper, what }));
        }
        let names = below.iter().map(|it| it.name.value.as_str()).collect();
        Stack {
            below,
            entries,
            names,
        }
    }

    /// Whether another link stands on the one of this entry.
    pub(super) fn carries(&self, section: &LinkSection) -> bool {
        (section.name.is()).is_some_and(|name| self.names.contains(name.value.as_str()))
    }

    fn what(&self, name: &str) -> What {
        self.entries.get(name).map_or(What::There, |it| what(it))
    }
}

/// What an entry makes: `Some(None)` if nothing, `None` if it was refused.
pub(super) fn made(
    reader: &mut Reader<'_>,
    written: &Located<LinkSection>,
) -> Option<Option<Made>> {
    let section = &written.value;
    let mut written_keys = keys(section);
    let Some((what, first, _)) = written_keys.next() else {
        return Some(None);
    };
    if let Some((_, second, at)) = written_keys.next() {
        let message = format!("a link is made as one thing, not as {first} and {second}");
        let hint = "keep one of the two; the other is a link of its own";
        reader.key_error(at.unwrap_or(written.at), message, hint);
        return None;
    }
    let made = match what {
        What::Vlan => {
            let vlan = &section.vlan.is()?.value;
            let id = vlan.id.is().and_then(|id| {
                checked(reader, id, |id| {
                    let known = VLAN_ID.contains(id).then(|| u16::try_from(*id).ok());
                    let hint = "the switch says which ones come through its port";
                    known
                        .flatten()
                        .ok_or_else(|| Wrong::new("the number of a VLAN is 1 to 4094").hint(hint))
                })
            });
            let parent = (vlan.parent.is())
                .and_then(|name| checked(reader, name, |text| value::lower_link(text)));
            Made::Vlan {
                parent: parent?,
                id: id?,
            }
        }
        What::Bond => bond::made(reader, section)?,
        What::Bridge => {
            let bridge = &section.bridge.is()?.value;
            let links = members(reader, &bridge.links);
            let stp = match &bridge.stp {
                Given::Is(stp) => Some(stp.value),
                Given::Absent => Some(false),
                Given::Bad => None,
            };
            Made::Bridge {
                links: links?,
                stp: stp?,
            }
        }
        What::Dummy => section.dummy.is().map(|_| Made::Dummy)?,
        What::Wireguard => wireguard::made(reader, section)?,
        What::There => return Some(None),
    };
    Some(Some(made))
}

pub(super) fn members(
    reader: &mut Reader<'_>,
    list: &Given<Vec<Located<String>>>,
) -> Option<Vec<String>> {
    if matches!(list, Given::Bad) {
        return None;
    }
    let names = items(list).iter();
    Some(
        names
            .filter_map(|name| checked(reader, name, |text| value::lower_link(text)))
            .collect(),
    )
}

/// The name of a link that is made.
pub(super) fn name(
    reader: &mut Reader<'_>,
    written: &Located<LinkSection>,
) -> Option<LinkSelector> {
    let section = &written.value;
    if let Given::Is(select) = &section.select {
        let hint = "remove `select`, and say `name`";
        reader.key_error(select.at, "a link that is made cannot be selected", hint);
        return None;
    }
    if section.name.is_absent() {
        let hint = "add `name: bond0`, or what it shall be called";
        reader.missing(written.at, "name", "a link that is made has a name", hint);
        return None;
    }
    let name = section.name.is()?;
    let dummy = what(section) == What::Dummy;
    let name = checked(reader, name, |text| value::made_name(text, dummy))?;
    Some(LinkSelector {
        name: Some(name),
        ..LinkSelector::default()
    })
}

/// The rules of links that stand on others.
pub(super) fn check(reader: &mut Reader<'_>, links: &[Located<LinkSection>], stack: &Stack<'_>) {
    numbers(reader, links);
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    let mut bonded: BTreeMap<&str, &str> = BTreeMap::new();
    for below in stack.below.iter().filter(|it| it.what == What::Bond) {
        bonded.entry(&below.name.value).or_insert(below.upper);
    }
    for below in &stack.below {
        if value::lower_link(&below.name.value).is_err() {
            continue;
        }
        let single = match below.what {
            What::Bond | What::Bridge => one_of(reader, below, &mut parts),
            _ => true,
        };
        if single && is_there(reader, below, stack) && fits(reader, below, stack, &bonded) {
            entry_fits(reader, below, stack);
        }
    }
    circles(reader, stack);
}

/// A VLAN's number is its own on its parent.
fn numbers(reader: &mut Reader<'_>, links: &[Located<LinkSection>]) {
    let mut seen: BTreeMap<(&str, u32), String> = BTreeMap::new();
    for link in links {
        if let Some(vlan) = link.value.vlan.is()
            && let (Some(parent), Some(id)) = (vlan.value.parent.is(), vlan.value.id.is())
        {
            let key = (parent.value.as_str(), id.value);
            if let Some(first) = seen.get(&key) {
                let message = format!(
                    "VLAN {} of {} is given twice, first at {first}",
                    id.value, parent.value
                );
                reader.error(id.at, message, "give all its addresses to one link");
            } else {
                seen.insert(key, reader.path(id.at));
            }
        }
    }
}

/// A link is part of one other.
fn one_of(
    reader: &mut Reader<'_>,
    below: &Below<'_>,
    parts: &mut BTreeMap<String, String>,
) -> bool {
    let name = below.name;
    match parts.get(&name.value) {
        Some(first) => {
            let message = format!("{} is already a part of {first}", name.value);
            reader.error(name.at, message, "a link is part of one bond or bridge");
            false
        }
        None => {
            parts.insert(name.value.clone(), below.upper.to_owned());
            true
        }
    }
}

/// The name is that of an entry, or could be a network card's.
fn is_there(reader: &mut Reader<'_>, below: &Below<'_>, stack: &Stack<'_>) -> bool {
    let name = below.name.value.as_str();
    if stack.entries.contains_key(name) || value::is_of_a_card(name) {
        return true;
    }
    // `enp1s0` is no misspelt `enp1s1.5`.
    let dotted = |name: &str| name.contains('.');
    let known = stack.entries.keys().copied().take(COMPARED);
    let known =
        known.filter(|known| stack.what(known) != What::There && dotted(known) == dotted(name));
    let near = nearest(name, known);
    let like_made = dotted(name) || LIKE_MADE.iter().any(|it| name.starts_with(it));
    if near.is_none() && !like_made {
        return true;
    }
    let hint = match near {
        Some(near) => format!("did you mean {near}?"),
        None => "add an entry that makes it".to_owned(),
    };
    let message = format!("no entry is named {name}");
    reader.error(below.name.at, message, &hint);
    false
}

/// What it is can be below what the other is.
fn fits(
    reader: &mut Reader<'_>,
    below: &Below<'_>,
    stack: &Stack<'_>,
    bonded: &BTreeMap<&str, &str>,
) -> bool {
    let name = below.name.value.as_str();
    // That is a circle, and told as one.
    if name == below.upper {
        return true;
    }
    let (message, hint) = match (below.what, stack.what(name)) {
        (_, What::Wireguard) => (
            format!("{name} is a WireGuard link, and carries IP alone"),
            "what needs Ethernet stands on a network card",
        ),
        (What::Bridge, What::Bridge) => (
            format!("{name} is a bridge, and cannot be a port of one"),
            "connect its links to this one",
        ),
        (What::Bond, What::Bond | What::Bridge) => (
            format!("{name} is no network card, and cannot be part of a bond"),
            "a bond is made of network cards, or of VLANs of them",
        ),
        (What::Vlan, _) if bonded.contains_key(name) => (
            format!(
                "{name} is part of {}, which its packets go through",
                bonded[name]
            ),
            "make that one the parent",
        ),
        _ => return true,
    };
    reader.error(below.name.at, message, hint);
    false
}

/// What the entry of a link that others stand on says fits that.
fn entry_fits(reader: &mut Reader<'_>, below: &Below<'_>, stack: &Stack<'_>) {
    let name = below.name.value.as_str();
    let Some(section) = stack.entries.get(name) else {
        return;
    };
    if below.what == What::Vlan {
        let upper = stack.entries.get(below.upper).and_then(|it| it.mtu.is());
        if let (Some(mtu), Some(most)) = (upper, section.mtu.is())
            && mtu.value > most.value
        {
            let message = format!("the MTU of {name} is {}, less than this", most.value);
            reader.error(
                mtu.at,
                message,
                "a VLAN has no larger packets than its parent",
            );
        }
        return;
    }
    let upper = below.upper;
    let dhcp = section.dhcp.is().map(|dhcp| &dhcp.value);
    let asks = |given: Option<&Given<bool>>| {
        let given = given.and_then(Given::is);
        given.filter(|given| given.value).map(|given| given.at)
    };
    let own = [
        ("DHCP", asks(dhcp.map(|dhcp| &dhcp.v4))),
        ("DHCP", asks(dhcp.map(|dhcp| &dhcp.v6))),
        ("addresses", some(reader, &section.addresses)),
        ("routes", some(reader, &section.routes)),
        (
            "MTU",
            (section.mtu.is())
                .filter(|_| below.what == What::Bond)
                .map(|mtu| mtu.at),
        ),
    ];
    for (own, at) in own {
        if let Some(at) = at {
            let message = format!("{name} is a part of {upper} and has no {own} of its own");
            reader.key_error(at, message, &format!("move it to the entry of {upper}"));
        }
    }
}

/// Where a list stands that has something in it.
fn some<T>(reader: &Reader<'_>, list: &Given<Vec<Located<T>>>) -> Option<NodeId> {
    let list = list.is()?;
    (!reader.is_empty(list.at)).then_some(list.at)
}

/// Nothing stands on itself, not even by way of others.
fn circles(reader: &mut Reader<'_>, stack: &Stack<'_>) {
    let mut lower: BTreeMap<&str, Vec<&Below<'_>>> = BTreeMap::new();
    let mut upper: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for below in &stack.below {
        let name = below.name.value.as_str();
        if is_made_name(stack, name) && is_made_name(stack, below.upper) {
            lower.entry(below.upper).or_default().push(below);
            upper.entry(name).or_default().push(below.upper);
            *open.entry(below.upper).or_default() += 1;
        }
    }
    // What stands on nothing that is open is not open either, and so on upwards.
    let mut done: Vec<&str> = upper.keys().copied().collect();
    done.retain(|name| !open.contains_key(name));
    while let Some(name) = done.pop() {
        for above in upper.get(name).into_iter().flatten() {
            if let Some(count) = open.get_mut(above) {
                *count -= 1;
                if *count == 0 {
                    open.remove(above);
                    done.push(above);
                }
            }
        }
    }
    // From what is left every way down ends in a circle.
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for below in &stack.below {
        let mut way: Vec<&Below<'_>> = Vec::new();
        let mut name = below.upper;
        while open.contains_key(name) && seen.insert(name) {
            let next = lower.get(name).into_iter().flatten();
            let Some(next) = next
                .copied()
                .find(|it| open.contains_key(it.name.value.as_str()))
            else {
                break;
            };
            way.push(next);
            name = &next.name.value;
        }
        let Some(begin) = way.iter().position(|it| it.upper == name) else {
            continue;
        };
        let circle = &way[begin..];
        let names: Vec<&str> = circle.iter().map(|it| it.name.value.as_str()).collect();
        let message = format!(
            "{name} would stand on itself: {name} on {}",
            names.join(" on ")
        );
        let hint = "take one of them out of the circle";
        reader.error(circle[0].name.at, message, hint);
    }
}

fn is_made_name(stack: &Stack<'_>, name: &str) -> bool {
    stack.what(name) != What::There
}
