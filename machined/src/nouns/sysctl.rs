//! The noun sysctl.
