//! A question that is asked until it is answered, and the pauses between (RFC 8415, sections
//! 7.6 and 15). Pure: chance and time are handed in.

use crate::dhcp::Chance;
use std::time::{Duration, Instant};

/// A question, until it is answered.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// Names it: 24 bits.
    pub transaction: u32,
    /// When it was asked first.
    pub began: Instant,
    /// When it was asked last.
    pub sent: Instant,
    /// How often it was asked.
    pub tries: u32,
    /// The pause after the last time (RT).
    pub pause: Duration,
    /// When to ask again.
    pub again: Instant,
}

/// How a question is asked again (RFC 8415, section 7.6).
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    /// The first pause (IRT).
    pub first: Duration,
    /// The longest (MRT).
    pub longest: Duration,
}

const fn pauses(first: u64, longest: u64) -> Pauses {
    Pauses {
        first: Duration::from_secs(first),
        longest: Duration::from_secs(longest),
    }
}

/// SOL_TIMEOUT and SOL_MAX_RT.
pub(super) const SOLICIT: Pauses = pauses(1, 3600);
/// REQ_TIMEOUT and REQ_MAX_RT.
pub(super) const REQUEST: Pauses = pauses(1, 30);
/// CNF_TIMEOUT and CNF_MAX_RT.
pub(super) const CONFIRM: Pauses = pauses(1, 4);
/// REN_TIMEOUT and REN_MAX_RT.
pub(super) const RENEW: Pauses = pauses(10, 600);
/// REB_TIMEOUT and REB_MAX_RT.
pub(super) const REBIND: Pauses = pauses(10, 600);
/// DEC_TIMEOUT. Declining has no longest pause; it ends before.
pub(super) const DECLINE: Pauses = pauses(1, 3600);
/// CNF_MAX_RD.
const CONFIRM_FOR: Duration = Duration::from_secs(10);

impl Exchange {
    /// A question that is asked at this time for the first time, by the tick that finds
    /// that it has come.
    pub(super) fn at(at: Instant, chance: &mut Chance) -> Exchange {
        Exchange {
            transaction: chance.next() as u32 & 0xff_ffff,
            began: at,
            sent: at,
            tries: 0,
            pause: Duration::ZERO,
            again: at,
        }
    }

    /// Asks once more (RFC 8415, section 15): the pauses double, up to the longest, and
    /// each is longer or shorter by up to a tenth.
    pub(super) fn ask(self, now: Instant, pauses: Pauses, chance: &mut Chance) -> Exchange {
        let Pauses { first, longest } = pauses;
        let (began, pause) = match self.tries {
            0 => (now, chance.tenth(first)),
            _ => (self.began, self.pause + chance.tenth(self.pause)),
        };
        let pause = match pause > longest {
            true => chance.tenth(longest),
            false => pause,
        };
        Exchange {
            began,
            sent: now,
            tries: self.tries.saturating_add(1),
            pause,
            again: now + pause,
            ..self
        }
    }

    /// The first pause of a Solicit is longer than a second, never shorter: the offers of
    /// all are awaited (RFC 8415, section 18.2.1).
    pub(super) fn wait_for_all(&mut self) {
        let more = self.pause.abs_diff(SOLICIT.first);
        self.pause = SOLICIT.first + more.max(Duration::from_millis(1));
        self.again = self.sent + self.pause;
    }

    /// How long it is asked whether an address belongs here.
    pub(super) fn until(&self) -> Instant {
        match self.tries {
            0 => self.again,
            _ => self.began + CONFIRM_FOR,
        }
    }
}
