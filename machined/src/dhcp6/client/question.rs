//! What a client sends: the question of the state that it is in.

use super::{
    super::message::{self, Association, Kind, Lent, Message, status},
    Client, Output, State,
};
use std::time::Instant;

impl Client {
    /// Sends what the state has just asked.
    pub(super) fn send(&self, now: Instant, outputs: &mut Vec<Output>) {
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
