//! Debian's packages of kernels: found by asking apt, unpacked and never installed.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use bpf_toolchain::output::say;
use bpf_toolchain::process::{capture, show};

use super::kernel::{Kernel, Unpacked};

static APT: Mutex<()> = Mutex::new(());

/// The newest package of a kernel, unpacked below `cache`; or a kernel placed there manually, below
/// its version.
pub(super) fn unpacked(kernel: Kernel, cache: &Path) -> Result<Unpacked> {
    // Kernels run beside each other, but apt lets only one process update its lists.
    let _one_at_a_time = APT.lock().unwrap_or_else(PoisonError::into_inner);
    let by_hand = cache.join(kernel.version);
    if by_hand.is_dir() {
        return Unpacked::find(&by_hand);
    }
    match from_archive(kernel, cache) {
        Ok(there) => Unpacked::find(&there),
        Err(error) => {
            let there = unpacked_before(kernel, cache)?.ok_or(error)?;
            say(&format!(
                "setup: no package of Linux {} is available now; using {}",
                kernel.version,
                there.display()
            ));
            Unpacked::find(&there)
        }
    }
}

/// The newest package of a kernel that the archive has, unpacked now or before.
fn from_archive(kernel: Kernel, cache: &Path) -> Result<PathBuf> {
    let by_hand = cache.join(kernel.version);
    let file = match newest(kernel)? {
        Some(file) => file,
        None => {
            // The lists are missing, or were fetched before there was such a package.
            update(kernel)?;
            newest(kernel)?.with_context(|| not_found(kernel, &by_hand))?
        }
    };
    if let Some(there) = file.unpacked(cache) {
        return Ok(there);
    }
    let file = match file.unpack(cache) {
        Ok(there) => return Ok(there),
        // The archive keeps no revision that has been replaced.
        Err(_) => {
            update(kernel)?;
            newest(kernel)?.with_context(|| not_found(kernel, &by_hand))?
        }
    };
    match file.unpacked(cache) {
        Some(there) => Ok(there),
        None => file.unpack(cache),
    }
}

/// The newest package of a kernel that was unpacked before.
fn unpacked_before(kernel: Kernel, cache: &Path) -> Result<Option<PathBuf>> {
    let prefix = format!("linux-image-{}.", kernel.version);
    let mut found = Vec::new();
    for entry in fs::read_dir(cache).with_context(|| format!("read {}", cache.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            found.push(name);
        }
    }
    let newest = found.into_iter().max_by_key(|name| numbers(name));
    Ok(newest.map(|name| cache.join(name)))
}

fn update(kernel: Kernel) -> Result<()> {
    let what = format!("look for a package of Linux {}", kernel.version);
    show(Command::new("apt-get").args(["-q", "update"])).context(what)
}

fn not_found(kernel: Kernel, by_hand: &Path) -> String {
    let Kernel { version, sources } = kernel;
    let by_hand = by_hand.display();
    format!(
        "apt knows no package linux-image-{version}.*-cloud-amd64. {sources}: add one of them to \
         apt's sources and run `apt-get update`; or unpack any such package with\n    \
         dpkg-deb -x FILE.deb {by_hand}\n"
    )
}

/// A package as the archive has it.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    /// Its file's name, with the revision.
    file: String,
}

/// The newest package of a kernel that apt knows of.
fn newest(kernel: Kernel) -> Result<Option<Package>> {
    let pattern = format!(r"^linux-image-{}\.", kernel.version.replace('.', r"\."));
    let mut search = Command::new("apt-cache");
    let names = capture(search.args(["search", "--names-only", &pattern]))
        .context("kernels come in Debian's packages")?;
    let Some(name) = newest_name(&names) else {
        return Ok(None);
    };
    let mut download = Command::new("apt-get");
    let uris = capture(download.args(["download", "--print-uris", &name]))?;
    // 'http://…' FILE SIZE HASH
    let file = uris.split_whitespace().nth(1).map(str::to_owned);
    let file = file.with_context(|| format!("apt names no file of {name}: {uris}"))?;
    Ok(Some(Package { name, file }))
}

/// The newest of the packages that hold a kernel for virtual machines, among others.
fn newest_name(search: &str) -> Option<String> {
    let names = search.lines().filter_map(|line| line.split(' ').next());
    names
        .filter(|name| name.ends_with("-cloud-amd64"))
        .min_by_key(|name| Reverse(numbers(name)))
        .map(str::to_owned)
}

