//! The rules of bonds.

use super::{super::checked, made::members};
use crate::{
    BondMode, LacpRate, Made, XmitHashPolicy,
    document::{BondModeWord, LacpRateWord, LinkSection, XmitHashPolicyWord},
    read::{Given, Reader},
    value::Wrong,
};
use std::ops::RangeInclusive;

/// From as often as is of use to as seldom as is.
const MIIMON: RangeInclusive<u32> = 10..=10_000;
/// The kernel's own for the modes that cannot do without: drivers/net/bonding/bond_main.c.
const DEFAULT_MIIMON: u32 = 100;
/// The modes in which a packet's link follows from what is in it, as the kernel's document
/// says (Documentation/networking/bonding.rst, xmit_hash_policy).
const HASHED: [BondMode; 3] = [
    BondMode::BalanceXor,
    BondMode::Ieee8023Ad,
    BondMode::BalanceTlb,
];

/// What an entry makes. `None` if it was refused.
pub(super) fn made(reader: &mut Reader<'_>, section: &LinkSection) -> Option<Made> {
    let bond = section.bond.is()?;
    let links = members(reader, &bond.value.links);
    if let Given::Is(list) = &bond.value.links
        && reader.is_empty(list.at)
    {
        let hint = "name one or more, for example [eth0, eth1]";
        reader.error(list.at, "a bond is made of links", hint);
        return None;
    }
    let miimon = match &bond.value.miimon {
        Given::Is(miimon) => checked(reader, miimon, |miimon| {
            if MIIMON.contains(miimon) {
                return Ok(*miimon);
            }
            let (least, most) = (MIIMON.start(), MIIMON.end());
            let message = format!("miimon is {least} to {most}, in milliseconds");
            Err(Wrong::new(message).hint("100 is usual; without it no break is noticed"))
        }),
        Given::Absent => Some(DEFAULT_MIIMON),
        Given::Bad => None,
    };
    let mode = match &bond.value.mode {
        Given::Is(mode) => bond_mode(mode.value),
        Given::Absent => BondMode::ActiveBackup,
        Given::Bad => return None,
    };
    let lacp_rate = of_mode(
        reader,
        &bond.value.lacp_rate,
        mode,
        ("lacpRate", &[BondMode::Ieee8023Ad]),
        lacp_rate,
        LacpRate::Slow,
    );
    let xmit_hash_policy = of_mode(
        reader,
        &bond.value.xmit_hash_policy,
        mode,
        ("xmitHashPolicy", &HASHED),
        xmit_hash_policy,
        XmitHashPolicy::Layer2,
    );
    Some(Made::Bond {
        links: links?,
        mode,
        miimon: miimon?,
        lacp_rate: lacp_rate?,
        xmit_hash_policy: xmit_hash_policy?,
    })
}

/// What is only asked in some modes of a bond: `Some(None)` in the others, where it must not be
/// written; `None` if it was refused.
fn of_mode<W: Copy, T>(
    reader: &mut Reader<'_>,
    written: &Given<W>,
    mode: BondMode,
    (key, modes): (&str, &[BondMode]),
    means: impl Fn(W) -> T,
    default: T,
) -> Option<Option<T>> {
    let asked = modes.contains(&mode);
    match written {
        Given::Is(word) if asked => Some(Some(means(word.value))),
        Given::Is(word) => {
            let modes: Vec<&str> = modes.iter().map(|mode| mode.word()).collect();
            let message = format!("a bond in mode {} has no {key}", mode.word());
            let hint = format!("it is for {}", modes.join(", "));
            reader.key_error(word.at, message, &hint);
            None
        }
        Given::Absent => Some(asked.then_some(default)),
        Given::Bad => None,
    }
}

fn lacp_rate(word: LacpRateWord) -> LacpRate {
    match word {
        LacpRateWord::Slow => LacpRate::Slow,
        LacpRateWord::Fast => LacpRate::Fast,
    }
}

fn xmit_hash_policy(word: XmitHashPolicyWord) -> XmitHashPolicy {
    match word {
        XmitHashPolicyWord::Layer2 => XmitHashPolicy::Layer2,
        XmitHashPolicyWord::Layer23 => XmitHashPolicy::Layer23,
        XmitHashPolicyWord::Layer34 => XmitHashPolicy::Layer34,
        XmitHashPolicyWord::Encap23 => XmitHashPolicy::Encap23,
        XmitHashPolicyWord::Encap34 => XmitHashPolicy::Encap34,
        XmitHashPolicyWord::VlanSrcMac => XmitHashPolicy::VlanSrcMac,
    }
}

fn bond_mode(word: BondModeWord) -> BondMode {
    match word {
        BondModeWord::BalanceRr => BondMode::BalanceRr,
        BondModeWord::ActiveBackup => BondMode::ActiveBackup,
        BondModeWord::BalanceXor => BondMode::BalanceXor,
        BondModeWord::Broadcast => BondMode::Broadcast,
        BondModeWord::Ieee8023Ad => BondMode::Ieee8023Ad,
        BondModeWord::BalanceTlb => BondMode::BalanceTlb,
        BondModeWord::BalanceAlb => BondMode::BalanceAlb,
    }
}
