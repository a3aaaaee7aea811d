//! Debian packages that are unpacked below the target directory, and not installed.
//!
//! This is for packages that apt refuses to install because of something else that is installed,
//! and for packages that would change the host. apt resolves the package for a copy of dpkg's
//! status in which the installed packages demand nothing, and downloads what this system lacks.
//! Nothing outside of the target directory is changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{Apt, source};
use crate::process::{capture, show};

/// Where dpkg records installed packages.
const STATUS: &str = "/var/lib/dpkg/status";

/// Where packages have their programs.
const PROGRAM_DIRS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// What comes from the system even where everything else comes from the archive: the loader that
/// starts every program fits one C library only.
const ALWAYS_FROM_THE_SYSTEM: [&str; 4] = ["libc6", "libgcc-s1", "libstdc++6", "libcrypt1"];

/// The directory of the packages that tests run as owners of bridges: libvirt and ifupdown.
pub const NETWORK_OWNERS: &str = "network-owners";

/// Name of the packages of programs that translate between IPv6 and IPv4.
pub const TRANSLATORS: &str = "translators";

/// The directory of unpacked packages, and of the programs that are run from them.
#[derive(Clone, Debug)]
pub struct Unpacked {
    dir: PathBuf,
}

/// A program that is run from an unpacked package.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The name by which it is called.
    pub name: &'a str,
    /// The names that its file may have, besides: Debian's alternatives have others.
    pub files: &'a [&'a str],
    /// Variables for it, whose values are paths in the package.
    pub variables: &'a [(&'a str, &'a str)],
}

impl Unpacked {
    /// The packages that are unpacked in `dir`, which need not exist.
    #[must_use]
    pub fn below(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where the programs are, by the names by which they are called.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// Where the files of a package are, once it is unpacked.
    #[must_use]
    pub fn root(&self, package: &str) -> PathBuf {
        self.dir.join(package)
    }

    /// Unpacks `packages` together, as `name`, with all that they need and this system lacks.
    ///
    /// # Errors
    /// When apt does not know them or cannot download them.
    pub fn add(&self, apt: &Apt, name: &str, packages: &[&str]) -> Result<()> {
        let root = self.root(name);
        fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        let lock = self.dir.join("lock");
        let lock = File::create(&lock).with_context(|| format!("make {}", lock.display()))?;
        lock.lock().context("wait for another set-up")?;
        let work = self.dir.join("new");
        let _ = fs::remove_dir_all(&work);
        let result = unpack_in(&work, apt, packages).and_then(|()| {
            let _ = fs::remove_dir_all(&root);
            fs::rename(work.join("root"), &root).with_context(|| format!("make {}", root.display()))
        });
        let _ = fs::remove_dir_all(&work);
        result
    }

    /// Has `program` run from `package`, which is unpacked.
    ///
    /// # Errors
    /// When the package has no such program, or the program needs a library that is nowhere.
    pub fn provide(&self, package: &str, program: &Wanted<'_>) -> Result<()> {
        let launch = self.launch(package, program)?;
        launch.install(&self.bin().join(program.name))
    }

    /// Where the programs are that [`Self::provide_apart`] has provided.
    #[must_use]
    pub fn apart(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-programs"))
    }

    /// Has programs run from an unpacked root, but not by their names: these are of another meaning
    /// here.
    ///
    /// # Errors
    /// As [`Self::provide`].
    pub fn provide_apart(&self, name: &str, programs: &[&str]) -> Result<()> {
        for program in programs {
            let wanted = Wanted {
                name: program,
                files: &[],
                variables: &[],
            };
            let launch = self.launch(name, &wanted)?;
            launch.install(&self.apart(name).join(program))?;
        }
        Ok(())
    }

    fn launch(&self, package: &str, program: &Wanted<'_>) -> Result<Launch> {
        let root = self.root(package);
        let mut names = program.files.iter().chain([&program.name]);
        let file = names
            .find_map(|name| find_in(&root, name))
            .with_context(|| format!("Debian's {package} has no {}", program.name))?;
        let variables = program.variables.iter();
        Ok(Launch {
            libraries: libraries(&root, &file)?,
            variables: variables
                .map(|(name, path)| ((*name).to_owned(), root.join(path)))
                .collect(),
            program: file,
        })
    }

    /// Makes `program` precede others of that name in `PATH`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn prefer(&self, name: &str, program: &Path) -> Result<()> {
        let launch = Launch {
            program: program.to_owned(),
            libraries: Vec::new(),
            variables: Vec::new(),
        };
        launch.install(&self.bin().join(name))
    }

