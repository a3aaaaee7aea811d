//! The real libvirt and ifupdown, as if they were installed on one host of the lab.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bpf_toolchain::Workspace;
use bpf_toolchain::unpack::NETWORK_OWNERS;
use lab::{Background, Host, Lab, Output};

use crate::following::soon;

/// Overlays the machine's files with those of the packages. What the programs write stays in the
/// overlay too. libvirt loads only its network driver: the others start programs that no test
/// needs.
const FILES: &str = r#"
packages=$1 folder=$2
mount -t tmpfs tmpfs "$folder"
for dir in etc usr var; do
    mkdir -p "$folder/$dir/new" "$folder/$dir/work"
    layers=lowerdir=/$dir,upperdir=$folder/$dir/new,workdir=$folder/$dir/work
    mount -t overlay overlay -o "$layers" "/$dir"
done
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
rm -rf /etc/libvirt /etc/network /var/lib/libvirt
# By names: an archive of `.` would give `/`, which is no overlay, the folder's mode.
mode=$(stat -c %a /)
cd "$packages"
tar --anchored --exclude=usr/share -c * |
    tar -C / -x --keep-directory-symlink --no-overwrite-dir
cd /
[ "$(stat -c %a /)" = "$mode" ]
find /usr/lib/*/libvirt/connection-driver -type f ! -name '*_network.so' -delete
mkdir -p /run/network
echo ready
exec sleep infinity
"#;

/// A host on which libvirt and ifupdown are installed. Dropping this ends their processes.
#[derive(Debug)]
pub struct Owners {
    host: Host,
    holder: Background,
}

impl Owners {
    /// Installs them on a host of this lab.
    ///
    /// # Errors
    /// When set-up has not unpacked the packages, or the kernel has no overlay file system.
    pub fn on(host: &Host, lab: &Lab) -> Result<Self> {
        let folder = lab.folder().join(format!("{}-files", host.name()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // All processes of a PID namespace end with its first one.
        let new = "unshare --mount --propagation private --pid --fork --kill-child --mount-proc";
        let words = new.split(' ').map(str::to_owned);
        let script = ["sh", "-ec", FILES, "sh"].map(str::to_owned);
        let paths = [packages()?, folder].map(|path| path.display().to_string());
        let mut holder = host.spawn(words.chain(script).chain(paths))?;
        soon("the packages are installed", || {
            ensure!(holder.ended()?.is_none(), "{}", holder.said());
            Ok(holder.said().contains("ready"))
        })?;
        let host = host.clone();
        Ok(Self { host, holder })
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// As for [`Host::run`].
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        self.host.run(self.inside(words))
    }

    /// Runs a program that must succeed and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the message holds what it said.
    pub fn check(&self, words: &[&str]) -> Result<String> {
        self.host.check(self.inside(words))
    }

    /// Starts a program that runs until the result or `self` is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> Result<Background> {
        self.host.spawn(self.inside(words))
    }

    /// Writes a file that the programs read.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let words = self.inside(&["tee", path]);
        let output = self.host.run_with_input(words, text.as_bytes())?;
        output.expect_ok().map(drop)
    }

    fn inside(&self, words: &[&str]) -> Vec<String> {
        let namespaces = format!("/proc/{}/ns", self.holder.id());
        // The packages' own programs precede the scripts in `target/tools/bin`.
        let path = std::env::var("PATH").unwrap_or_default();
        let enter = [
            "nsenter".to_owned(),
            format!("--mount={namespaces}/mnt"),
            format!("--pid={namespaces}/pid_for_children"),
            "env".to_owned(),
            format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin:{path}"),
        ];
        let words = words.iter().map(|word| (*word).to_owned());
        enter.into_iter().chain(words).collect()
    }
}

/// Where set-up has unpacked the packages.
fn packages() -> Result<PathBuf> {
    let program = std::env::current_exe().context("path of the running program")?;
    let workspace = Workspace::containing(Path::new(env!("CARGO_MANIFEST_DIR")), &program)?;
    let root = workspace.unpacked().root(NETWORK_OWNERS);
    ensure!(
        root.is_dir(),
        "there is no {}: run `cargo xtask setup`",
        root.display()
    );
    Ok(root)
}
