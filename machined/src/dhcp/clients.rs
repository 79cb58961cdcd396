//! One task for each link and family that asks for an address, and the table of what they
//! got. What a task of IPv6 does is in `dhcp6`.
//!
//! The last address of each link is remembered by its hardware address in two places: in
//! `/run`, so that a machined that is started again asks for the same one, and in STATE,
//! so that a machine does.

use super::{
    chance::seed,
    client::{Client, Identity, Input, Loss, Output},
    lease::Bound,
    socket::{Raw, Unicast},
};
use crate::{dhcp6, engine::Wake};
use keelson_config::{LeaseUse, MacAddr};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, sleep_until},
};

/// Where the client of a link stands; its leases are DHCPv4's or DHCPv6's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Status<B = Bound> {
    /// It asks, and nobody has said no. What an earlier machined was lent may still hold.
    Asking,
    /// It has asked for a while and nobody answers; it goes on.
    Unanswered,
    /// It was lent an address.
    Bound {
        /// The lease.
        bound: B,
        /// When it ends, by the clock, for a person.
        expires: Option<SystemTime>,
    },
    /// What it was lent is gone, and why.
    Lost(&'static str),
}

impl<B> Status<B> {
    /// The lease, where there is one.
    pub(crate) fn bound(&self) -> Option<&B> {
        match self {
            Status::Bound { bound, .. } => Some(bound),
            _ => None,
        }
    }
}

/// Where the clients of DHCPv6 stand, by the link's number.
pub(crate) type Leases6 = BTreeMap<u32, Status<dhcp6::Bound>>;

/// What every client got, by the link's number. All may read it, the clients write it.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    table: Arc<watch::Sender<Table>>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Table {
    v4: BTreeMap<u32, Status>,
    v6: Leases6,
}

/// Changes a place in a table; whether it is another now.
fn enter<S: PartialEq + Clone>(table: &mut BTreeMap<u32, S>, link: u32, status: Option<S>) -> bool {
    match status {
        Some(status) => table.insert(link, status.clone()).as_ref() != Some(&status),
        None => table.remove(&link).is_some(),
    }
}

impl Leases {
    /// An empty table, whose changes wake the loop.
    pub(crate) fn new(wake: Wake) -> Leases {
        Leases {
            table: Arc::new(watch::Sender::default()),
            wake,
        }
    }

    /// The table of DHCPv4 as it is now.
    pub(crate) fn all(&self) -> BTreeMap<u32, Status> {
        self.table.borrow().v4.clone()
    }

    /// The table of DHCPv6 as it is now.
    pub(crate) fn all6(&self) -> Leases6 {
        self.table.borrow().v6.clone()
    }

    /// Says where the client of a link stands; `None` is that there is none any more.
    pub(crate) fn set(&self, link: u32, status: Option<Status>) {
        self.change(|table| enter(&mut table.v4, link, status));
    }

    /// The same, of DHCPv6.
    pub(crate) fn set6(&self, link: u32, status: Option<Status<dhcp6::Bound>>) {
        self.change(|table| enter(&mut table.v6, link, status));
    }

    fn change(&self, change: impl FnOnce(&mut Table) -> bool) {
        if self.table.send_if_modified(change) {
            self.wake.notify_one();
        }
    }
}

/// Which of the two protocols a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// DHCPv4.
    V4,
    /// DHCPv6.
    V6,
}

/// What a client is told of its link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// It can be used: it has carrier and, for IPv6, a link-local address of its own.
    pub up: bool,
    /// Another machine has this address, which the client was lent.
    pub duplicate: Option<Ipv6Addr>,
}

/// What a client is started with. A client whose settings change is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What it speaks.
    pub family: Family,
    /// The link's number.
    pub link: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: MacAddr,
    /// The name to tell the server; may be empty, and is for DHCPv6.
    pub hostname: String,
    /// The number of the address that is asked for (IAID); 0 for DHCPv4.
    pub association: u32,
    /// What is taken of the lease.
    pub lease: LeaseUse,
}

