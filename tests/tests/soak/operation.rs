//! What is done to natbpf and its host.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::Host;
use lab::topology::Proxmox;
use tests::at;
use tests::following::soon_seen;
use tests::traffic::{Key, Protocol, SPARE};

use crate::random::Random;
use crate::settings::Settings;
use crate::world::World;

/// How soon datagrams work when an interface is back.
const BACK_LIMIT: Duration = Duration::from_secs(1);
/// A host that has another Ethernet address is believed after `locktime`, a second, at the latest.
const MOVED_LIMIT: Duration = Duration::from_secs(2);

/// An operation, with all that is drawn for it.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Kill { absence_ms: u64 },
    Stop { absence_ms: u64 },
    Reload(Settings),
    BadReload(&'static str),
    Resize { sessions: u64 },
    TakeForward { spare: usize },
    Flush { sessions: Vec<u64> },
    UplinkFlap { down_ms: u64 },
    WireFlap { down_ms: u64 },
    TapFlap { guest: usize, down_ms: u64 },
    AddressFlap { last: u8 },
    NewAddress,
    NewMac { guest: usize, last: u8 },
}

/// The kinds of operations.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Kill,
    Stop,
    Reload,
    BadReload,
    Resize,
    TakeForward,
    Flush,
    UplinkFlap,
    WireFlap,
    TapFlap,
    AddressFlap,
    NewAddress,
    NewMac,
}

/// Each kind as often as it comes before all are drawn again: so even a short run has every one.
const DECK: [Kind; 20] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::Stop,
    Kind::Reload,
    Kind::Reload,
    Kind::Reload,
    Kind::Reload,
    Kind::BadReload,
    Kind::Resize,
    Kind::TakeForward,
    Kind::Flush,
    Kind::Flush,
    Kind::UplinkFlap,
    Kind::WireFlap,
    Kind::TapFlap,
    Kind::TapFlap,
    Kind::AddressFlap,
    Kind::NewAddress,
    Kind::NewMac,
];

/// The operations that follow from a seed, without end.
#[derive(Debug)]
pub(crate) struct Operations {
    random: Random,
    deck: Vec<Kind>,
}

impl Operations {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            deck: Vec::new(),
        }
    }
}

impl Iterator for Operations {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        if self.deck.is_empty() {
            self.deck.extend(DECK);
        }
        let card = self.random.below(self.deck.len() as u64) as usize;
        let kind = self.deck.swap_remove(card);
        Some(Operation::draw(kind, &mut self.random))
    }
}

/// What is wrong with a configuration that must be refused.
const MISTAKES: [&str; 4] = [
    "nonsense = 1\n",
    "[[forward]]\nname = \"web\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = 1\nto = \
     \"172.22.161.170\"\n",
    "[[forward]]\nname = \"bad\"\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = \"9-3\"\nto = \
     \"172.22.161.170\"\n",
    "[[forward]]\nname = \"bad\"\nuplink = \"nowhere\"\nprotocol = \"tcp\"\nports = 9\nto = \
     \"172.22.161.170\"\n",
];

impl Operation {
    /// Draws the parameters of an operation of this kind.
    fn draw(kind: Kind, random: &mut Random) -> Self {
        match kind {
            Kind::Kill => Self::Kill {
                absence_ms: random.one_of(&[0, 100, 1000, 6000]),
            },
            Kind::Stop => Self::Stop {
                absence_ms: random.one_of(&[0, 500, 6000]),
            },
            Kind::Reload => Self::Reload(Settings::draw(random)),
            Kind::BadReload => Self::BadReload(random.one_of(&MISTAKES)),
            Kind::Resize => Self::Resize {
                sessions: Settings::draw_sessions(random),
            },
            Kind::TakeForward => Self::TakeForward {
                spare: random.below(2) as usize,
            },
            Kind::Flush => Self::Flush {
                sessions: (0..=random.below(8))
                    .map(|_| random.below(1 << 32))
                    .collect(),
            },
            Kind::UplinkFlap => Self::UplinkFlap {
                down_ms: 50 + random.below(1000),
            },
            Kind::WireFlap => Self::WireFlap {
                down_ms: 50 + random.below(1000),
            },
            Kind::TapFlap => Self::TapFlap {
                guest: random.below(2) as usize,
                down_ms: 50 + random.below(1000),
            },
            Kind::AddressFlap => Self::AddressFlap {
                last: 100 + random.below(50) as u8,
            },
            Kind::NewAddress => Self::NewAddress,
            Kind::NewMac => Self::NewMac {
                guest: random.below(2) as usize,
                last: random.below(256) as u8,
            },
        }
    }

