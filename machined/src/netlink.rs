//! The kernel's links, addresses, routes and rules over rtnetlink(7): read whole, changed one by
//! one, and watched. Thin: it decides nothing, and no type of the netlink crates leaves
//! this file and its folder.
//!
//! What machined adds carries a mark ([`Mark`]): an address in IFA_PROTO, a route in its
//! protocol, a link in its group, a rule in its protocol. The mark lives in the kernel, so
//! that a new machined knows what the one before it added, and nothing of others is ever
//! taken for ours.

mod address;
mod link;
mod route;
mod rule;

pub(crate) use address::{Address, Unique};
pub(crate) use link::{Kind, Link};
pub(crate) use route::Route;
pub(crate) use rule::Rule;

use crate::engine::Wake;
use anyhow::Context as _;
use futures_util::StreamExt as _;
use rtnetlink::{Handle, MulticastGroup};
use std::{io, time::Duration};
use tokio::time::sleep;

/// Says what machined added for what reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// The config says so.
    Config,
    /// A DHCP lease says so.
    Lease,
    /// This machine holds the address that the servers share.
    Shared,
}

impl Mark {
    /// Numbers that neither the kernel nor a routing daemon uses, see rtnetlink.h and
    /// /etc/iproute2/rt_protos.
    fn number(self) -> u8 {
        match self {
            Mark::Config => 71,
            Mark::Lease => 72,
            Mark::Shared => 73,
        }
    }

    fn from(number: u8) -> Option<Mark> {
        [Mark::Config, Mark::Lease, Mark::Shared]
            .into_iter()
            .find(|mark| mark.number() == number)
    }
}

/// A connection to the kernel. Cheap: made anew for every look.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Connects; within a runtime.
    pub(crate) fn connect() -> anyhow::Result<Netlink> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        // Ends with the last handle.
        tokio::spawn(connection);
        Ok(Netlink { handle })
    }
}

/// How long changes are gathered: the start of a pod is many.
const GATHER: Duration = Duration::from_millis(200);

/// Wakes the loop at every change of a link, an address, a route or a rule, whoever makes it.
/// Never ends; what is missed while it connects again is made good by one more wake.
pub(crate) async fn monitor(wake: Wake) {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    loop {
        match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, _handle, mut messages)) => {
                let connection = tokio::spawn(connection);
                wake.notify_one();
                while messages.next().await.is_some() {
                    sleep(GATHER).await;
                    while let Ok(_more) = messages.try_recv() {}
                    wake.notify_one();
                }
                connection.abort();
            }
            Err(error) => tracing::warn!("watching the network: {error}"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// The kernel's own words for an error, where it sent one.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
