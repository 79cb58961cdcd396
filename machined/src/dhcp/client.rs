//! The client's decisions (RFC 2131, section 4.4): packets and time go in, outputs come
//! out. It has no socket and no clock, and its chance comes from a seed.
//!
//! ```text
//!            link up                 no answer ┌────┐
//!   Idle ──────────────┬─ no address ──> Selecting ─┘
//!    ▲                 │                  │  ▲  ▲
//!    │ link down       │ an old address   │  │  │ refused, or no answer
//!    │ (from anywhere; │             offer│  │  └──────────┐
//!    │  a lease stays) ▼                  ▼  │             │
//!    │              Rebooting ──┐        Requesting ─────> Waiting
//!    │                 │        │ no     │                   ▲
//!    │                 │ ack    │ answer │ ack               │ refused,
//!    │                 ▼        ▼        ▼                   │ or expired
//!    │               Bound <─────────────┘                   │
//!    │                 │ T1 ▲ ack                            │
//!    │                 ▼    │            T2                  │
//!    └──────────── Renewing ┴───────────────> Rebinding ─────┘
//! ```

use super::{
    chance::Chance,
    lease::{Bound, Lease},
    message::{Kind, Reply, Request},
};
use keelson_config::MacAddr;
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// What happens to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input<'a> {
    /// The link has carrier.
    LinkUp,
    /// The link lost it.
    LinkDown,
    /// A message came to the client's port.
    Message(&'a [u8]),
    /// The deadline has come.
    Tick,
}

/// What the client wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send this to everybody on the link.
    Broadcast(Vec<u8>),
    /// Send this from the machine's address to the server's.
    Unicast {
        /// The machine's address.
        from: Ipv4Addr,
        /// The server's.
        to: Ipv4Addr,
        /// The message.
        message: Vec<u8>,
    },
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
}

/// Who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The link's hardware address.
    pub mac: MacAddr,
    /// The name to tell the server; may be empty.
    pub hostname: String,
}

/// One client, for one link.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    identity: Identity,
    state: State,
    /// The last address that was lent, to ask for it again.
    last: Option<Ipv4Addr>,
    chance: Chance,
    /// Refusals in a row, so that a server that always says no is asked ever less often.
    refusals: u32,
}

#[derive(Clone, Debug)]
enum State {
    /// No carrier. A lease may still be held.
    Idle { held: Option<Bound> },
    /// Begins again at this time.
    Waiting { until: Instant },
    /// Looks for a server.
    Selecting { exchange: Exchange },
    /// Has taken an offer.
    Requesting {
        exchange: Exchange,
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// Asks whether an address from before still holds; a lease of it may be in use.
    Rebooting {
        exchange: Exchange,
        address: Ipv4Addr,
        held: Option<Bound>,
    },
    /// Uses a lease.
    Bound { held: Bound },
    /// Asks the server of its lease to go on.
    Renewing { exchange: Exchange, held: Bound },
    /// Asks any server to go on.
    Rebinding { exchange: Exchange, held: Bound },
}

/// A question, until it is answered.
#[derive(Clone, Debug)]
struct Exchange {
    transaction: u32,
    began: Instant,
    /// When it was asked last.
    sent: Instant,
    /// How often it was asked.
    tries: u32,
    /// When to ask again.
    again: Instant,
}

/// Unanswered questions before the world is told.
const PATIENCE: u32 = 4;
/// How often an offer is requested before another is sought.
const REQUESTS: u32 = 4;
/// How often an old address is asked for before a new one is sought.
const REBOOTS: u32 = 3;
/// RFC 2131, section 4.4.5: renewing and rebinding wait at least this long.
const LEAST_RENEWAL: Duration = Duration::from_secs(60);

impl Client {
    /// A client on a link without carrier. `last` is the address that it had in an earlier
    /// life; `seed` must differ between machines and lives.
    pub(crate) fn new(identity: Identity, last: Option<Ipv4Addr>, seed: u64) -> Self {
        Client {
            identity,
            state: State::Idle { held: None },
            last,
            chance: Chance::new(seed),
            refusals: 0,
        }
    }

