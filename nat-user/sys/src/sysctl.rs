//! Kernel settings under `/proc/sys`.
//!
//! A setting is named by its path there, never by the dotted form, in which the name of a VLAN
//! interface such as `vmbr1.10` looks like two components. Settings under `net/` belong to the
//! network namespace of the calling thread.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

const ROOT: &str = "/proc/sys";

/// The name of a setting: its path under `/proc/sys`, such as `net/ipv4/ip_forward`.
///
/// `sysctl(8)` takes this form too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// Builds a name from its components, each of which may contain dots.
    ///
    /// # Errors
    /// When a component is not the name of a file: empty, `.`, `..`, or with a slash in it.
    pub fn new(components: &[&str]) -> Result<Self> {
        let sound = |part: &&str| !matches!(*part, "" | "." | "..") && !part.contains(['/', '\0']);
        if components.is_empty() || !components.iter().all(sound) {
            bail!("{:?} is not the name of a sysctl", components.join("/"));
        }
        Ok(Self(components.join("/")))
    }

    /// `net/ipv4/conf/INTERFACE/SETTING`; the interface may be `all` or `default`.
    ///
    /// # Errors
    /// When the interface's name cannot be the name of a file.
    pub fn ipv4_conf(interface: &str, setting: &str) -> Result<Self> {
        Self::new(&["net", "ipv4", "conf", interface, setting])
    }

    /// `net/ipv6/conf/INTERFACE/SETTING`; the interface may be `all` or `default`.
    ///
    /// # Errors
    /// When the interface's name cannot be the name of a file.
    pub fn ipv6_conf(interface: &str, setting: &str) -> Result<Self> {
        Self::new(&["net", "ipv6", "conf", interface, setting])
    }

    /// `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// None: the name is valid.
    pub fn ip_forward() -> Result<Self> {
        Self::new(&["net", "ipv4", "ip_forward"])
    }

    /// Whether it is `net/ipv4/ip_forward`, which changes others along with it.
    #[must_use]
    pub fn is_ip_forward(&self) -> bool {
        self.0 == "net/ipv4/ip_forward"
    }

    /// Whether it is `net/ipv6/conf/all/forwarding`, which changes others along with it.
    #[must_use]
    pub fn is_ipv6_forward(&self) -> bool {
        self.0 == "net/ipv6/conf/all/forwarding"
    }

    /// Whether it is a setting of IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.0.starts_with("net/ipv6/")
    }

    /// The interface, of a setting under `conf/INTERFACE` or `neigh/INTERFACE` of either family.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        let ipv4 = self.0.strip_prefix("net/ipv4/");
        let below = ipv4.or_else(|| self.0.strip_prefix("net/ipv6/"))?;
        let conf = below.strip_prefix("conf/");
        let below = conf.or_else(|| below.strip_prefix("neigh/"))?;
        let (interface, _) = below.split_once('/')?;
        (!matches!(interface, "all" | "default")).then_some(interface)
    }

    /// Whether it is under `conf/INTERFACE` or `neigh/INTERFACE` of either family.
    #[must_use]
    pub fn is_of_interface(&self, interface: &str) -> bool {
        self.interface() == Some(interface)
    }

    /// The current value, without the line break. `None` if the setting does not exist: the
    /// interface is gone, or its kernel module is not loaded.
    ///
    /// # Errors
    /// When the setting is there and cannot be read.
    pub fn read(&self) -> Result<Option<String>> {
        match fs::read_to_string(self.path()) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read sysctl {self}")),
        }
    }

    /// Sets the value.
    ///
    /// # Errors
    /// When there is no such setting, or the kernel or the sandbox refuses.
    pub fn write(&self, value: &str) -> Result<()> {
        let Err(error) = fs::write(self.path(), value) else {
            return Ok(());
        };
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::EROFS) => {
                bail!("set sysctl {self} to {value}: {error}; needs root and a writable {ROOT}")
            }
            _ => bail!("set sysctl {self} to {value}: {error}"),
        }
    }

    fn path(&self) -> PathBuf {
        Path::new(ROOT).join(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Key {
    type Error = anyhow::Error;

    fn try_from(path: String) -> Result<Self> {
        Self::new(&path.split('/').collect::<Vec<_>>())
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

/// The names of all interfaces that have IPv4 settings, `all` and `default` among them.
///
/// # Errors
/// When `/proc/sys/net/ipv4/conf` cannot be read.
pub fn ipv4_conf_names() -> Result<Vec<String>> {
    conf_names("net/ipv4/conf")
}

/// The same for IPv6.
///
/// # Errors
/// When `/proc/sys/net/ipv6/conf` cannot be read.
pub fn ipv6_conf_names() -> Result<Vec<String>> {
    conf_names("net/ipv6/conf")
}

fn conf_names(directory: &str) -> Result<Vec<String>> {
    let directory = Path::new(ROOT).join(directory);
    let entries = fs::read_dir(&directory)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .with_context(|| format!("list {}", directory.display()))?;
    // The rest of natbpf cannot handle a name that is not UTF-8.
    let mut names: Vec<_> = (entries.iter())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// An interface that vanishes between `open` and `read` makes the read fail with ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_namespace, ip};

    #[test]
    fn a_name_cannot_leave_proc_sys() {
        for bad in ["", ".", "..", "a/b", "a\0"] {
            assert!(Key::ipv4_conf(bad, "forwarding").is_err(), "{bad:?}");
        }
        assert!(Key::try_from("net/../../etc/passwd".to_owned()).is_err());
        assert!(Key::try_from("/etc/passwd".to_owned()).is_err());
        let key = Key::ipv4_conf("vmbr1.10", "send_redirects").unwrap();
        assert_eq!(key.to_string(), "net/ipv4/conf/vmbr1.10/send_redirects");
        assert!(key.is_of_interface("vmbr1.10") && !key.is_of_interface("vmbr1"));
        let key = Key::ipv6_conf("vmbr1.10", "accept_ra").unwrap();
        assert_eq!(key.interface(), Some("vmbr1.10"));
        let key = Key::ipv6_conf("all", "forwarding").unwrap();
        assert!(key.is_ipv6_forward() && key.interface().is_none());
    }

    #[test]
    fn settings_are_those_of_the_threads_namespace() {
        let forward = || Key::new(&["net", "ipv4", "ip_forward"]).unwrap();
        let outside = forward().read().unwrap();
        in_namespace(async move || {
            let flipped = if forward().read().unwrap().unwrap() == "0" {
                "1"
            } else {
                "0"
            };
            forward().write(flipped).unwrap();
            assert_eq!(forward().read().unwrap().unwrap(), flipped);
            // A child process sees the same.
            let out = std::process::Command::new("cat")
                .arg("/proc/sys/net/ipv4/ip_forward")
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), flipped);
        });
        assert_eq!(forward().read().unwrap(), outside);
    }

    #[test]
    fn an_interface_name_with_dots_works() {
        in_namespace(async || {
            ip("link add vm.br.1 type bridge");
            let key = Key::ipv4_conf("vm.br.1", "send_redirects").unwrap();
            key.write("0").unwrap();
            assert_eq!(key.read().unwrap().as_deref(), Some("0"));
            assert!(ipv4_conf_names().unwrap().contains(&"vm.br.1".to_owned()));
            ip("link del vm.br.1");
            assert_eq!(key.read().unwrap(), None);
            let error = key.write("0").unwrap_err().to_string();
            assert!(error.starts_with("set sysctl net/ipv4/conf/vm.br.1/send_redirects to 0: No"));
        });
    }
}
