//! The files of one dnsmasq.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The files of one dnsmasq.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) conf: PathBuf,
    pub(super) hosts: PathBuf,
    pub(super) leases: PathBuf,
    pub(super) pid: PathBuf,
    /// Its messages when it cannot start. All others go to syslog.
    pub(super) errors: PathBuf,
}

impl Files {
    pub(super) fn of(folder: &Path, interface: &str) -> Self {
        let file = |kind: &str| folder.join(format!("{interface}.{kind}"));
        Self {
            conf: file("conf"),
            hosts: file("hosts"),
            leases: file("leases"),
            pid: file("pid"),
            errors: file("errors"),
        }
    }

    /// The interface of a file.
    pub(super) fn interface_of(file: &OsStr) -> Option<String> {
        let (interface, kind) = file.to_str()?.rsplit_once('.')?;
        let is_one = ["conf", "hosts", "leases", "pid", "errors"].contains(&kind);
        is_one.then(|| interface.to_owned())
    }

    pub(super) fn make_folder(&self) -> Result<()> {
        make_folder(self.conf.parent().unwrap_or(Path::new(".")))
    }

    /// The existing files.
    pub(super) fn remove(&self) {
        for file in [
            &self.conf,
            &self.hosts,
            &self.leases,
            &self.pid,
            &self.errors,
        ] {
            let _missing = fs::remove_file(file);
        }
    }

    /// `--conf-file=…`, which no other process has among its arguments.
    pub(super) fn argument(&self) -> Vec<u8> {
        [b"--conf-file=", self.conf.as_os_str().as_bytes()].concat()
    }
}

/// Creates the folder of all files, which dnsmasq enters as another user, whatever the umask of
/// this process is.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("create {}", folder.display()))
}
