//! A day: bursts of packets, and between them the tool's count against the generator's.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lab::Natbpf;
use lab::patience::patience;
use lab::topology::Proxmox;
use nat_user::dataplane::Pins;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use super::model::{Kind, Presence, Protocol, Session, Span, TIME_SCALE, Way, now_s};
use super::wire::Wire;

const DAY_S: f64 = 86_400.0;
/// From one burst to the next: a twelfth of the timeout of established connections, so that what
/// was opened long ago does not end between the others.
const ROUND_S: f64 = 620.0;
/// From one checkpoint to the next within a round.
const CHECKPOINT_S: f64 = 20.0;
/// What a count may take.
const COUNT_S: f64 = 0.030 * TIME_SCALE as f64;
/// How far from its end a session must be to get a packet of a burst.
const SAFE_S: f64 = 0.025 * TIME_SCALE as f64;
/// After this many passes of the daemon, every session that had ended before the first of them is
/// gone: the first two may have begun before, the third may end a round that missed a session, and
/// the fourth is a complete round.
const PASSES: usize = 5;
/// How long the daemon may take for a pass, on a machine that does not come to run it.
const PASS_LIMIT: Duration = Duration::from_secs(10);
/// New sessions and other packets of a burst.
const OPENED: usize = 150;
const TOUCHED: usize = 60;
/// Seed of all chance. `NATBPF_CHURN_SEED` names another.
const SEED: u64 = 20_260_401;

/// A packet of a session to come.
struct Step {
    session: usize,
    kind: Kind,
    from_initiator: bool,
}

/// The generator.
struct Churn {
    wire: Wire,
    natbpf: Natbpf,
    sessions: Vec<Session>,
    random: u64,
    next_port: u16,
    opened: usize,
    checkpoints: usize,
    /// Those at which every session was known for sure.
    exact: usize,
    /// Those at which the daemon was behind.
    late: usize,
    most: usize,
    /// Until when the daemon lets the fast path be used. It renews this at the end of each pass.
    lease: Array<MapData, u32>,
}

/// What a burst is about. What ends at different times but near to each other is kept apart, so
/// that there are moments in between.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// New TCP connections, and ends of old ones.
    Tcp,
    /// New UDP sessions, and data in old TCP connections.
    Udp,
    /// Nothing new: packets in the sessions of the burst before.
    More,
}

impl Churn {
    fn new(net: &Proxmox) -> Result<Self> {
        let config = format!("{}\n[limits]\nsessions = 8192\n", net.config());
        let binary = Natbpf::binary()?;
        let mut natbpf = Natbpf::prepare(&net.host, net.lab().place(), binary, &config)?;
        natbpf.set_time_scale(TIME_SCALE);
        have_processor();
        natbpf.launch()?;
        stay_on_one_processor()?;
        let lease = Pins::below(natbpf.bpffs()).map("FAST_UNTIL");
        let lease = MapData::from_pin(lease).context("open FAST_UNTIL")?;
        let seed = std::env::var("NATBPF_CHURN_SEED").ok();
        let seed = seed
            .map_or(Ok(SEED), |text| text.parse())
            .context("NATBPF_CHURN_SEED")?;
        println!("seed {seed}");
        Ok(Self {
            wire: Wire::new(net)?,
            natbpf,
            sessions: Vec::new(),
            random: seed | 1,
            next_port: 11_000,
            opened: 0,
            checkpoints: 0,
            exact: 0,
            late: 0,
            most: 0,
            lease: Array::try_from(Map::Array(lease)).context("FAST_UNTIL")?,
        })
    }

