//! The client's decisions (RFC 8415, section 18.2): packets and time go in, outputs come
//! out. It has no socket and no clock, and its chance comes from a seed.
//!
//! ```text
//!            link up               no answer ┌────┐
//!   Idle ─────────────┬─ no lease ──> Soliciting ─┘
//!    ▲                │                 │ │    ▲
//!    │ link down      │ a lease   offer │ │    │ after a pause
//!    │ (from anywhere;▼                 ▼ │    │
//!    │  a lease   Confirming   Requesting │  Waiting <─ refused, or expired,
//!    │  stays)        │   ▲      │        │    ▲        or no answer
//!    │           yes, │   │ ok   │ reply  │    │
//!    │     or silence ▼   │      ▼        │    │ told the server
//!    │              Bound <──────────<────┘  Declining
//!    │                │ T1 ▲ reply  at once    ▲
//!    │                ▼    │            T2     │ somebody else has it
//!    └──────────── Renewing ┴──────> Rebinding (from any state with a lease)
//! ```
//!
//! Everything is sent to all servers, as RFC 8415 has it unless a server wishes otherwise.

mod answer;
mod question;
mod state;

use super::{
    exchange::{CONFIRM, DECLINE, Exchange, Pauses, REBIND, RENEW, REQUEST, SOLICIT},
    lease::Bound,
    message::Message,
};
use crate::dhcp::Chance;
use state::{Offer, State};
use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

/// What happens to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input<'a> {
    /// The link has carrier, and a link-local address that may be used.
    LinkUp,
    /// The link lost it.
    LinkDown,
    /// A message came to the client's port, from this address.
    Message(&'a [u8], Ipv6Addr),
    /// Another machine on the link has this address.
    Duplicate(Ipv6Addr),
    /// The deadline has come.
    Tick,
}

/// What the client wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send this to all servers and relays on the link.
    Send(Vec<u8>),
    /// The lease may be used from now on, in place of the one before.
    Bound(Bound),
    /// The lease must not be used any more.
    Lost(Loss),
    /// Nobody has answered for a while; the client goes on asking.
    Unanswered,
}

/// Why a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its time is over.
    Expired,
    /// A server said no.
    Refused,
    /// Another machine has the address.
    Duplicate,
}

/// Who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its DUID.
    pub duid: Vec<u8>,
    /// The number of what it asks for (IAID).
    pub association: u32,
}

/// One client, for one link.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    identity: Identity,
    state: State,
    /// The last address that was lent, to ask for it again.
    last: Option<Ipv6Addr>,
    chance: Chance,
    /// Refusals in a row, so that a server that always says no is asked ever less often.
    refusals: u32,
    /// The longest pause between two Solicits; a server may change it.
    longest: Duration,
}

/// SOL_MAX_DELAY and CNF_MAX_DELAY: machines that were switched on together do not ask
/// together.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// REQ_MAX_RC.
const REQUESTS: u32 = 10;
/// DEC_MAX_RC.
const DECLINES: u32 = 4;
/// What a server may set the longest pause between two Solicits to, in seconds.
const SOLICIT_LONGEST: std::ops::RangeInclusive<u32> = 60..=86400;
/// Unanswered Solicits before the world is told.
const PATIENCE: u32 = 4;
/// A server of this preference is taken at once (RFC 8415, section 18.2.1).
const AT_ONCE: u8 = 255;

impl Client {
    /// A client on a link that cannot be used yet. `seed` must differ between machines
    /// and lives.
    pub(crate) fn new(identity: Identity, seed: u64) -> Self {
        Client {
            identity,
            state: State::Idle { held: None },
            last: None,
            chance: Chance::new(seed),
            refusals: 0,
            longest: SOLICIT.longest,
        }
    }