    /// Its kind, for counting.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill -9 and start",
            Self::Stop { .. } => "stop and start",
            Self::Reload(_) => "reload",
            Self::BadReload(_) => "reload that is refused",
            Self::Resize { .. } => "another table size",
            Self::TakeForward { .. } => "forward taken and given back",
            Self::Flush { .. } => "sessions flushed",
            Self::UplinkFlap { .. } => "uplink down and up",
            Self::WireFlap { .. } => "uplink's wire down and up",
            Self::TapFlap { .. } => "tap down and up",
            Self::AddressFlap { .. } => "address added and removed",
            Self::NewAddress => "external address exchanged",
            Self::NewMac { .. } => "guest with another MAC address",
        }
    }

    /// The expected log lines of natbpf.
    pub(crate) fn expected_in_log(&self) -> Option<&'static str> {
        match self {
            Self::BadReload(_) => Some("reload refused"),
            _ => None,
        }
    }

    /// Runs it, and checks its specific effects; returns a description.
    pub(crate) fn perform(&self, world: &mut World) -> Result<String> {
        match self {
            Self::Kill { absence_ms } => {
                world.natbpf.kill()?;
                thread::sleep(Duration::from_millis(*absence_ms));
                world.start()?;
            }
            Self::Stop { absence_ms } => {
                world.natbpf.stop()?;
                thread::sleep(Duration::from_millis(*absence_ms));
                world.start()?;
            }
            Self::Reload(settings) => return world.reload(settings.clone(), 0),
            Self::Resize { sessions } => {
                let settings = world.settings.with_sessions(*sessions);
                return world.reload(settings, 0);
            }
            Self::BadReload(mistake) => return bad_reload(world, mistake),
            Self::TakeForward { spare } => return take_forward(world, *spare),
            Self::Flush { sessions } => return flush(world, sessions),
            Self::UplinkFlap { down_ms } => {
                let (host, uplink) = (&world.net.host, world.net.uplink);
                let route = format!("route replace default via {} dev {uplink}", Proxmox::ISP);
                flap(world, host, uplink, *down_ms, &route)?;
            }
            Self::WireFlap { down_ms } => {
                flap(world, &world.net.host, world.net.wire, *down_ms, "")?;
            }
            Self::TapFlap { guest, down_ms } => {
                flap(
                    world,
                    &world.net.host,
                    ["tap1", "tap2"][*guest],
                    *down_ms,
                    "",
                )?;
            }
            Self::AddressFlap { last } => address_flap(world, *last)?,
            Self::NewAddress => return new_address(world),
            Self::NewMac { guest, last } => new_mac(world, *guest, *last)?,
        }
        Ok(String::new())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match self {
            Self::Kill { absence_ms } | Self::Stop { absence_ms } => {
                write!(f, " after {absence_ms} ms")
            }
            Self::Reload(settings) => write!(f, ": {settings}"),
            Self::BadReload(mistake) => write!(f, ": {mistake:?}"),
            Self::Resize { sessions } => write!(f, ": {sessions} sessions"),
            Self::TakeForward { spare } => write!(f, ": {}", SPARE[*spare]),
            Self::Flush { sessions } => write!(f, ": {}", sessions.len()),
            Self::UplinkFlap { down_ms } | Self::WireFlap { down_ms } => {
                write!(f, " for {down_ms} ms")
            }
            Self::TapFlap { guest, down_ms } => {
                write!(f, " for {down_ms} ms: tap{}", guest + 1)
            }
            Self::AddressFlap { last } => write!(f, ": 19.19.8.{last}"),
            Self::NewAddress => Ok(()),
            Self::NewMac { guest, last } => write!(f, ": vm{}, …:{last:02x}", guest + 1),
        }
    }
}

fn bad_reload(world: &mut World, mistake: &str) -> Result<String> {
    let good = world.settings.configuration(&world.net);
    let generation = world.natbpf.status()?["generation"].clone();
    // A key outside of tables comes before all tables.
    let (head, tail) = match mistake.starts_with('[') {
        true => ("", mistake),
        false => (mistake, ""),
    };
    let refused = world.natbpf.reload(&format!("{head}{good}{tail}"));
    world.natbpf.configure(&good)?;
    let Err(error) = refused else {
        bail!("natbpf took it");
    };
    let said = format!("{error:#}");
    ensure!(said.contains("exit status: 1"), "{said}");
    let after = world.natbpf.status()?["generation"].clone();
    ensure!(
        after == generation,
        "generation {after}, before {generation}"
    );
    Ok(String::new())
}

