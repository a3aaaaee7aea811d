//! The files of the programs that serve a network.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A program that serves a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    /// DHCP, router advertisements and DNS.
    Dnsmasq,
    /// DNS64, which dnsmasq asks where it has no answer itself.
    Unbound,
}

impl Program {
    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dnsmasq => "dnsmasq",
            Self::Unbound => "unbound",
        }
    }

    /// The package of Debian that has it.
    pub(super) const fn package(self) -> &'static str {
        match self {
            Self::Dnsmasq => "dnsmasq-base",
            Self::Unbound => "unbound",
        }
    }
}

/// Where Debian's AppArmor profile lets unbound read files (`/etc/apparmor.d/usr.sbin.unbound`) and
/// root may write them without further capabilities.
const OF_UNBOUND: &str = "/etc/unbound";

/// The files of one program.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) program: Program,
    pub(super) conf: PathBuf,
    pub(super) hosts: PathBuf,
    pub(super) leases: PathBuf,
    pub(super) pid: PathBuf,
    /// Its messages when it cannot start. All others go to syslog.
    pub(super) errors: PathBuf,
}

impl Files {
    /// Those of the dnsmasq on an interface.
    pub(super) fn of(folder: &Path, interface: &str) -> Self {
        Self::of_program(folder, interface, Program::Dnsmasq)
    }

    /// Those of a program on an interface.
    pub(super) fn of_program(folder: &Path, interface: &str, program: Program) -> Self {
        let prefix = match program {
            Program::Dnsmasq => "",
            Program::Unbound => "dns64-",
        };
        let file = |kind: &str| folder.join(format!("{interface}.{prefix}{kind}"));
        Self {
            program,
            conf: folder_of(folder, program).join(format!("{interface}.conf")),
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
        [&self.conf, &self.pid]
            .into_iter()
            .try_for_each(|file| make_folder(file.parent().unwrap_or(Path::new("."))))
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
        if let (Program::Unbound, Some(folder)) = (self.program, self.conf.parent()) {
            let _has_others = fs::remove_dir(folder);
        }
    }

    /// An argument that no other process has: the configuration.
    pub(super) fn argument(&self) -> Vec<u8> {
        let conf = self.conf.as_os_str().as_bytes();
        match self.program {
            Program::Dnsmasq => [b"--conf-file=", conf].concat(),
            Program::Unbound => conf.to_owned(),
        }
    }
}

/// Where the configurations of a program are, if all other files are in `folder`.
pub(super) fn folder_of(folder: &Path, program: Program) -> PathBuf {
    match program {
        Program::Dnsmasq => folder.to_owned(),
        Program::Unbound => {
            // (FNV-1a: another natbpf has another run directory, and so another folder.)
            let bytes = folder.as_os_str().as_bytes().iter();
            let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            Path::new(OF_UNBOUND).join(format!("natbpf-{hash:016x}"))
        }
    }
}

/// Creates the folder of all files, which dnsmasq enters as another user, whatever the umask of
/// this process is.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("create {}", folder.display()))
}
