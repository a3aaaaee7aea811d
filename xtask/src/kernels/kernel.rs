//! The kernels that are tried, and their packages.

use std::path::PathBuf;

/// The kernels to try, the oldest first.
pub(crate) const KERNELS: [Kernel; 2] = [
    Kernel {
        version: "6.1",
        sources: "Debian 12 has it in bookworm and bookworm-security",
    },
    Kernel {
        version: "6.12",
        sources: "Debian 12 has it in bookworm-security and bookworm-backports",
    },
];

/// A kernel to test on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// The first two numbers of its version.
    pub(crate) version: &'static str,
    /// Which of Debian's suites have its package.
    pub(super) sources: &'static str,
}

/// A kernel's unpacked package.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// What the boot loader loads.
    pub(super) image: PathBuf,
    /// The directory with `modules.order`; its name is the whole version.
    pub(super) modules: PathBuf,
}