/// A forward goes, and its sessions with it; it comes back, and others are opened.
fn take_forward(world: &mut World, spare: usize) -> Result<String> {
    let sessions = world.traffic.under(SPARE[spare]);
    world.traffic.pause(&sessions)?;
    let keys = world.keys_of(&sessions)?;
    let before = world.settings.clone();
    world.reload(before.without_spare(spare), sessions.len())?;
    world.are_gone(&keys)?;
    world.reload(before, 0)?;
    world.forget_counters_of(SPARE[spare]);
    world.traffic.replace(&sessions);
    Ok(format!("{} sessions ended", sessions.len()))
}

/// Sessions are ended one by one, exactly these.
fn flush(world: &mut World, drawn: &[u64]) -> Result<String> {
    let count = world.traffic.all().len() as u64;
    let mut sessions: Vec<usize> = drawn.iter().map(|n| (n % count) as usize).collect();
    sessions.sort_unstable();
    sessions.dedup();
    world.traffic.pause(&sessions)?;
    let keys = world.keys_of(&sessions)?;
    for key in &keys {
        let said = world
            .natbpf
            .cli(&words_of_flush(key).each_ref().map(String::as_str))?;
        let said = said.expect_ok()?;
        ensure!(said.trim() == "1 sessions ended", "{key}: {said}");
    }
    world.are_gone(&keys)?;
    world.traffic.replace(&sessions);
    Ok(format!("{} sessions ended", keys.len()))
}

/// The words that end this session alone.
pub(crate) fn words_of_flush(key: &Key) -> [String; 10] {
    let protocol = match key.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    [
        "conntrack".to_owned(),
        "flush".to_owned(),
        "--protocol".to_owned(),
        protocol.to_owned(),
        "--internal".to_owned(),
        key.internal.to_string(),
        "--external".to_owned(),
        key.external.to_string(),
        "--remote".to_owned(),
        key.remote.to_string(),
    ]
}

/// An interface goes down and comes up; `then` restores what went with it.
fn flap(world: &World, host: &Host, interface: &str, down_ms: u64, then: &str) -> Result<()> {
    world.traffic.begin_loss();
    host.ip(&format!("link set {interface} down"))?;
    thread::sleep(Duration::from_millis(down_ms));
    let result = host.ip(&format!("link set {interface} up\n{then}"));
    world.traffic.end_loss(BACK_LIMIT);
    result
}

/// An address that no session uses comes and goes.
fn address_flap(world: &World, last: u8) -> Result<()> {
    let uplink = world.net.uplink;
    let address = Ipv4Addr::new(19, 19, 8, last);
    world
        .net
        .host
        .ip(&format!("address add {address}/32 dev {uplink}"))?;
    world.status_shows(address, true)?;
    world
        .net
        .host
        .ip(&format!("address del {address}/32 dev {uplink}"))?;
    world.status_shows(address, false)
}

/// Another first external address: sessions by the old one end, others do not.
fn new_address(world: &mut World) -> Result<String> {
    let sessions = world.traffic.by_first_address();
    world.traffic.pause(&sessions)?;
    let keys = world.keys_of(&sessions)?;
    let old = world.first;
    let new = world.take_next_address();
    world.net.exchange_address(old, new)?;
    let changed = Instant::now();
    works_by(world, new)?;
    let took = changed.elapsed();
    world.end_probes()?;
    world.traffic.set_first(new);
    world.are_gone(&keys)?;
    world.traffic.replace(&sessions);
    Ok(format!(
        "{new}, after {} ms; {} sessions ended",
        took.as_millis(),
        sessions.len()
    ))
}

/// A guest that sends is seen at this address, soon.
fn works_by(world: &World, address: Ipv4Addr) -> Result<()> {
    let server = world.net.cli.udp(&at(Proxmox::CLI, 7100).to_string())?;
    let guest = world.net.vm1.udp("0.0.0.0:0")?;
    let is_it = |seen: SocketAddr| seen.ip() == address;
    soon_seen(&guest, at(Proxmox::CLI, 7100), &server, is_it)
        .with_context(|| format!("not seen as {address}"))?;
    Ok(())
}

/// A guest's interface gets another Ethernet address, as when its machine is made again.
fn new_mac(world: &World, guest: usize, last: u8) -> Result<()> {
    let vm = [&world.net.vm1, &world.net.vm2][guest];
    world.traffic.begin_loss();
    // No two guests have the same one.
    let result = vm
        .ip(&format!(
            "link set eth0 address 52:54:00:00:{guest:02x}:{last:02x}"
        ))
        .context("another Ethernet address");
    world.traffic.end_loss(MOVED_LIMIT);
    result
}
