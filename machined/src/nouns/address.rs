//! The noun address.
