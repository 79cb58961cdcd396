//! The noun route.
