//! The two compilers that can build for the BPF target.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::process::{capture, find_program};
use crate::target::target_triple;
use crate::workspace::Workspace;

/// Debian's packages with a compiler that can build for BPF.
pub(crate) const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Debian's package with the same compiler's clippy.
pub(crate) const CLIPPY_PACKAGE: &str = "rust-web-clippy";

/// What a compiler consists of, and its clippy.
const PROGRAMS: [&str; 2] = ["rustc", "cargo"];
const CLIPPY_PROGRAMS: [&str; 2] = ["cargo-clippy", "clippy-driver"];

/// The name under which the packages are unpacked.
const UNPACKED: &str = "rust-web";

/// Where a distribution installs its compiler.
const PACKAGED_BIN: &str = "/usr/bin";

/// A rustc and its cargo.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// The directory of its programs.
    pub(crate) bin: PathBuf,
    /// Its version, as `1.96.0`.
    pub(crate) release: String,
    /// The major version of its LLVM, which the linker must share.
    pub(crate) llvm: u32,
    /// Whether `core` has to be compiled with the object.
    pub(crate) build_std: bool,
}

impl Compiler {
    /// The distribution's compiler, with its prebuilt `core` for the BPF target.
    ///
    /// # Errors
    /// The error says in one line what is missing.
    pub(crate) fn packaged() -> Result<Self> {
        Self::with_core(Path::new(PACKAGED_BIN))
    }

    /// The same from packages that are unpacked, since something installed is in their way.
    ///
    /// # Errors
    /// The error says in one line what is missing.
    pub(crate) fn unpacked(workspace: &Workspace) -> Result<Self> {
        Self::with_core(&workspace.unpacked().apart(UNPACKED))
    }

    /// Unpacks the packages with this compiler, and with its clippy.
    ///
    /// # Errors
    /// When apt cannot download them, or they do not work.
    pub(crate) fn unpack(workspace: &Workspace, apt: &Apt) -> Result<Self> {
        let unpacked = workspace.unpacked();
        let packages = [&PACKAGES[..], &[CLIPPY_PACKAGE]].concat();
        unpacked.add(apt, UNPACKED, &packages)?;
        let programs = [&PROGRAMS[..], &CLIPPY_PROGRAMS].concat();
        unpacked.provide_apart(UNPACKED, &programs)?;
        Self::unpacked(workspace)
    }

    /// The compiler in `bin`, which brings a `core` for the BPF target.
    fn with_core(bin: &Path) -> Result<Self> {
        let found = Self::at(bin, false)?;
        let triple = target_triple();
        let mut ask = Command::new(found.program("rustc"));
        let libraries = capture(ask.args(["--print", "target-libdir", "--target", &triple]))?;
        if !holds_core(Path::new(libraries.trim())) {
            bail!(
                "the rustc in {} has no core library for {triple}",
                bin.display()
            );
        }
        Ok(found)
    }

    /// A rustup nightly that has the sources of `core`.
    ///
    /// # Errors
    /// The error says in one line what is missing.
    pub(crate) fn nightly() -> Result<Self> {
        let rustup = find_program("rustup").context("no rustup")?;
        let mut ask = Command::new(rustup);
        let rustc = capture(ask.args(["which", "--toolchain", "nightly", "rustc"]))
            .map_err(|_| anyhow::anyhow!("rustup has no nightly toolchain"))?;
        let bin = Path::new(rustc.trim())
            .parent()
            .context("rustup named no path")?;
        let found = Self::at(bin, true)?;
        let sources = bin.join("../lib/rustlib/src/rust/library/core/Cargo.toml");
        if !sources.is_file() {
            bail!("the rustup nightly has no rust-src");
        }
        Ok(found)
    }

    /// The compiler in `bin`, if it is new enough for this workspace.
    fn at(bin: &Path, build_std: bool) -> Result<Self> {
        for program in PROGRAMS {
            if !bin.join(program).is_file() {
                bail!("no {program} in {}", bin.display());
            }
        }
        let about = capture(Command::new(bin.join("rustc")).arg("-vV"))?;
        let (release, llvm) = parse_version(&about)
            .with_context(|| format!("unexpected version of {}/rustc:\n{about}", bin.display()))?;
        let wanted = env!("CARGO_PKG_RUST_VERSION");
        if minor(&release) < minor(wanted) {
            bail!(
                "the rustc {release} in {} is older than {wanted}",
                bin.display()
            );
        }
        Ok(Self {
            bin: bin.to_owned(),
            release,
            llvm,
            build_std,
        })
    }

    /// The path of one of its programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Whether its clippy is installed.
    pub(crate) fn has_clippy(&self) -> bool {
        CLIPPY_PROGRAMS
            .iter()
            .all(|name| self.program(name).is_file())
    }

    /// Where this compiler keeps the sources of `core` that it compiles itself.
    pub(crate) fn sources(&self) -> PathBuf {
        let root = self.bin.parent().unwrap_or(&self.bin);
        root.join("lib/rustlib/src/rust")
    }
}

/// Whether a directory of libraries has a compiled `core`.
fn holds_core(dir: &Path) -> bool {
    let Ok(entries) = dir.read_dir() else {
        return false;
    };
    let is_core = |name: &str| name.starts_with("libcore-") && name.ends_with(".rlib");
    entries
        .flatten()
        .any(|entry| is_core(&entry.file_name().to_string_lossy()))
}

/// The release and the LLVM major version in what `rustc -vV` prints.
fn parse_version(about: &str) -> Option<(String, u32)> {
    let field = |key: &str| about.lines().find_map(|line| line.strip_prefix(key));
    let release = field("release: ")?.to_owned();
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((release, llvm))
}

/// A version's first two numbers, for comparing.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_llvm_are_read_from_rustc() {
        let about = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                     release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(
            parse_version(about),
            Some(("1.97.0-nightly".to_owned(), 22))
        );
        assert_eq!(parse_version("rustc 1.97.0"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(minor("1.100.0") > minor("1.95"));
        assert!(minor("1.85.0") < minor("1.95"));
        assert!(minor("1.95.0-nightly") >= minor("1.95"));
    }
}