    /// When to call [`Client::handle`] with a tick at the latest; `None` is never.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.state.deadline()
    }

    /// Whether messages are awaited: while not, no port need be open.
    pub(crate) fn listens(&self) -> bool {
        self.state.listens()
    }

    /// Says what to do about an input. `now` must never go back.
    pub(crate) fn handle(&mut self, now: Instant, input: Input<'_>) -> Vec<Output> {
        let mut outputs = Vec::new();
        // Time first: what came after a deadline finds the client as it is by then.
        self.catch_up(now, &mut outputs);
        match input {
            Input::Tick => {}
            Input::LinkUp => self.link_up(now),
            Input::LinkDown => {
                let held = self.state.held().cloned();
                self.state = State::Idle { held };
            }
            Input::Duplicate(address) => self.duplicate(now, address, &mut outputs),
            Input::Message(bytes, from) => {
                if let Some(message) = Message::decode(bytes) {
                    self.message(now, &message, from, &mut outputs);
                }
            }
        }
        // And again: a late answer may bring a lease whose T1 has passed.
        self.catch_up(now, &mut outputs);
        outputs
    }

    /// Lives through the deadlines that have passed. Each round moves the deadline or goes
    /// on to a later state; the bound is for a reader's peace of mind.
    fn catch_up(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        for _ in 0..8 {
            if self.deadline().is_none_or(|deadline| deadline > now) {
                break;
            }
            self.tick(now, outputs);
        }
    }

    fn tick(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        if self.state.held().is_some_and(|held| expired(held, now)) {
            return self.lose(now, Loss::Expired, outputs);
        }
        let before = std::mem::replace(&mut self.state, State::Idle { held: None });
        self.state = match before {
            State::Idle { held } => State::Idle { held },
            State::Waiting { .. } => State::Soliciting {
                exchange: self.exchange(now),
                best: None,
            },
            // All have had the time of the first pause to offer something.
            State::Soliciting {
                best: Some(offer), ..
            } => self.request(now, offer, None),
            State::Soliciting {
                exchange,
                best: None,
            } => {
                if exchange.tries == PATIENCE {
                    outputs.push(Output::Unanswered);
                }
                let longest = self.longest;
                let pauses = Pauses { longest, ..SOLICIT };
                let mut exchange = self.ask(exchange, now, pauses);
                if exchange.tries == 1 {
                    exchange.wait_for_all();
                }
                State::Soliciting {
                    exchange,
                    best: None,
                }
            }
            State::Requesting {
                exchange,
                held: Some(held),
                ..
            } if exchange.tries >= REQUESTS => State::Rebinding {
                exchange: self.exchange(now),
                held,
            },
            State::Requesting { exchange, .. } if exchange.tries >= REQUESTS => self.pause(now),
            State::Requesting {
                exchange,
                offer,
                held,
            } => State::Requesting {
                exchange: self.ask(exchange, now, REQUEST),
                offer,
                held,
            },
            // Nobody says that the address does not belong here: it does.
            State::Confirming { exchange, held }
                if exchange.tries > 0 && exchange.until() <= now =>
            {
                State::Bound { held }
            }
            State::Confirming { exchange, held } => State::Confirming {
                exchange: self.ask(exchange, now, CONFIRM),
                held,
            },
            State::Bound { held } => {
                let exchange = self.exchange(now);
                match held.rebinds() {
                    Some(rebinds) if rebinds <= now => State::Rebinding { exchange, held },
                    _ => State::Renewing { exchange, held },
                }
            }
            State::Renewing { exchange, held } => match held.rebinds() {
                Some(rebinds) if rebinds <= now => State::Rebinding {
                    exchange: self.exchange(now),
                    held,
                },
                _ => State::Renewing {
                    exchange: self.ask(exchange, now, RENEW),
                    held,
                },
            },
            State::Rebinding { exchange, held } => State::Rebinding {
                exchange: self.ask(exchange, now, REBIND),
                held,
            },
            State::Declining { exchange, .. } if exchange.tries >= DECLINES => self.pause(now),
            State::Declining { exchange, offer } => State::Declining {
                exchange: self.ask(exchange, now, DECLINE),
                offer,
            },
        };
        self.send(now, outputs);
    }

    fn link_up(&mut self, now: Instant) {
        let State::Idle { held } = &mut self.state else {
            return;
        };
        let held = held.take();
        let delay = self.chance.below(FIRST_DELAY);
        let mut exchange = self.exchange(now + delay);
        exchange.began = now;
        self.state = match held {
            // The cable may lead to another network by now.
            Some(held) => State::Confirming { exchange, held },
            None => State::Soliciting {
                exchange,
                best: None,
            },
        };
    }

    fn duplicate(&mut self, now: Instant, address: Ipv6Addr, outputs: &mut Vec<Output>) {
        let mine = |held: &&Bound| held.lease.address == address;
        let Some(held) = self.state.held().filter(mine) else {
            return;
        };
        let offer = Offer::of(&held.lease, 0);
        outputs.push(Output::Lost(Loss::Duplicate));
        self.last = None;
        self.state = match self.state {
            // A link that is down says nothing.
            State::Idle { .. } => State::Idle { held: None },
            _ => State::Declining {
                exchange: self.exchange(now),
                offer,
            },
        };
    }

    /// Gives the lease up and begins again; where the link is down, when it is not.
    fn lose(&mut self, now: Instant, loss: Loss, outputs: &mut Vec<Output>) {
        outputs.push(Output::Lost(loss));
        self.state = match self.state {
            State::Idle { .. } => State::Idle { held: None },
            _ => self.pause(now),
        };
    }

    /// Begins again after a pause that grows with every failure in a row.
    fn pause(&mut self, now: Instant) -> State {
        let until = now + self.chance.around(crate::dhcp::backoff(self.refusals));
        self.refusals = self.refusals.saturating_add(1);
        State::Waiting { until }
    }

    fn request(&mut self, now: Instant, offer: Offer, held: Option<Bound>) -> State {
        State::Requesting {
            exchange: self.exchange(now),
            offer,
            held,
        }
    }

    fn exchange(&mut self, at: Instant) -> Exchange {
        Exchange::at(at, &mut self.chance)
    }

    fn ask(&mut self, exchange: Exchange, now: Instant, pauses: Pauses) -> Exchange {
        exchange.ask(now, pauses, &mut self.chance)
    }
}

fn expired(held: &Bound, now: Instant) -> bool {
    held.expires().is_some_and(|expires| expires <= now)
}

#[cfg(test)]
mod tests;
