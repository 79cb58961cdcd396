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

use super::{
    exchange::{CONFIRM, DECLINE, Exchange, Pauses, REBIND, RENEW, REQUEST, SOLICIT},
    lease::{Bound, Lease, Refusal},
    message::{self, Association, Kind, Lent, Message, status},
};
use crate::dhcp::Chance;
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

#[derive(Clone, Debug)]
enum State {
    /// The link cannot be used. A lease may still be held.
    Idle { held: Option<Bound> },
    /// Begins again at this time.
    Waiting { until: Instant },
    /// Looks for a server; the best offer yet.
    Soliciting {
        exchange: Exchange,
        best: Option<Offer>,
    },
    /// Has taken an offer; or has a lease that its server has forgotten.
    Requesting {
        exchange: Exchange,
        offer: Offer,
        held: Option<Bound>,
    },
    /// Asks whether the address of a lease belongs to the network that it is in now.
    Confirming { exchange: Exchange, held: Bound },
    /// Uses a lease.
    Bound { held: Bound },
    /// Asks the server of its lease to go on.
    Renewing { exchange: Exchange, held: Bound },
    /// Asks any server to go on.
    Rebinding { exchange: Exchange, held: Bound },
    /// Tells the server that another machine has the address.
    Declining { exchange: Exchange, offer: Offer },
}

