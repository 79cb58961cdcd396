//! Every contract between Keelson's programs: the gRPC API that people use, the
//! calls between apid and machined, and the protocol between machined and init.
//! The `.proto` files in `api/proto` are the source; `cargo xtask gen` writes
//! `src/gen` from them. No logic lives here.
//!
//! Without the feature `grpc` only the messages are compiled: init needs no more.

/// The public API, package `keelson.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    include!("gen/keelson.v1.rs");
}

/// The protocol between machined and init, package `keelson.init.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod init {
    include!("gen/keelson.init.v1.rs");
}

/// What apid asks of machined, package `keelson.internal.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod internal {
    include!("gen/keelson.internal.v1.rs");
}

/// What machined asks of the orchestrator's container runtime: a part of Kubernetes'
/// Container Runtime Interface, package `runtime.v1`.
#[cfg(feature = "grpc")]
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod cri {
    include!("gen/runtime.v1.rs");
}

/// All descriptors of our own, encoded as a `google.protobuf.FileDescriptorSet`: for gRPC
/// reflection, for the role table's test and for the API reference.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/keelson.bin");

/// The largest datagram of the init protocol, in bytes.
pub const INIT_DATAGRAM: usize = 64 * 1024;

/// How long machined may ask init to wait for an orderly end, after a key was pressed at the
/// machine: it keeps the datastore, drains, and stops pods.
pub const ENDING_PATIENCE: std::time::Duration = std::time::Duration::from_secs(15 * 60);

/// The metadata key under which apid tells machined the caller's role.
pub const ROLE_KEY: &str = "keelson-role";

/// The metadata key under which apid tells machined the subject of the caller's certificate.
pub const PEER_KEY: &str = "keelson-peer";

/// The TCP port of the machine's API.
pub const PORT: u16 = 50000;
