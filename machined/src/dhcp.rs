//! A DHCPv4 client (RFC 2131). What it decides is in [`client`], without a socket or a
//! clock; the bytes are in [`message`] and [`frame`]; [`clients`] runs one task for each
//! link and publishes the leases. Addresses, routes and resolvers are set elsewhere.
//!
//! The client does not probe an address with ARP before it uses it, so it never sends
//! DHCPDECLINE; it sends no DHCPRELEASE, so that a machine that restarts finds its
//! address again.

mod chance;
mod client;
mod clients;
mod frame;
mod lease;
mod message;
mod socket;

pub(crate) use chance::{Chance, seed};
pub(crate) use client::backoff;
pub(crate) use clients::{Clients, Family, Leases, Leases6, Settings, Status, Told, until};
pub(crate) use lease::domain;

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        lease::{Bound, Lease, Route},
        *,
    };
    use keelson_config::MacAddr;
    use std::{
        net::Ipv4Addr,
        time::{Duration, Instant},
    };

    /// A lease of 10.0.2.15/24 for an hour, just taken, changed as the test needs it.
    pub(crate) fn bound(change: impl FnOnce(&mut Lease)) -> Status {
        let gateway = Ipv4Addr::new(10, 0, 2, 2);
        let mut lease = Lease {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            server: gateway,
            routes: vec![Route {
                to: (Ipv4Addr::UNSPECIFIED, 0),
                via: Some(gateway),
            }],
            dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
            domain: None,
            hostname: None,
            mtu: None,
            duration: Some(Duration::from_secs(3600)),
            renew: Duration::from_secs(1800),
            rebind: Duration::from_secs(3150),
        };
        change(&mut lease);
        Status::Bound {
            bound: Bound {
                lease,
                since: Instant::now(),
            },
            expires: None,
        }
    }

    /// Asks a server to renew a lease, as the client's task does, and gives its answer.
    pub(crate) async fn ask_server(
        link: u32,
        name: &str,
        mac: MacAddr,
        from: Ipv4Addr,
        server: Ipv4Addr,
    ) -> Vec<u8> {
        let raw = socket::Raw::open(link).unwrap();
        let unicast = socket::Unicast::open(name, from).unwrap();
        let request = message::Request {
            kind: message::Kind::Request,
            transaction: 7,
            seconds: 0,
            mac,
            hostname: "",
            client: from,
            requested: None,
            server: None,
        };
        unicast.send(server, &request.encode()).unwrap();
        raw.receive().await.unwrap()
    }
}
