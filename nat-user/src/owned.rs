//! Directories that only root may change. In any other directory, another user could place files: a
//! map that natbpf would take over, a link to a file that it would remove.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

/// Mode bits that let others create and remove files.
const OTHERS_WRITE: u32 = 0o022;
/// The mode bit that protects files from removal by others.
const STICKY: u32 = 0o1000;

/// Creates a directory, with its parents, if it is missing.
///
/// # Errors
/// When it cannot be made, or [`check`] refuses it.
pub fn make(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make directory {}", path.display()))?;
    check(path)
}

/// Refuses a directory that belongs to another user or that others may write.
///
/// # Errors
/// The reason, and what to do about it.
pub fn check(path: &Path) -> Result<()> {
    check_mode(path, |mode| mode & OTHERS_WRITE == 0)
}

/// The same, but others may create their own files in it, as in `/tmp`.
///
/// # Errors
/// The reason, and what to do about it.
pub fn check_shared(path: &Path) -> Result<()> {
    check_mode(path, |mode| mode & OTHERS_WRITE == 0 || mode & STICKY != 0)
}

fn check_mode(path: &Path, is_safe: impl Fn(u32) -> bool) -> Result<()> {
    let shown = path.display();
    let found = fs::symlink_metadata(path).with_context(|| format!("look at {shown}"))?;
    if !found.is_dir() {
        bail!("{shown} is not a directory, but natbpf needs one there; remove it");
    }
    let (owner, mode) = (Uid::from_raw(found.uid()), found.mode() & 0o7777);
    if !owner.is_root() && owner != Uid::effective() {
        bail!(
            "{shown} belongs to user {owner}, who could change what natbpf keeps there; remove it, \
             or \
             name another directory"
        );
    }
    if !is_safe(mode) {
        bail!(
            "others may write {shown} (mode {mode:04o}) and so change what natbpf keeps there; \
             chmod \
             go-w {shown}, or name another directory"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn directories_writable_by_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pins");
        make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for (mode, alone, shared) in [
            (0o755, true, true),
            (0o750, true, true),
            (0o775, false, false),
            (0o757, false, false),
            (0o1777, false, true),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check(&path).is_ok(), alone, "{mode:o}");
            assert_eq!(make(&path).is_ok(), alone, "{mode:o}");
            assert_eq!(check_shared(&path).is_ok(), shared, "{mode:o}");
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        assert!(check(&link).is_err() && check(&folder.path().join("missing")).is_err());
    }

    #[test]
    fn another_users_directory_is_refused() {
        if !Uid::effective().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("theirs");
        make(&path).unwrap();
        nix::unistd::chown(&path, Some(Uid::from_raw(65534)), None).unwrap();
        let refused = make(&path).unwrap_err().to_string();
        assert!(refused.contains("belongs to user 65534"), "{refused}");
    }
}
