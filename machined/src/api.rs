//! The gRPC services on machined's unix socket. Nothing is decided here: a call
//! becomes a question to the engine, its answer becomes a message. apid has
//! already checked the caller's role and says which it is.

mod apid;
mod caller;
mod machine;
mod resource;
mod upgrade;

use crate::{engine::Handle, upgrade::Upgrades};
use anyhow::{Context, Result};
use keelson_api::{
    internal::apid_service_server::ApidServiceServer,
    v1::{
        machine_service_server::MachineServiceServer,
        resource_service_server::ResourceServiceServer,
        upgrade_service_server::UpgradeServiceServer,
    },
};
use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// machined's socket.
pub(crate) const SOCKET: &str = "/run/keelson/machined.sock";

/// The group that may connect beside root: apid's.
const APID_GROUP: u32 = 100;

/// Makes the socket, so that calls are accepted from now on.
pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing the old {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    if rustix::process::geteuid().is_root() {
        chown(path, Some(0), Some(APID_GROUP))?;
    }
    Ok(listener)
}

/// Answers calls for ever.
pub(crate) async fn serve(
    listener: UnixListener,
    handle: Handle,
    upgrades: Upgrades,
) -> Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<MachineServiceServer<machine::Machine>>()
        .await;
    reporter
        .set_serving::<ResourceServiceServer<resource::Resources>>()
        .await;
    reporter
        .set_serving::<UpgradeServiceServer<upgrade::Upgrade>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(keelson_api::DESCRIPTORS)
        .build_v1()
        .context("preparing gRPC reflection")?;
    let guard = caller::Guard(handle.clone());
    Server::builder()
        .add_service(health)
        .add_service(reflection)
        .add_service(MachineServiceServer::with_interceptor(
            machine::Machine(handle.clone()),
            guard.clone(),
        ))
        .add_service(ResourceServiceServer::with_interceptor(
            resource::Resources(handle.resources().clone()),
            guard.clone(),
        ))
        .add_service(UpgradeServiceServer::with_interceptor(
            upgrade::Upgrade(upgrades),
            guard,
        ))
        .add_service(ApidServiceServer::new(apid::Apid(handle)))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("serving on machined's socket")
}
