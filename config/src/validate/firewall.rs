//! The rules of `network.firewall`: what they may say, and that they leave a way in.

use super::{checked, first_of, items};
use crate::{
    Cidr, Firewall, FirewallRule,
    document::{ActionWord, FirewallRuleSection, FirewallSection, ProtocolWord},
    read::{Given, Located, Reader, TextOrNumber},
    tree::quote,
    value::{self, Wrong},
};
use std::collections::BTreeMap;

/// The port of the machine's own API.
const API: u16 = 50000;

/// The most ranges of one rule.
const MOST_PORTS: usize = 128;

pub(super) fn firewall(
    reader: &mut Reader<'_>,
    written: &Given<FirewallSection>,
) -> Option<Firewall> {
    let section = written.is()?;
    let FirewallSection {
        default,
        nodes,
        rules,
    } = &section.value;
    let mut seen = BTreeMap::new();
    let firewall = Firewall {
        block: is_block(default),
        nodes: networks(reader, nodes),
        rules: items(rules)
            .iter()
            .filter_map(|written| rule(reader, written, &mut seen))
            .collect(),
    };
    let reached = |rule: &&FirewallRule| {
        !rule.udp
            && rule
                .ports
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&API))
    };
    let way_in = match firewall.rules.iter().find(reached) {
        Some(rule) => !rule.block || !rule.from.is_empty() && !firewall.block,
        None => !firewall.block,
    };
    if !way_in && firewall.nodes.is_empty() && !reader.problems.has_errors() {
        let hint = format!("add a rule such as {{name: api, ports: [{API}], from: [10.0.0.0/8]}}");
        let message = format!("nobody could reach the machine's own API on port {API}");
        reader.key_error(section.at, message, &hint);
    }
    Some(firewall)
}

fn is_block(word: &Given<ActionWord>) -> bool {
    word.is()
        .is_some_and(|word| word.value == ActionWord::Block)
}

fn networks(reader: &mut Reader<'_>, list: &Given<Vec<Located<String>>>) -> Vec<Cidr> {
    let mut seen = BTreeMap::new();
    let mut networks = Vec::new();
    for item in items(list) {
        if let Some(network) = checked(reader, item, |text| value::network(text))
            && first_of(reader, &mut seen, network, item.at)
        {
            networks.push(network);
        }
    }
    networks
}

fn rule(
    reader: &mut Reader<'_>,
    written: &Located<FirewallRuleSection>,
    seen: &mut BTreeMap<String, String>,
) -> Option<FirewallRule> {
    let FirewallRuleSection {
        name,
        ports,
        protocol,
        from,
        action,
    } = &written.value;
    if let Some(list) = from.is()
        && reader.is_empty(list.at)
    {
        let hint = "remove the key for everywhere";
        reader.error(list.at, "it is for nobody", hint);
    }
    let from = networks(reader, from);
    let mut ranges = Vec::new();
    let mut twice = BTreeMap::new();
    for item in items(ports) {
        if let Some(range) = checked(reader, item, |text: &TextOrNumber| range(&text.0))
            && first_of(reader, &mut twice, range, item.at)
        {
            ranges.push(range);
        }
    }
    if let Some(list) = ports.is()
        && (reader.is_empty(list.at) || ranges.len() > MOST_PORTS)
    {
        let message = format!("a rule has 1 to {MOST_PORTS} ports");
        reader.error(list.at, message, "");
    }
    let name = name.is()?;
    let known_as = checked(reader, name, |text| self::name(text))?;
    first_of(reader, seen, known_as.clone(), name.at).then(|| FirewallRule {
        name: known_as,
        ports: ranges,
        udp: protocol
            .is()
            .is_some_and(|word| word.value == ProtocolWord::Udp),
        from,
        block: is_block(action),
    })
}

fn name(text: &str) -> Result<String, Wrong> {
    if value::is_plain_name(text) {
        return Ok(text.to_owned());
    }
    Err(
        Wrong::new(format!("{} is not the name of a rule", quote(text)))
            .hint("small letters and digits, and dashes between them"),
    )
}

/// `80` or `8000-8100`.
fn range(text: &str) -> Result<(u16, u16), Wrong> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(_), Some(_)) => Err(Wrong::new(format!("{} ends before it begins", quote(text)))),
        _ => Err(
            Wrong::new(format!("{} is neither a port nor a range", quote(text)))
                .hint("it looks like 6443 or 30000-32767"),
        ),
    }
}
