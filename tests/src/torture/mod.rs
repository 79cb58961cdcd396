//! Pulling the plug, without a plug: all writes of a machine's disk are recorded while it works,
//! and then every state that a cut of power could have left is made from the record and judged.
//!
//! ```text
//! Guest::log_writes ─> Recording: base.raw, writes.log, marks
//!                         └─ log ─ replay (which states) ─ disk (a state, to be read)
//!                                                             └─ judge, with loader ─> Report
//! ```
//!
//! A state that is judged costs milliseconds; a sample is really booted, to judge the judge.

pub mod disk;
pub mod judge;
pub mod loader;
pub mod log;
pub mod replay;

mod recording;
mod report;
mod work;

pub use recording::Recording;
pub(crate) use recording::WRITES;
pub use report::{Options, Report, Tally, find, try_states};
pub use work::{boot, configure, next, record, record_config, record_upgrade};

#[cfg(test)]
mod machine_tests;
