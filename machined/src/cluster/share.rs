//! Which server holds the address that they share. A lease in the cluster says so (a
//! `Lease` of coordination.k8s.io): whoever renews it has the address, and when nobody
//! does, the first that sees it takes it over. So a server without an API server that
//! works never has the address, and no two have it as long as their clocks run at the
//! same speed: what the clocks show is not asked.
//!
//! Where the address is put, and that it goes, is the noun's (`nouns/virtualaddress.rs`); this
//! task only says whether this machine holds it.

use super::client::{Client, Failure};
use crate::{
    cluster::access,
    engine::{Wake, Wanted},
    events::Events,
    orchestrator::{Member, Orchestrator},
};
use keelson_api::v1::service::State;
use serde::Deserialize;
use serde_json::json;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

/// How often the lease is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// How long it holds after it was renewed.
const DURATION: Duration = Duration::from_secs(10);

/// Whoever could not renew it for this long gives the address up, before another takes it.
const DEADLINE: Duration = Duration::from_secs(7);

/// How long the address may take to be gone. Where it takes longer the lease is not given up, and
/// runs out.
const GONE: Duration = Duration::from_secs(2);

/// No lease is believed to hold longer than this, whatever it says.
const LONGEST: Duration = Duration::from_secs(60);

/// Where leases are.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// Its name.
const NAME: &str = "keelson-virtual-address";

/// Who has the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody has asked since this machined was started.
    #[default]
    Unknown,
    /// Nobody, as far as this machine knows, and why.
    Nobody(&'static str),
    /// This machine.
    Here,
    /// The server of this name.
    Other(String),
}

/// What the task and the noun tell each other.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    holder: Arc<watch::Sender<Holder>>,
    /// There is a link to put the address on.
    place: Arc<watch::Sender<bool>>,
    /// The address may be on a link, or come to be on one.
    answers: Arc<watch::Sender<bool>>,
    wake: Wake,
}

impl Shared {
    /// Changes of the holder wake the loop.
    pub(crate) fn new(wake: Wake) -> Shared {
        Shared {
            holder: Arc::default(),
            place: Arc::default(),
            answers: Arc::default(),
            wake,
        }
    }

    /// Who has it.
    pub(crate) fn holder(&self) -> Holder {
        self.holder.borrow().clone()
    }

    /// Says whether there is a link for it: without one this machine does not want it.
    pub(crate) fn offer_place(&self, there: bool) {
        self.place.send_if_modified(|place| {
            let changed = *place != there;
            *place = there;
            changed
        });
    }

    /// Says what the noun saw: who had it then, and whether it was on a link.
    pub(crate) fn saw(&self, holder: &Holder, on_a_link: bool) {
        self.answers
            .send_replace(on_a_link || *holder == Holder::Here);
    }

    /// Whether the address may be on a link, or come to be on one.
    #[cfg(test)]
    pub(crate) fn answers(&self) -> bool {
        *self.answers.borrow()
    }

    /// Says who has it; whether that is news.
    pub(crate) fn settle(&self, holder: Holder) -> bool {
        if holder == Holder::Here {
            self.answers.send_replace(true);
        }
        let changed = self.holder.send_if_modified(|old| {
            let changed = *old != holder;
            *old = holder;
            changed
        });
        if changed {
            self.wake.notify_one();
        }
        changed
    }
}

/// What the task stands on.
pub(crate) struct Ground {
    pub shared: Shared,
    pub wanted: watch::Receiver<Wanted>,
    pub orchestrator: Orchestrator,
    /// The machine goes down.
    pub ending: Arc<AtomicBool>,
    pub events: Arc<Events>,
}

