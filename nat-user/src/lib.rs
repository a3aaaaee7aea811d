//! natbpf's control plane: configuration, rule compiler, loader, host set-up and reports.
//!
//! It contains no packet logic: that is in `nat-common`, from which the kernel programs are built.

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
