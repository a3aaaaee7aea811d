//! natbpf's control plane: configuration, rule compiler, loader, host set-up and reports.
//!
//! It holds no packet logic: that is in `nat-common`, which the programs in the kernel are made
//! of.

pub mod backoff;
pub mod bounds;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod dhcp;
pub mod host;
pub mod owned;
pub mod refusals;
pub mod report;
pub mod state;
