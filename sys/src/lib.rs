//! System calls that rustix and nix lack, and the kernel's odder interfaces, behind
//! plain Rust types. The only crate where `unsafe` is allowed: each block says why
//! it is sound, and no raw pointer or file descriptor leaves this crate. It holds no
//! policy: what to load, start or kill is decided elsewhere.
#![allow(unsafe_code)]

pub mod clock;
pub mod dm;
pub mod ethernet;
pub mod inherit;
pub mod module;
pub mod packet;
pub mod partition;
pub mod spawn;
pub mod swap;
pub mod wait;
pub mod watchdog;
