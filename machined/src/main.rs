//! The machine daemon: owns the config and the desired state, makes the machine
//! match it, and answers apid on a unix socket. It never listens on the network,
//! never starts a long-lived process itself (init does), never calls reboot(2).
#![allow(dead_code)] // until every part is wired up

mod engine;
mod events;
mod facts;
mod identity;
mod kmsg;
mod logs;
mod noun;
mod nouns;
mod resource;
mod store;

fn main() {}
