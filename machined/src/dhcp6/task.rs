//! The task of one link: hands the client packets and time, does what it says, and publishes
//! its lease.

use super::{
    client::{Client, Identity, Input, Loss, Output},
    socket::{self, Port},
};
use crate::dhcp::{Leases, Settings, Status, Told, seed, until};
use keelson_config::MacAddr;
use std::{
    io,
    net::Ipv6Addr,
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::watch, time::sleep};

/// Runs the client for as long as the link is there to be asked on.
pub(crate) async fn run(settings: Settings, told: watch::Receiver<Told>, leases: Leases) {
    let identity = Identity {
        duid: duid(settings.mac),
        association: settings.association,
    };
    let mut task = Task {
        client: Client::new(identity, seed()),
        settings,
        told,
        leases,
        port: None,
        last: Told::default(),
    };
    let mut pause = Duration::from_secs(1);
    loop {
        match task.step().await {
            Ok(()) => pause = Duration::from_secs(1),
            Err(error) => {
                tracing::warn!("dhcpv6 on {}: {error}", task.settings.name);
                task.port = None;
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(60));
            }
        }
    }
}

/// A DUID of the link's hardware address (RFC 8415, section 11.4).
fn duid(mac: MacAddr) -> Vec<u8> {
    [&[0, 3, 0, 1], &mac.0[..]].concat()
}

struct Task {
    client: Client,
    settings: Settings,
    told: watch::Receiver<Told>,
    leases: Leases,
    /// The client's port, while it is open.
    port: Option<Port>,
    /// What the client was told last.
    last: Told,
}

impl Task {
    /// Waits for one thing to happen and does what the client makes of it.
    async fn step(&mut self) -> io::Result<()> {
        let told = *self.told.borrow_and_update();
        if told.duplicate != self.last.duplicate {
            self.last.duplicate = told.duplicate;
            if let Some(address) = told.duplicate {
                return self.handle(Input::Duplicate(address));
            }
        }
        if told.up != self.last.up {
            self.last.up = told.up;
            if !told.up {
                return self.handle(Input::LinkDown);
            }
            let Settings { link, name, .. } = &self.settings;
            if let Err(error) = socket::solicit_routers(*link, name) {
                tracing::warn!("asking for routers on {name}: {error}");
            }
            return self.handle(Input::LinkUp);
        }
        if !self.client.listens() {
            self.port = None;
        } else if self.port.is_none() {
            self.port = Some(self.open()?);
        }
        let (message, from) = tokio::select! {
            changed = self.told.changed() => {
                if changed.is_err() {
                    // Nobody will ever say more: the client is being stopped.
                    std::future::pending::<()>().await;
                }
                return Ok(());
            }
            message = receive(self.port.as_ref()) => message?,
            () = until(self.client.deadline()) => return self.handle(Input::Tick),
        };
        self.handle(Input::Message(&message, from))
    }

    fn open(&self) -> io::Result<Port> {
        Port::open(self.settings.link, &self.settings.name)
    }

    fn handle(&mut self, input: Input<'_>) -> io::Result<()> {
        let mut result = Ok(());
        for output in self.client.handle(Instant::now(), input) {
            // The rest is done all the same: what the world must know does not wait for a
            // socket, and what could not be sent is sent again by the client's own clock.
            result = result.and(self.take(output));
        }
        result
    }

    fn take(&mut self, output: Output) -> io::Result<()> {
        let Settings { link, name, .. } = &self.settings;
        let status = match output {
            Output::Send(message) => {
                let port = match self.port.take() {
                    Some(port) => port,
                    None => self.open()?,
                };
                return self.port.insert(port).send(&message);
            }
            Output::Bound(mut bound) => {
                bound.lease.take(self.settings.lease);
                let lease = &bound.lease;
                let (address, from, valid) = (lease.address, lease.from, lease.valid);
                tracing::info!("dhcpv6 on {name}: {address} from {from} for {valid:?}");
                let left = bound
                    .expires()
                    .map(|at| at.saturating_duration_since(Instant::now()));
                let expires = left.map(|left| SystemTime::now() + left);
                Status::Bound { bound, expires }
            }
            Output::Lost(loss) => {
                let reason = match loss {
                    Loss::Expired => "the lease has expired and no server answers",
                    Loss::Refused => "the server refused the address",
                    Loss::Duplicate => "another machine on the link has the address",
                };
                tracing::warn!("dhcpv6 on {name}: {reason}");
                Status::Lost(reason)
            }
            Output::Unanswered => {
                tracing::warn!("dhcpv6 on {name}: no server answers");
                Status::Unanswered
            }
        };
        self.leases.set6(*link, Some(status));
        Ok(())
    }
}

async fn receive(port: Option<&Port>) -> io::Result<(Vec<u8>, Ipv6Addr)> {
    match port {
        Some(port) => port.receive().await,
        None => std::future::pending().await,
    }
}
