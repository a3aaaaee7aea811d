//! `cargo xtask test kernels`: tests of loaded programs and of whole hosts on older kernels.
//!
//! Each kernel of [`KERNELS`] is taken from Debian's package, unpacked below `target/kernels`, and
//! booted once in QEMU, without disk and network: all that the tests need comes as an initramfs,
//! see [`image`]. It uses no hardware virtualisation, so it works the same everywhere, but slowly.

mod guest;
mod image;
mod kernel;
mod packages;
mod selection;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bpf_toolchain::Workspace;

use guest::Machine;
pub(crate) use guest::QEMU;
use image::{Image, Programs, RunDir};
use kernel::Unpacked;
pub(crate) use kernel::{KERNELS, Kernel};

/// How long the chosen tests may take on one kernel, and all tests: many times what they take on
/// two idle processors.
const LIMIT: Duration = Duration::from_secs(40 * 60);
const LIMIT_ALL: Duration = Duration::from_secs(120 * 60);

/// The kernel that the tests of guests boot in them: that of Debian 12.
const GUESTS: Kernel = KERNELS[0];

/// Where tests/tests/guests finds its kernel and the kernel's modules, as variables for the tests.
///
/// # Errors
/// When the kernel is not to be had.
pub(crate) fn for_guests(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    let cache = workspace.target().join("kernels");
    std::fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let Unpacked { image, modules } = packages::unpacked(GUESTS, &cache)?;
    Ok(vec![
        ("NATBPF_GUEST_KERNEL", image),
        ("NATBPF_GUEST_MODULES", modules),
    ])
}

/// Everything that boots alike on all kernels, made once.
pub(crate) struct Kernels {
    cache: PathBuf,
    run_dir: RunDir,
    image: Image,
}

impl Kernels {
    /// Builds the tests, and puts them together with all that they call.
    ///
    /// # Errors
    /// When something does not build or is not there.
    pub(crate) fn prepare(workspace: &Workspace) -> Result<Self> {
        let cache = workspace.target().join("kernels");
        let run_dir = RunDir::new(&cache)?;
        let programs = Programs::build(workspace)?;
        let image = Image::make(&programs, &run_dir).context("put the guest together")?;
        Ok(Self {
            cache,
            run_dir,
            image,
        })
    }

    /// Boots a kernel, runs the tests there, and passes each line of their output to `hear`: all
    /// tests that can be run there, or only the chosen ones; those that have one of `filters` in
    /// their name, if there is any.
    ///
    /// # Errors
    /// When the kernel is not to be had, or does not come to the end of the tests.
    pub(crate) fn run(
        &self,
        kernel: Kernel,
        all: bool,
        filters: &[String],
        hear: impl FnMut(&str),
    ) -> Result<()> {
        let unpacked = packages::unpacked(kernel, &self.cache)?;
        let script = selection::script(all, filters);
        let initramfs = self.image.for_kernel(&unpacked, &script, &self.run_dir)?;
        let console = self.run_dir.file(&format!("{}.console", kernel.version));
        let limit = if all { LIMIT_ALL } else { LIMIT };
        Machine::new(kernel, &unpacked.image, &initramfs, console).run(limit, hear)
    }
}
