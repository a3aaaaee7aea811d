//! A virtual machine of QEMU's, without hardware virtualisation: Debian's kernel for virtual
//! machines, and an initramfs with busybox.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::patience::patience;
use lab::{Host, Natbpf};

/// Where `cargo xtask test` has put the kernel and its modules.
const KERNEL: &str = "NATBPF_GUEST_KERNEL";
const MODULES: &str = "NATBPF_GUEST_MODULES";

/// The kernel modules of a virtio network card.
const WANTED: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

const INIT: &str = include_str!("init.sh");
const UDHCPC: &str = include_str!("udhcpc.sh");
/// The example that is shipped: it has QEMU make the tap and call natbpf for it.
const STARTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/qemu-guest");

/// It takes some five seconds with a processor to itself.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
const OFF_LIMIT: Duration = Duration::from_secs(20);
const LINES_SHOWN: usize = 30;

/// The guests' boot image, built once.
pub(crate) struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// With QEMU's scripts.
    sbin: PathBuf,
    folder: PathBuf,
}

impl Image {
    /// Puts it together in a folder.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let kernel = named_by(KERNEL)?;
        let root = folder.join("root");
        for part in ["bin", "modules"] {
            fs::create_dir_all(root.join(part)).with_context(|| format!("make {part}"))?;
        }
        let busybox = find_busybox()?;
        fs::copy(&busybox, root.join("bin/busybox")).context("copy busybox")?;
        copy_modules(&named_by(MODULES)?.join("kernel"), &root.join("modules"))?;
        for (name, text) in [("init", INIT), ("udhcpc", UDHCPC)] {
            let path = root.join(name);
            fs::write(&path, text).with_context(|| format!("write {name}"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("chmod")?;
        }
        let initramfs = folder.join("initramfs");
        let status = Command::new("sh")
            .args([
                "-c",
                "find . | cpio --create --format=newc --owner=0:0 --quiet",
            ])
            .current_dir(&root)
            .stdout(File::create(&initramfs).context("make the initramfs")?)
            .status();
        ensure!(status.context("start sh")?.success(), "cpio failed");
        let sbin = folder.join("sbin");
        fs::create_dir(&sbin).context("make sbin")?;
        for script in ["natbpf-ifup", "natbpf-ifdown"] {
            symlink(Natbpf::binary()?, sbin.join(script)).context("install the scripts")?;
        }
        Ok(Self {
            kernel,
            initramfs,
            sbin,
            folder: folder.to_owned(),
        })
    }
}

fn named_by(variable: &str) -> Result<PathBuf> {
    let value = std::env::var_os(variable);
    let path = value.with_context(|| format!("{variable} is not set: cargo xtask test guests"))?;
    Ok(PathBuf::from(path))
}

fn find_busybox() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("busybox"));
    let busybox = places.find(|path| path.is_file());
    let busybox = busybox.context("there is no busybox here; install busybox-static")?;
    // A guest has no libraries. (It fails for a program that needs none.)
    let needs_libraries = Command::new("ldd").arg(&busybox).output()?.status.success();
    ensure!(
        !needs_libraries,
        "{} needs libraries; install busybox-static in its place",
        busybox.display()
    );
    Ok(busybox)
}

fn copy_modules(from: &Path, to: &Path) -> Result<()> {
    let mut folders = vec![from.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        for entry in entries.with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                folders.push(path);
            } else if WANTED.contains(&&*name) {
                fs::copy(&path, to.join(format!("{name}.ko"))).context("copy a module")?;
            }
        }
    }
    let found = fs::read_dir(to)?.count();
    ensure!(
        found == WANTED.len(),
        "{found} of the modules {WANTED:?} are below {}",
        from.display()
    );
    Ok(())
}

/// A machine that runs; ended when it is dropped.
pub(crate) struct Machine {
    name: String,
    qemu: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    console: PathBuf,
}

