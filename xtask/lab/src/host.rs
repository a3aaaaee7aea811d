//! One host of the lab: a network namespace, and everything that can be done in it.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use crate::capture::Capture;
use crate::offload::{self, Offload};
use crate::patience::{PATIENCE, patience};
use crate::place::{NETNS_FOLDER, Place};
use crate::process::{self, Background, Output};
use crate::socket::RawSocket;

/// A command that takes longer has hung: none that the lab runs takes a quarter of this.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// A host of the lab. Clones are the same host.
///
/// Commands and closures enter the network namespace and nothing else: they see the machine's
/// own `/sys` and mounts, so `/sys/class/net` shows the machine's interfaces, while
/// `/proc/sys/net` is the host's own.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    file: File,
    folder: PathBuf,
    logs: AtomicU32,
}

impl Host {
    pub(crate) fn make(place: &Place, name: &str) -> Result<Self> {
        let namespace = place.namespace(name);
        process::run(
            ip_command(&["netns", "add", &namespace]),
            &[],
            patience(COMMAND_LIMIT),
        )?
        .expect_ok()?;
        let host = Self::find(place, name)?;
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// The host of this name in an existing lab, created by this process or another.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(place: &Place, name: &str) -> Result<Self> {
        let namespace = place.namespace(name);
        let path = Path::new(NETNS_FOLDER).join(&namespace);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let folder = place.folder().to_owned();
        let name = name.to_owned();
        Ok(Self(Arc::new(Inner {
            name,
            namespace,
            file,
            folder,
            logs: AtomicU32::new(0),
        })))
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its namespace's name, for `ip -n` and `ip netns exec`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// A command that will run in the host's namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let host = self.clone();
        // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are
        // allowed; setns is a bare system call and nothing in here allocates or locks.
        unsafe {
            command.pre_exec(move || {
                setns(&host.0.file, CloneFlags::CLONE_NEWNET).map_err(Into::into)
            });
        }
        command
    }

