//! What the guest boots into: an initramfs with the tests, natbpf, the tools that the tests call,
//! and the kernel's modules.
//!
//! It is a cpio archive, or rather two, one behind the other: the first is the same for all
//! kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use bpf_toolchain::Workspace;
use bpf_toolchain::process::{capture, find_program, line, show};
use bpf_toolchain::unpack::Launch;
use serde_json::Value;

use super::kernel::Unpacked;
use crate::command::cargo;
use crate::setup::lab_programs;

/// What is tested in the guest.
pub(super) const NATBPF: &str = "natbpf";
/// The tests of loaded programs.
pub(super) const PROGRAM_TESTS: &str = "programs";
/// The tests of whole hosts.
pub(super) const HOST_TESTS: &str = "namespaces";
const TEST_PROGRAMS: [&str; 2] = [PROGRAM_TESTS, HOST_TESTS];

/// What the guest needs besides the lab's tools: to start, to load modules when the kernel asks,
/// and what single tests call.
const BASE: [&str; 7] = ["sh", "mount", "stty", "modprobe", "cat", "cp", "bridge"];

/// Directories of modules that the guest may need; no device is among them but virtual ones.
const MODULES: [&str; 5] = ["net", "drivers/net", "lib", "crypto", "arch"];

const INIT: &str = include_str!("init.sh");

/// Paths of the programs built for the guest, by name.
pub(super) struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Builds natbpf and the test programs.
    pub(super) fn build(workspace: &Workspace) -> Result<Self> {
        let mut build = cargo(workspace, "build");
        // The step before has built them: this only asks where they are.
        build.args(["--quiet", "--message-format=json-render-diagnostics"]);
        build.args(["--bin", NATBPF]);
        for name in TEST_PROGRAMS {
            build.args(["--test", name]);
        }
        let messages = build
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("start `{}`", line(&build)))?;
        if !messages.status.success() {
            bail!("`{}` failed; its output is above", line(&build));
        }
        Self::from_messages(&String::from_utf8_lossy(&messages.stdout))
    }

    fn from_messages(messages: &str) -> Result<Self> {
        let mut found = BTreeMap::new();
        for message in messages.lines() {
            let message: Value = serde_json::from_str(message).context("read cargo's messages")?;
            let name = message["target"]["name"].as_str();
            let executable = message["executable"].as_str();
            if let (Some(name), Some(executable)) = (name, executable) {
                found.insert(name.to_owned(), PathBuf::from(executable));
            }
        }
        for name in TEST_PROGRAMS.iter().chain([&NATBPF]) {
            if !found.contains_key(*name) {
                bail!("cargo has built no {name}");
            }
        }
        Ok(Self(found))
    }
}

/// A directory for one run of this command, gone with it; what a killed run left goes with the
/// next.
pub(super) struct RunDir(PathBuf);

impl RunDir {
    const PREFIX: &str = "run-";

    pub(super) fn new(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("make {}", cache.display()))?;
        for entry in fs::read_dir(cache)? {
            let entry = entry?;
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix(Self::PREFIX));
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = cache.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The part of the initramfs that is the same for all kernels.
pub(super) struct Image(PathBuf);

impl Image {
    pub(super) fn make(programs: &Programs, run_dir: &RunDir) -> Result<Self> {
        let root = run_dir.file("root");
        lay_out(&root)?;
        for name in TEST_PROGRAMS.iter().chain([&NATBPF]) {
            let built = &programs.0[*name];
            // What is for debuggers makes up nine tenths of it.
            let mut strip = Command::new("strip");
            show(
                strip
                    .arg("-o")
                    .arg(root.join("usr/bin").join(name))
                    .arg(built),
            )?;
        }
        let mut dirs = Vec::new();
        for name in BASE.into_iter().chain(lab_programs()) {
            let path = find_program(name).with_context(|| format!("there is no {name} here"))?;
            let launch = Launch::of(&path);
            copy(&launch.program, &root.join("usr/bin").join(name))?;
            dirs.extend(launch.libraries);
        }
        for library in libraries(&root.join("usr/bin"), &dirs)? {
            // What is unpacked goes to where the loader looks.
            let place = match library.parent() {
                Some(dir) if dirs.iter().any(|unpacked| unpacked == dir) => {
                    Path::new("usr/lib").join(library.file_name().context("a library's name")?)
                }
                _ => library.strip_prefix("/").unwrap_or(&library).to_owned(),
            };
            copy(&library, &root.join(place))?;
        }
        fs::write(root.join("init"), INIT).context("write init")?;
        show(Command::new("chmod").arg("755").arg(root.join("init")))?;
        let archive = run_dir.file("base.cpio");
        pack(&root, &archive)?;
        fs::remove_dir_all(&root).context("clean up")?;
        Ok(Self(archive))
    }

