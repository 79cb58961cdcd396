//! The noun resolver.
