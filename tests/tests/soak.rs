//! Random operations on a host with natbpf, under traffic whose every byte is checked, with
//! invariants after each operation. Needs root.
//!
//! `cargo xtask soak` calls this. By itself it takes five minutes, or `NATBPF_SOAK_MINUTES`;
//! `NATBPF_SOAK_SEED` repeats a sequence of operations, up to number `NATBPF_SOAK_STEPS`.

#[path = "soak/leak.rs"]
mod leak;
#[path = "soak/operation.rs"]
mod operation;
#[path = "soak/random.rs"]
mod random;
#[path = "soak/settings.rs"]
mod settings;
#[path = "soak/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use operation::{Operations, words_of_flush};
use tests::traffic::{Protocol, Totals};
use world::World;

const MINUTES: f64 = 5.0;
/// Sessions of each protocol, and datagrams a second with their answers.
const EACH: usize = 1000;
const PACKETS_PER_SECOND: u32 = 10_000;

/// Says it at once, also where the test's output is kept until it fails.
macro_rules! say {
    ($($what:tt)*) => {{
        // Nobody may be listening.
        let _ = writeln!(std::io::stderr(), $($what)*);
    }};
}

fn variable<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Ok(text) = env::var(name) else {
        return Ok(None);
    };
    let parsed = text.parse().ok();
    let parsed = parsed.with_context(|| format!("{name} is {text:?}, not a number"));
    parsed.map(Some)
}

/// How often each kind of operation was done.
type Counts = BTreeMap<&'static str, usize>;

/// What is to be done.
struct Plan {
    seed: u64,
    lasts: Duration,
    steps: usize,
}

impl Plan {
    fn from_environment() -> Result<Self> {
        let minutes = variable("NATBPF_SOAK_MINUTES")?.unwrap_or(MINUTES);
        let lasts = Duration::try_from_secs_f64(minutes * 60.0).context("NATBPF_SOAK_MINUTES")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let drawn = now.map_or(0, |now| now.as_nanos() as u64 % 1_000_000);
        Ok(Self {
            seed: variable("NATBPF_SOAK_SEED")?.unwrap_or(drawn),
            lasts,
            steps: variable("NATBPF_SOAK_STEPS")?.unwrap_or(usize::MAX),
        })
    }
}

#[test]
fn whatever_happens_to_the_host_no_session_suffers() -> Result<()> {
    let plan = Plan::from_environment()?;
    say!(
        "soak: seed {}, {:.1} minutes",
        plan.seed,
        plan.lasts.as_secs_f64() / 60.0
    );
    let mut world = World::new(EACH, PACKETS_PER_SECOND)?;
    world.check(None).context("before the first operation")?;
    let mut done = Counts::new();
    let result = run(&plan, &mut world, &mut done);
    summarise(&world, &done);
    result?;
    world.end().context("the end")
}

fn run(plan: &Plan, world: &mut World, done: &mut Counts) -> Result<()> {
    let begun = Instant::now();
    let operations = Operations::new(plan.seed).take(plan.steps);
    for (step, operation) in (1..).zip(operations) {
        if begun.elapsed() >= plan.lasts {
            break;
        }
        let at = begun.elapsed().as_secs_f64();
        let name = format!("step {step}, seed {}: {operation}", plan.seed);
        world.traffic.name_operation(&name);
        let result = operation
            .perform(world)
            .and_then(|said| world.check(operation.expected_in_log()).map(|()| said));
        *done.entry(operation.kind()).or_default() += 1;
        match result {
            Ok(said) => {
                let dash = if said.is_empty() { "" } else { " - " };
                say!("{at:7.1} s  {name}: ok{dash}{said}");
            }
            Err(error) => {
                say!("{at:7.1} s  {name}: FAILED: {error:#}");
                say!("natbpf's log:\n{}", world.natbpf.log());
                let again = format!("cargo xtask soak --seed {} --steps {step}", plan.seed);
                return Err(error.context(format!("{name}; again: {again}")));
            }
        }
    }
    Ok(())
}

fn summarise(world: &World, done: &Counts) {
    let Totals {
        sessions,
        bytes,
        datagrams,
        answers,
        lost,
    } = world.traffic.totals();
    let sent: u64 = datagrams.values().flatten().sum();
    say!("{} operations:", done.values().sum::<usize>());
    for (kind, count) in done {
        say!("  {count:4} {kind}");
    }
    say!(
        "{sessions} sessions opened; {bytes} bytes of connections and {sent} datagrams checked, \
         {answers} of them answered, {lost} lost while they might be; natbpf held up to {} kB",
        world.most_rss_kb
    );
}

/// A test of the soak itself: it must find faults that are injected.
fn finds_a_flush_of(protocol: Protocol) -> Result<String> {
    let mut world = World::new(20, 400)?;
    world.check(None)?;
    let keys = world.traffic.keys();
    let key = keys.keys().find(|key| key.protocol == protocol);
    let key = key.context("no such session")?;
    let words = words_of_flush(key);
    world
        .natbpf
        .cli(&words.each_ref().map(String::as_str))?
        .expect_ok()?;
    let Err(error) = world.check(None) else {
        anyhow::bail!("nobody misses {key}");
    };
    Ok(format!("{error:#}"))
}

/// Its next packet may have opened another, which is one more than was opened.
fn is_missed(said: &str) -> bool {
    said.contains("session") || said.contains("connections")
}

#[test]
fn a_connection_that_is_ended_behind_its_back_is_missed() -> Result<()> {
    let said = finds_a_flush_of(Protocol::Tcp)?;
    ensure!(is_missed(&said), "{said}");
    Ok(())
}

#[test]
fn a_mapping_that_is_ended_behind_its_back_is_missed() -> Result<()> {
    let said = finds_a_flush_of(Protocol::Udp)?;
    ensure!(is_missed(&said), "{said}");
    Ok(())
}