    /// The whole initramfs for one kernel, which runs `script`.
    pub(super) fn for_kernel(
        &self,
        kernel: &Unpacked,
        script: &str,
        run_dir: &RunDir,
    ) -> Result<PathBuf> {
        let version = kernel.modules.file_name().context("a kernel's version")?;
        let version = version.to_string_lossy();
        let root = run_dir.file(&format!("{version}.root"));
        copy_modules(&kernel.modules, &root.join("lib/modules").join(&*version))?;
        show(Command::new("depmod").arg("-b").arg(&root).arg(&*version))?;
        // Behind what has a link of that name already.
        fs::rename(root.join("lib"), root.join("usr-lib")).context("lay modules out")?;
        fs::create_dir(root.join("usr")).context("lay modules out")?;
        fs::rename(root.join("usr-lib"), root.join("usr/lib")).context("lay modules out")?;
        fs::write(root.join("tests.sh"), script).context("write the guest's script")?;
        let modules = run_dir.file(&format!("{version}.cpio"));
        pack(&root, &modules)?;
        let whole = run_dir.file(&format!("{version}.initramfs"));
        let mut output = File::create(&whole).context("make the initramfs")?;
        for part in [&self.0, &modules] {
            io::copy(&mut File::open(part)?, &mut output).context("write the initramfs")?;
        }
        fs::remove_dir_all(&root).context("clean up")?;
        fs::remove_file(&modules).context("clean up")?;
        Ok(whole)
    }
}

/// The directories that a system has, with the links of Debian's.
fn lay_out(root: &Path) -> Result<()> {
    let dirs = [
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "proc",
        "sys",
        "dev",
        "tmp",
        "run",
    ];
    for dir in dirs {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("make {dir}"))?;
    }
    let links = [
        ("bin", "bin"),
        ("sbin", "bin"),
        ("lib", "lib"),
        ("lib64", "lib64"),
    ];
    for (link, to) in links {
        symlink(format!("usr/{to}"), root.join(link)).with_context(|| format!("link {link}"))?;
    }
    Ok(())
}

/// The shared libraries, and the loader, of all programs in a directory; some may be in `dirs`.
fn libraries(dir: &Path, dirs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    let path = env::join_paths(dirs).context("a path of libraries")?;
    for entry in fs::read_dir(dir)? {
        let program = entry?.path();
        let mut ldd = Command::new("ldd");
        let list = capture(ldd.arg(&program).env("LD_LIBRARY_PATH", &path))?;
        if list.contains("not found") {
            bail!(
                "{} needs a library that is not here:\n{list}",
                program.display()
            );
        }
        let words = list.split_whitespace().filter(|word| word.starts_with('/'));
        libraries.extend(words.map(PathBuf::from));
    }
    Ok(libraries)
}

/// Copies a file, or the one behind a link, to where nothing may be yet.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn copy_modules(from: &Path, to: &Path) -> Result<()> {
    let kernel = to.join("kernel");
    fs::create_dir_all(&kernel).with_context(|| format!("make {}", kernel.display()))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // The input of depmod: built-in modules, and the order.
        if entry.file_name().to_string_lossy().starts_with("modules.") {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    for dir in MODULES {
        let place = kernel.join(dir);
        fs::create_dir_all(place.parent().context("a directory")?)?;
        let mut copy = Command::new("cp");
        show(copy.arg("-r").arg(from.join("kernel").join(dir)).arg(place))?;
    }
    Ok(())
}

/// Packs a directory as the kernel unpacks it.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let output = File::create(archive).with_context(|| format!("make {}", archive.display()))?;
    let mut pack = Command::new("sh");
    pack.args([
        "-c",
        "find . | cpio --create --format=newc --owner=0:0 --quiet",
    ]);
    let status = pack
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(output)
        .status();
    let status = status.context("start sh")?;
    if !status.success() {
        bail!("cpio failed ({status}); its output is above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_of_cargo_are_found_by_name() {
        let artifact = |name: &str| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "target": {"name": name, "kind": ["test"]},
                "executable": format!("/t/{name}-1"),
            })
            .to_string()
        };
        let library = r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}"#;
        let mut messages = vec![library.to_owned()];
        messages.extend(["natbpf", "programs", "namespaces"].map(artifact));
        let programs = Programs::from_messages(&messages.join("\n")).unwrap();
        assert_eq!(programs.0["namespaces"], Path::new("/t/namespaces-1"));
        let incomplete = Programs::from_messages(&messages[..3].join("\n"));
        let error = incomplete.err().expect("namespaces is missing").to_string();
        assert_eq!(error, "cargo has built no namespaces");
    }

    #[test]
    fn directories_of_dead_runs_are_removed_and_those_of_living_ones_kept() {
        let cache = std::env::temp_dir().join(format!("natbpf-kernels-{}", std::process::id()));
        let (dead, alive) = (cache.join("run-4194305"), cache.join("run-1"));
        fs::create_dir_all(&dead).unwrap();
        fs::create_dir_all(&alive).unwrap();
        let own = RunDir::new(&cache).unwrap();
        let seen = [&dead, &alive, &own.0].map(|dir| dir.exists());
        drop(own);
        fs::remove_dir_all(&cache).unwrap();
        assert_eq!(seen, [false, true, true]);
    }
}
