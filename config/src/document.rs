//! The config as it is written: every field that there is, its key, its type and
//! what it is for; a file for each section. Whether the values make sense is not judged here.

mod absent;
mod link;
mod machine;
mod network;
mod orchestrator;
mod storage;

pub(crate) use absent::NOT_THERE;
pub(crate) use link::*;
pub(crate) use machine::*;
pub(crate) use network::*;
pub(crate) use orchestrator::*;
pub(crate) use storage::*;

use crate::{
    model::Takes,
    read::{Located, object},
};

type List<T> = Vec<Located<T>>;

object! {
    /// One config.
    Document {
        /// The version of this form, `keelson.dev/v1alpha1`.
        api_version: String = "apiVersion", required;
        /// What it describes, `Machine`.
        kind: String = "kind", required;
        /// The machine itself.
        machine: MachineSection = "machine", required;
        /// Its links and resolvers. Default: DHCP on every Ethernet link.
        network: NetworkSection = "network";
        /// Its memory's and its disks' use beyond what it needs itself.
        storage: StorageSection = "storage";
        /// What runs on it. Must be there unless the role is `none`.
        orchestrator: OrchestratorSection = "orchestrator", takes(Takes::OrchestratorRestart);
    }
}
