//! The noun module.
