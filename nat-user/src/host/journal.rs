//! The record of all changes to the host, written to disk before each change.
//!
//! `host.json` in the run directory holds the changes in the order in which they were made, each
//! with what was there before. It is replaced as a whole, so that a reader finds the old or the new
//! one. It is valid only in the boot and the network namespace in which it was written.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::change::Change;

const FILE: &str = "host.json";
const NEW_FILE: &str = "host.json.new";
/// Where the record of another boot or namespace is moved.
const STALE_FILE: &str = "host.json.stale";
const FORMAT: u32 = 1;

/// The undo record.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    changes: Vec<Change>,
    /// The content of the file.
    on_disk: Vec<Change>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    place: Place,
    changes: Vec<Change>,
}

/// The boot and namespace, with whose end all recorded changes end.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// `/proc/sys/kernel/random/boot_id`.
    boot: String,
    /// The inode of the network namespace.
    namespace: u64,
}

impl Journal {
    /// Reads the record in the run directory. If there is none, nothing was changed. One of an
    /// earlier boot or of another network namespace is set aside, with a warning in the log.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is of another version of natbpf.
    pub fn open(run_directory: &Path) -> Result<Self> {
        let changes = match fs::read(run_directory.join(FILE)) {
            Ok(bytes) => read(run_directory, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let file = run_directory.join(FILE);
                return Err(error).with_context(|| format!("read {}", file.display()));
            }
        };
        Ok(Self {
            directory: run_directory.to_owned(),
            on_disk: changes.clone(),
            changes,
        })
    }

    /// The changes, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The change that was made to the same object, if there is one.
    pub(super) fn find(&self, change: &Change) -> Option<&Change> {
        self.changes.iter().find(|known| known.same_object(change))
    }

    /// Records a change, to be written by [`Self::save`]. It replaces an earlier one of the same
    /// object, but keeps that one's original value.
    pub(super) fn record(&mut self, mut change: Change) {
        match (self.changes.iter_mut()).find(|known| known.same_object(&change)) {
            Some(known) => {
                change.follow(known);
                *known = change;
            }
            None => self.changes.push(change),
        }
    }

    /// Replaces all changes, to be written by [`Self::save`].
    pub(super) fn replace(&mut self, changes: Vec<Change>) {
        self.changes = changes;
    }

    /// Brings the disk up to date. When it returns, the record survives a crash. An empty record
    /// leaves no file.
    ///
    /// # Errors
    /// When the file cannot be written; the old one is then still there.
    pub(super) fn save(&mut self) -> Result<()> {
        if self.changes == self.on_disk {
            return Ok(());
        }
        let written = if self.changes.is_empty() {
            // A daemon that was killed while it wrote leaves the new file behind.
            remove(&self.directory.join(NEW_FILE)).and_then(|()| remove(&self.directory.join(FILE)))
        } else {
            self.write()
        };
        written.with_context(|| {
            let file = self.directory.join(FILE);
            format!("record changes to the host in {}", file.display())
        })?;
        self.on_disk.clone_from(&self.changes);
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let record = Record {
            format: FORMAT,
            place: Place::here()?,
            changes: self.changes.clone(),
        };
        let new = self.directory.join(NEW_FILE);
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&record)?)?;
        file.sync_all()?;
        fs::rename(&new, self.directory.join(FILE))?;
        // The new name survives a crash only when the directory is on disk too.
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }
}

impl Place {
    fn here() -> Result<Self> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        const NAMESPACE: &str = "/proc/thread-self/ns/net";
        let boot = fs::read_to_string(BOOT).with_context(|| format!("read {BOOT}"))?;
        let namespace = fs::metadata(NAMESPACE).with_context(|| format!("look up {NAMESPACE}"))?;
        Ok(Self {
            boot: boot.trim().to_owned(),
            namespace: namespace.ino(),
        })
    }
}

