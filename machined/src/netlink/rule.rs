//! Rules of policy routing (ip-rule(8)). One that machined added has its mark in
//! FRA_PROTOCOL, as a route has in RTPROT; rules of others may have it unset, or their own.

use super::{Mark, Netlink, plain};
use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use keelson_config::Cidr;
use rtnetlink::{
    IpVersion,
    packet_route::{
        AddressFamily,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};
use std::net::IpAddr;

/// Which packets' way is looked up in which table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    /// The lower comes first.
    pub priority: u32,
    /// Of IPv6 packets, instead of IPv4.
    pub v6: bool,
    /// From this network.
    pub from: Option<Cidr>,
    /// To this network.
    pub to: Option<Cidr>,
    /// With this mark.
    pub fw_mark: Option<u32>,
    /// That came in by this link.
    pub iif: Option<String>,
    /// The table.
    pub table: u32,
    /// Why machined added it; `None` where somebody else did.
    pub mark: Option<Mark>,
}

impl Netlink {
    /// The rules of both families that say no more than a [`Rule`] does.
    pub(crate) async fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for family in [IpVersion::V4, IpVersion::V6] {
            let family = self.handle.rule().get(family).execute();
            let family: Vec<RuleMessage> = family
                .try_collect()
                .await
                .map_err(plain)
                .context("listing rules")?;
            rules.extend(family.iter().filter_map(rule));
        }
        Ok(rules)
    }

    /// Adds a rule.
    pub(crate) async fn add_rule(&self, rule: &Rule) -> anyhow::Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = message(rule);
        Ok(request.execute().await.map_err(plain)?)
    }

    /// Removes a rule that is as machined added it.
    pub(crate) async fn remove_rule(&self, rule: &Rule) -> anyhow::Result<()> {
        let request = self.handle.rule().del(message(rule));
        Ok(request.execute().await.map_err(plain)?)
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = match rule.v6 {
        true => AddressFamily::Inet6,
        false => AddressFamily::Inet,
    };
    header.action = RuleAction::ToTable;
    header.dst_len = rule.to.map_or(0, |to| to.prefix);
    header.src_len = rule.from.map_or(0, |from| from.prefix);
    let ends = (rule.to.map(|to| RuleAttribute::Destination(to.addr)))
        .into_iter()
        .chain(rule.from.map(|from| RuleAttribute::Source(from.addr)));
    message.attributes.extend(ends);
    let mark = rule.mark.map(|mark| mark.number().into());
    let more = [
        Some(RuleAttribute::Priority(rule.priority)),
        Some(RuleAttribute::Table(rule.table)),
        rule.fw_mark.map(RuleAttribute::FwMark),
        rule.iif.clone().map(RuleAttribute::Iifname),
        mark.map(RuleAttribute::Protocol),
    ];
    message.attributes.extend(more.into_iter().flatten());
    message
}

/// What a message says, where that is all of it.
fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let turned = header.flags.contains(RuleFlags::Invert);
    if header.action != RuleAction::ToTable || turned || header.tos != 0 {
        return None;
    }
    let mut rule = Rule {
        priority: 0,
        v6: match header.family {
            AddressFamily::Inet => false,
            AddressFamily::Inet6 => true,
            _ => return None,
        },
        from: None,
        to: None,
        fw_mark: None,
        iif: None,
        table: header.table.into(),
        mark: None,
    };
    let cidr = |addr: IpAddr, prefix| Some(Cidr { addr, prefix });
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(addr) => rule.from = cidr(*addr, header.src_len),
            RuleAttribute::Destination(addr) => rule.to = cidr(*addr, header.dst_len),
            RuleAttribute::FwMark(mark) => rule.fw_mark = Some(*mark),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => rule.mark = Mark::from((*protocol).into()),
            // What the kernel says of every rule.
            RuleAttribute::FwMask(u32::MAX) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => return None,
        }
    }
    Some(rule)
}