    /// Runs a program with its arguments to the end, whatever its exit code; killed after 30 s.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn run<I>(&self, words: I) -> Result<Output>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        self.run_with_input(words, &[])
    }

    /// As [`Host::run`], with something to read on its standard input.
    ///
    /// # Errors
    /// As for [`Host::run`].
    pub fn run_with_input<I>(&self, words: I, input: &[u8]) -> Result<Output>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        let mut words = words.into_iter();
        let program = words.next().context("a command without a program")?;
        let mut command = self.command(program);
        command.args(words);
        self.run_command(command, input)
    }

    /// As [`Host::run_with_input`], with a command of [`Host::command`].
    ///
    /// # Errors
    /// As for [`Host::run`].
    pub fn run_command(&self, command: Command, input: &[u8]) -> Result<Output> {
        process::run(command, input, patience(COMMAND_LIMIT))
            .with_context(|| format!("on {}", self.name()))
    }

    /// Runs a program that must succeed and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the message holds what it said.
    pub fn check<I>(&self, words: I) -> Result<String>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        self.run(words)?
            .expect_ok()
            .with_context(|| format!("on {}", self.name()))
    }

    /// Starts a program that runs until the result is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<I>(&self, words: I) -> Result<Background>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        let mut words = words.into_iter();
        let program = words.next().context("a command without a program")?;
        let mut command = self.command(program);
        command.args(words);
        self.spawn_command(command)
    }

    pub(crate) fn spawn_command(&self, command: Command) -> Result<Background> {
        let number = self.0.logs.fetch_add(1, Ordering::Relaxed);
        let log = self.0.folder.join(format!("{}-{number}.log", self.name()));
        Background::start(command, &log).with_context(|| format!("on {}", self.name()))
    }

    /// Runs a batch of `ip` commands, one a line, without the word `ip`.
    ///
    /// # Errors
    /// When one fails; none after it is run.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let output = self.run_with_input(["ip", "-batch", "-"], batch.as_bytes())?;
        output
            .expect_ok()
            .with_context(|| format!("on {}: {batch}", self.name()))?;
        Ok(())
    }

    /// Runs a closure on a thread in the host's namespace. Sockets made in there belong to the
    /// host for good and can be used from anywhere.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When the closure does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let entered = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0.file, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, nix::Error>(work())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        entered.with_context(|| format!("enter {}", self.namespace()))
    }

    /// A sysctl of the host, `net.ipv4.ip_forward` for example.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name);
        let text = self.enter(|| fs::read_to_string(&path))?;
        Ok(text
            .with_context(|| format!("read {name} of {}", self.name()))?
            .trim()
            .to_owned())
    }

    /// Sets a sysctl of the host.
    ///
    /// # Errors
    /// When it does not exist or takes no such value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("set {name} of {} to {value}", self.name()))
    }

    /// Resets what a namespace inherits from the machine to the kernel's defaults, so that the lab
    /// is the same everywhere.
    pub(crate) fn set_kernel_defaults(&self) -> Result<()> {
        self.set_sysctl("net.ipv4.ip_forward", "0")?;
        for scope in ["all", "default", "lo"] {
            for (key, value) in [
                ("rp_filter", "0"),
                ("send_redirects", "1"),
                ("accept_local", "0"),
                ("route_localnet", "0"),
                ("arp_ignore", "0"),
                ("arp_announce", "0"),
                ("log_martians", "0"),
            ] {
                self.set_sysctl(&format!("net.ipv4.conf.{scope}.{key}"), value)?;
            }
        }
        Ok(())
    }

    /// A UDP socket of the host; reading from it gives up after 3 s.
    ///
    /// # Errors
    /// When the address is not the host's or taken.
    pub fn udp(&self, address: &str) -> Result<UdpSocket> {
        let socket = self
            .enter(|| bind(|| UdpSocket::bind(address)))?
            .with_context(|| format!("udp {address} on {}", self.name()))?;
        socket
            .set_read_timeout(Some(patience(PATIENCE)))
            .context("set a time limit")?;
        Ok(socket)
    }

    /// A listening TCP socket of the host.
    ///
    /// # Errors
    /// When the address is not the host's or taken.
    pub fn tcp_listen(&self, address: &str) -> Result<TcpListener> {
        self.enter(|| bind(|| TcpListener::bind(address)))?
            .with_context(|| format!("listen on {address} on {}", self.name()))
    }

    /// Connects by TCP; connecting and reading give up after 3 s.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn tcp(&self, to: impl Into<SocketAddr>) -> Result<TcpStream> {
        let to = to.into();
        let stream = self
            .enter(|| TcpStream::connect_timeout(&to, patience(PATIENCE)))?
            .with_context(|| format!("connect to {to} from {}", self.name()))?;
        stream
            .set_read_timeout(Some(patience(PATIENCE)))
            .context("set a time limit")?;
        Ok(stream)
    }

    /// Sends one echo request, of ICMP or ICMPv6, which must be answered within a second.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ping(&self, to: impl Into<IpAddr>) -> Result<()> {
        let to = to.into().to_string();
        self.check(["ping", "-c1", "-W1", "-n", &to]).map(drop)
    }

    /// Starts recording every frame on an interface, in and out.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn capture(&self, interface: &str) -> Result<Capture> {
        let what = format!("{interface} of {}", self.name());
        let socket = self
            .enter(|| RawSocket::receiving(interface))?
            .with_context(|| format!("capture on {what}"))?;
        Ok(Capture::start(socket, what))
    }

    /// A socket that puts frames on an interface as they are, from the link layer up.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn raw(&self, interface: &str) -> Result<RawSocket> {
        self.enter(|| RawSocket::sending(interface))?
            .with_context(|| format!("raw socket on {interface} of {}", self.name()))
    }

    /// A socket that receives every frame of an interface, for a test that reads it continuously,
    /// in its own thread; see [`Host::capture`] for the others.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn listen(&self, interface: &str) -> Result<RawSocket> {
        self.enter(|| RawSocket::receiving(interface))?
            .with_context(|| format!("listen on {interface} of {}", self.name()))
    }

    /// Sends one frame on an interface unchanged, from the link layer up.
    ///
    /// # Errors
    /// When there is no such interface, or it is down.
    pub fn inject(&self, interface: &str, frame: &[u8]) -> Result<()> {
        self.raw(interface)?.send(frame)
    }

    /// An interface's hardware address.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        self.enter(|| offload::hardware_address(interface))?
            .with_context(|| format!("address of {interface} of {}", self.name()))
    }

    /// An interface's index.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn index(&self, interface: &str) -> Result<u32> {
        self.enter(|| if_nametoindex(interface))?
            .with_context(|| format!("index of {interface} of {}", self.name()))
    }

    /// Switches one of an interface's offloads on or off.
    ///
    /// # Errors
    /// When there is no such interface or it cannot be switched.
    pub fn set_offload(&self, interface: &str, offload: Offload, on: bool) -> Result<()> {
        self.enter(|| offload::set(interface, offload, on))?
            .with_context(|| format!("{offload:?} of {interface} of {}", self.name()))
    }

    /// Switches every offload of an interface on or off.
    ///
    /// # Errors
    /// As for [`Host::set_offload`].
    pub fn set_offloads(&self, interface: &str, on: bool) -> Result<()> {
        // Segmentation needs checksums: on in this order, off in the other.
        let mut all = [
            Offload::Checksum,
            Offload::ScatterGather,
            Offload::Tso,
            Offload::Gso,
            Offload::Gro,
        ];
        if !on {
            all.reverse();
        }
        all.into_iter()
            .try_for_each(|offload| self.set_offload(interface, offload, on))
    }
}

/// Binds, and waits a little for an address that is still in use: a child that another thread is
/// starting holds all sockets for a moment, including those that were closed in the meantime.
fn bind<S>(mut attempt: impl FnMut() -> io::Result<S>) -> io::Result<S> {
    for _ in 0..BIND_ATTEMPTS {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(BIND_PAUSE),
            result => return result,
        }
    }
    attempt()
}

const BIND_ATTEMPTS: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(50);

fn ip_command(words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(words);
    command
}

fn sysctl_path(name: &str) -> PathBuf {
    // A dot in an interface's name (a VLAN) is written as a slash, as sysctl(8) does.
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    Path::new("/proc/sys").join(path)
}