fn read(directory: &Path, bytes: &[u8]) -> Result<Vec<Change>> {
    let file = directory.join(FILE);
    let shown = file.display();
    let remedy = "natbpf needs it to undo its changes to this host; to keep those changes, move it \
                  away";
    /// Read first, since all the rest may differ in another version.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format = serde_json::from_slice::<Format>(bytes)
        .map_err(|error| anyhow::anyhow!("{shown} is damaged: {error}; {remedy}"))?
        .format;
    if format != FORMAT {
        bail!(
            "{shown} was written by another version of natbpf (format {format}, this one knows \
             {FORMAT}); run that version's `natbpf down` first"
        );
    }
    let record = serde_json::from_slice::<Record>(bytes)
        .map_err(|error| anyhow::anyhow!("{shown} is damaged: {error}; {remedy}"))?;
    let here = Place::here()?;
    if record.place == here {
        return Ok(record.changes);
    }
    let whence = if record.place.boot == here.boot {
        "from another network namespace"
    } else {
        "from before the last boot"
    };
    let stale = directory.join(STALE_FILE);
    log::warn!(
        "{shown} is {whence}: nothing to undo here; kept as {}",
        stale.display()
    );
    fs::rename(&file, &stale).with_context(|| format!("rename {shown}"))?;
    Ok(Vec::new())
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use nat_sys::sysctl::Key;

    use super::*;

    fn sysctl(before: &str, set: &str) -> Change {
        Change::Sysctl {
            key: Key::new(&["net", "ipv4", "ip_forward"]).unwrap(),
            before: before.to_owned(),
            set: set.to_owned(),
            followers: Vec::new(),
            stays: false,
        }
    }

    fn every_kind() -> Vec<Change> {
        vec![
            sysctl("0", "1"),
            Change::Bridge {
                name: "vmbr1".to_owned(),
                mac: [2, 0, 0, 0, 0, 1],
                ifindex: None,
                nat64: false,
            },
            Change::Address {
                interface: "vmbr1".to_owned(),
                ifindex: 7,
                address: "172.22.161.254/24".parse().unwrap(),
            },
            Change::Route {
                prefix: "192.0.2.112/29".parse().unwrap(),
                interface: "vmbr1".to_owned(),
                ifindex: 7,
                source: Some("19.19.8.10".parse().unwrap()),
                metric: None,
            },
            Change::Proxy {
                address: "192.0.2.112".parse().unwrap(),
                interface: "vmbr0".to_owned(),
                ifindex: 2,
            },
            Change::AllGroups {
                interface: "vmbr0".to_owned(),
                ifindex: 2,
            },
            Change::Port {
                port: "tap1".to_owned(),
                ifindex: 8,
                bridge: "vmbr1".to_owned(),
                previous: None,
                isolated: false,
            },
            Change::LinkUp {
                name: "vmbr1".to_owned(),
                ifindex: 7,
                master: None,
            },
        ]
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_saved_state_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        assert_eq!(journal.changes(), []);
        every_kind()
            .into_iter()
            .for_each(|change| journal.record(change));
        assert_eq!(files(directory.path()), [""; 0], "nothing before save");
        journal.save().unwrap();
        assert_eq!(files(directory.path()), [FILE], "no file beside it");
        let again = Journal::open(directory.path()).unwrap();
        assert_eq!(again.changes(), every_kind());
    }

    #[test]
    fn an_empty_record_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        journal.record(sysctl("0", "1"));
        journal.save().unwrap();
        journal.replace(Vec::new());
        journal.save().unwrap();
        assert_eq!(files(directory.path()), [""; 0]);
    }

    #[test]
    fn the_first_value_before_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        journal.record(sysctl("0", "1"));
        journal.record(sysctl("1", "1"));
        assert_eq!(journal.changes(), [sysctl("0", "1")]);

        let port = |ifindex, bridge: &str, previous: Option<&str>| Change::Port {
            port: "tap1".to_owned(),
            ifindex,
            bridge: bridge.to_owned(),
            previous: previous.map(str::to_owned),
            isolated: false,
        };
        journal.record(port(8, "vmbr1", None));
        journal.record(port(8, "vmbr2", Some("vmbr1")));
        assert_eq!(journal.changes()[1], port(8, "vmbr2", None));
        // It was recreated: the former value belongs to another interface.
        journal.record(port(9, "vmbr2", Some("fwbr0")));
        assert_eq!(journal.changes()[1], port(9, "vmbr2", Some("fwbr0")));
    }

    #[test]
    fn a_damaged_record_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(directory.path()).unwrap();
        every_kind()
            .into_iter()
            .for_each(|change| journal.record(change));
        journal.save().unwrap();
        let file = directory.path().join(FILE);
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            let error = Journal::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("host.json is damaged: "), "{error}");
            assert!(error.contains("move it away"), "{error}");
        }
        let outside = String::from_utf8(whole).unwrap();
        let outside = outside.replace("net/ipv4/ip_forward", "../etc/passwd");
        fs::write(&file, outside).unwrap();
        let error = Journal::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("is not the name of a sysctl"), "{error}");
        fs::write(&file, r#"{"format": 2, "shape": "unknown"}"#).unwrap();
        let error = Journal::open(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("another version of natbpf (format 2"),
            "{error}"
        );
    }

    #[test]
    fn a_record_of_another_boot_or_namespace_is_set_aside() {
        let here = Place::here().unwrap();
        for place in [
            Place {
                boot: "another".to_owned(),
                namespace: here.namespace,
            },
            Place {
                boot: here.boot.clone(),
                namespace: here.namespace + 1,
            },
        ] {
            let directory = tempfile::tempdir().unwrap();
            let record = Record {
                format: FORMAT,
                place,
                changes: every_kind(),
            };
            let bytes = serde_json::to_vec(&record).unwrap();
            fs::write(directory.path().join(FILE), bytes).unwrap();
            let journal = Journal::open(directory.path()).unwrap();
            assert_eq!(journal.changes(), []);
            assert_eq!(files(directory.path()), [STALE_FILE]);
        }
    }

    #[test]
    fn a_record_that_cannot_be_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&directory.path().join("missing")).unwrap();
        journal.record(sysctl("0", "1"));
        let error = format!("{:#}", journal.save().unwrap_err());
        assert!(
            error.starts_with("record changes to the host in "),
            "{error}"
        );
        assert!(error.contains("No such file"), "{error}");
    }
}
