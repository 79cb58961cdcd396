//! The commands, one file each. The doc comment of a command's struct is its help.

pub(crate) mod apply_config;
pub(crate) mod bundle;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod convert;
pub(crate) mod dmesg;
pub(crate) mod edit;
mod ending;
pub(crate) mod events;
pub(crate) mod exit_codes;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod internal_docs;
pub(crate) mod kubeconfig;
pub(crate) mod logs;
pub(crate) mod patch;
pub(crate) mod reboot;
pub(crate) mod rollback;
pub(crate) mod schema;
pub(crate) mod service;
pub(crate) mod shutdown;
pub(crate) mod upgrade;
pub(crate) mod validate;
pub(crate) mod version;
