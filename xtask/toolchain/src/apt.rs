//! Installing Debian packages, or saying how to.
//!
//! apt never removes or downgrades a package, and never releases one from a hold: it refuses such
//! packages, with the reason.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fmt, fs};

use anyhow::{Context, Error, Result, bail};

use crate::process::{capture, find_program, show};

/// A package that was not installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub package: String,
    /// Why, in a few words.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.package, self.reason)
    }
}

/// The system's apt.
#[derive(Clone, Debug)]
pub struct Apt {
    get: PathBuf,
    cache: PathBuf,
    is_root: bool,
}

impl Apt {
    /// The one that is installed, if this system has it.
    #[must_use]
    pub fn find() -> Option<Self> {
        Some(Self {
            get: find_program("apt-get")?,
            cache: find_program("apt-cache")?,
            is_root: is_root(),
        })
    }

    /// Installs as root those of `packages` that apt can install without removing, downgrading or
    /// releasing another one; the others are returned.
    ///
    /// Package lists are fetched only if a package is unknown, or its file is not to be had. An
    /// archive that cannot be reached is no error here: see what was installed.
    ///
    /// # Errors
    /// Without root, with the command to type.
    pub fn install(&self, packages: &[&str]) -> Result<Vec<Refusal>> {
        if !self.is_root {
            bail!(
                "packages are missing, and only root may install them. Type\n\n    sudo {}\n",
                typed(packages)
            );
        }
        let mut refusals = self.install_known(packages);
        if refusals.iter().any(|refusal| refusal.reason == UNKNOWN) {
            self.update();
            let again: Vec<String> = refusals.drain(..).map(|refusal| refusal.package).collect();
            refusals = self.install_known(&again.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Ok(refusals)
    }

    fn install_known(&self, packages: &[&str]) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut refuse = |package: &str, reason| {
            refusals.push(Refusal {
                package: package.to_owned(),
                reason,
            });
        };
        let mut possible = packages.to_vec();
        if self.simulate(packages).is_err() {
            possible.retain(|package| {
                let answer = self.simulate(&[*package]);
                answer.map_err(|reason| refuse(package, reason)).is_ok()
            });
        }
        if possible.is_empty() {
            return refusals;
        }
        eprintln!("setup: installing with apt: {}", possible.join(" "));
        if show(self.get("install").args(&possible)).is_ok() {
            return refusals;
        }
        // They may not go together, or one of them has failed.
        for package in possible {
            match self.simulate(&[package]) {
                Ok(()) if show(self.get("install").arg(package)).is_ok() => {}
                Ok(()) => refuse(package, UNKNOWN.to_owned()),
                Err(reason) => refuse(package, reason),
            }
        }
        refusals
    }

    /// Fetches the package lists; where the archive cannot be reached, those that are here stay.
    pub fn update(&self) {
        if let Err(error) = show(&mut self.get("update")) {
            eprintln!("setup: {error:#}");
        }
    }

    /// Whether apt would install these packages, or why not.
    fn simulate(&self, packages: &[&str]) -> Result<(), String> {
        let mut command = self.get("install");
        command.arg("--simulate").args(packages);
        succeed(&mut command)
    }

    fn get(&self, action: &str) -> Command {
        let mut command = Command::new(&self.get);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Its words are read.
            .env("LC_ALL", "C")
            .args(["-q", "-o", "Dpkg::Use-Pty=0"])
            .args(["-o", "DPkg::Lock::Timeout=300"])
            .args(["-o", "Acquire::http::Timeout=30"])
            .arg(action);
        if action == "install" {
            command.args(["--yes", "--no-install-recommends", "--no-remove"]);
        }
        command
    }

    /// Downloads `packages`, with all that they depend on and `status` does not list as installed,
    /// into `archives` of `work`. Nothing outside of `work` is changed.
    ///
    /// # Errors
    /// When apt does not know them, finds no way to have them all, or cannot reach the archive.
    pub(crate) fn download(&self, packages: &[&str], status: &str, work: &Path) -> Result<()> {
        let file = work.join("status");
        fs::write(&file, status).with_context(|| format!("write {}", file.display()))?;
        let archives = work.join("archives");
        fs::create_dir_all(archives.join("partial"))
            .with_context(|| format!("make {}", archives.display()))?;
        let mut command = Command::new(&self.get);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        for (option, path) in [
            ("Dir::State::status", file),
            ("Dir::State::extended_states", work.join("states")),
            ("Dir::Cache", work.join("cache")),
            ("Dir::Cache::archives", archives),
        ] {
            command.args(["-o", &format!("{option}={}", path.display())]);
        }
        // By root, apt's own user would have to be let in there.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
        command.args(["-o", "Acquire::http::Timeout=30"]);
        command.args([
            "-q",
            "install",
            "--yes",
            "--no-install-recommends",
            "--download-only",
        ]);
        succeed(command.args(packages)).map_err(Error::msg)
    }

    /// The names of the source packages of `packages`: packages of one source belong together by
    /// version.
    pub(crate) fn sources(&self, packages: &[&str]) -> BTreeSet<String> {
        let mut show = Command::new(&self.cache);
        show.args(["show", "--no-all-versions"]).args(packages);
        let text = capture(&mut show).unwrap_or_default();
        let stanzas = text.split("\n\n").filter_map(source);
        stanzas.map(str::to_owned).collect()
    }
}

/// The source package that a stanza of a package names; by default it has the package's name.
pub(crate) fn source(stanza: &str) -> Option<&str> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
    let value = field("Source: ").or_else(|| field("Package: "))?;
    // A version may follow.
    value.split(' ').next()
}

