//! A DHCPv6 client (RFC 8415) for one address of a link (IA_NA). What it decides is in
//! [`client`], without a socket or a clock; the bytes are in [`message`]; [`task`] runs one
//! for a link and publishes the lease, in the table that DHCPv4 has, too. Addresses and
//! resolvers are set elsewhere; networks and routes are the routers' to tell, and the
//! kernel's to hear.
//!
//! A client is known by the hardware address of its link, as with DHCPv4; see
//! docs/decisions/022-dhcpv6.md. Nothing is released, so that a machine that restarts finds
//! its address again.

mod client;
mod exchange;
mod lease;
mod message;
mod socket;
mod task;

pub(crate) use lease::Bound;
pub(crate) use task::run;

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::message::{Association, Kind, Lent, Message};
    use super::{Bound, lease::Lease};
    use crate::dhcp::Status;
    use std::time::{Duration, Instant};

    /// A lease of 2001:db8::15 for two hours, half of them preferred, just taken, changed as
    /// the test needs it.
    pub(crate) fn bound(change: impl FnOnce(&mut Lease)) -> Status<Bound> {
        let hour = Duration::from_secs(3600);
        let mut lease = Lease {
            address: "2001:db8::15".parse().unwrap(),
            server: vec![0, 3, 0, 1, 2],
            from: "fe80::1".parse().unwrap(),
            dns: vec!["2001:db8::53".parse().unwrap()],
            search: vec!["example.org".into()],
            preferred: Some(hour),
            valid: Some(hour * 2),
            renew: Some(hour / 2),
            rebind: Some(hour / 5 * 4),
        };
        change(&mut lease);
        let since = Instant::now();
        Status::Bound {
            bound: Bound { lease, since },
            expires: None,
        }
    }
}
