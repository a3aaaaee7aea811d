//! Building the BPF object, and checking it with clippy.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{capture, show};
use crate::target::target_triple;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// The environment variable with which a packager names a prebuilt object.
pub const OBJECT_VARIABLE: &str = "NATBPF_BPF_OBJECT";

/// The instruction set: 32-bit operations and jumps, which kernels have from 5.1 on.
const CPU: &str = "v3";

/// One build of an object, with a toolchain and for the machine that is being built for.
#[derive(Debug)]
pub struct ObjectBuild<'a> {
    /// The workspace to build.
    pub workspace: &'a Workspace,
    /// The package that is built: `nat-ebpf` is what ships.
    pub package: &'a str,
    /// Which of its programs, each an object of its own.
    pub program: &'a str,
    /// With what.
    pub toolchain: &'a Toolchain,
    /// Where cargo puts its files; usually [`Workspace::bpf_target`].
    pub target_dir: PathBuf,
}

impl ObjectBuild<'_> {
    /// Builds the object and returns its path. Quick if nothing has changed.
    ///
    /// # Errors
    /// When the sources do not compile, with the compiler's messages.
    pub fn build(&self) -> Result<PathBuf> {
        let mut command = self.cargo("cargo", "build");
        capture(&mut command).context("build the BPF object")?;
        let object = self
            .target_dir
            .join(target_triple())
            .join("release")
            .join(self.program);
        check_object(&object)?;
        Ok(object)
    }

    /// Runs clippy on the BPF crate, warnings being errors, with its messages shown.
    ///
    /// # Errors
    /// When clippy complains, or cannot be started.
    pub fn clippy(&self) -> Result<()> {
        self.toolchain.require_clippy()?;
        let mut command = self.cargo("cargo-clippy", "clippy");
        show(command.args(["--", "--deny", "warnings"]))
    }

    /// A cargo command on the BPF crate for the BPF target.
    fn cargo(&self, program: &str, action: &str) -> Command {
        let mut command = self.toolchain.command(program);
        let triple = target_triple();
        let linker = format!(
            "CARGO_TARGET_{}_LINKER",
            triple.to_uppercase().replace('-', "_")
        );
        command
            .current_dir(self.workspace.root())
            .env(linker, &self.toolchain.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags())
            .args([
                action,
                "--release",
                "--locked",
                "--package",
                self.package,
                "--bin",
                self.program,
            ])
            .args(["--target", &triple, "--target-dir"])
            .arg(&self.target_dir);
        if self.toolchain.compiler.build_std {
            command.arg("-Zbuild-std=core");
        }
        command
    }

    /// The compiler's flags, in the form that allows spaces in paths.
    fn rustflags(&self) -> OsString {
        let arch = user_space_arch();
        let mut flags: Vec<OsString> = vec![
            "-Cdebuginfo=2".into(),
            "-Clink-arg=--btf".into(),
            format!("-Ctarget-cpu={CPU}").into(),
            format!("--cfg=bpf_target_arch=\"{arch}\"").into(),
        ];
        flags.extend(self.remapped_paths().into_iter().map(|(from, to)| {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push("=");
            flag.push(to);
            flag
        }));
        flags.join("\u{1f}".as_ref())
    }

    /// The paths of this machine and their replacements in the object, so that the same sources
    /// yield the same object anywhere. The workspace becomes `.`, where the linker still finds the
    /// sources: the kernel's verifier shows their lines in its log.
    fn remapped_paths(&self) -> Vec<(PathBuf, &'static str)> {
        let mut paths = vec![
            (self.workspace.root().to_owned(), "."),
            (self.toolchain.compiler.sources(), "rust"),
            (self.target_dir.clone(), "target"),
        ];
        paths.extend(crate_sources().into_iter().map(|dir| (dir, "crates")));
        paths
    }
}

/// Checks that `path` is an object file for BPF.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn check_object(path: &Path) -> Result<()> {
    /// ELF's number for BPF, at offset 18 in the byte order of the file.
    const EM_BPF: u16 = 247;
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        bytes.starts_with(b"\x7fELF"),
        "{} is not an ELF file",
        path.display()
    );
    let machine = match bytes.get(18..20) {
        Some(&[low, high]) if bytes[5] == 1 => u16::from_le_bytes([low, high]),
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => bail!("{} ends within its header", path.display()),
    };
    ensure!(
        machine == EM_BPF,
        "{} is not a BPF object (ELF machine {machine})",
        path.display()
    );
    Ok(())
}

/// The architecture of that machine, in the spelling of aya's `bpf_target_arch`.
fn user_space_arch() -> String {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    if arch.starts_with("riscv64") {
        "riscv64".to_owned()
    } else {
        arch
    }
}

/// The directories in which cargo unpacks the crates of each registry.
fn crate_sources() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home
        .or_else(|| env::home_dir().map(|dir| dir.join(".cargo")))
        .unwrap_or_default();
    let Ok(entries) = home.join("registry/src").read_dir() else {
        return Vec::new();
    };
    let mut dirs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of an object file: byte order and machine are what varies.
    fn header(order: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.resize(18, 0);
        bytes[5] = order;
        bytes.extend(machine);
        bytes
    }

    fn verdict(name: &str, bytes: &[u8]) -> Result<()> {
        let path = env::temp_dir().join(format!("natbpf-object-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        let verdict = check_object(&path);
        fs::remove_file(path).unwrap();
        verdict
    }

    #[test]
    fn bpf_objects_of_both_byte_orders_are_accepted() {
        verdict("little", &header(1, [247, 0])).unwrap();
        verdict("big", &header(2, [0, 247])).unwrap();
    }

    #[test]
    fn other_files_are_refused_by_name() {
        for (name, bytes) in [
            ("text", b"hello".to_vec()),
            ("short", b"\x7fELF".to_vec()),
            ("x86", header(1, [62, 0])),
        ] {
            let error = verdict(name, &bytes).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let error = check_object(Path::new("/nonexistent.o"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "read /nonexistent.o");
    }
}
