//! The only program that listens on the network: TLS, client certificates, roles,
//! and forwarding whole calls to machined's unix socket. It holds no machine
//! logic, runs as its own user without a capability, opens no file once it
//! serves, and never decodes the calls that it passes on.

mod credentials;
mod forward;
mod notify;
mod peer;
mod role;
mod sandbox;
mod serve;

use anyhow::{Context, Result};
use std::path::Path;

/// machined's socket.
const MACHINED: &str = "/run/keelson/machined.sock";

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed twice"))?;
    let notify = notify::Notifier::from_env();
    // One thread: nothing has to be started after the sandbox is shut.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let credentials = credentials::watch(Path::new(MACHINED)).await;
        let port = credentials.borrow().port;
        let listener = serve::listen(port)?;
        sandbox::enter().context("entering the sandbox")?;
        notify.ready();
        serve::run(
            listener,
            credentials,
            forward::Forwarder::new(Path::new(MACHINED)),
        )
        .await
    })
}
