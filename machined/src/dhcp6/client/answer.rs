//! What an answer means to a client: offers, leases and refusals (RFC 8415, sections
//! 18.2.9 and 18.2.10).

use super::{
    super::{
        lease::{Bound, Lease, Refusal},
        message::{Kind, Message, status},
    },
    AT_ONCE, Client, Loss, Offer, Output, SOLICIT_LONGEST, State, expired,
};
use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

impl Client {
    pub(super) fn message(
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
        let offer = Offer::of(&lease, message.preference);
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
        let held = self.state.held();
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
                    ..Offer::of(&held.lease, 0)
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
}
