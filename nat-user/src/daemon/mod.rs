//! The daemon: starts the data plane, updates it when the host changes, ends idle sessions, and
//! answers the control socket.
//!
//! The data plane does not need it. Without the daemon, only expired sessions do not end and
//! changes on the host are not followed.

mod advertised;
mod answers;
mod claims;
mod covered;
mod differences;
mod ended;
mod external;
mod fast_path;
mod follow;
mod host;
mod identity;
mod instance;
mod interface_states;
mod interfaces;
mod mode;
mod neighbours;
mod options;
mod policed;
mod privileges;
mod reload;
mod settings;
mod start;
mod teardown;
mod transition;

use std::time::Duration;

use anyhow::{Context as _, Result};
use fast_path::Cause;
use instance::Instance;
pub use options::Options;
pub use privileges::check as check_privileges;
use sd_notify::NotifyState;
pub use teardown::tear_down;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    backoff::Backoff,
    clock,
    control::{ControlServer, Reply, Request, Response},
    dataplane::PASS_BUDGET,
    host::events::{Event, Events},
    state,
};

/// How often the daemon looks for idle sessions.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The same where time goes faster for sessions.
const LEAST_SWEEP_INTERVAL: Duration = Duration::from_millis(10);
/// How long after the turn of a second sessions are ended.
const SWEEP_LAG: Duration = Duration::from_millis(15);
/// How long the next pass waits if one has used its budget up: a third of a core at the most.
const SWEEP_PAUSE: Duration = PASS_BUDGET.saturating_mul(2);
/// How long the daemon collects changes of the host before it looks at them: they come in bursts.
const SETTLE_TIME: Duration = Duration::from_millis(50);
/// How often names that ports no longer have are forgotten.
const BINDINGS_INTERVAL: Duration = Duration::from_secs(60);
/// How long to wait after a failed look at the host.
const LEAST_PAUSE: Duration = Duration::from_millis(250);
const MOST_PAUSE: Duration = Duration::from_secs(64);

/// Why a daemon has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A signal has stopped it. The data plane keeps translating.
    Stopped,
    /// `natbpf down` has removed the data plane.
    Removed,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
///
/// When it cannot start. All its changes are then undone, and an earlier data plane continues.
pub async fn run(options: Options) -> Result<End> {
    check_privileges()?;
    // First of all, so that an early reload signal does not end the process.
    let signals = Signals::new()?;
    let lock = state::lock(&options.run_dir)?;
    let control = ControlServer::bind(&options.run_dir)?;
    let mut daemon = Daemon {
        // Subscribed before the first look at the host, so that no change is missed.
        events: Events::subscribe()?,
        signals,
        sweep: sweep_interval(),
        refresh_at: None,
        backoff: Backoff::new(LEAST_PAUSE, MOST_PAUSE),
        bindings_expired: Instant::now(),
        instance: Instance::start(options).await?,
        control,
    };
    daemon.instance.follow_services().await;
    notify_systemd(&[NotifyState::Ready]);
    log::info!("packets are translated");
    let end = daemon.serve().await;
    notify_systemd(&[NotifyState::Stopping]);
    let Some(reply) = end else {
        daemon.instance.leave_fast_path();
        log::info!("daemon stopped; the data plane keeps translating (`natbpf down` removes it)");
        return Ok(End::Stopped);
    };
    let result = daemon.instance.down().await;
    reply
        .send(Response::from_result(result.as_ref().map(Clone::clone)))
        .await;
    drop(lock);
    result.map(|_| End::Removed)
}

/// The parts of a running daemon.
struct Daemon {
    instance: Instance,
    control: ControlServer,
    events: Events,
    signals: Signals,
    sweep: Interval,
    /// When interfaces and addresses are looked at again, if something about them has changed.
    refresh_at: Option<Instant>,
    /// When a failed look is repeated.
    backoff: Backoff,
    /// When names that ports no longer have were last forgotten.
    bindings_expired: Instant,
}