impl Refusal {
    /// Whether apt cannot get the package, so that it cannot be unpacked either.
    #[must_use]
    pub fn is_out_of_reach(&self) -> bool {
        self.reason == UNKNOWN
    }
}

/// Why a package is refused that is not in the lists, or whose file the archive no longer has.
const UNKNOWN: &str = "apt's lists do not have it, or it cannot be downloaded";

/// Runs apt, and says in one line why it fails if it does.
fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    Err(reason(&text))
}

/// Why apt refuses, from what it says.
fn reason(text: &str) -> String {
    const HEADINGS: [(&str, &str); 3] = [
        ("packages will be REMOVED", "remove"),
        ("packages will be DOWNGRADED", "downgrade"),
        ("held packages will be changed", "release what is held:"),
    ];
    for (heading, verb) in HEADINGS {
        let mut lines = text.lines().skip_while(|line| !line.contains(heading));
        if lines.next().is_some() {
            let names = lines.take_while(|line| line.starts_with(' '));
            let names: Vec<&str> = names.flat_map(str::split_whitespace).collect();
            return format!("apt would {verb} {}", names.join(" "));
        }
    }
    let errors: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("E: "))
        .collect();
    let is_unknown = |error: &&str| {
        error.starts_with("Unable to locate package") || error.contains("no installation candidate")
    };
    match errors.first() {
        Some(error) if is_unknown(error) => UNKNOWN.to_owned(),
        Some(error) => format!("apt says: {error}"),
        None => "apt fails".to_owned(),
    }
}