    /// Forgets what was found for `name`.
    pub fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.bin().join(name));
    }
}

/// How a program is started: a link to it, or a script if it needs its own environment.
#[derive(Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program itself.
    pub program: PathBuf,
    /// Where its libraries are besides the system's.
    pub libraries: Vec<PathBuf>,
    variables: Vec<(String, PathBuf)>,
}

const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

impl Launch {
    /// How the program at `path` is started: what set-up has written there, or simply that program.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let script = fs::read_to_string(path).ok();
        script
            .as_deref()
            .and_then(Self::read)
            .unwrap_or_else(|| Self {
                program: path.to_owned(),
                libraries: Vec::new(),
                variables: Vec::new(),
            })
    }

    fn script(&self) -> String {
        let joined = std::env::join_paths(&self.libraries).unwrap_or_default();
        let libraries = (LIBRARY_PATH.to_owned(), PathBuf::from(joined));
        let mut text = String::from("#!/bin/sh\n");
        for (name, value) in [&libraries].into_iter().chain(&self.variables) {
            if !value.as_os_str().is_empty() {
                text += &format!("export {name}={}\n", quoted(value));
            }
        }
        text + &format!("exec {} \"$@\"\n", quoted(&self.program))
    }

    fn read(script: &str) -> Option<Self> {
        let mut lines = script.strip_prefix("#!/bin/sh\n")?.lines();
        let mut launch = Self {
            program: PathBuf::new(),
            libraries: Vec::new(),
            variables: Vec::new(),
        };
        for line in lines.by_ref() {
            if let Some(variable) = line.strip_prefix("export ") {
                let (name, value) = variable.split_once('=')?;
                let value = unquoted(value)?;
                match name {
                    LIBRARY_PATH => launch.libraries = std::env::split_paths(&value).collect(),
                    _ => launch.variables.push((name.to_owned(), value.into())),
                }
            } else {
                let program = line.strip_prefix("exec ")?.strip_suffix(" \"$@\"")?;
                launch.program = unquoted(program)?.into();
                return Some(launch).filter(|_| lines.next().is_none());
            }
        }
        None
    }

    fn install(&self, path: &Path) -> Result<()> {
        let dir = path.parent().context("a directory")?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&new);
        let made = if self.libraries.is_empty() && self.variables.is_empty() {
            symlink(&self.program, &new)
        } else {
            fs::write(&new, self.script())
                .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
        };
        made.and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("make {}", path.display()))
    }
}

/// A path as the shell reads it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn unquoted(word: &str) -> Option<String> {
    let inner = word.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace(r"'\''", "'"))
}

