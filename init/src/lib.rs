//! PID 1, in its two roles, and modprobe. One small static program, one thread, no
//! runtime: it boots the verified root, starts what it is told to start, collects what
//! ends, and ends the machine's run. It parses no YAML, speaks to no network and holds
//! no policy: that is machined's.
//!
//! This is a library only so that the parts can be tested outside of PID 1.

pub mod alive;
pub mod boot;
pub mod buttons;
pub mod cgroup;
pub mod clock;
pub mod console;
pub mod crash;
pub mod machine;
pub mod modprobe;
pub mod mount;
pub mod notify;
pub mod power;
pub mod protocol;
pub mod service;
pub mod supervise;
pub mod watchdog;
