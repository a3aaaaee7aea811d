//! Short grace periods while many programs are attached or detached.
//!
//! The kernel waits for a grace period of RCU, some 15 ms, at each attachment of a program to
//! traffic control (`tcx_entry_sync()` in `include/net/tcx.h`), under a lock, so attaching several
//! at a time gains nothing: 200 bridges take seven seconds. With `rcu_expedited` set, a grace
//! period takes some 50 µs and interrupts all CPUs, so it is set only for that time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const SETTING: &str = "/sys/kernel/rcu_expedited";

/// Exists in the run directory while natbpf has changed the setting.
pub const FILE: &str = "rcu_expedited";

/// With fewer attachments, the difference is not noticeable.
const MANY: usize = 16;

/// Grace periods are short as long as it lives.
#[derive(Debug)]
pub struct ShortGrace {
    setting: PathBuf,
    mark: PathBuf,
}

impl ShortGrace {
    /// Makes grace periods short if there are many programs. If the setting cannot be changed, or
    /// other software has set it, nothing changes.
    #[must_use]
    pub fn begin(run_dir: &Path, attachments: usize) -> Option<Self> {
        if attachments < MANY {
            return None;
        }
        match Self::at(Path::new(SETTING), run_dir) {
            Ok(grace) => grace,
            Err(error) => {
                log::debug!("{SETTING} stays as it is: {error}");
                None
            }
        }
    }

    fn at(setting: &Path, run_dir: &Path) -> io::Result<Option<Self>> {
        if fs::read_to_string(setting)?.trim() != "0" {
            return Ok(None);
        }
        let mark = run_dir.join(FILE);
        // First, so that the next natbpf knows of it if this one is killed.
        fs::write(&mark, "")?;
        // From here on, a failure removes the mark by dropping it.
        let grace = Self {
            setting: setting.to_owned(),
            mark,
        };
        fs::write(setting, "1")?;
        Ok(Some(grace))
    }

    /// Restores the setting that a killed natbpf has left.
    pub fn clean_up(run_dir: &Path) {
        Self::clean_up_at(Path::new(SETTING), run_dir);
    }

    fn clean_up_at(setting: &Path, run_dir: &Path) {
        let mark = run_dir.join(FILE);
        if mark.exists() {
            drop(Self {
                setting: setting.to_owned(),
                mark,
            });
        }
    }
}

impl Drop for ShortGrace {
    fn drop(&mut self) {
        let undone = fs::write(&self.setting, "0").and_then(|()| fs::remove_file(&self.mark));
        if let Err(error) = undone {
            log::warn!("set {} back to 0: {error}", self.setting.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_another_only_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let setting = directory.path().join("setting");
        let value = || fs::read_to_string(&setting).unwrap();
        let mark = directory.path().join(FILE);
        fs::write(&setting, "0\n").unwrap();
        let grace = ShortGrace::at(&setting, directory.path()).unwrap();
        assert_eq!((value().as_str(), mark.exists()), ("1", true));
        // Another natbpf leaves it alone, at its end too.
        drop(ShortGrace::at(&setting, directory.path()).unwrap());
        assert_eq!((value().as_str(), mark.exists()), ("1", true));
        drop(grace);
        assert_eq!((value().as_str(), mark.exists()), ("0", false));
    }

    #[test]
    fn a_killed_natbpfs_setting_is_set_back_by_the_next_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let setting = directory.path().join("setting");
        let value = || fs::read_to_string(&setting).unwrap();
        fs::write(&setting, "0\n").unwrap();
        // Killed before it could restore the setting.
        std::mem::forget(ShortGrace::at(&setting, directory.path()).unwrap());
        assert_eq!(value(), "1");
        ShortGrace::clean_up_at(&setting, directory.path());
        assert_eq!(
            (value().as_str(), directory.path().join(FILE).exists()),
            ("0", false)
        );
        // A value of other software stays.
        fs::write(&setting, "1").unwrap();
        ShortGrace::clean_up_at(&setting, directory.path());
        assert_eq!(value(), "1");
    }

    #[test]
    fn a_setting_that_is_not_there_is_no_fault() {
        let directory = tempfile::tempdir().unwrap();
        let setting = directory.path().join("setting");
        assert!(ShortGrace::at(&setting, directory.path()).is_err());
        assert!(!directory.path().join(FILE).exists());
        assert!(ShortGrace::begin(directory.path(), MANY - 1).is_none());
    }
}
