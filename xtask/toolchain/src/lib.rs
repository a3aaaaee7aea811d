//! Finds, installs and runs the toolchain that builds natbpf's BPF object.
//!
//! Two toolchains will do, and both build the same sources: the distribution's own compiler
//! with a prebuilt `core` for the BPF target (Debian has one in its packages), or a rustup
//! nightly with `rust-src`. Either is used together with `bpf-linker`, which is kept under the
//! workspace's target directory. `cargo xtask setup` calls [`Toolchain::install`]; nat-user's
//! build script calls [`Toolchain::find`] and [`ObjectBuild::build`].
//!
//! This crate depends on nothing that would slow a build script down, and it never installs
//! anything unless [`Toolchain::install`] or [`apt::Apt::install`] is called.

pub mod apt;
mod compiler;
mod linker;
mod object;
pub mod output;
pub mod process;
mod target;
mod toolchain;
pub mod unpack;
mod workspace;

pub use object::{OBJECT_VARIABLE, ObjectBuild, check_object};
pub use toolchain::{Missing, Toolchain};
pub use workspace::Workspace;
