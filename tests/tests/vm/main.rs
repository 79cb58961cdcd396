//! What a person sees of a machine that boots. One program, so that a slow test and others run
//! beside each other.
#![allow(missing_docs)]

mod config;
mod fleet;
mod maintenance;
mod pod;
mod roles;
mod root;
mod supervision;
mod torture;
mod upgrade;
mod watchdog;
