//! Two thousand sessions through natbpf, each of whose bytes is checked.
//!
//! Connections and datagrams, half of them by masquerade and half by forwards, in the network
//! [`Proxmox`]. One thread drives both ends of all of them, and notes every reset, lost, doubled
//! or late datagram, wrong byte, stall, and every address that is not what it was.

mod engine;
pub mod pattern;
mod routes;
mod session;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::topology::Proxmox;
use nix::errno::Errno;
use nix::sys::epoll::EpollEvent;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use engine::Engine;
pub use routes::{KEPT, Protocol, RULES, SPARE, add_kept_address, config, spare_config};
pub use session::Key;

/// How long opening all sessions may take.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take until nothing is on its way any more.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// How often something is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The generator's thread needs a fifth of a processor, but needs it in time.
const PRIORITY: libc::c_int = -10;
/// Troubles that a message holds; the first ones say most.
const SHOWN: usize = 12;

/// How much is to be sent.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sessions of each protocol.
    pub each: usize,
    /// Whether some of them are under the forwards of [`spare_config`].
    pub with_spare: bool,
    /// Datagrams a second, with their answers.
    pub packets_per_second: u32,
    /// The first external address of the uplink.
    pub first: Ipv4Addr,
}

/// What has been sent and has arrived as it should.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Sessions that were opened and worked.
    pub sessions: u64,
    /// Bytes of connections that arrived.
    pub bytes: u64,
    /// Datagrams sent, by rule: into the inside network, and out of it.
    pub datagrams: BTreeMap<&'static str, [u64; 2]>,
    /// Answers to datagrams.
    pub answers: u64,
    /// Datagrams that were lost while they might be.
    pub lost: u64,
}

