//! Boots the built image in QEMU and looks at it from outside: the console, the
//! API, `osctl`. It knows nothing of the programs inside but what a person can
//! see. The tests themselves are in `tests/tests/`, about ten lines each.

mod accel;
mod api;
mod cluster;
mod command;
mod console;
mod firmware;
mod image;
mod memory;
mod monitor;
mod node;
mod osctl;
mod release;
pub mod torture;
mod vm;

pub use accel::{Accel, accel};
pub use api::{Identity, connect};
pub use cluster::{Kubectl, fetch};
pub use command::run;
pub use console::Console;
pub use image::{Flavor, Image, image_builder};
pub use memory::Memory;
pub use node::Node;
pub use osctl::{Osctl, Output};
pub use release::{Release, development_key, signed_again};
pub use vm::{BOOT, Guest, NETWORK, Vm, is_slow, overlay};
