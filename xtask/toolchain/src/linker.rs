//! `bpf-linker`: finding one that fits the compiler, and building it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::compiler::Compiler;
use crate::process::{capture, find_program, show};
use crate::target;
use crate::workspace::Workspace;

/// The version that `setup` installs.
const VERSION: &str = "0.13.0";

/// A note beside an installed linker that says what it was built for.
const NOTE: &str = "bpf-linker.txt";

/// The LLVM of the compiler in Debian's packages, for when that compiler is not installed yet.
const PACKAGED_LLVM: u32 = 22;

/// A linker that runs and can read what `compiler` writes, if there is one.
pub(crate) fn find(workspace: &Workspace, compiler: &Compiler) -> Option<PathBuf> {
    let ours = workspace
        .tool_places()
        .into_iter()
        .filter(|tools| fits(tools, compiler));
    ours.map(|tools| tools.join("bin/bpf-linker"))
        .chain(find_program("bpf-linker"))
        .find(|linker| runs(linker))
}

/// Whether the linker in `tools` was built for this compiler's LLVM. One without a note was put
/// there by hand, and is trusted.
fn fits(tools: &Path, compiler: &Compiler) -> bool {
    fs::read_to_string(tools.join(NOTE)).map_or(true, |text| text == note(compiler))
}

/// Whether the program starts at all: an upgrade may have taken its LLVM away.
fn runs(linker: &Path) -> bool {
    linker.is_file() && capture(Command::new(linker).arg("--version")).is_ok()
}

fn note(compiler: &Compiler) -> String {
    format!("bpf-linker {VERSION} for LLVM {}\n", compiler.llvm)
}

/// The Debian package with which a linker for `compiler` is built, if it is missing. Without a
/// compiler, for the one that the distribution has at present.
pub(crate) fn missing_package(
    workspace: &Workspace,
    compiler: Option<&Compiler>,
) -> Option<String> {
    let llvm = compiler.map_or(PACKAGED_LLVM, |compiler| compiler.llvm);
    let places = llvm_roots(workspace, llvm).map(|root| llvm_prefix(&root, llvm));
    let is_here = places
        .iter()
        .any(|prefix| prefix.join("bin/llvm-config").is_file());
    (!is_here).then(|| package(llvm))
}

/// Debian's package with one version of LLVM.
fn package(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

/// Where one version of LLVM may be: unpacked, else installed.
fn llvm_roots(workspace: &Workspace, version: u32) -> [PathBuf; 2] {
    let unpacked = workspace.unpacked().root(&package(version));
    [unpacked, PathBuf::from("/")]
}

/// Where Debian keeps one version of LLVM.
fn llvm_prefix(root: &Path, version: u32) -> PathBuf {
    root.join(format!("usr/lib/llvm-{version}"))
}

/// Unpacks the package with which a linker is built.
///
/// # Errors
/// When apt cannot download it.
pub(crate) fn unpack(workspace: &Workspace, apt: &Apt, package: &str) -> Result<()> {
    workspace.unpacked().add(apt, package, &[package])
}

/// Builds the linker for `compiler` and puts it under the workspace's target directory.
///
/// # Errors
/// When the build fails.
pub(crate) fn install(workspace: &Workspace, compiler: &Compiler) -> Result<PathBuf> {
    eprintln!(
        "setup: building bpf-linker {VERSION} for LLVM {} (a minute or two)",
        compiler.llvm
    );
    let tools = workspace.tools();
    let [unpacked, installed] = llvm_roots(workspace, compiler.llvm);
    let llvm = match unpacked.is_dir() {
        true => unpacked,
        false => installed,
    };
    show(&mut install_command(compiler, &llvm, &tools)).context("build bpf-linker")?;
    // The intermediate files are large, and never needed again.
    let _ = fs::remove_dir_all(tools.join("build"));
    let file = tools.join(NOTE);
    fs::write(&file, note(compiler)).with_context(|| format!("write {}", file.display()))?;
    Ok(tools.join("bin/bpf-linker"))
}

fn install_command(compiler: &Compiler, llvm: &Path, tools: &Path) -> Command {
    let mut command = Command::new(compiler.program("cargo"));
    target::clean_environment(&mut command);
    command
        .env("RUSTC", compiler.program("rustc"))
        .env("LLVM_PREFIX", llvm_prefix(llvm, compiler.llvm))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{}", compiler.llvm),
        ])
        .arg("--root")
        .arg(tools)
        .arg("--target-dir")
        .arg(tools.join("build"));
    if llvm != Path::new("/") {
        // For what the build runs, and for the linker itself with all the libraries of its
        // libraries.
        let libraries = llvm.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let flags = format!(
            "-Clink-arg=-L{0}\u{1f}-Clink-arg=-Wl,--disable-new-dtags,-rpath,{0}",
            libraries.display()
        );
        command
            .env("LD_LIBRARY_PATH", &libraries)
            .env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(llvm: u32) -> Compiler {
        Compiler {
            bin: PathBuf::from("/nonexistent"),
            release: "1.96.0".to_owned(),
            llvm,
            build_std: false,
        }
    }

    #[test]
    fn a_linker_fits_the_llvm_that_it_was_built_for() {
        let tools = std::env::temp_dir().join(format!("natbpf-linker-{}", std::process::id()));
        fs::create_dir_all(&tools).unwrap();
        assert!(fits(&tools, &compiler(22)), "one without a note is trusted");
        fs::write(tools.join(NOTE), note(&compiler(22))).unwrap();
        assert!(fits(&tools, &compiler(22)));
        assert!(!fits(&tools, &compiler(23)));
        fs::remove_dir_all(tools).unwrap();
    }

    #[test]
    fn a_missing_llvm_is_named_as_its_package() {
        let built = std::env::current_exe().unwrap();
        let member = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = Workspace::containing(member, &built).unwrap();
        let package = missing_package(&workspace, Some(&compiler(9999)));
        assert_eq!(package.as_deref(), Some("llvm-9999-dev"));
    }

    #[test]
    fn a_program_that_does_not_start_is_no_linker() {
        assert!(!runs(Path::new("/nonexistent/bpf-linker")));
        assert!(!runs(Path::new("/etc/hostname")));
    }
}
