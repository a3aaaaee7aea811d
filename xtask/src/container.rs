//! The Debian that tests/tests/systemd boots in containers. debootstrap makes it once, below
//! `target/systemd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bpf_toolchain::Workspace;
use bpf_toolchain::output::say;
use bpf_toolchain::process::{capture, show};

/// The packages besides Debian's essential ones. systemd-container needs `dbus`, but debootstrap
/// does not resolve its alternative dependencies.
const PACKAGES: &str = "systemd,systemd-sysv,systemd-container,dbus,iproute2,dnsmasq-base";
/// Packages that debootstrap installs by default, and that a container does not need.
const LEFT_OUT: &str = "e2fsprogs,logsave,tzdata";

/// The archive to use if apt names none.
const DEFAULT_ARCHIVE: Archive<'static> = Archive {
    uri: "http://deb.debian.org/debian/",
    suite: "bookworm",
};

/// Runs in a mount namespace, so that nothing stays mounted, and works on a tmpfs, where dpkg does
/// not wait for the disk.
const SCRIPT: &str = r#"
set -eu
work=$1 suite=$2 uri=$3 packages=$4 left_out=$5
mount -t tmpfs debootstrap "$work"
# An archive that does not answer ends it.
timeout 900 debootstrap --variant=minbase --include="$packages" --exclude="$left_out" \
    "$suite" "$work/root" "$uri" >"$work/log" 2>&1 || {
    # debootstrap may have failed before it wrote its own log.
    cat "$work/log" "$work/root/debootstrap/debootstrap.log" >&2 || true
    exit 1
}
cd "$work/root"
rm -rf var/cache/apt/*.bin var/cache/apt/archives/*.deb var/lib/apt/lists/* \
    usr/share/doc usr/share/locale usr/share/man
cp -a . "$6"
"#;

/// The variables that tell tests/tests/systemd where the Debian is. Makes it if necessary.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn for_systemd(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    let cache = workspace.target().join("systemd");
    let targets = archives().unwrap_or_default();
    let made_of = format!("{PACKAGES} without {LEFT_OUT}\n");
    let archive = Archive::first_of(&targets);
    // Without apt's lists, one that was made before is as good as the default.
    let before = made_before(&cache, &made_of).filter(|_| archive.is_none());
    let archive = archive.unwrap_or(DEFAULT_ARCHIVE);
    let place = before.unwrap_or_else(|| cache.join(archive.suite));
    if !is_made_of(&place, &made_of) {
        let work = cache.join(format!("new-{}", std::process::id()));
        let made = make(archive, &made_of, &work).and_then(|()| replace(&work, &place));
        let _gone = fs::remove_dir_all(&work);
        made?;
    }
    Ok(vec![("NATBPF_SYSTEMD_ROOT", place.join("root"))])
}

/// Whether a Debian is at a place, and made of these packages.
fn is_made_of(place: &Path, made_of: &str) -> bool {
    fs::read_to_string(place.join("made-of")).is_ok_and(|text| text == made_of)
}

/// A Debian of these packages, of any suite.
fn made_before(cache: &Path, made_of: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut places = entries.map(|entry| entry.path());
    places.find(|place| is_made_of(place, made_of))
}

/// An archive of Debian's packages, and the suite in it that this host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Archive<'a> {
    uri: &'a str,
    suite: &'a str,
}

/// The archives that apt uses, one per line.
fn archives() -> Result<String> {
    capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]))
}

impl<'a> Archive<'a> {
    /// The first one that is Debian's own, without its updates.
    fn first_of(targets: &'a str) -> Option<Self> {
        targets.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            match fields.as_slice() {
                ["Debian", "main", suite, uri] if !suite.contains('-') => {
                    uri.starts_with("http").then_some(Self { uri, suite })
                }
                _ => None,
            }
        })
    }
}

/// Creates a Debian as `root` in a separate folder.
fn make(archive: Archive<'_>, made_of: &str, work: &Path) -> Result<()> {
    let start = Instant::now();
    let Archive { uri, suite } = archive;
    say(&format!(
        "setup: making a Debian ({suite}) for containers with debootstrap: a minute or two"
    ));
    for folder in ["root", "tmp"] {
        let folder = work.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            "sh",
        ])
        .arg(work.join("tmp"))
        .args([suite, uri, PACKAGES, LEFT_OUT])
        .arg(work.join("root"));
    let done = show(&mut command);
    // (Its command line is a script.)
    ensure!(
        done.is_ok(),
        "debootstrap makes no Debian ({suite}) from {uri}; its words are above"
    );
    fs::write(work.join("made-of"), made_of).context("say what it is made of")?;
    say(&format!("setup: made in {} s", start.elapsed().as_secs()));
    Ok(())
}

/// Moves it to its place, instead of one made of other packages.
fn replace(work: &Path, place: &Path) -> Result<()> {
    let _none = fs::remove_dir_all(place);
    fs::rename(work, place).with_context(|| format!("make {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_of_other_packages_or_half_made_is_none() {
        let cache = std::env::temp_dir().join(format!("natbpf-debians-{}", std::process::id()));
        let place = cache.join("trixie");
        fs::create_dir_all(&place).unwrap();
        let none = made_before(&cache, "a\n");
        fs::write(place.join("made-of"), "a\n").unwrap();
        let (found, other) = (made_before(&cache, "a\n"), made_before(&cache, "b\n"));
        fs::remove_dir_all(&cache).unwrap();
        assert_eq!((none, found, other), (None, Some(place), None));
    }

    #[test]
    fn the_archive_is_debians_own_and_its_suite_that_of_this_host() {
        let targets = "Google main cloud-sdk https://packages.cloud.google.com/apt/\n\
                       Debian main bookworm-updates http://deb.debian.org/debian/\n\
                       Debian contrib bookworm http://contrib.example/debian/\n\
                       Debian main trixie cdrom:[Debian]/\n\
                       Debian main bookworm http://mirror.example/debian/\n";
        let expected = Archive {
            uri: "http://mirror.example/debian/",
            suite: "bookworm",
        };
        assert_eq!(Archive::first_of(targets), Some(expected));
        assert_eq!(Archive::first_of(""), None);
    }
}