/// The command that installs `packages`, as root would type it.
pub(crate) fn typed(packages: &[&str]) -> String {
    format!(
        "apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Whether this process may install packages.
fn is_root() -> bool {
    capture(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An apt whose `apt-get` is a script. It reads its arguments from `$*`, logs them, and has its
    /// own directory `$dir`.
    struct Fake {
        apt: Apt,
        dir: PathBuf,
    }

    impl Fake {
        fn new(name: &str, script: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("natbpf-apt-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let get = dir.join("apt-get");
            let head = format!(
                "#!/bin/sh\ndir='{0}'\necho \"$*\" >>$dir/log\n",
                dir.display()
            );
            fs::write(&get, head + script).unwrap();
            fs::set_permissions(&get, fs::Permissions::from_mode(0o755)).unwrap();
            Self {
                apt: Apt {
                    cache: dir.join("apt-cache"),
                    get,
                    is_root: true,
                },
                dir,
            }
        }

        /// What was asked for that would change something, each from its action on.
        fn changes(&self) -> Vec<String> {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let asked = log.lines().filter(|line| !line.contains("--simulate"));
            let actions = asked.filter_map(|line| {
                let start = line.find(" install ").or_else(|| line.find(" update"))?;
                Some(line[start + 1..].to_owned())
            });
            actions.collect()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    const INSTALL: &str = "install --yes --no-install-recommends --no-remove";

    #[test]
    fn a_refused_package_does_not_keep_the_others_from_being_installed() {
        let fake = Fake::new(
            "refused",
            "case $* in *qemu*)
                echo 'The following packages will be REMOVED:'
                echo '  qemu-utils'
                echo 'E: Packages need to be removed but remove is disabled.' >&2
                exit 100
            esac",
        );
        let refusals = fake.apt.install(&["cpio", "qemu", "nmap"]).unwrap();
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].to_string(), "qemu: apt would remove qemu-utils");
        assert_eq!(fake.changes(), [format!("{INSTALL} cpio nmap")]);
    }

    #[test]
    fn packages_that_exclude_each_other_are_tried_one_by_one() {
        let fake = Fake::new(
            "exclusive",
            "case $* in
            *' a b') exit 100 ;;
            *' b') test ! -e $dir/has-a || { echo 'E: no' >&2; exit 100; } ;;
            *--simulate*) ;;
            *) touch $dir/has-a ;;
            esac",
        );
        let refusals = fake.apt.install(&["a", "b"]).unwrap();
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].to_string(), "b: apt says: no");
        let [together, one] = ["a b", "a"].map(|names| format!("{INSTALL} {names}"));
        assert_eq!(fake.changes(), [together, one]);
    }

    #[test]
    fn an_unknown_package_is_looked_for_once_in_new_lists() {
        let fake = Fake::new(
            "unknown",
            "case $* in
            *update*) touch $dir/updated ;;
            *nonesuch*) echo 'E: Unable to locate package nonesuch' >&2; exit 100 ;;
            *) test -e $dir/updated || { echo 'E: Unable to locate package new' >&2; exit 100; } ;;
            esac",
        );
        let refusals = fake.apt.install(&["new", "nonesuch"]).unwrap();
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].package, "nonesuch");
        assert_eq!(
            fake.changes(),
            ["update".to_owned(), format!("{INSTALL} new")]
        );
    }

    #[test]
    fn an_archive_that_cannot_be_reached_is_tried_again_after_an_update_that_may_fail() {
        let fake = Fake::new("offline", "case $* in *--simulate*) ;; *) exit 100 ;; esac");
        let refusals = fake.apt.install(&["nmap"]).unwrap();
        assert_eq!(refusals[0].reason, UNKNOWN);
        let install = format!("{INSTALL} nmap");
        let [once, twice] = [&install; 2];
        let expected = [once, twice, "update", once, twice].map(str::to_owned);
        assert_eq!(fake.changes(), expected);
    }

    #[test]
    fn only_root_installs() {
        let mut fake = Fake::new("user", "");
        fake.apt.is_root = false;
        let error = fake.apt.install(&["nmap"]).unwrap_err().to_string();
        assert!(error.contains("sudo apt-get install"), "{error}");
        assert!(fake.changes().is_empty());
    }

    #[test]
    fn the_typed_command_names_the_packages() {
        let line = typed(&["gcc", "make"]);
        assert_eq!(
            line,
            "apt-get install --yes --no-install-recommends gcc make"
        );
    }

    #[test]
    fn a_refusal_names_the_packages_that_apt_would_change() {
        let removed = "The following additional packages will be installed:\n  libfdt1 libslirp0\n\
                       The following packages will be REMOVED:\n  qemu-utils\n\
                       The following NEW packages will be installed:\n  libfdt1\n\
                       E: Packages need to be removed but remove is disabled.\n";
        assert_eq!(reason(removed), "apt would remove qemu-utils");
        let held = "The following held packages will be changed:\n  mtr-tiny\n\
                    E: Held packages were changed and -y was used without \
                    --allow-change-held-packages.\n";
        assert_eq!(reason(held), "apt would release what is held: mtr-tiny");
        let downgraded = "The following packages will be DOWNGRADED:\n  libbar libfoo\n0 upgraded\n\
                          E: Packages were downgraded and -y was used without \
                          --allow-downgrades.\n";
        assert_eq!(reason(downgraded), "apt would downgrade libbar libfoo");
    }

    #[test]
    fn an_unknown_package_differs_from_a_refused_one() {
        assert_eq!(reason("E: Unable to locate package nonesuch\n"), UNKNOWN);
        let virtual_only = "E: Package 'x' has no installation candidate\n";
        assert_eq!(reason(virtual_only), UNKNOWN);
        let unmet = "E: Unable to correct problems, you have held broken packages.\n";
        assert_eq!(
            reason(unmet),
            "apt says: Unable to correct problems, you have held broken packages."
        );
    }
}
