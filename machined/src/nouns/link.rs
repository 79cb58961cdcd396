//! The noun link.
