//! What is on a Keelson disk: the partition table, the layout and its slots, dm-verity's hash
//! tree, the kernel command line, the META log, the header of swap space, how to read a UKI and the FAT that it lies on, and
//! (with the feature `bundle`) the upgrade bundle.
//!
//! Pure over [`Read`](std::io::Read), [`Write`](std::io::Write) and [`Seek`](std::io::Seek):
//! nothing here opens a device, knows a path, or asks the kernel. Whatever comes from a disk is
//! hostile until it is checked; it may give an error, never a panic.

#[cfg(feature = "bundle")]
pub mod bundle;
pub mod cmdline;
pub mod fat;
pub mod gpt;
pub mod layout;
pub mod meta;
pub mod swap;
pub mod uki;
pub mod verity;
#[cfg(feature = "bundle")]
pub mod version;
mod window;

pub use uuid::Uuid;
pub use window::Window;
