//! The noun time.
