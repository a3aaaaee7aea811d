//! Where things are: the workspace's root and its target directory.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::unpack::Unpacked;

/// The workspace on disk and the target directory in use, wherever cargo was told to put it.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace whose build script is running.
    ///
    /// # Errors
    /// When cargo's variables are not set, so this is not a build script.
    pub fn of_build_script() -> Result<Self> {
        let member = env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?;
        let output = env::var_os("OUT_DIR").context("OUT_DIR is not set")?;
        Self::containing(Path::new(&member), Path::new(&output))
    }

    /// The workspace of the package in `member`, whose target directory is the one that holds
    /// `built`, a file or directory made by cargo.
    ///
    /// # Errors
    /// When `member` is not inside natbpf's workspace.
    pub fn containing(member: &Path, built: &Path) -> Result<Self> {
        let root = member
            .ancestors()
            .find(|dir| dir.join("nat-ebpf/Cargo.toml").is_file())
            .with_context(|| format!("{} is not in natbpf's workspace", member.display()))?;
        let target = target_holding(built).unwrap_or_else(|| root.join("target"));
        Ok(Self {
            root: root.to_owned(),
            target,
        })
    }

    /// The directory of the workspace's `Cargo.toml`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The target directory in use.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the BPF object is built: apart from the host's artifacts, so that a cargo started
    /// by a build script never waits for the lock of the cargo that runs the script, and shared
    /// by all profiles, so that it is built once.
    #[must_use]
    pub fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// Where `setup` unpacks the packages that apt does not install beside the installed ones.
    #[must_use]
    pub fn unpacked(&self) -> Unpacked {
        Unpacked::below(self.target.join("tools"))
    }

    /// Where `setup` puts tools that no package provides.
    #[must_use]
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("bpf-tools")
    }

    /// Where such tools may be: the target directory in use, else the workspace's default one.
    pub(crate) fn tool_places(&self) -> [PathBuf; 2] {
        [self.tools(), self.root.join("target/bpf-tools")]
    }
}

/// The target directory that holds `built`, recognised by the files that cargo puts in its root.
fn target_holding(built: &Path) -> Option<PathBuf> {
    let is_target = |dir: &&Path| {
        [".rustc_info.json", "CACHEDIR.TAG"]
            .iter()
            .any(|f| dir.join(f).is_file())
    };
    built.ancestors().find(is_target).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scratch(name: &str) -> PathBuf {
        let dir = env::temp_dir().join(format!("natbpf-toolchain-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn target_directory_is_the_one_that_holds_the_built_file() {
        let dir = scratch("elsewhere");
        fs::create_dir_all(dir.join("root/nat-ebpf")).unwrap();
        fs::write(dir.join("root/nat-ebpf/Cargo.toml"), "").unwrap();
        fs::create_dir_all(dir.join("built/debug/build/out")).unwrap();
        fs::write(dir.join("built/CACHEDIR.TAG"), "").unwrap();

        let member = dir.join("root/nat-user");
        let found = Workspace::containing(&member, &dir.join("built/debug/build/out")).unwrap();
        assert_eq!(found.root(), dir.join("root"));
        assert_eq!(found.target(), dir.join("built"));
        assert_eq!(found.bpf_target(), dir.join("built/bpf"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn target_directory_falls_back_to_the_default_one() {
        let dir = scratch("default");
        fs::create_dir_all(dir.join("nat-ebpf")).unwrap();
        fs::write(dir.join("nat-ebpf/Cargo.toml"), "").unwrap();

        let found = Workspace::containing(&dir, Path::new("/nonexistent/file")).unwrap();
        assert_eq!(found.target(), dir.join("target"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_outside_the_workspace_is_refused() {
        let error = Workspace::containing(Path::new("/nonexistent"), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
