//! Links, addresses, routes and leases in a real kernel: two network namespaces of the
//! test's own, a cable between them. Needs root; says so where it is not.

mod dhcp;
mod dhcp6;
mod made;

use super::{address::Addresses, link::Links, route::Routes};
use crate::{dhcp::Leases, engine::Wake, netlink::Netlink, noun::Reconcile as _, resource::Store};
use keelson_config::Machine;
use nix::sched::{CloneFlags, unshare};
use std::{path::Path, thread};
use tokio::runtime::Builder;

const NEAR: &str = "wan0";
const FAR: &str = "server0";

pub(crate) async fn number(netlink: &Netlink, name: &str) -> u32 {
    let links = netlink.links().await.unwrap();
    links.iter().find(|link| link.name == name).unwrap().index
}

/// machined's nouns of the network, and what it is to do.
struct Machined {
    wake: Wake,
    leases: Leases,
    links: Links,
    addresses: Addresses,
    routes: Routes,
    store: Store,
    want: Machine,
}

impl Machined {
    fn start(want: Machine, memory: &Path) -> Machined {
        let wake = Wake::default();
        let leases = Leases::new(wake.clone());
        Machined {
            links: Links::new(leases.clone()),
            addresses: Addresses::new(leases.clone(), vec![memory.to_owned()]),
            routes: Routes::new(leases.clone()),
            leases,
            wake,
            store: Store::new(),
            want,
        }
    }

    /// One pass over the nouns: the steps it took. None may fail.
    async fn pass(&mut self) -> Vec<String> {
        let mut taken = Vec::new();
        for pass in [
            self.links.reconcile(&self.want, &self.store).await,
            self.addresses.reconcile(&self.want, &self.store).await,
            self.routes.reconcile(&self.want, &self.store).await,
        ] {
            assert!(pass.failed.is_empty(), "{:?}", pass.failed);
            taken.extend(pass.taken);
        }
        taken
    }

    /// Passes, until nothing is missing.
    async fn rest(&mut self) {
        for _ in 0..10 {
            if self.pass().await.is_empty() {
                return;
            }
        }
        panic!("there is always something to do: {:?}", self.pass().await);
    }
}

/// Runs in a network namespace of its own, where that is permitted.
pub(crate) fn apart(run: impl Future<Output = ()> + Send + 'static) {
    let test = thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: a network namespace is not permitted here: {error}");
            return;
        }
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run);
    });
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}