/// The generator at work; ends when dropped.
#[derive(Debug)]
pub struct Traffic {
    engine: Arc<Mutex<Engine>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Opens all sessions, and returns when each has worked both ways.
    ///
    /// # Errors
    /// When something goes wrong with one of them.
    pub fn start(net: &Proxmox, options: &Options) -> Result<Self> {
        // Both ends of all sessions are this process's.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("limit of open files")?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).context("limit of open files")?;
        let (routes, plan) = routes::plan(net, options.each, options.with_spare);
        let engine = Arc::new(Mutex::new(Engine::new(routes, &plan, options)?));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (engine, stop) = (engine.clone(), stop.clone());
            move || drive(&engine, &stop)
        });
        let traffic = Self {
            engine,
            stop,
            thread: Some(thread),
        };
        traffic.all_work(Instant::now(), START_LIMIT)?;
        Ok(traffic)
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the current operation on natbpf, for faults from now on.
    pub fn name_operation(&self, name: &str) {
        name.clone_into(&mut self.engine().operation);
    }

    /// Tells of the first external address, for sessions that are opened from now on.
    pub fn set_first(&self, first: Ipv4Addr) {
        self.engine().first = first;
    }

    /// Nothing has gone wrong so far.
    ///
    /// # Errors
    /// Says what has: session, time, and the operation before.
    pub fn is_well(&self) -> Result<()> {
        let engine = self.engine();
        let troubles = &engine.troubles;
        if troubles.is_empty() {
            return Ok(());
        }
        let shown = troubles.len().min(SHOWN);
        bail!(
            "{} things went wrong{}\n  {}",
            troubles.len(),
            if shown < troubles.len() {
                format!(", of which these are the first {shown}:")
            } else {
                ":".to_owned()
            },
            troubles[..shown].join("\n  ")
        )
    }

    /// Waits until something right has come to both ends of every session that is not paused,
    /// after `then`.
    ///
    /// # Errors
    /// When something goes wrong, or it takes longer than `limit`.
    pub fn all_work(&self, then: Instant, limit: Duration) -> Result<()> {
        self.until(limit, |engine| {
            let silent = engine.silent_since(then);
            let first = silent.first().map(|slot| engine.describe(*slot));
            first.map(|first| format!("{} sessions are silent, as {first}", silent.len()))
        })
    }

    /// Waits until `complaint` has nothing to say.
    fn until(&self, limit: Duration, complaint: impl Fn(&Engine) -> Option<String>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let said = complaint(&self.engine());
            self.is_well()?;
            ensure!(!self.has_ended(), "the generator has ended");
            match said {
                None => return Ok(()),
                Some(said) if begun.elapsed() > limit => bail!("after {limit:?}: {said}"),
                Some(_) => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// All sessions, by number.
    #[must_use]
    pub fn all(&self) -> Vec<usize> {
        (0..self.engine().len()).collect()
    }

    /// The sessions under a rule, by number.
    #[must_use]
    pub fn under(&self, rule: &str) -> Vec<usize> {
        self.engine().select(|session| session.rule == rule)
    }

    /// The sessions that end when the first external address goes, by number.
    #[must_use]
    pub fn by_first_address(&self) -> Vec<usize> {
        self.engine().select(|session| session.needs_first)
    }

    /// Lets these sessions send nothing any more, and waits until nothing of them is on its way.
    ///
    /// # Errors
    /// When something goes wrong, or it takes too long.
    pub fn pause(&self, sessions: &[usize]) -> Result<()> {
        self.engine().pause(sessions, true);
        self.until(SETTLE_LIMIT, |engine| {
            let busy = engine.busy(sessions);
            (busy > 0).then(|| format!("{busy} sessions do not come to rest"))
        })
    }

    /// Lets these sessions send again.
    pub fn go_on(&self, sessions: &[usize]) {
        self.engine().pause(sessions, false);
    }

    /// Gives these sessions up and opens others of the same kind in their place.
    pub fn replace(&self, sessions: &[usize]) {
        self.engine().replace(sessions);
    }

    /// From now on datagrams may be lost, until [`Traffic::end_loss`].
    pub fn begin_loss(&self) {
        self.engine().begin_loss();
    }

    /// Datagrams that are sent later than `rest` from now may not be lost any more.
    pub fn end_loss(&self, rest: Duration) {
        self.engine().end_loss(rest);
    }

    /// The sessions that work, with their numbers and rules.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<Key, (usize, &'static str)> {
        self.engine().keys()
    }

    /// A session as natbpf names it.
    ///
    /// # Errors
    /// When it has not been there yet.
    pub fn key(&self, session: usize) -> Result<Key> {
        let key = self.engine().key(session);
        key.with_context(|| format!("session {session} is not there"))
    }

    /// What has been sent and has arrived so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.engine().totals.clone()
    }

    /// How many sessions were opened under each rule.
    #[must_use]
    pub fn opened(&self) -> BTreeMap<&'static str, u64> {
        self.engine().opened.clone()
    }

    /// Packets of all sessions by rule, into the inside network and out of it: datagrams, and the
    /// segments that the kernel has counted. For paused sessions, none of which was replaced.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn packets(&self) -> Result<BTreeMap<&'static str, [u64; 2]>> {
        let engine = self.engine();
        let mut packets = engine.segments().context("segments of a connection")?;
        for (rule, datagrams) in &engine.totals.datagrams {
            let sum = packets.entry(rule).or_default();
            sum[0] += datagrams[0];
            sum[1] += datagrams[1];
        }
        Ok(packets)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of its has been printed.
            let _ = thread.join();
        }
    }
}

/// The generator's thread.
fn drive(engine: &Mutex<Engine>, stop: &AtomicBool) {
    // With priority, or it cannot keep pace. Without effect it is only slower. SAFETY: no pointers
    // are passed; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, PRIORITY) };
    let lock = || engine.lock().unwrap_or_else(PoisonError::into_inner);
    let epoll = lock().epoll();
    let mut events = [EpollEvent::empty(); 256];
    while !stop.load(Ordering::Relaxed) {
        let count = match epoll.wait(&mut events, 1_u8) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return lock().troubles.push(format!("epoll: {error}")),
        };
        let mut engine = lock();
        engine.serve(&events[..count]);
        if let Err(error) = engine.tick() {
            return engine.troubles.push(format!("the generator: {error:#}"));
        }
    }
}
