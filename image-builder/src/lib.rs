//! Builds every artifact of Keelson as an ordinary user, without loop devices, reproducibly:
//! the same inputs give the same bytes.
//!
//! ```text
//! packages, orchestrator, static files ── rootfs ──> RootTree
//!     RootTree.root       ── EROFS + verity tree ──> root.img ─────────────┐
//!     RootTree.initramfs  ── cpio, zstd ──> initramfs ─┐                   ├──> GPT disk image
//!     kernel, stub, command line with the root's hash ─┴──> UKI ──> ESP ───┘    (raw, qcow2)
//! ```
//!
//! What is on a disk is the `disk` crate's; this crate only carries it out.

pub mod arch;
pub mod command;
pub mod image;
pub mod inputs;
pub mod orchestrator;
pub mod packages;
pub mod report;
pub mod rootfs;
