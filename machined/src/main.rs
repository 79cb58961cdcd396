//! The machine daemon: owns the config and the desired state, makes the machine
//! match it, and answers apid on a unix socket. It never listens on the network,
//! never starts a long-lived process itself (init does), never calls reboot(2).

mod acquire;
mod api;
mod cluster;
mod console;
mod crashlog;
mod cri;
mod dhcp;
mod dhcp6;
mod engine;
mod events;
mod facts;
mod fetch;
mod forward;
mod health;
mod identity;
mod initclient;
mod kmsg;
mod logs;
mod mounted;
mod names;
mod netlink;
mod noun;
mod nouns;
mod orchestrator;
mod power;
mod resource;
mod service;
mod store;
#[cfg(test)]
mod testca;
mod upgrade;
mod wireguard;

use anyhow::{Context as _, Result};
use engine::{Nouns, Setup, Wake};
use orchestrator::payload::{self, Payload};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;

/// Where a lease is remembered: over a death of machined, and over a boot.
const LEASES: [&str; 2] = ["/run/keelson/network", "/system/state/network"];

fn main() -> Result<()> {
    log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()?;
    runtime
        .block_on(run())
        .inspect_err(|error| tracing::error!("{error:#}"))
}

async fn run() -> Result<()> {
    // First, while no number can mean a file of our own.
    let socket = init_socket()?;
    let init = initclient::Init::new(socket).context("taking over the socket to init")?;
    let (facts, wake) = (facts::Facts::read(), Wake::default());
    let (resources, events) = (Arc::new(resource::Store::new()), events::Events::new());
    let listener = api::listen(Path::new(api::SOCKET))?;
    let machine_id = watch::Sender::default();
    let shared = cluster::share::Shared::new(wake.clone());
    let payload = payload(&events).map(Arc::new);
    let images = payload.as_ref().map(|it| it.data_dir.join("agent/images"));
    let nouns = nouns(&facts, &init, &wake, &machine_id, &shared, images);
    let console = console::Console::new("/dev/console");
    let handle = engine::start(Setup {
        facts,
        init,
        wake,
        resources,
        events,
        machine_id,
        payload,
        shared,
        console,
        nouns,
    })?;
    tokio::spawn(logs::bound(handle.log_files()));
    initclient::ready().context("telling init that machined serves")?;
    let upgrades = upgrade::start(handle.clone());
    api::serve(listener, handle, upgrades).await
}

/// The orchestrator in the image, if there is one that can be used.
fn payload(events: &events::Events) -> Option<Payload> {
    Payload::read(Path::new(payload::DIRECTORY)).unwrap_or_else(|error| {
        let text = format!("the image's payload cannot be used: {error}");
        events.say("orchestrator", text);
        None
    })
}

/// The nouns, in the order to go over them.
fn nouns(
    facts: &facts::Facts,
    init: &initclient::Init,
    wake: &Wake,
    machine_id: &watch::Sender<String>,
    shared: &cluster::share::Shared,
    images: Option<PathBuf>,
) -> Nouns {
    let disk = Path::new(&facts.boot.disk);
    let leases = dhcp::Leases::new(wake.clone());
    let modules = nouns::module::Modules::new(wake.clone(), facts.boot.modules.clone());
    let sysctls = nouns::sysctl::Sysctls::new(modules.loading());
    let swaps = nouns::swap::Swaps::new(modules.loading());
    tokio::spawn(netlink::monitor(wake.clone()));
    Nouns {
        before: vec![
            Box::new(modules),
            Box::new(sysctls),
            // Before there is a link to come in by.
            Box::new(nouns::firewall::Firewalls::new()),
            Box::new(nouns::link::Links::new(leases.clone())),
            Box::new(nouns::address::Addresses::new(
                leases.clone(),
                LEASES.map(Into::into).into(),
            )),
            // Behind the addresses: their networks say where it goes.
            Box::new(nouns::virtualaddress::VirtualAddresses::new(shared.clone())),
            // Behind the addresses: by then it is known whether a server is being asked.
            Box::new(nouns::hostname::HostName::new(
                leases.clone(),
                machine_id.subscribe(),
            )),
            Box::new(nouns::route::Routes::new(leases.clone())),
            // Behind the routes that they lead to.
            Box::new(nouns::rule::Rules),
            Box::new(nouns::resolver::Resolver::new(leases)),
        ],
        volume: nouns::volume::Volume::new(Some(disk)),
        after: vec![
            Box::new(nouns::file::Files::new(machine_id.subscribe())),
            Box::new(nouns::image::Images::new(images, wake.clone())),
            Box::new(swaps),
            Box::new(nouns::disk::Disks::new(disk)),
            Box::new(nouns::watchdog::Watchdogs::new(init.clone())),
            Box::new(nouns::time::Clocks::start(
                facts.release.build_time,
                wake.clone(),
            )),
        ],
    }
}

/// Lines to stderr, which init appends to machined's log. Never a secret.
fn log() {
    let debug = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let debug = debug
        .split_ascii_whitespace()
        .any(|word| word == "keelson.debug");
    let level = if debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(debug)
        .with_writer(std::io::stderr)
        .init();
}

/// The socket to init; `None` where machined runs without init.
fn init_socket() -> Result<Option<OwnedFd>> {
    let Some(number) = std::env::var_os("KEELSON_INIT_FD") else {
        return Ok(None);
    };
    let number = number
        .to_str()
        .and_then(|text| text.parse().ok())
        .context("KEELSON_INIT_FD is not a number")?;
    keelson_sys::inherit::take(number)
        .map(Some)
        .context("taking over KEELSON_INIT_FD")
}
