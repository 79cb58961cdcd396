//! The noun volume.