impl Machine {
    /// Switches one on, behind a tap of that name on `host`, as the shipped example does.
    pub(crate) fn start(
        image: &Image,
        host: &Host,
        natbpf: &Natbpf,
        (name, tap, mac): (&str, &str, &str),
    ) -> Result<Self> {
        let console = image.folder.join(format!("{name}.console"));
        let mut path = OsString::from(&image.sbin);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        // The kernel ends QEMU with the test, also when that is killed.
        let mut command = host.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", STARTER, tap, mac])
            .args("-accel tcg -cpu max -smp 1 -m 256 -nodefaults -no-user-config".split(' '))
            .args("-display none -no-reboot -kernel".split(' '))
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initramfs)
            .args([
                "-append",
                &format!("console=ttyS0 quiet panic=-1 no_timer_check guest={name}"),
            ])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", "stdio"])
            .env("PATH", path)
            .env("NATBPF_CONFIG", natbpf.config_file())
            .env("NATBPF_RUN_DIR", natbpf.run_dir());
        let errors = File::create(image.folder.join(format!("{name}.errors")))?;
        let mut qemu = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("start QEMU")?;
        let commands = qemu.stdin.take().context("the guest's input")?;
        let output = qemu.stdout.take().context("the guest's output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            qemu,
            commands,
            lines,
            console,
        })
    }

    /// Waits until it takes commands.
    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        self.lines_until(BOOT_LIMIT, |word| word == "ready")
            .map(drop)
            .with_context(|| format!("{} does not boot{}", self.name, self.last_words()))
    }

    /// Runs a line of shell in it, which must succeed, and returns its output.
    pub(crate) fn check(&mut self, line: &str) -> Result<String> {
        self.check_for(line, Duration::from_secs(30))
    }

    /// The same for what takes longer.
    pub(crate) fn check_for(&mut self, line: &str, limit: Duration) -> Result<String> {
        let said = writeln!(self.commands, "{line}")
            .context("QEMU has ended")
            .and_then(|()| self.lines_until(limit, |word| word.parse::<u8>().is_ok()));
        let (text, code) = said.with_context(|| format!("{}: {line}", self.name))?;
        ensure!(
            code == "0",
            "{}: {line}: exit code {code}\n{text}",
            self.name
        );
        Ok(text)
    }

    /// What it says until a word of its init's that is waited for, and that word.
    fn lines_until(
        &self,
        limit: Duration,
        is_end: impl Fn(&str) -> bool,
    ) -> Result<(String, String)> {
        let deadline = Instant::now() + patience(limit);
        let mut text = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!("no end after {limit:?}, or QEMU has ended; before:\n{text}");
            };
            match line.strip_prefix("guest: ") {
                Some(word) if is_end(word) => {
                    return Ok((text.trim_end().to_owned(), word.to_owned()));
                }
                _ => text += &(line + "\n"),
            }
        }
    }

    /// Switches it off, and waits until QEMU has ended.
    pub(crate) fn power_off(mut self) -> Result<()> {
        writeln!(self.commands, "poweroff -f").context("QEMU has ended")?;
        let deadline = Instant::now() + patience(OFF_LIMIT);
        while Instant::now() < deadline {
            if let Some(status) = self.qemu.try_wait()? {
                ensure!(status.success(), "QEMU: {status}{}", self.last_words());
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!(
            "{} does not switch itself off{}",
            self.name,
            self.last_words()
        )
    }

    /// What QEMU and the guest's kernel said last, as part of an error.
    fn last_words(&self) -> String {
        let read = |path: &Path| fs::read(path).unwrap_or_default();
        let errors = read(&self.console.with_extension("errors"));
        let console = read(&self.console);
        let text = String::from_utf8_lossy(&errors) + String::from_utf8_lossy(&console);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let start = lines.len().saturating_sub(LINES_SHOWN);
        format!("; QEMU and its kernel said:\n{}", lines[start..].join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