/// The numbers in a text, in order: versions are compared by them.
fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

impl Package {
    fn place(&self, cache: &Path) -> PathBuf {
        cache.join(self.file.trim_end_matches(".deb"))
    }

    fn unpacked(&self, cache: &Path) -> Option<PathBuf> {
        let place = self.place(cache);
        place.is_dir().then_some(place)
    }

    /// Downloads and unpacks it; complete, or not there.
    fn unpack(&self, cache: &Path) -> Result<PathBuf> {
        let work = cache.join(format!("new-{}", std::process::id()));
        fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
        let result = self.unpack_in(&work, cache);
        let _ = fs::remove_dir_all(&work);
        result
    }

    fn unpack_in(&self, work: &Path, cache: &Path) -> Result<PathBuf> {
        say(&format!("setup: downloading {}", self.file));
        let mut download = Command::new("apt-get");
        // By root, apt's own user would have to be let in here.
        download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
        show(download.arg(&self.name).current_dir(work))?;
        let root = work.join("root");
        let mut unpack = Command::new("dpkg-deb");
        show(unpack.arg("-x").arg(work.join(&self.file)).arg(&root))?;
        let place = self.place(cache);
        // Another run may have been quicker.
        if let Err(error) = fs::rename(&root, &place) {
            ensure!(place.is_dir(), "make {}: {error}", place.display());
        }
        Ok(place)
    }
}

impl Unpacked {
    /// Finds the parts of a package that is unpacked in `dir`.
    fn find(dir: &Path) -> Result<Self> {
        let boot = dir.join("boot");
        let image = only(&boot, |name| name.starts_with("vmlinuz-"))?;
        let modules = ["lib/modules", "usr/lib/modules"].map(|path| dir.join(path));
        let Some(modules) = modules.iter().find(|path| path.is_dir()) else {
            bail!("{} holds no modules", dir.display());
        };
        Ok(Self {
            image,
            modules: only(modules, |_| true)?,
        })
    }
}

/// The one entry of a directory whose name is wanted.
fn only(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) => bail!("{} holds {} kernels, not one", dir.display(), found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_for_virtual_machines_is_chosen() {
        let search = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
            linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n\
            linux-image-6.1.0-57-cloud-amd64-dbg - Debug symbols\n\
            linux-image-6.1.0-58-amd64 - Linux 6.1 for 64-bit PCs (signed)\n\
            linux-image-6.1.0-47-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)\n";
        assert_eq!(
            newest_name(search).as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(newest_name(""), None);
    }

    #[test]
    fn without_an_archive_the_newest_kernel_serves_that_was_unpacked_before() {
        let cache = std::env::temp_dir().join(format!("natbpf-before-{}", std::process::id()));
        let names = [
            "linux-image-6.1.0-9-cloud-amd64_6.1.27-1_amd64",
            "linux-image-6.1.0-57-cloud-amd64_6.1.192-3_amd64",
            "linux-image-6.12.111+deb12-cloud-amd64_6.12.111-1_amd64",
            "run-1",
        ];
        for name in names {
            fs::create_dir_all(cache.join(name)).unwrap();
        }
        let of = |kernel| unpacked_before(kernel, &cache).unwrap();
        let found = super::super::kernel::KERNELS.map(of);
        fs::remove_dir_all(cache.join(names[2])).unwrap();
        let none = of(super::super::kernel::KERNELS[1]);
        fs::remove_dir_all(&cache).unwrap();
        assert_eq!(
            found,
            [1, 2].map(|index: usize| Some(cache.join(names[index])))
        );
        assert_eq!(none, None);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let of = |n| numbers(&format!("linux-image-6.12.{n}+deb12-cloud-amd64"));
        assert!(of("9") < of("111") && of("111") < of("117"));
    }

    #[test]
    fn a_missing_kernel_says_where_it_is_to_be_had() {
        let text = not_found(
            super::super::kernel::KERNELS[1],
            Path::new("target/kernels/6.12"),
        );
        assert!(
            text.contains("linux-image-6.12.*-cloud-amd64") && text.contains("bookworm-backports"),
            "{text}"
        );
    }
}
