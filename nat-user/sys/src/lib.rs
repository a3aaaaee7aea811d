//! Access to the kernel without privileges for BPF: netlink and the settings under `/proc/sys`.
//!
//! This crate turns the kernel's values into types. Other crates decide what they mean for natbpf.

pub mod exchange;
pub mod netlink;
pub mod sysctl;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod whereabouts;
