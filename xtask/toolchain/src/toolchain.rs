//! A compiler and a linker that fit together: found, or installed.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::apt::{self, Apt};
use crate::compiler::{CLIPPY_PACKAGE, Compiler, PACKAGES};
use crate::workspace::Workspace;
use crate::{linker, target};

/// Everything needed to build the BPF object.
#[derive(Clone, Debug)]
pub struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

/// Why no toolchain was found: one line for each place that was looked at.
#[derive(Clone, Debug)]
pub struct Missing(Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no toolchain can build for BPF: {}", self.0.join("; "))
    }
}

impl std::error::Error for Missing {}

impl Toolchain {
    /// Finds a complete toolchain and changes nothing. The distribution's packages come first,
    /// then a rustup nightly.
    ///
    /// # Errors
    /// When neither is complete; the error says what each of them lacks.
    pub fn find(workspace: &Workspace) -> Result<Self, Missing> {
        let mut lacks = Vec::new();
        for compiler in Self::compilers(workspace) {
            match compiler {
                Err(reason) => lacks.push(reason.to_string()),
                Ok(compiler) => match linker::find(workspace, &compiler) {
                    Some(linker) => return Ok(Self { compiler, linker }),
                    None => lacks.push(format!("no bpf-linker for LLVM {}", compiler.llvm)),
                },
            }
        }
        Err(Missing(lacks))
    }

    /// The compilers that there may be; what was unpacked was so because the others did not do.
    fn compilers(workspace: &Workspace) -> [Result<Compiler>; 3] {
        [
            Compiler::unpacked(workspace),
            Compiler::packaged(),
            Compiler::nightly(),
        ]
    }

    /// The first of them.
    fn compiler(workspace: &Workspace) -> Result<Compiler> {
        Compiler::unpacked(workspace)
            .or_else(|_| Compiler::packaged())
            .or_else(|_| Compiler::nightly())
    }

    /// Unpacks the missing parts of a toolchain, and of its clippy if requested, if apt does not
    /// install them.
    ///
    /// # Errors
    /// When apt cannot download it, or it does not work.
    pub fn unpack(workspace: &Workspace, apt: &Apt, with_clippy: bool) -> Result<()> {
        let missing = Self::missing_packages(workspace, with_clippy);
        if missing.iter().any(|name| is_of_compiler(name)) {
            Compiler::unpack(workspace, apt)?;
        }
        for package in Self::missing_packages(workspace, with_clippy) {
            linker::unpack(workspace, apt, &package)?;
        }
        Ok(())
    }

    /// The Debian packages that are missing for a toolchain, and for its clippy if asked.
    #[must_use]
    pub fn missing_packages(workspace: &Workspace, with_clippy: bool) -> Vec<String> {
        let found = Self::find(workspace).map(|toolchain| toolchain.compiler);
        let complete = found.is_ok();
        let compiler = found.or_else(|_| Self::compiler(workspace));
        let mut packages = Vec::new();
        if compiler.is_err() {
            packages.extend(PACKAGES.map(str::to_owned));
        }
        if !complete {
            packages.extend(linker::missing_package(workspace, compiler.as_ref().ok()));
        }
        let has_clippy = compiler.is_ok_and(|compiler| compiler.build_std || compiler.has_clippy());
        if with_clippy && !has_clippy {
            packages.push(CLIPPY_PACKAGE.to_owned());
        }
        packages
    }

    /// Finds a toolchain, or completes one by building `bpf-linker` under the target directory.
    ///
    /// # Errors
    /// When there is no compiler, or the linker cannot be built.
    pub fn install(workspace: &Workspace) -> Result<Self> {
        if let Ok(found) = Self::find(workspace) {
            return Ok(found);
        }
        let compiler = Self::compiler(workspace)?;
        let linker = linker::install(workspace, &compiler)?;
        Ok(Self { compiler, linker })
    }

    /// Whether clippy can check the BPF crate.
    ///
    /// # Errors
    /// When this toolchain has none, with the command to type.
    pub fn require_clippy(&self) -> Result<()> {
        if self.compiler.has_clippy() {
            return Ok(());
        }
        bail!("{self}: no clippy. Type\n\n    {}\n", self.clippy_command());
    }

    fn clippy_command(&self) -> String {
        if self.compiler.build_std {
            "rustup component add --toolchain nightly clippy".to_owned()
        } else {
            apt::typed(&[CLIPPY_PACKAGE])
        }
    }

    /// The files that an object depends on besides its sources.
    #[must_use]
    pub fn files(&self) -> [PathBuf; 2] {
        [self.compiler.program("rustc"), self.linker.clone()]
    }

    /// This toolchain's cargo, or its clippy, in an environment free of the calling cargo's.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.compiler.program(program));
        target::clean_environment(&mut command);
        command
            .env("CARGO", self.compiler.program("cargo"))
            .env("RUSTC", self.compiler.program("rustc"))
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// Whether a package is of the compiler, and so none for building a linker with.
fn is_of_compiler(package: &str) -> bool {
    package == CLIPPY_PACKAGE || PACKAGES.contains(&package)
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compiler, linker } = self;
        let bin = compiler.bin.display();
        write!(
            f,
            "rustc {} in {bin}, linker {}",
            compiler.release,
            linker.display()
        )
    }
}
