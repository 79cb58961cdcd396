//! Where a client stands, and when it goes on by itself.

use super::super::{
    exchange::Exchange,
    lease::{Bound, Lease},
};
use std::{net::Ipv6Addr, time::Instant};

#[derive(Clone, Debug)]
pub(super) enum State {
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
pub(super) struct Offer {
    pub server: Vec<u8>,
    pub address: Ipv6Addr,
    pub preference: u8,
}

impl Offer {
    pub(super) fn of(lease: &Lease, preference: u8) -> Offer {
        Offer {
            server: lease.server.clone(),
            address: lease.address,
            preference,
        }
    }
}

impl State {
    /// When something has to be done at the latest; `None` is never.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
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
    pub(super) fn listens(&self) -> bool {
        !matches!(
            self,
            State::Idle { .. } | State::Waiting { .. } | State::Bound { .. }
        )
    }

    /// The lease, where there is one.
    pub(super) fn held(&self) -> Option<&Bound> {
        match self {
            State::Idle { held } | State::Requesting { held, .. } => held.as_ref(),
            State::Confirming { held, .. }
            | State::Bound { held }
            | State::Renewing { held, .. }
            | State::Rebinding { held, .. } => Some(held),
            State::Waiting { .. } | State::Soliciting { .. } | State::Declining { .. } => None,
        }
    }
}

fn earliest(one: Instant, other: Option<Instant>) -> Option<Instant> {
    Some(other.map_or(one, |other| other.min(one)))
}
