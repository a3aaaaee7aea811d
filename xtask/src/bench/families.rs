//! Small packets of IPv6 beside those of IPv4.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use bench_ebpf::{Expected6, FRAME6_BYTES, HEADER6_WORDS, SOURCE6, Traffic6, UDP6};

use super::bed::{CLI6, PUBLIC6, VM1_6};
use super::extent::{Extent, progress};
use super::generator::{Amount, Sender, Shot, run};
use super::lanes::Lanes;
use super::packets::{self, BURST, FLOWS, MEASURE, PAUSE};
use super::paths::{Direction, Lane, PORT, Path, Variant};
use super::programs::Programs;
use super::report::Table;
use super::statistics::Figures;

const UDP_PROTOCOL: u8 = 17;
const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// The first source port of measured flows.
const FIRST_PORT: u16 = 16_384;

/// The family of the packets of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
}

/// A row: a path, whether it has IPv6 as well, and what is sent.
type Row = (Path, bool, Family);

const ROWS: [Row; 8] = [
    (Path::Nftables, false, Family::Ipv4),
    (Path::Nftables, true, Family::Ipv6),
    (Path::NatbpfTc, false, Family::Ipv4),
    (Path::NatbpfTc, true, Family::Ipv4),
    (Path::NatbpfTc, true, Family::Ipv6),
    (Path::NatbpfXdp, false, Family::Ipv4),
    (Path::NatbpfXdp, true, Family::Ipv4),
    (Path::NatbpfXdp, true, Family::Ipv6),
];

fn name((path, has_ipv6, family): Row) -> String {
    let what = match (has_ipv6, family) {
        (_, Family::Ipv6) => ", IPv6",
        (true, Family::Ipv4) => ", IPv4 with IPv6 on",
        (false, Family::Ipv4) => "",
    };
    path.name().to_owned() + what
}

fn variant((path, has_ipv6, _): Row) -> Variant {
    match has_ipv6 {
        true => Variant::new(path).with_ipv6(),
        false => Variant::new(path),
    }
}

/// Millions of packets a second in each direction.
///
/// # Errors
/// When a path does not work.
pub(crate) fn measure(lanes: &mut Lanes, extent: &Extent) -> Result<Vec<Table>> {
    let mut variants: Vec<Variant> = ROWS.map(variant).into();
    variants.dedup();
    let (programs, lanes, _sinks) = lanes.with_sinks(&variants)?;
    let lane = |row: Row| {
        let found = lanes.iter().find(|lane| lane.variant == variant(row));
        found.copied().context("no lane")
    };
    packets::warm_up(programs, &lanes, &Direction::BOTH)?;
    warm_up(programs, &lanes)?;
    let mut tables = Vec::new();
    for direction in Direction::BOTH {
        let mut table = table(direction);
        for round in 1..=extent.rounds {
            progress(&table.title, round, extent.rounds);
            for (row, (_, figures)) in ROWS.into_iter().zip(&mut table.rows) {
                let shot = match row.2 {
                    Family::Ipv4 => packets::measure(programs, lane(row)?, direction)?,
                    Family::Ipv6 => send(programs, lane(row)?, direction, Amount::Time(MEASURE))?,
                };
                figures.push(shot.mpps());
            }
        }
        tables.push(table);
    }
    Ok(tables)
}

fn table(direction: Direction) -> Table {
    let ipv6 = |path| name((path, true, Family::Ipv6));
    let ipv4 = |path| name((path, false, Family::Ipv4));
    Table {
        title: format!("{}, small packets of both families", direction.name()),
        unit: "Mpps",
        less_is_better: false,
        rows: ROWS.map(|row| (name(row), Figures::default())).into(),
        bases: vec![
            ipv6(Path::Nftables),
            ipv4(Path::NatbpfTc),
            ipv4(Path::NatbpfXdp),
        ],
    }
}

/// Opens the sessions, and lets their second packet come when a clock of seconds has moved.
fn warm_up(programs: &mut Programs, lanes: &[&Lane]) -> Result<()> {
    for pause in [PAUSE, Duration::ZERO] {
        for lane in lanes.iter().filter(|lane| lane.variant.has_ipv6) {
            for direction in Direction::BOTH {
                send(programs, lane, direction, Amount::Packets(BURST))?;
            }
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

fn send(
    programs: &mut Programs,
    lane: &Lane,
    direction: Direction,
    amount: Amount,
) -> Result<Shot> {
    lane.select(programs)?;
    let sender = lane.sender(direction)?;
    let (sent, seen) = match direction {
        Direction::Inbound => ([CLI6, PUBLIC6], [CLI6, VM1_6]),
        Direction::Outbound => ([VM1_6, CLI6], [PUBLIC6, CLI6]),
    };
    programs.prepare6(traffic(&sender, sent)?, expected(seen))?;
    let frame = [0; FRAME6_BYTES];
    run(
        programs,
        &sender,
        (programs.generator("generate6")?, &frame),
        amount,
    )
    .with_context(|| format!("{}, {}, IPv6", lane.variant.name(), direction.name()))
}

/// The headers as words, and what their constant parts add up to.
fn traffic(sender: &Sender<'_>, [source, destination]: [Ipv6Addr; 2]) -> Result<Traffic6> {
    let from = sender.host.mac(sender.interface)?;
    let udp_bytes = (FRAME6_BYTES - ETHERNET - IPV6) as u16;
    let mut bytes = [sender.to, from].concat();
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    bytes.extend(udp_bytes.to_be_bytes());
    bytes.extend([UDP_PROTOCOL, 64]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend([0, 0]);
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(udp_bytes.to_be_bytes());
    bytes.extend([0, 0]);
    let mut header = [0; HEADER6_WORDS];
    for (word, pair) in header.iter_mut().zip(bytes.chunks_exact(2)) {
        *word = u16::from_ne_bytes([pair[0], pair[1]]);
    }
    let covered: u32 = header[SOURCE6..].iter().map(|word| u32::from(*word)).sum();
    let pseudo = u32::from(header[UDP6 + 2]) + u32::from(u16::from(UDP_PROTOCOL).to_be());
    Ok(Traffic6 {
        header,
        first_port: FIRST_PORT,
        flows: FLOWS,
        udp_sum: covered + pseudo,
        interface: sender.host.index(sender.interface)?,
    })
}

fn expected([source, destination]: [Ipv6Addr; 2]) -> Expected6 {
    let bytes = [source.octets(), destination.octets()].concat();
    let mut addresses = [0; 16];
    for (word, pair) in addresses.iter_mut().zip(bytes.chunks_exact(2)) {
        *word = u16::from_ne_bytes([pair[0], pair[1]]);
    }
    let port = PORT.to_be();
    Expected6 { addresses, port }
}