impl Ground {
    /// Who this machine is to the cluster, where it may hold the address now; else why not.
    fn contender(&self) -> Result<Member, &'static str> {
        if self.ending.load(Ordering::Relaxed) {
            return Err("this machine goes down");
        }
        if !*self.shared.place.borrow() {
            return Err("no link is in its network");
        }
        let status = self.orchestrator.status();
        let status = status.borrow();
        let serves = |member: &&Member| member.role == access::Role::Server;
        match status.member.as_ref().filter(serves) {
            Some(member) if status.service == State::Running => Ok(member.clone()),
            _ => Err("the orchestrator does not run here yet"),
        }
    }

    fn address(&self) -> Option<IpAddr> {
        let wanted = self.wanted.borrow();
        Some(wanted.machine.network.virtual_address.as_ref()?.address)
    }

    fn settle(&self, holder: Holder, address: IpAddr) {
        let before = self.shared.holder();
        let words = match &holder {
            Holder::Here => format!("{address} is answered here now"),
            _ if before == Holder::Here => format!("{address} is not answered here any more"),
            _ => String::new(),
        };
        if self.shared.settle(holder) && !words.is_empty() {
            self.events.say("virtualaddress", words);
        }
    }
}

/// Takes part for as long as the config wants it. Runs until it is aborted.
pub(crate) async fn keep(ground: Ground) {
    let mut contest = Contest::default();
    let known_by = Instant::now() + DEADLINE;
    loop {
        match (ground.address(), ground.contender()) {
            (None, _) => {
                contest = Contest::default();
                ground.shared.settle(Holder::Unknown);
                let mut wanted = ground.wanted.clone();
                let is_wanted = |wanted: &Wanted| wanted.machine.network.virtual_address.is_some();
                if wanted.wait_for(is_wanted).await.is_err() {
                    return;
                }
                continue;
            }
            (Some(address), Err(why)) => {
                if ground.shared.holder() == Holder::Here {
                    give_up(&ground, &mut contest, address, why).await;
                }
                // What an earlier machined put there stays for a moment: it may well be right.
                if ground.shared.holder() != Holder::Unknown || Instant::now() >= known_by {
                    ground.settle(Holder::Nobody(why), address);
                }
            }
            (Some(address), Ok(member)) => {
                let holder = contest.turn(&ground, &member).await;
                ground.settle(holder, address);
            }
        }
        sleep(EVERY).await;
    }
}

/// Lets the address go here first, then lets others have it.
async fn give_up(ground: &Ground, contest: &mut Contest, address: IpAddr, why: &'static str) {
    ground.settle(Holder::Nobody(why), address);
    let mut answers = ground.shared.answers.subscribe();
    if timeout(GONE, answers.wait_for(|answers| !answers))
        .await
        .is_err()
    {
        tracing::warn!(
            "{address} is still answered here; another takes it when the lease runs out"
        );
        contest.renewed = None;
        return;
    }
    if let Some(client) = ground.client()
        && let Err(failure) = contest.release(&client).await
    {
        tracing::warn!("giving {address} up: {failure}; another takes it in a moment");
    }
}

impl Ground {
    fn client(&self) -> Option<Client> {
        let payload = self.orchestrator.payload()?;
        access::client(&payload.data_dir, access::Role::Server)
            .inspect_err(|error| tracing::debug!("no client for the lease: {error:#}"))
            .ok()
    }
}

/// A lease, as far as it counts here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lease {
    /// What a change must name, so that no other came between.
    version: String,
    holder: String,
    /// When it was renewed, in its holder's words.
    renewed: String,
    holds: Duration,
    transitions: u64,
}

/// What this machine knows of the lease.
#[derive(Default)]
struct Contest {
    /// It, and when it was seen to change.
    seen: Option<(Lease, Instant)>,
    /// When this machine renewed it, the moment before it asked, and by which name.
    renewed: Option<(Instant, String)>,
}

impl Contest {
    /// Looks at the lease, renews it, or takes it over; who has it afterwards.
    async fn turn(&mut self, ground: &Ground, member: &Member) -> Holder {
        let outcome = match ground.client() {
            Some(client) => {
                let begin = Instant::now();
                let end = match (&self.renewed, ground.shared.holder()) {
                    // What it holds it may not hold for longer.
                    (Some((at, _)), Holder::Here) => *at + DEADLINE,
                    _ => begin + DEADLINE,
                };
                match timeout_at(end, self.step(&client, &member.name)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(Failure::Away("it took too long".into())),
                }
            }
            None => Err(Failure::Away("its certificates are not there yet".into())),
        };
        match outcome {
            Ok(holder) => holder,
            Err(failure) => {
                tracing::debug!("the lease of the virtual address: {failure}");
                self.without_answer(Instant::now(), &ground.shared.holder())
            }
        }
    }