/// What a server would lend, or has lent.
#[derive(Clone, Debug)]
struct Offer {
    server: Vec<u8>,
    address: Ipv6Addr,
    preference: u8,
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
        match &self.state {
            State::Idle { held } => held.as_ref()?.expires(),
            State::Waiting { until } => Some(*until),
            State::Soliciting { exchange, .. } | State::Declining { exchange, .. } => {
                Some(exchange.again)
            }
            State::Requesting { exchange, held, .. } => {
                earliest(exchange.again, held.as_ref().and_then(Bound::expires))
            }
            State::Confirming { exchange, held } => {
                earliest(exchange.again.min(exchange.until()), held.expires())
            }
            State::Bound { held } => match (held.renews(), held.expires()) {
                (Some(renews), expires) => earliest(renews, expires),
                (None, expires) => expires,
            },
            State::Renewing { exchange, held } => {
                let rebinds = earliest(exchange.again, held.rebinds());
                rebinds.and_then(|at| earliest(at, held.expires()))
            }
            State::Rebinding { exchange, held } => earliest(exchange.again, held.expires()),
        }
    }

    /// Whether messages are awaited: while not, no port need be open.
    pub(crate) fn listens(&self) -> bool {
        !matches!(
            self.state,
            State::Idle { .. } | State::Waiting { .. } | State::Bound { .. }
        )
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
                let held = self.held();
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
        let held = match &self.state {
            State::Idle { held } | State::Requesting { held, .. } => held.as_ref(),
            State::Confirming { held, .. }
            | State::Bound { held }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held),
            State::Waiting { .. } | State::Soliciting { .. } | State::Declining { .. } => None,
        };
        if held.is_some_and(|held| expired(held, now)) {
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

    /// Takes the lease out of the state, where there is one.
    fn held(&mut self) -> Option<Bound> {
        match std::mem::replace(&mut self.state, State::Idle { held: None }) {
            State::Idle { held } | State::Requesting { held, .. } => held,
            State::Confirming { held, .. }
            | State::Bound { held }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held),
            State::Waiting { .. } | State::Soliciting { .. } | State::Declining { .. } => None,
        }
    }

    fn duplicate(&mut self, now: Instant, address: Ipv6Addr, outputs: &mut Vec<Output>) {
        let before = self.state.clone();
        match self.held() {
            Some(held) if held.lease.address == address => {
                outputs.push(Output::Lost(Loss::Duplicate));
                self.last = None;
                // A link that is down says nothing.
                if !matches!(before, State::Idle { .. }) {
                    self.state = State::Declining {
                        exchange: self.exchange(now),
                        offer: offer(&held.lease, 0),
                    };
                }
            }
            _ => self.state = before,
        }
    }

    fn message(
        &mut self,
        now: Instant,
        message: &Message,
        from: Ipv6Addr,
        outputs: &mut Vec<Output>,
    ) {
        let (exchange, server) = match &self.state {
            State::Soliciting { exchange, .. }
            | State::Confirming { exchange, .. }
            | State::Rebinding { exchange, .. } => (exchange, None),
            State::Requesting {
                exchange, offer, ..
            }
            | State::Declining { exchange, offer } => (exchange, Some(&offer.server)),
            // A refusal from elsewhere must not end a lease that its own server keeps.
            State::Renewing { exchange, held } => (exchange, Some(&held.lease.server)),
            State::Idle { .. } | State::Waiting { .. } | State::Bound { .. } => return,
        };
        // RFC 8415, sections 16.3 and 16.10.
        if exchange.tries == 0
            || message.transaction != exchange.transaction
            || message.client != self.identity.duid
            || message.server.is_empty()
            || server.is_some_and(|server| *server != message.server)
        {
            return;
        }
        let sent = exchange.sent;
        match message.kind {
            Kind::Advertise => self.advertised(now, message, from),
            Kind::Reply => self.replied(now, sent, message, from, outputs),
            _ => {}
        }
    }

    fn advertised(&mut self, now: Instant, message: &Message, from: Ipv6Addr) {
        let State::Soliciting { exchange, best } = &mut self.state else {
            return;
        };
        // Also where it lends nothing (RFC 8415, section 18.2.9).
        if let Some(seconds) = message.longest.filter(|it| SOLICIT_LONGEST.contains(it)) {
            self.longest = Duration::from_secs(seconds.into());
        }
        let Ok(lease) = Lease::read(message, self.identity.association, from, self.last) else {
            return;
        };
        let offer = offer(&lease, message.preference);
        if exchange.tries == 1 && offer.preference < AT_ONCE {
            // Of two that are as good, the faster.
            if best
                .as_ref()
                .is_none_or(|best| best.preference < offer.preference)
            {
                *best = Some(offer);
            }
            return;
        }
        self.state = self.request(now, offer, None);
    }

    fn replied(
        &mut self,
        now: Instant,
        sent: Instant,
        message: &Message,
        from: Ipv6Addr,
        outputs: &mut Vec<Output>,
    ) {
        match &self.state {
            State::Soliciting { .. } if !message.rapid => return,
            State::Declining { .. } => {
                self.state = self.pause(now);
                return;
            }
            State::Confirming { held, .. } => {
                // It says no more than whether the address belongs here.
                match message.status {
                    status::SUCCESS => self.state = State::Bound { held: held.clone() },
                    status::NOT_ON_LINK => self.lose(now, Loss::Refused, outputs),
                    _ => {}
                }
                return;
            }
            _ => {}
        }
        let held = match &self.state {
            State::Requesting { held, .. } => held.as_ref(),
            State::Renewing { held, .. } | State::Rebinding { held, .. } => Some(held),
            _ => None,
        };
        let address = held.map(|held| held.lease.address).or(self.last);
        let renewed = matches!(self.state, State::Renewing { .. } | State::Rebinding { .. });
        let id = self.identity.association;
        match (
            Lease::read(message, id, from, address),
            &self.state,
            held.is_some(),
        ) {
            (Ok(lease), ..) => {
                let held = Bound { lease, since: sent };
                if expired(&held, now) {
                    return;
                }
                self.last = Some(held.lease.address);
                // Not by the first: another machine may be found to have that address.
                if renewed {
                    self.refusals = 0;
                }
                outputs.push(Output::Bound(held.clone()));
                self.state = State::Bound { held };
            }
            (Err(Refusal::Senseless), ..) | (Err(_), State::Soliciting { .. }, _) => {}
            // The server has forgotten: it is told anew (RFC 8415, section 18.2.10.1).
            (
                Err(Refusal::NoBinding),
                State::Renewing { held, .. } | State::Rebinding { held, .. },
                _,
            ) => {
                let held = held.clone();
                let offer = Offer {
                    server: message.server.clone(),
                    ..offer(&held.lease, 0)
                };
                self.state = self.request(now, offer, Some(held));
            }
            // It lends nothing new, and takes nothing back: the lease is as it was.
            (Err(Refusal::NoAddress), State::Renewing { .. } | State::Rebinding { .. }, _) => {}
            (Err(_), _, true) => {
                self.last = None;
                self.lose(now, Loss::Refused, outputs);
            }
            (Err(_), _, false) => {
                self.last = None;
                self.state = self.pause(now);
            }
        }
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

    /// Sends what the state has just asked.
    fn send(&self, now: Instant, outputs: &mut Vec<Output>) {
        let (exchange, kind, server, address) = match &self.state {
            State::Soliciting { exchange, .. } => (exchange, Kind::Solicit, None, self.last),
            State::Requesting {
                exchange, offer, ..
            } => (
                exchange,
                Kind::Request,
                Some(&offer.server),
                Some(offer.address),
            ),
            State::Confirming { exchange, held } => {
                (exchange, Kind::Confirm, None, Some(held.lease.address))
            }
            State::Renewing { exchange, held } => (
                exchange,
                Kind::Renew,
                Some(&held.lease.server),
                Some(held.lease.address),
            ),
            State::Rebinding { exchange, held } => {
                (exchange, Kind::Rebind, None, Some(held.lease.address))
            }
            State::Declining { exchange, offer } => (
                exchange,
                Kind::Decline,
                Some(&offer.server),
                Some(offer.address),
            ),
            State::Idle { .. } | State::Waiting { .. } | State::Bound { .. } => return,
        };
        if exchange.tries == 0 {
            return;
        }
        let hundredths = now.saturating_duration_since(exchange.began).as_millis() / 10;
        let lent = address.map(|address| Lent {
            address,
            preferred: 0,
            valid: 0,
            status: status::SUCCESS,
        });
        let wanted = match kind {
            Kind::Confirm | Kind::Decline => Vec::new(),
            _ => vec![message::DNS, message::SEARCH, message::LONGEST],
        };
        let message = Message {
            kind,
            transaction: exchange.transaction,
            client: self.identity.duid.clone(),
            server: server.cloned().unwrap_or_default(),
            associations: vec![Association {
                id: self.identity.association,
                addresses: lent.into_iter().collect(),
                ..Association::default()
            }],
            wanted,
            elapsed: Some(hundredths.try_into().unwrap_or(u16::MAX)),
            rapid: kind == Kind::Solicit,
            ..Message::default()
        };
        outputs.push(Output::Send(message.encode()));
    }
}

fn offer(lease: &Lease, preference: u8) -> Offer {
    Offer {
        server: lease.server.clone(),
        address: lease.address,
        preference,
    }
}

fn earliest(one: Instant, other: Option<Instant>) -> Option<Instant> {
    Some(other.map_or(one, |other| other.min(one)))
}

fn expired(held: &Bound, now: Instant) -> bool {
    held.expires().is_some_and(|expires| expires <= now)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
