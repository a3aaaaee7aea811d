//! A compiler and a linker that fit together: found, or installed.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::compiler::{CLIPPY_PACKAGE, Compiler, PACKAGES};
use crate::workspace::Workspace;
use crate::{apt, linker, object};

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
        for compiler in [Compiler::packaged(), Compiler::nightly()] {
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

    /// The Debian packages that are missing for a toolchain, and for its clippy if asked.
    #[must_use]
    pub fn missing_packages(workspace: &Workspace, with_clippy: bool) -> Vec<String> {
        let found = Self::find(workspace).map(|toolchain| toolchain.compiler);
        let complete = found.is_ok();
        let compiler = found
            .or_else(|_| Compiler::packaged())
            .or_else(|_| Compiler::nightly());
        let mut packages = Vec::new();
        if compiler.is_err() {
            packages.extend(PACKAGES.map(str::to_owned));
        }
        if !complete {
            packages.extend(linker::missing_package(compiler.as_ref().ok()));
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
        let compiler = Compiler::packaged().or_else(|_| Compiler::nightly())?;
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
        object::clean_environment(&mut command);
        command
            .env("CARGO", self.compiler.program("cargo"))
            .env("RUSTC", self.compiler.program("rustc"))
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }
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