    /// When to call [`Client::handle`] with a tick at the latest; `None` is never.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle { held } => held.as_ref()?.expires(),
            State::Waiting { until } => Some(*until),
            State::Selecting { exchange } | State::Requesting { exchange, .. } => {
                Some(exchange.again)
            }
            State::Rebooting { exchange, held, .. } => {
                let expires = held.as_ref().and_then(Bound::expires);
                Some(expires.map_or(exchange.again, |expires| expires.min(exchange.again)))
            }
            State::Bound { held } => held.renews(),
            State::Renewing { exchange, held } => earliest(exchange.again, held.rebinds()),
            State::Rebinding { exchange, held } => earliest(exchange.again, held.expires()),
        }
    }

    /// Whether messages are awaited: while not, the link need not be listened to.
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
            Input::LinkUp => self.link_up(now, &mut outputs),
            Input::LinkDown => self.link_down(),
            Input::Message(bytes) => {
                if let Some(reply) = Reply::decode(bytes, self.identity.mac) {
                    self.reply(now, &reply, &mut outputs);
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
        match self.take() {
            State::Idle { held } => {
                self.state = State::Idle { held: None };
                if held.is_some() {
                    outputs.push(Output::Lost(Loss::Expired));
                }
            }
            State::Waiting { .. } => self.select(now, outputs),
            State::Selecting { mut exchange } => {
                if exchange.tries == PATIENCE {
                    outputs.push(Output::Unanswered);
                }
                self.ask_again(&mut exchange, now);
                self.state = State::Selecting { exchange };
                self.send(outputs);
            }
            State::Requesting { exchange, .. } if exchange.tries >= REQUESTS => {
                self.wait(now);
            }
            State::Requesting {
                mut exchange,
                address,
                server,
            } => {
                self.ask_again(&mut exchange, now);
                self.state = State::Requesting {
                    exchange,
                    address,
                    server,
                };
                self.send(outputs);
            }
            State::Rebooting {
                held: Some(held), ..
            } if expired(&held, now) => {
                self.lose(now, Loss::Expired, outputs);
            }
            // Nobody says that the lease does not hold: it does, until it expires.
            State::Rebooting {
                exchange,
                held: Some(held),
                ..
            } if exchange.tries >= REBOOTS => {
                self.state = State::Bound { held };
            }
            State::Rebooting {
                exchange,
                held: None,
                ..
            } if exchange.tries >= REBOOTS => {
                self.select(now, outputs);
            }
            State::Rebooting {
                mut exchange,
                address,
                held,
            } => {
                self.ask_again(&mut exchange, now);
                self.state = State::Rebooting {
                    exchange,
                    address,
                    held,
                };
                self.send(outputs);
            }
            State::Bound { held } => {
                let mut exchange = self.exchange(now);
                exchange.again = now + renewal_pause(now, held.rebinds());
                self.state = State::Renewing { exchange, held };
                self.send(outputs);
            }
            State::Renewing { mut exchange, held } => {
                if held.rebinds().is_some_and(|rebinds| rebinds <= now) {
                    let mut exchange = self.exchange(now);
                    exchange.again = now + renewal_pause(now, held.expires());
                    self.state = State::Rebinding { exchange, held };
                } else {
                    exchange.ask(now, renewal_pause(now, held.rebinds()));
                    self.state = State::Renewing { exchange, held };
                }
                self.send(outputs);
            }
            State::Rebinding { mut exchange, held } => {
                if expired(&held, now) {
                    self.lose(now, Loss::Expired, outputs);
                } else {
                    exchange.ask(now, renewal_pause(now, held.expires()));
                    self.state = State::Rebinding { exchange, held };
                    self.send(outputs);
                }
            }
        }
    }

    fn link_up(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let State::Idle { held } = &mut self.state else {
            return;
        };
        let held = held.take();
        match held.as_ref().map(|held| held.lease.address).or(self.last) {
            // The cable may lead to another network by now.
            Some(address) => {
                let exchange = self.exchange(now);
                self.state = State::Rebooting {
                    exchange,
                    address,
                    held,
                };
                self.send(outputs);
            }
            None => self.select(now, outputs),
        }
    }

    fn link_down(&mut self) {
        let held = match self.take() {
            State::Idle { held } | State::Rebooting { held, .. } => held,
            State::Bound { held }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held),
            State::Waiting { .. } | State::Selecting { .. } | State::Requesting { .. } => None,
        };
        self.state = State::Idle { held };
    }

    fn reply(&mut self, now: Instant, reply: &Reply, outputs: &mut Vec<Output>) {
        let (exchange, from) = match &self.state {
            State::Selecting { exchange } | State::Rebooting { exchange, .. } => (exchange, None),
            State::Requesting {
                exchange, server, ..
            } => (exchange, Some(*server)),
            // A refusal from elsewhere must not end a lease that its own server keeps.
            State::Renewing { exchange, held } => (exchange, Some(held.lease.server)),
            State::Rebinding { exchange, .. } => (exchange, None),
            State::Idle { .. } | State::Waiting { .. } | State::Bound { .. } => return,
        };
        let sent = exchange.sent;
        if reply.transaction != exchange.transaction
            || from.is_some_and(|from| reply.server != Some(from))
        {
            return;
        }
        let selecting = matches!(self.state, State::Selecting { .. });
        match (reply.kind, selecting) {
            (Kind::Offer, true) => {
                let Some(lease) = Lease::read(reply) else {
                    return;
                };
                let mut exchange = self.exchange(now);
                // RFC 2131, table 5: the request carries the offer's transaction.
                exchange.transaction = reply.transaction;
                let (address, server) = (lease.address, lease.server);
                self.state = State::Requesting {
                    exchange,
                    address,
                    server,
                };
                self.send(outputs);
            }
            (Kind::Ack, false) => {
                let Some(lease) = Lease::read(reply) else {
                    return;
                };
                let held = Bound { lease, since: sent };
                if expired(&held, now) {
                    return;
                }
                self.last = Some(held.lease.address);
                self.refusals = 0;
                outputs.push(Output::Bound(held.clone()));
                self.state = State::Bound { held };
            }
            (Kind::Nak, false) => {
                let held = !matches!(
                    self.state,
                    State::Requesting { .. } | State::Rebooting { held: None, .. }
                );
                self.last = None;
                if held {
                    self.lose(now, Loss::Refused, outputs);
                } else if matches!(self.state, State::Rebooting { .. }) && self.refusals == 0 {
                    self.refusals = 1;
                    self.select(now, outputs);
                } else {
                    self.wait(now);
                }
            }
            _ => {}
        }
    }

    /// Gives the lease up and begins again.
    fn lose(&mut self, now: Instant, loss: Loss, outputs: &mut Vec<Output>) {
        outputs.push(Output::Lost(loss));
        self.wait(now);
    }

    /// Begins again after a pause that grows with every failure in a row.
    fn wait(&mut self, now: Instant) {
        let until = now + self.chance.around(backoff(self.refusals));
        self.refusals = self.refusals.saturating_add(1);
        self.state = State::Waiting { until };
    }

    fn select(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let exchange = self.exchange(now);
        self.state = State::Selecting { exchange };
        self.send(outputs);
    }

    fn exchange(&mut self, now: Instant) -> Exchange {
        let pause = self.chance.around(backoff(0));
        Exchange {
            transaction: self.chance.next() as u32,
            began: now,
            sent: now,
            tries: 1,
            again: now + pause,
        }
    }

    fn ask_again(&mut self, exchange: &mut Exchange, now: Instant) {
        let pause = self.chance.around(backoff(exchange.tries));
        exchange.ask(now, pause);
    }

    /// Leaves an idle state behind; every caller puts the next one in its place.
    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Idle { held: None })
    }

    /// Sends what the state asks for (RFC 2131, table 5).
    fn send(&self, outputs: &mut Vec<Output>) {
        let any = Ipv4Addr::UNSPECIFIED;
        let (exchange, client, requested, server, to) = match &self.state {
            State::Selecting { exchange } => (exchange, any, self.last, None, None),
            State::Requesting {
                exchange,
                address,
                server,
            } => (exchange, any, Some(*address), Some(*server), None),
            State::Rebooting {
                exchange, address, ..
            } => (exchange, any, Some(*address), None, None),
            State::Renewing { exchange, held } => (
                exchange,
                held.lease.address,
                None,
                None,
                Some(held.lease.server),
            ),
            State::Rebinding { exchange, held } => (exchange, held.lease.address, None, None, None),
            State::Idle { .. } | State::Waiting { .. } | State::Bound { .. } => return,
        };
        let selecting = matches!(self.state, State::Selecting { .. });
        let seconds = exchange
            .sent
            .saturating_duration_since(exchange.began)
            .as_secs();
        let message = Request {
            kind: if selecting {
                Kind::Discover
            } else {
                Kind::Request
            },
            transaction: exchange.transaction,
            seconds: seconds.try_into().unwrap_or(u16::MAX),
            mac: self.identity.mac,
            hostname: &self.identity.hostname,
            client,
            requested,
            server,
        }
        .encode();
        outputs.push(match to {
            Some(to) => Output::Unicast {
                from: client,
                to,
                message,
            },
            None => Output::Broadcast(message),
        });
    }
}

impl Exchange {
    fn ask(&mut self, now: Instant, pause: Duration) {
        self.sent = now;
        self.tries = self.tries.saturating_add(1);
        self.again = now + pause;
    }
}

/// 2, 4, 8, … 64 seconds. RFC 2131 begins with 4 for the networks of its day.
pub(crate) fn backoff(tries: u32) -> Duration {
    Duration::from_secs(2 << tries.min(5))
}

/// Half of the time that is left, but not less than a minute.
fn renewal_pause(now: Instant, until: Option<Instant>) -> Duration {
    let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
    (left / 2).max(LEAST_RENEWAL)
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
