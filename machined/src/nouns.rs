//! The fixed list of nouns: the parts of the machine that follow from the config.
//! A new noun is a file here and a line in `main.rs`.

pub(crate) mod address;
pub(crate) mod disk;
pub(crate) mod file;
pub(crate) mod firewall;
pub(crate) mod hostname;
pub(crate) mod image;
pub(crate) mod link;
pub(crate) mod module;
pub(crate) mod resolver;
pub(crate) mod route;
pub(crate) mod rule;
pub(crate) mod swap;
pub(crate) mod sysctl;
pub(crate) mod time;
pub(crate) mod virtualaddress;
pub(crate) mod volume;
pub(crate) mod watchdog;

#[cfg(test)]
pub(crate) mod kernel_tests;