/// The running clients.
#[derive(Debug)]
pub(crate) struct Clients {
    leases: Leases,
    memory: Memory,
    running: BTreeMap<(u32, Family), Running>,
}

#[derive(Debug)]
struct Running {
    settings: Settings,
    told: watch::Sender<Told>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Clients {
    /// No clients yet. Addresses are remembered in the directories that are there.
    pub(crate) fn new(leases: Leases, memory: Vec<PathBuf>) -> Clients {
        Clients {
            leases,
            memory: Memory(memory),
            running: BTreeMap::new(),
        }
    }

    /// What the clients were started with.
    pub(crate) fn settings(&self) -> Vec<Settings> {
        self.running
            .values()
            .map(|running| running.settings.clone())
            .collect()
    }

    /// Starts a client, in place of the one that the link has.
    pub(crate) fn start(&mut self, settings: Settings, told: Told) {
        let Settings { link, family, .. } = settings;
        self.running.remove(&(link, family));
        let (sender, receiver) = watch::channel(told);
        // What it was lent stays until its server is heard; `set` tells where it stands.
        let task = match family {
            Family::V4 => {
                let leases = self.leases.clone();
                if unbound(leases.all().get(&link)) {
                    leases.set(link, Some(Status::Asking));
                }
                let task = Task {
                    settings: settings.clone(),
                    told: receiver,
                    leases,
                    memory: self.memory.clone(),
                };
                tokio::spawn(task.run())
            }
            Family::V6 => {
                let leases = self.leases.clone();
                if unbound(leases.all6().get(&link)) {
                    leases.set6(link, Some(Status::Asking));
                }
                tokio::spawn(dhcp6::run(settings.clone(), receiver, leases))
            }
        };
        let running = Running {
            told: sender,
            task,
            settings,
        };
        self.running.insert((link, family), running);
    }

    /// Stops a client of a link. Its lease is not given back: it is not used any more.
    pub(crate) fn stop(&mut self, link: u32, family: Family) {
        self.running.remove(&(link, family));
        self.forget(link, family);
    }

    fn forget(&self, link: u32, family: Family) {
        match family {
            Family::V4 => self.leases.set(link, None),
            Family::V6 => self.leases.set6(link, None),
        }
    }

    /// Forgets what a client said with its last breath, after it was stopped.
    pub(crate) fn tidy(&self) {
        let v4 = self.leases.all().into_keys().map(|link| (link, Family::V4));
        let v6 = self
            .leases
            .all6()
            .into_keys()
            .map(|link| (link, Family::V6));
        for (link, family) in v4.chain(v6) {
            if !self.running.contains_key(&(link, family)) {
                self.forget(link, family);
            }
        }
    }

    /// Tells a client how its link is.
    pub(crate) fn tell(&self, link: u32, family: Family, told: Told) {
        if let Some(running) = self.running.get(&(link, family)) {
            running
                .told
                .send_if_modified(|old| std::mem::replace(old, told) != told);
        }
    }
}

fn unbound<B>(status: Option<&Status<B>>) -> bool {
    status.is_none_or(|status| status.bound().is_none())
}

struct Task {
    settings: Settings,
    told: watch::Receiver<Told>,
    leases: Leases,
    memory: Memory,
}

/// The sockets that a client has open now.
#[derive(Default)]
struct Sockets {
    raw: Option<Raw>,
    unicast: Option<Unicast>,
}

impl Task {
    /// Runs the client for as long as the link is there to be asked on.
    async fn run(mut self) {
        let last = self.memory.read(self.settings.mac);
        let identity = Identity {
            mac: self.settings.mac,
            hostname: self.settings.hostname.clone(),
        };
        let mut client = Client::new(identity, last, seed());
        let mut sockets = Sockets::default();
        let mut pause = Duration::from_secs(1);
        let mut up = false;
        loop {
            match self.step(&mut client, &mut sockets, &mut up).await {
                Ok(()) => pause = Duration::from_secs(1),
                Err(error) => {
                    tracing::warn!("dhcp on {}: {error}", self.settings.name);
                    sockets = Sockets::default();
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(60));
                }
            }
        }
    }

