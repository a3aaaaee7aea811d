//! Links without Ethernet header: two TUN devices, and threads that carry packets between them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Host;

/// Larger than any TUN device's MTU in the lab.
const LARGEST_PACKET: usize = 66 << 10;
/// How soon a forwarder sees that it shall stop.
const STOP_CHECK_MS: u8 = 50;

/// A link between two hosts on which packets begin with the IP header. Gone when dropped.
#[derive(Debug)]
pub struct TunPair {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl TunPair {
    pub(crate) fn new(a: (&Host, &str), b: (&Host, &str)) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = [Arc::new(open(a)?), Arc::new(open(b)?)];
        let threads = [(0, 1), (1, 0)]
            .map(|(from, to)| {
                let (from, to, stop) = (ends[from].clone(), ends[to].clone(), stop.clone());
                thread::spawn(move || carry(&from, &to, &stop))
            })
            .into();
        Ok(Self { stop, threads })
    }
}

impl Drop for TunPair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn open((host, interface): (&Host, &str)) -> Result<File> {
    host.enter(|| open_here(interface))?
        .with_context(|| format!("TUN device {interface} on {}", host.name()))
}

/// Makes a TUN device in the calling thread's namespace.
fn open_here(interface: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: an ifreq is plain C data for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes the live ifreq only.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(file)
    }
}

fn carry(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST_PACKET];
    while !stop.load(Ordering::Relaxed) {
        let mut entries = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut entries, PollTimeout::from(STOP_CHECK_MS));
        while let Ok(length) = from.read(&mut buffer) {
            // A device that is down refuses packets, as a cable that is not plugged in.
            let _ = to.write(&buffer[..length]);
        }
    }
}
