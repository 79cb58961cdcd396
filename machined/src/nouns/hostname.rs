//! The noun hostname.