    /// Waits for one thing to happen and does what the client makes of it.
    async fn step(
        &mut self,
        client: &mut Client,
        sockets: &mut Sockets,
        up: &mut bool,
    ) -> io::Result<()> {
        let carrier = self.told.borrow_and_update().up;
        if carrier != *up {
            *up = carrier;
            let input = if carrier {
                Input::LinkUp
            } else {
                Input::LinkDown
            };
            return self.handle(client, sockets, input);
        }
        if client.listens() && sockets.raw.is_none() {
            sockets.raw = Some(Raw::open(self.settings.link)?);
        } else if !client.listens() {
            // While nothing is awaited, nothing is looked at: not every packet of the link.
            *sockets = Sockets::default();
        }
        let deadline = client.deadline();
        let message = tokio::select! {
            changed = self.told.changed() => {
                if changed.is_err() {
                    // Nobody will ever say more: the client is being stopped.
                    std::future::pending::<()>().await;
                }
                return Ok(());
            }
            message = receive(sockets.raw.as_ref()) => message?,
            () = until(deadline) => return self.handle(client, sockets, Input::Tick),
        };
        self.handle(client, sockets, Input::Message(&message))
    }

    fn handle(
        &self,
        client: &mut Client,
        sockets: &mut Sockets,
        input: Input<'_>,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for output in client.handle(Instant::now(), input) {
            let done = self.take(sockets, output);
            // The rest is done all the same: what the world must know does not wait for a
            // socket, and what could not be sent is sent again by the client's own clock.
            result = result.and(done);
        }
        result
    }

    fn take(&self, sockets: &mut Sockets, output: Output) -> io::Result<()> {
        let Settings { link, name, .. } = &self.settings;
        match output {
            Output::Broadcast(message) => {
                let raw = match sockets.raw.take() {
                    Some(raw) => raw,
                    None => Raw::open(*link)?,
                };
                sockets.raw.insert(raw).broadcast(&message)?;
            }
            Output::Unicast { from, to, message } => {
                let unicast = match sockets.unicast.take().filter(|open| open.from() == from) {
                    Some(unicast) => unicast,
                    None => Unicast::open(name, from)?,
                };
                // The answer is awaited before the question is asked.
                if sockets.raw.is_none() {
                    sockets.raw = Some(Raw::open(*link)?);
                }
                sockets.unicast.insert(unicast).send(to, &message)?;
            }
            Output::Bound(mut bound) => {
                bound.lease.take(self.settings.lease);
                let lease = &bound.lease;
                tracing::info!(
                    "dhcp on {name}: {}/{} from {} for {:?}",
                    lease.address,
                    lease.prefix,
                    lease.server,
                    lease.duration
                );
                self.memory.write(self.settings.mac, lease.address);
                let left = bound
                    .expires()
                    .map(|at| at.saturating_duration_since(Instant::now()));
                let expires = left.map(|left| SystemTime::now() + left);
                self.leases
                    .set(*link, Some(Status::Bound { bound, expires }));
            }
            Output::Lost(loss) => {
                let reason = match loss {
                    Loss::Expired => "the lease has expired and no server answers",
                    Loss::Refused => "the server refused the address",
                };
                tracing::warn!("dhcp on {name}: {reason}");
                self.leases.set(*link, Some(Status::Lost(reason)));
            }
            Output::Unanswered => {
                tracing::warn!("dhcp on {name}: no server answers");
                self.leases.set(*link, Some(Status::Unanswered));
            }
        }
        Ok(())
    }
}

