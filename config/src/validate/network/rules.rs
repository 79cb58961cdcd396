//! The rules of `network.rules`, and of the tables that they and the routes name.

use super::super::{checked, items};
use crate::{
    Cidr, MAIN_TABLE, Network, Route, Rule,
    document::{NetworkSection, RuleSection},
    read::{Given, Located, Reader},
    value::{self, Wrong},
};
use std::{collections::BTreeMap, ops::RangeInclusive};

/// Between the kernel's own: 0 looks into the table of the machine's own addresses, 32766 into
/// the main one (ip-rule(8)).
const PRIORITY: RangeInclusive<u32> = 1..=32765;
/// RT_TABLE_LOCAL: the kernel keeps the machine's own addresses there.
const LOCAL_TABLE: u32 = 255;

/// A table of routes, by number.
pub(super) fn table(table: u32) -> Result<u32, Wrong> {
    match table {
        0 => Err(Wrong::new("a table is 1 or more").hint("254 is the main one")),
        LOCAL_TABLE => Err(Wrong::new("the kernel keeps table 255 for itself")
            .hint("take a number of your own, 100 for example")),
        table => Ok(table),
    }
}

/// The rules, by priority.
pub(super) fn rules(
    reader: &mut Reader<'_>,
    written: &Given<Vec<Located<RuleSection>>>,
) -> Vec<Rule> {
    let mut known = BTreeMap::new();
    let mut rules: Vec<Rule> = items(written)
        .iter()
        .filter_map(|written| rule(reader, written, &mut known))
        .collect();
    rules.sort_by_key(|rule| rule.priority);
    rules
}

fn rule(
    reader: &mut Reader<'_>,
    written: &Located<RuleSection>,
    known: &mut BTreeMap<u32, String>,
) -> Option<Rule> {
    let RuleSection {
        priority,
        from,
        to,
        fw_mark,
        iif,
        table,
    } = &written.value;
    let priority = priority.is().and_then(|at| {
        let number = checked(reader, at, |number| {
            let (least, most) = (PRIORITY.start(), PRIORITY.end());
            let message = format!("a priority is {least} to {most}: the others are the kernel's");
            let fits = PRIORITY.contains(number);
            fits.then_some(*number).ok_or_else(|| Wrong::new(message))
        })?;
        if let Some(first) = known.get(&number) {
            let message = format!("another rule has the priority {number}, see {first}");
            reader.error(at.at, message, "which one counts first is what it says");
            return None;
        }
        known.insert(number, reader.path(at.at));
        Some(number)
    });
    let table = (table.is()).and_then(|at| checked(reader, at, |&number| self::table(number)));
    let ends = [from, to].map(|end| match end {
        Given::Is(text) => checked(reader, text, |text| network(text)).map(Some),
        Given::Absent => Some(None),
        Given::Bad => None,
    });
    let [source, destination] = ends;
    let mark = match fw_mark {
        Given::Is(mark) if mark.value == 0 => {
            let hint = "it is 1 or more; remove the key for any packet";
            reader.error(mark.at, "0 is what a packet has that has no mark", hint);
            None
        }
        Given::Is(mark) => Some(Some(mark.value)),
        Given::Absent => Some(None),
        Given::Bad => None,
    };
    let iif = match iif {
        // What the machine itself sends comes from there.
        Given::Is(name) if name.value == "lo" => Some(Some("lo".to_owned())),
        Given::Is(name) => checked(reader, name, |text| value::link_name(text)).map(Some),
        Given::Absent => Some(None),
        Given::Bad => None,
    };
    if let (Some(Some(source)), Some(Some(destination)), Some(at)) = (source, destination, to.is())
        && source.addr.is_ipv4() != destination.addr.is_ipv4()
    {
        let message = format!("no packet goes from {source} to {destination}");
        reader.error(at.at, message, "one is IPv4, the other IPv6");
        return None;
    }
    Some(Rule {
        priority: priority?,
        from: source?,
        to: destination?,
        fw_mark: mark?,
        iif: iif?,
        table: table?,
    })
}

fn network(text: &str) -> Result<Cidr, Wrong> {
    let network = value::network(text)?;
    if network.prefix == 0 {
        let wrong = Wrong::new(format!("{network} is everywhere"));
        return Err(wrong.hint("remove the key"));
    }
    Ok(network)
}

/// A rule leads to routes, and routes in a table of their own need a rule. Asked once each is
/// right by itself.
pub(in crate::validate) fn together(
    reader: &mut Reader<'_>,
    section: &NetworkSection,
    network: &Network,
) {
    let all = || network.links.iter().flat_map(|link| &link.routes);
    for written in items(&section.rules) {
        let (Some(at), Some(priority)) = (written.value.table.is(), written.value.priority.is())
        else {
            continue;
        };
        let mut rules = network.rules.iter();
        let Some(rule) = rules.find(|rule| rule.priority == priority.value) else {
            continue;
        };
        let fits = |route: &&Route| {
            let family = rule.from.or(rule.to);
            route.table == rule.table
                && family.is_none_or(|it| it.addr.is_ipv4() == route.to.addr.is_ipv4())
        };
        if rule.table != MAIN_TABLE && !all().any(|route| fits(&route)) {
            let message = format!("no route that it could take is in table {}", rule.table);
            let hint = format!("give a route of a link `table: {}`", rule.table);
            reader.warning(at.at, message, &hint);
        }
    }
    for (link, written) in network.links.iter().zip(items(&section.links)) {
        for (route, written) in link.routes.iter().zip(items(&written.value.routes)) {
            let mut rules = network.rules.iter();
            if let Some(at) = written.value.table.is()
                && route.table != MAIN_TABLE
                && !rules.any(|rule| rule.table == route.table)
            {
                let message = format!("no rule leads to table {}", route.table);
                let hint = format!("add one to network.rules with `table: {}`", route.table);
                reader.warning(at.at, message, &hint);
            }
        }
    }
}