/// Downloads `packages` and unpacks them below `work`, as `root`.
fn unpack_in(work: &Path, apt: &Apt, packages: &[&str]) -> Result<()> {
    fs::create_dir_all(work).with_context(|| format!("make {}", work.display()))?;
    let installed = fs::read_to_string(STATUS).unwrap_or_default();
    let sources = apt.sources(packages);
    let is_other = |stanza: &str| source(stanza).is_none_or(|source| !sources.contains(source));
    // The first leaves more to the system; the second is for what goes with one version of
    // something else.
    let others = undemanding(&installed, is_other);
    if let Err(error) = apt.download(packages, &others, work) {
        let basis = undemanding(&installed, |stanza| is_basis(stanza) && is_other(stanza));
        apt.download(packages, &basis, work).map_err(|_| error)?;
    }
    let root = work.join("root");
    for archive in fs::read_dir(work.join("archives"))? {
        let archive = archive?.path();
        if archive.extension().is_some_and(|ending| ending == "deb") {
            show(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;
        }
    }
    turn_links(&root, &root)
}

/// dpkg's status with the `kept` packages alone, and without anything that these demand of others.
fn undemanding(status: &str, kept: impl Fn(&str) -> bool) -> String {
    const FIELDS: [&str; 5] = [
        "Package: ",
        "Version: ",
        "Architecture: ",
        "Multi-Arch: ",
        "Provides: ",
    ];
    let mut text = String::new();
    for paragraph in status.split("\n\n").filter(|paragraph| kept(paragraph)) {
        let is_installed = |line: &str| {
            line.strip_prefix("Status: ")
                .is_some_and(|status| status.ends_with(" ok installed"))
        };
        if !paragraph.lines().any(is_installed) {
            continue;
        }
        for line in paragraph.lines() {
            if FIELDS.iter().any(|field| line.starts_with(field)) {
                text += &format!("{line}\n");
            }
        }
        text += "Status: install ok installed\n\n";
    }
    text
}

/// Whether a package is one without which no program runs, as a paragraph of dpkg's status.
fn is_basis(paragraph: &str) -> bool {
    paragraph.lines().any(|line| {
        let name = line.strip_prefix("Package: ");
        line == "Essential: yes" || name.is_some_and(|name| ALWAYS_FROM_THE_SYSTEM.contains(&name))
    })
}

/// The program `name` in a root.
fn find_in(root: &Path, name: &str) -> Option<PathBuf> {
    let places = PROGRAM_DIRS.iter().map(|dir| root.join(dir).join(name));
    places.into_iter().find(|path| path.is_file())
}

/// Has links in a root lead to what they mean there: to a file of the root, where it has that, not
/// to one of the system.
fn turn_links(root: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            turn_links(root, &path)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path)?;
            let Ok(inside) = target.strip_prefix("/") else {
                continue;
            };
            if root.join(inside).symlink_metadata().is_ok() {
                let depth = folder.strip_prefix(root)?.components().count();
                let up: PathBuf = std::iter::repeat_n("..", depth).collect();
                fs::remove_file(&path)?;
                symlink(up.join(inside), &path)?;
            }
        }
    }
    Ok(())
}

/// The directories of a root with the libraries of a program.
fn libraries(root: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let usual = [
        format!("usr/lib/{triple}"),
        format!("lib/{triple}"),
        "usr/lib".to_owned(),
    ];
    let mut dirs: Vec<PathBuf> = usual
        .iter()
        .map(|dir| root.join(dir))
        .filter(|dir| holds_libraries(dir))
        .collect();
    if dirs.is_empty() {
        return Ok(dirs);
    }
    loop {
        let missing = missing_libraries(program, &dirs);
        if missing.is_empty() {
            return Ok(dirs);
        }
        let before = dirs.len();
        for name in &missing {
            dirs.extend(dir_of(root, name).filter(|dir| !dirs.contains(dir)));
        }
        if dirs.len() == before {
            let names: Vec<&str> = missing.iter().map(String::as_str).collect();
            bail!("{} needs {}", program.display(), names.join(", "));
        }
    }
}

fn holds_libraries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains(".so"))
    })
}

/// The libraries that the loader does not find for a program. A script has none.
fn missing_libraries(program: &Path, dirs: &[PathBuf]) -> BTreeSet<String> {
    let mut list = Command::new("ldd");
    list.arg(program)
        .env(LIBRARY_PATH, std::env::join_paths(dirs).unwrap_or_default());
    let list = capture(&mut list).unwrap_or_default();
    list.lines()
        .filter_map(|line| line.trim().strip_suffix(" => not found"))
        .map(str::to_owned)
        .collect()
}

/// The directory below `root` with this library.
fn dir_of(root: &Path, library: &str) -> Option<PathBuf> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).ok()?.flatten() {
            if entry.file_name() == library {
                return Some(folder);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
