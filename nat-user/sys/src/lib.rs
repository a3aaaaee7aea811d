//! The ways to the kernel that need no privileges of BPF: netlink and the settings under
//! `/proc/sys`.
//!
//! Values of the kernel become types here, once; what they mean for natbpf is decided elsewhere.

pub mod exchange;
pub mod netlink;
pub mod sysctl;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod whereabouts;
