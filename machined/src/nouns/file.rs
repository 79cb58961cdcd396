//! The noun file.