    /// A number below `limit` (xorshift).
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) as usize % limit
    }

    /// Packets in three phases: questions, answers, and what follows on answers.
    fn burst(&mut self, theme: Theme) -> Result<()> {
        let mut phases = [Vec::new(), Vec::new(), Vec::new()];
        let old = self.sessions.len();
        for _ in 0..OPENED {
            match theme {
                Theme::Tcp => self.plan_new([Protocol::Tcp, Protocol::Icmp], &mut phases),
                Theme::Udp => self.plan_new([Protocol::Udp, Protocol::Icmp], &mut phases),
                Theme::More => {}
            }
        }
        for _ in 0..TOUCHED.min(old) {
            let session = self.below(old);
            // One that is about to end may be gone when the packet comes.
            let is_safe = self.sessions[session].end().from_s > now_s() + SAFE_S;
            let is_planned = |phase: &Vec<Step>| phase.iter().any(|step| step.session == session);
            if is_safe && !phases.iter().any(is_planned) {
                self.plan_more(session, theme, &mut phases);
            }
        }
        for phase in phases {
            self.play(&phase)?;
        }
        Ok(())
    }

    fn plan_new(&mut self, protocols: [Protocol; 2], phases: &mut [Vec<Step>; 3]) {
        let protocol = protocols[usize::from(self.below(3) == 0)];
        let way = [Way::Masquerade, Way::Masquerade, Way::Forward][self.below(3)];
        let remote = 1 + self.below(200) as u8;
        let port = self.port();
        let public_port = 10_000 + self.below(1000) as u16;
        let session = self.sessions.len();
        self.sessions
            .push(Session::new(way, protocol, remote, port, public_port));
        self.opened += 1;
        let mut plan = |phase: usize, session, kind, from_initiator| {
            phases[phase].push(Step {
                session,
                kind,
                from_initiator,
            });
        };
        plan(0, session, Kind::Open, true);
        // Some get no answer, and some handshakes are not completed.
        let answers = self.below(5);
        if answers > 0 {
            plan(1, session, Kind::Open, false);
        }
        if answers > 1 {
            plan(2, session, Kind::Data, true);
        }
        if protocol == Protocol::Udp && way == Way::Masquerade && self.below(4) == 0 {
            let visitor_port = self.port();
            let visitor = self.sessions.len();
            self.sessions.push(Session::new(
                Way::Mapping,
                protocol,
                remote,
                visitor_port,
                port,
            ));
            self.opened += 1;
            plan(1, visitor, Kind::Open, true);
        }
    }

    /// Ports of all sessions differ for longer than a session lives.
    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(11_000);
        port
    }

    fn plan_more(&mut self, session: usize, theme: Theme, phases: &mut [Vec<Step>; 3]) {
        let is_tcp = self.sessions[session].is_established();
        let may_end = is_tcp && theme != Theme::Udp;
        let choice = self.below(if may_end { 6 } else { 2 });
        let first = self.below(2) == 0;
        let mut plan = |phase: usize, kind, from_initiator| {
            phases[phase].push(Step {
                session,
                kind,
                from_initiator,
            });
        };
        match (choice, self.sessions[session].protocol) {
            (2 | 3, _) => {
                plan(0, Kind::Fin, first);
                plan(1, Kind::Fin, !first);
            }
            (4, _) => plan(0, Kind::Reset, first),
            // A reset that was not theirs.
            (5, _) => {
                plan(0, Kind::Reset, first);
                plan(1, Kind::Data, !first);
            }
            // A connection that is not established stays so: a repeated SYN.
            (_, Protocol::Tcp) if !is_tcp => plan(0, Kind::Open, true),
            (0, _) => plan(0, Kind::Data, true),
            _ => plan(1, Kind::Data, false),
        }
    }

    fn play(&mut self, steps: &[Step]) -> Result<()> {
        let from_s = now_s();
        for step in steps {
            let session = &self.sessions[step.session];
            self.wire.send(session, step.kind, step.from_initiator)?;
        }
        self.wire.settle()?;
        let to_s = now_s();
        for step in steps {
            let when = Span { from_s, to_s };
            self.sessions[step.session].packet(step.kind, step.from_initiator, when);
        }
        Ok(())
    }

    /// Counts wherever no session is about to end, until the next burst is due.
    fn check_until(&mut self, next_s: f64) -> Result<()> {
        loop {
            let now = now_s();
            if now + COUNT_S > next_s {
                wait_until(next_s);
                return Ok(());
            }
            let during = Span {
                from_s: now,
                to_s: now + COUNT_S,
            };
            let sessions = self.sessions.iter().filter(|one| !one.is_doubtful());
            let unknown = sessions.filter(|one| one.presence(during) == Presence::Unknown);
            let ends = unknown.map(|session| session.end().to_s);
            match ends.max_by(f64::total_cmp) {
                Some(end_s) => wait_until((end_s + 1.0).min(next_s)),
                None => {
                    self.checkpoint()?;
                    wait_until((now_s() + CHECKPOINT_S).min(next_s));
                }
            }
        }
    }

    /// Compares. Where a machine is so busy that the end of a session falls into the count, that
    /// one may be counted or not.
    fn checkpoint(&mut self) -> Result<()> {
        let from_s = now_s();
        let counted = self.count()?;
        let presences = self.presences(Span {
            from_s,
            to_s: now_s(),
        });
        let number = |presence| presences.iter().filter(|one| **one == presence).count();
        let (there, unknown) = (number(Presence::There), number(Presence::Unknown));
        let most = there + unknown;
        let is_late = counted > most;
        let left = match is_late {
            true => {
                self.wait_for_passes()?;
                self.count()?
            }
            false => counted,
        };
        ensure!(
            counted >= there && left <= most,
            "natbpf counts {counted} sessions, and {left} after {PASSES} passes; the generator \
             holds \
             {there}, and {unknown} that end now, of {} opened",
            self.opened
        );
        self.checkpoints += 1;
        self.exact += usize::from(unknown == 0);
        self.late += usize::from(is_late);
        let mut presences = presences.into_iter();
        self.sessions
            .retain(|_| presences.next() != Some(Presence::Gone));
        self.most = self.most.max(self.sessions.len());
        Ok(())
    }

    /// Waits until the daemon has looked for idle sessions some times.
    fn wait_for_passes(&self) -> Result<()> {
        for _ in 0..PASSES {
            let before = self.lease.get(&0, 0)?;
            let deadline = Instant::now() + patience(PASS_LIMIT);
            while self.lease.get(&0, 0)? == before {
                ensure!(Instant::now() < deadline, "the daemon makes no pass");
                sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn presences(&self, during: Span) -> Vec<Presence> {
        let sessions = self.sessions.iter();
        sessions.map(|session| session.presence(during)).collect()
    }

    fn count(&self) -> Result<usize> {
        let said = self.natbpf.cli(&["conntrack", "count"])?.expect_ok()?;
        let number = said.split_whitespace().next().context("no count")?;
        number.parse().with_context(|| said.clone())
    }
}

/// Gives this thread, and all that it starts from now on, priority over other load. If that is not
/// allowed, more sessions end in the middle of a count.
fn have_processor() {
    let thread = gettid().to_string();
    let done = Command::new("chrt")
        .args(["--fifo", "--pid", "1", &thread])
        .status();
    if !done.is_ok_and(|status| status.success()) {
        println!("not allowed to run before others");
    }
}

/// Packets of one processor keep their order.
fn stay_on_one_processor() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("processors of this thread")?;
    let mut one = CpuSet::new();
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let cpu = (0..CpuSet::count()).rev().find(is_allowed);
    one.set(cpu.context("a processor")?)?;
    sched_setaffinity(this, &one).context("stay on one processor")
}

fn wait_until(time_s: f64) {
    let left_s = (time_s - now_s()) / f64::from(TIME_SCALE);
    sleep(Duration::from_secs_f64(left_s.max(0.0)));
}

/// 24 hours of sessions that are opened, refreshed, closed, reset and left alone: at every
/// checkpoint natbpf holds exactly those that it should.
#[test]
fn u8_a_day_of_churn_leaves_exactly_the_sessions_that_live() -> Result<()> {
    let net = Proxmox::new()?;
    let mut churn = Churn::new(&net)?;
    let begun_s = now_s();
    let mut round = 0;
    while now_s() < begun_s + DAY_S {
        let themes = match round % 2 {
            0 => [Theme::Tcp, Theme::More],
            _ => [Theme::Udp, Theme::Udp],
        };
        for theme in themes {
            churn.burst(theme)?;
        }
        round += 1;
        churn.check_until(begun_s + round as f64 * ROUND_S)?;
    }
    let Churn {
        opened,
        most,
        checkpoints,
        exact,
        late,
        ..
    } = churn;
    println!(
        "{opened} opened, {most} at once, {checkpoints} checkpoints, {exact} of them exact, {late} \
         late"
    );
    ensure!(checkpoints >= 2 * round, "too few checkpoints");
    // When nothing comes any more, nothing stays.
    let ends = churn.sessions.iter().map(|session| session.end().to_s);
    wait_until(ends.fold(0.0, f64::max) + 1.0);
    churn.wait_for_passes()?;
    ensure!(churn.count()? == 0, "sessions are left over");
    let status = churn.natbpf.status()?;
    for table in ["mappings", "ports", "permits"] {
        let entries = &status["tables"][table]["active"];
        ensure!(entries == 0, "{table}: {entries}");
    }
    Ok(())
}