    /// Who has the address while nothing is heard of the lease.
    fn without_answer(&self, now: Instant, before: &Holder) -> Holder {
        match (before, &self.renewed) {
            // The next look comes after a pause, and must not come too late.
            (Holder::Here, Some((at, _))) if now + EVERY < *at + DEADLINE => Holder::Here,
            _ => Holder::Nobody("the API server does not answer here"),
        }
    }

    async fn step(&mut self, client: &Client, me: &str) -> Result<Holder, Failure> {
        let before = Instant::now();
        let lease = match read(client).await {
            Err(failure) if failure.status() == Some(404) => None,
            other => Some(other?),
        };
        let Some(lease) = lease else {
            client.post(LEASES, &object(me)).await?;
            return Ok(self.renewed_at(before, me));
        };
        if !self.may_take(&lease, me, Instant::now()) {
            return Ok(Holder::Other(lease.holder));
        }
        let transitions = lease.transitions + u64::from(lease.holder != me);
        let change = json!({
            "metadata": {"resourceVersion": lease.version},
            "spec": {
                "holderIdentity": me,
                "leaseDurationSeconds": DURATION.as_secs(),
                "renewTime": now(),
                "leaseTransitions": transitions,
            },
        });
        match client.patch(&path(), &change).await {
            // Another was faster; who, is seen the next time.
            Err(failure) if failure.status() == Some(409) => {
                Ok(Holder::Nobody("another server is taking it over"))
            }
            other => other.map(|()| self.renewed_at(before, me)),
        }
    }

    fn renewed_at(&mut self, at: Instant, me: &str) -> Holder {
        self.renewed = Some((at, me.to_owned()));
        Holder::Here
    }

    /// Whether the lease is this machine's, nobody's, or of one that does not renew it. The
    /// time is counted here, from when it was seen to change: its holder's clock may be wrong.
    fn may_take(&mut self, lease: &Lease, me: &str, now: Instant) -> bool {
        let since = match &self.seen {
            Some((seen, at)) if seen == lease => *at,
            _ => now,
        };
        self.seen = Some((lease.clone(), since));
        lease.holder.is_empty() || lease.holder == me || now >= since + lease.holds
    }

    /// Lets another have it at once, if it is this machine's.
    async fn release(&mut self, client: &Client) -> Result<(), Failure> {
        let Some((_, me)) = self.renewed.take() else {
            return Ok(());
        };
        let lease = read(client).await?;
        if lease.holder != me {
            return Ok(());
        }
        let change = json!({
            "metadata": {"resourceVersion": lease.version},
            "spec": {"holderIdentity": "", "renewTime": now(), "leaseDurationSeconds": 1},
        });
        client.patch(&path(), &change).await
    }
}

fn path() -> String {
    format!("{LEASES}/{NAME}")
}

/// Now, as `metav1.MicroTime` is written.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let (hour, minute, second, micros) = now.time().as_hms_micro();
    format!(
        "{}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z",
        now.date()
    )
}

fn object(me: &str) -> serde_json::Value {
    let now = now();
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "namespace": "kube-system"},
        "spec": {
            "holderIdentity": me,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": 0,
        },
    })
}

/// Reads the lease. Everything in it may be missing.
async fn read(client: &Client) -> Result<Lease, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Object {
        metadata: Metadata,
        spec: Spec,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Metadata {
        resource_version: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        holder_identity: Option<String>,
        lease_duration_seconds: Option<u64>,
        renew_time: Option<String>,
        lease_transitions: Option<u64>,
    }
    let Object { metadata, spec } = client.get(&path()).await?;
    let holds = spec.lease_duration_seconds.unwrap_or(DURATION.as_secs());
    Ok(Lease {
        version: metadata.resource_version,
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time.unwrap_or_default(),
        holds: Duration::from_secs(holds).min(LONGEST),
        transitions: spec.lease_transitions.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