async fn receive(raw: Option<&Raw>) -> io::Result<Vec<u8>> {
    match raw {
        Some(raw) => raw.receive().await,
        None => std::future::pending().await,
    }
}

/// Waits for a client's deadline; `None` never comes.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Remembers addresses, in every directory that is there.
#[derive(Clone, Debug)]
struct Memory(Vec<PathBuf>);

/// `<mac>.lease`, JSON. A version that is not known is forgotten.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Remembered {
    version: u32,
    address: Ipv4Addr,
}

const VERSION: u32 = 1;

impl Memory {
    /// The last address of a link. What cannot be read was never there: the client then
    /// begins as on its first day.
    fn read(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.0.iter().find_map(|directory| {
            let text = fs::read(directory.join(file_name(mac))).ok()?;
            parse(&text)
        })
    }

    /// Remembers an address. Where it cannot be, the next start costs two packets more.
    fn write(&self, mac: MacAddr, address: Ipv4Addr) {
        if self
            .0
            .iter()
            .all(|directory| known(directory, mac) == Some(address))
        {
            return;
        }
        let text = match serde_json::to_vec(&Remembered {
            version: VERSION,
            address,
        }) {
            Ok(text) => text,
            Err(error) => return tracing::warn!("remembering {address}: {error}"),
        };
        for directory in &self.0 {
            match put(directory, mac, &text) {
                Ok(()) => {}
                // STATE is not mounted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                Err(error) => {
                    tracing::warn!("remembering {address} in {}: {error}", directory.display());
                }
            }
        }
    }
}

/// Writes one file whole. It is not flushed: what a cut of power takes is asked for anew.
fn put(directory: &Path, mac: MacAddr, text: &[u8]) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = directory.join(file_name(mac));
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, &path)
}

fn known(directory: &Path, mac: MacAddr) -> Option<Ipv4Addr> {
    parse(&fs::read(directory.join(file_name(mac))).ok()?)
}

fn parse(text: &[u8]) -> Option<Ipv4Addr> {
    let remembered: Remembered = serde_json::from_slice(text).ok()?;
    (remembered.version == VERSION).then_some(remembered.address)
}

fn file_name(mac: MacAddr) -> String {
    format!("{mac}.lease").replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn an_address_is_remembered_where_there_is_a_place() {
        let (run, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let missing = run.path().join("not/mounted");
        let memory = Memory(vec![missing, run.path().join("made"), state.path().into()]);
        assert_eq!(memory.read(MAC), None);
        let address = Ipv4Addr::new(10, 0, 2, 15);
        memory.write(MAC, address);
        assert_eq!(memory.read(MAC), Some(address));
        let after_a_boot = Memory(vec![state.path().into()]);
        assert_eq!(after_a_boot.read(MAC), Some(address));
        assert_eq!(after_a_boot.read(MacAddr([1; 6])), None);
    }

    #[test]
    fn the_first_version_of_the_file_is_read_for_good() {
        let text = r#"{"version":1,"address":"10.0.2.15"}"#;
        assert_eq!(parse(text.as_bytes()), Some(Ipv4Addr::new(10, 0, 2, 15)));
        for text in [
            "",
            "{}",
            "{\"version\":2,\"address\":\"10.0.2.15\"}",
            "\0\0\0",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(file_name(MAC), "52-54-00-12-34-56.lease");
    }

    #[tokio::test]
    async fn a_change_of_the_table_wakes_and_the_same_again_does_not() {
        let wake = Wake::default();
        let leases = Leases::new(wake.clone());
        leases.set(2, Some(Status::Asking));
        wake.notified().await;
        leases.set(2, Some(Status::Asking));
        leases.set(3, None);
        let woken = tokio::time::timeout(Duration::from_millis(20), wake.notified()).await;
        assert!(woken.is_err());
        assert_eq!(leases.all().len(), 1);
    }
}