/// The signals that a daemon listens to.
struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen to signals");
        Ok(Self {
            reload: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

impl Daemon {
    /// Serves until a signal stops it, or until a command asks for the removal of everything: then
    /// it returns the channel for the answer.
    async fn serve(&mut self) -> Option<Reply> {
        loop {
            // One change is enough to look again, and guests can cause any number.
            self.events.hear_neighbours(!self.instance.is_look_due());
            self.events.hear_ipv6(self.instance.config.ipv6.is_some());
            let claims_due = self.instance.claims_due();
            tokio::select! {
                _ = self.signals.terminate.recv() => return None,
                _ = self.signals.interrupt.recv() => return None,
                _ = self.signals.reload.recv() => drop(self.reload().await),
                incoming = self.control.accept() => match incoming.request {
                    Request::Reload => {
                        let result = self.reload().await;
                        let response = Response::from_result(result.as_ref().map(Clone::clone));
                        // A peer that reads its answer slowly blocks no other.
                        tokio::spawn(incoming.reply.send(response));
                    }
                    Request::Flushed { ended } => {
                        log::info!("natbpf conntrack flush: {ended} sessions ended");
                        let lines = Vec::new();
                        tokio::spawn(incoming.reply.send(Response::Done { lines }));
                    }
                    Request::Down => {
                        log::info!("natbpf down: everything is removed");
                        return Some(incoming.reply);
                    }
                },
                event = self.events.next() => self.follow_host(event).await,
                looked = self.instance.looked() => self.take_neighbours(looked),
                () = until(self.refresh_at) => self.refresh().await,
                () = until(claims_due) => self.care_for_claims(),
                _ = self.sweep.tick() => self.tick().await,
            }
        }
    }

    /// Reloads the configuration, for a command or a signal. The log says what changed, or why the
    /// reload was refused.
    async fn reload(&mut self) -> Result<Vec<String>> {
        // Before the first look at the host, so that no change is missed.
        self.events.hear_ipv6(true);
        let result = self.instance.reload().await;
        match &result {
            Ok(lines) => lines.iter().for_each(|line| log::info!("reload: {line}")),
            Err(error) => log::error!("reload refused, nothing changed: {error:#}"),
        }
        result
    }

    /// Follows a change. Next hops are updated at once: packets may be taking a wrong path.
    async fn follow_host(&mut self, event: Event) {
        if event == Event::Overrun {
            log::info!(
                "the kernel dropped messages about changes; natbpf reads the whole host again"
            );
        }
        // Before all else: packets that leave by a new interface are translated once it has the
        // programs.
        if matches!(event, Event::LinkChanged | Event::Overrun) && self.instance.is_interface_new()
        {
            self.refresh().await;
        }
        let cause = match event {
            Event::NeighbourChanged => Cause::Neighbours,
            Event::LinkChanged | Event::PolicingChanged => Cause::Surroundings,
            Event::RouteChanged | Event::AddressChanged | Event::Overrun => Cause::Routes,
            Event::SettingChanged => return self.refresh_within(self.instance.settings.pause()),
        };
        if let Err(error) = self.instance.follow_next_hops(cause).await {
            log::error!("follow a change of next hops: {error:#}");
        }
        if event != Event::NeighbourChanged {
            self.refresh_within(SETTLE_TIME);
        }
    }

    fn take_neighbours(&mut self, looked: Result<()>) {
        if let Err(error) = looked.and_then(|()| self.instance.take_neighbours()) {
            log::error!("follow a change of neighbours: {error:#}");
        }
    }

    fn refresh_within(&mut self, pause: Duration) {
        let then = Instant::now() + pause;
        self.refresh_at = Some(self.refresh_at.map_or(then, |planned| planned.min(then)));
    }

    /// Looks at interfaces and addresses again. The kernel reports a change only once, so a failed
    /// look is repeated.
    async fn refresh(&mut self) {
        self.refresh_at = None;
        match self.instance.refresh().await {
            Ok(()) => self.backoff.succeeded(),
            Err(error) => {
                let pause = self.backoff.failed();
                log::error!("follow a change of the host: {error:#}; tried again in {pause:?}");
                self.refresh_at = Some(Instant::now() + pause);
            }
        }
        self.instance.follow_services().await;
    }

    /// Probes external addresses and announces them.
    fn care_for_claims(&mut self) {
        if self.instance.care_for_claims() {
            self.refresh_within(Duration::ZERO);
        }
    }

    async fn tick(&mut self) {
        let next = match self.instance.sweep() {
            true => SWEEP_PAUSE,
            false => until_next_sweep(),
        };
        self.sweep.reset_after(next);
        self.instance.renew_fast_path().await;
        self.instance.supervise_services().await;
        self.instance.watch_refusals();
        self.care_for_claims();
        if self.instance.settings.have_changed() || self.instance.has_changed_settings() {
            self.refresh_within(self.instance.settings.pause());
        }
        if self.bindings_expired.elapsed() >= BINDINGS_INTERVAL {
            self.bindings_expired = Instant::now();
            self.instance.expire_bindings();
            self.instance.expire_nat64();
        }
        self.instance.flush_packet_log();
        notify_systemd(&[NotifyState::Watchdog]);
    }
}

/// Waits until that time; without a time, forever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Idle times count in whole seconds. Right after a second begins, the sessions that have just
/// reached their timeout end; none stays for most of another second.
fn until_next_sweep() -> Duration {
    let period = sweep_period();
    let Ok(nanoseconds) = u64::try_from(period.as_nanos()) else {
        return period;
    };
    let turn = Duration::from_nanos(nanoseconds - clock::monotonic_ns() % nanoseconds);
    // The programs' clock lags by up to one tick of the kernel.
    turn + SWEEP_LAG.min(period / 2)
}

fn sweep_period() -> Duration {
    (SWEEP_INTERVAL / clock::time_scale()).max(LEAST_SWEEP_INTERVAL)
}

fn sweep_interval() -> Interval {
    let mut sweep = interval(sweep_period());
    sweep.set_missed_tick_behavior(MissedTickBehavior::Skip);
    sweep
}

/// Tells systemd, if it has started this process.
fn notify_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("notify systemd: {error}");
    }
}
