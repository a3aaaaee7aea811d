//! Hosts in network namespaces: the lab in which natbpf is tried out and tested.
//!
//! A [`Lab`] owns namespaces, processes, a temporary folder and a bpffs, and removes all of
//! them when it is dropped, when a test panics, on Ctrl-C, and (what a killed run left behind)
//! when the next lab is made. Ready-made networks are in [`topology`]; [`Natbpf`] runs the NAT
//! in one of the hosts.
//!
//! Nothing in here knows how natbpf works inside: it is given a binary and judges packets.

mod capture;
mod frame;
mod host;
mod natbpf;
mod offload;
mod packet;
mod packet6;
pub mod patience;
mod place;
mod process;
pub mod service;
mod signals;
mod socket;
pub mod topology;
mod tun;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

pub use capture::Capture;
pub use frame::Frame;
pub use host::Host;
pub use natbpf::Natbpf;
pub use offload::Offload;
pub use packet::{L4, Packet, checksums, inner_checksums, ones_complement_sum};
pub use packet6::Packet6;
pub use place::Place;
pub use process::{Background, Output};
pub use signals::wait_for_interrupt;
pub use socket::RawSocket;
pub use tun::TunPair;

/// A set of hosts in network namespaces, gone with everything in them when it is dropped.
pub struct Lab {
    place: Place,
    kept: bool,
    tuns: Mutex<Vec<TunPair>>,
    state: Arc<Mutex<Vec<Host>>>,
}

impl Lab {
    /// Creates an empty lab with a unique name, so that several can run at once, and removes the
    /// remains of labs of dead processes.
    ///
    /// # Errors
    /// Without root, or when the temporary folder or its bpffs cannot be made.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self::at(Place::of_this_process(number))
    }

    /// Makes a lab that is meant to outlive this process; see [`Lab::keep`]. It is never swept
    /// as a leftover, whoever made it.
    ///
    /// # Errors
    /// As for [`Lab::new`].
    pub fn new_lasting() -> Result<Self> {
        Self::at(Place::lasting())
    }

    fn at(place: Place) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the lab makes network namespaces and needs root: run it as root or with sudo");
        }
        place::sweep();
        signals::clean_up_on_signals();
        signals::register(&place);
        // From here on a failure removes what was made, since `lab` is dropped.
        let lab = Self {
            place,
            kept: false,
            tuns: Mutex::default(),
            state: Arc::default(),
        };
        lab.place.make_folder()?;
        Ok(lab)
    }

    /// Creates a host: a network namespace with `lo` up.
    ///
    /// IPv6 is off, so that captures contain only what was sent.
    ///
    /// # Errors
    /// When the namespace cannot be made or entered.
    pub fn host(&self, name: &str) -> Result<Host> {
        let host = self.vm_host(name)?;
        host.set_sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        host.set_sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        Ok(host)
    }

    /// Creates a host of both families: IPv6 is on, and an address is usable at once.
    ///
    /// # Errors
    /// As for [`Lab::host`].
    pub fn dual_host(&self, name: &str) -> Result<Host> {
        let host = self.vm_host(name)?;
        for (key, value) in [
            // No interface asks for routers or learns from them: captures show what was sent.
            ("conf.default.accept_ra", "0"),
            ("conf.default.router_solicitations", "0"),
            // Every error is sent: the tests count what natbpf does, not what the kernel omits.
            ("icmp.ratelimit", "0"),
        ] {
            host.set_sysctl(&format!("net.ipv6.{key}"), value)?;
        }
        Ok(host)
    }

    /// Creates a host like a freshly booted one: natbpf must set what it needs.
    ///
    /// # Errors
    /// As for [`Lab::host`].
    pub fn vm_host(&self, name: &str) -> Result<Host> {
        let host = Host::make(&self.place, name)?;
        host.set_sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        host.set_kernel_defaults()?;
        self.hosts_mut().push(host.clone());
        Ok(host)
    }

    /// Joins two hosts by a veth pair, one end in each, both up.
    ///
    /// # Errors
    /// When a name is taken or too long for an interface.
    pub fn veth(&self, a: (&Host, &str), b: (&Host, &str)) -> Result<()> {
        let (host_a, name_a) = a;
        let (host_b, name_b) = b;
        host_a.ip(&format!(
            "link add {name_a} type veth peer name {name_b} netns {}\nlink set {name_a} up",
            host_b.namespace()
        ))?;
        host_b.ip(&format!("link set {name_b} up"))
    }

    /// Joins two hosts by a pair of interfaces without Ethernet header (TUN devices), both up.
    ///
    /// # Errors
    /// When the devices cannot be made.
    pub fn tun(&self, a: (&Host, &str), b: (&Host, &str)) -> Result<()> {
        let pair = TunPair::new(a, b)?;
        a.0.ip(&format!("link set {} up", a.1))?;
        b.0.ip(&format!("link set {} up", b.1))?;
        self.tuns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pair);
        Ok(())
    }

    /// Every host made so far, in the order of making.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        self.hosts_mut().clone()
    }

    fn hosts_mut(&self) -> std::sync::MutexGuard<'_, Vec<Host>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lab's temporary folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.place.folder()
    }

    /// A bpffs outside every host's mount namespace: pins there outlive each process.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.place.bpffs()
    }

    /// Where this lab's namespaces and files are, to find them again after [`Lab::keep`].
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Leaves the lab standing when this process ends; [`Place::remove`] takes it down.
    ///
    /// # Errors
    /// When the lab was not made by [`Lab::new_lasting`] (the next lab would sweep it away), or
    /// has TUN links, which live in this process.
    pub fn keep(mut self) -> Result<Place> {
        if !self.place.is_lasting() {
            bail!("only a lab of Lab::new_lasting can be kept");
        }
        if !self
            .tuns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
        {
            bail!("a lab with TUN links cannot outlive the process that forwards between them");
        }
        self.kept = true;
        Ok(self.place.clone())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        signals::forget(&self.place);
        if self.kept {
            return;
        }
        if let Err(error) = self.place.remove().context("taking the lab down") {
            eprintln!("{error:#}");
        }
    }
}
