//! The machine config: as written, validated, and what is wrong with it, with
//! line and column. Pure: bytes in, values out; no file is read here.
//!
//! A config goes through two stages here: the document, as written, and
//! [`Machine`], validated with every default resolved. The third stage, the
//! plan, is machined's.

mod machine;

pub use machine::*;
