//! Swap that is compressed and stays in memory (kernel: admin-guide/blockdev/zram). Its
//! device is told by the label of its swap header: no other device is ever touched. The
//! module is loaded by the noun of modules.

mod device;
mod plan;

use crate::{
    noun::Noun,
    nouns::module::Loading,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use device::{Device, Places};
use keelson_config::Machine;
pub(crate) use plan::{Step, Wish, too_large};
use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the figures of what is swapped out are looked at.
const IDLE: Duration = Duration::from_secs(60);

/// The noun.
pub(crate) struct Swaps {
    places: Arc<Places>,
    /// The modules that are being loaded.
    loading: Loading,
    look_again: Option<Instant>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Have {
    /// The devices that this noun has made.
    ours: Vec<Device>,
    /// Bytes of memory in all.
    memory: u64,
    /// The module is being loaded.
    loading: bool,
}

impl Swaps {
    /// The noun. `loading` are the modules that are being loaded: one of them may be zram.
    pub(crate) fn new(loading: Loading) -> Self {
        Swaps {
            places: Arc::new(Places::below(Path::new("/"))),
            loading,
            look_again: None,
        }
    }
}

/// The machine's memory in bytes.
pub(crate) fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// What is wanted, on a machine with so much memory.
fn wish(machine: &Machine, memory: u64) -> Option<Wish> {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    Some(Wish::new(machine.swap.as_ref()?, memory, page))
}

impl Noun for Swaps {
    const KIND: &'static str = "swap";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        // In this order: a module that is loaded meanwhile brings its device.
        let loading = self.loading.borrow().contains("zram");
        let places = self.places.clone();
        let ours = tokio::task::spawn_blocking(move || device::ours(&places)).await??;
        self.look_again = (!ours.is_empty()).then(|| Instant::now() + IDLE);
        Ok(Have {
            ours,
            memory: memory(),
            loading,
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan::plan(have, wish(want, have.memory).as_ref())
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let (places, step) = (self.places.clone(), step.clone());
        tokio::task::spawn_blocking(move || match &step {
            Step::Make(wish) => make(&places, wish),
            Step::Begin(name) => places.swap_on(name),
            Step::Remake(name, wish) => {
                remove(&places, name)?;
                make(&places, wish)
            }
            Step::Remove(name) => remove(&places, name),
        })
        .await?
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        let wish = wish(want, have.memory);
        if have.ours.is_empty() && wish.is_some() {
            let message = match have.loading {
                true => "waits for the module zram, which is being loaded",
                false => "it is not made yet",
            };
            return vec![Resource::new(Self::KIND, "zram", Phase::Pending).message(message)];
        }
        let one = |device: &Device| resource(device, wish.as_ref());
        have.ours.iter().map(one).collect()
    }

    fn deadline(&self) -> Option<Instant> {
        self.look_again
    }
}

fn resource(device: &Device, wish: Option<&Wish>) -> Resource {
    let wanted = wish.is_some_and(|wish| wish.is(device));
    let (phase, message) = match (wanted, device.used) {
        (true, Some(_)) => (Phase::Ready, ""),
        (true, None) => (Phase::Pending, "it is not in use yet"),
        (false, _) if wish.is_some() => (Phase::Pending, "it is to be made anew"),
        (false, _) => (Phase::Pending, "it is to be removed"),
    };
    // In MiB, rounded, so that a watcher is not told of every page.
    Resource::new(Swaps::KIND, &device.name, phase)
        .message(message)
        .field("algorithm", device.algorithm.as_str())
        .field("sizeMib", device.size >> 20)
        .field("usedMib", device.used.unwrap_or(0) >> 20)
        .field("memoryMib", device.memory >> 20)
}

fn make(places: &Places, wish: &Wish) -> anyhow::Result<()> {
    if let Some(why) = too_large(wish.bytes, memory()) {
        anyhow::bail!(why);
    }
    places.make(wish)
}

/// Reads back what is swapped out, if there is memory for it, and gives up the device.
fn remove(places: &Places, name: &str) -> anyhow::Result<()> {
    let device = device::ours(places)?
        .into_iter()
        .find(|device| device.name == name)
        .with_context(|| format!("{name} is gone"))?;
    if let Some(used) = device.used {
        let meminfo = fs::read_to_string(&places.meminfo).context("reading /proc/meminfo")?;
        let available = device::available(&meminfo).context("/proc/meminfo has no MemAvailable")?;
        if let Some(why) = plan::does_not_fit(used, available, memory()) {
            anyhow::bail!(why);
        }
        places.swap_off(name)?;
    }
    places.reset(name)
}

#[cfg(test)]
mod tests;
