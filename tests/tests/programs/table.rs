//! Sessions by the million, written straight into the tables.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use nat_common::{
    tables::{
        guests::{GuestKey4, GuestRecord},
        mappings::{MappingKey4, MappingRecord4},
        permits::PermitKey4,
        ports::{PortKey4, PortRecord4},
        sessions::{SessionFlags, SessionKey4, SessionRecord4, View},
    },
    wire::{
        address::{Addr4, Endpoint, Port},
        protocol::UDP,
    },
};

use nat_user::dataplane::Plain;

use super::harness::{NETWORK_NUMBER, Plane};

/// `BPF_MAP_UPDATE_BATCH` in `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// Sessions that are written by one call.
const BATCH: u32 = 8192;

const REMOTE: Endpoint<Addr4> = Endpoint::new(Addr4([198, 51, 100, 2]), Port::new(7000));

/// UDP sessions from inside, each with its own mapping, port and permit: the most expensive ones to
/// end. `seen_s` says for each when a packet has last passed.
///
/// Those that are there already only get their clocks set.
pub(super) fn fill(
    plane: &Plane,
    numbers: impl Iterator<Item = u32>,
    seen_s: impl Fn(u32) -> u32,
) -> Result<()> {
    let map = |name: &str| {
        MapData::from_pin(plane.dataplane.pins().map(name)).with_context(|| format!("open {name}"))
    };
    let (sessions, mappings) = (map("SESSIONS")?, map("MAPPINGS")?);
    let (ports, permits) = (map("PORTS")?, map("PERMITS")?);
    let numbers: Vec<u32> = numbers.collect();
    for batch in numbers.chunks(BATCH as usize) {
        let each: Vec<Session> = batch.iter().map(|&n| Session::new(n)).collect();
        let requests = each.iter().zip(batch).map(|(s, &n)| s.request(seen_s(n)));
        update(&sessions, requests)?;
        let answers = each.iter().zip(batch).map(|(s, &n)| s.answer(seen_s(n)));
        update(&sessions, answers)?;
        update(&mappings, each.iter().map(Session::mapping))?;
        update(&ports, each.iter().map(Session::port))?;
        update(
            &permits,
            each.iter().map(|session| (session.permit(), 1_u32)),
        )?;
    }
    Ok(())
}

/// Writes what the guests of the first so many sessions have.
pub(super) fn fill_guests(plane: &Plane, numbers: std::ops::Range<u32>) -> Result<()> {
    let mut counts: BTreeMap<[u8; 4], u32> = BTreeMap::new();
    for number in numbers {
        *counts
            .entry(Session::new(number).internal.address.0)
            .or_default() += 1;
    }
    let records = counts.into_iter().map(|(address, count)| {
        let record = GuestRecord {
            references: 2 * count,
            sessions: count,
            ports: count,
            port: 0,
        };
        (GuestKey4::new(Addr4(address), NETWORK_NUMBER), record)
    });
    update(&guests(plane)?, records)
}

/// How many sessions and ports all guests have together.
pub(super) fn held_by_guests(plane: &Plane) -> Result<(u32, u32)> {
    let map = Map::HashMap(guests(plane)?);
    let guests: HashMap<MapData, Plain<GuestKey4>, Plain<GuestRecord>> = HashMap::try_from(map)?;
    let mut held = (0, 0);
    for guest in guests.iter() {
        let (_, Plain(guest)) = guest?;
        held = (held.0 + guest.sessions, held.1 + guest.ports);
    }
    Ok(held)
}

fn guests(plane: &Plane) -> Result<MapData> {
    MapData::from_pin(plane.dataplane.pins().map("GUESTS")).context("open GUESTS")
}

/// Sets the clocks of all sessions that there are.
pub(super) fn set_clocks(plane: &Plane, seen_s: u32) -> Result<()> {
    let sessions = MapData::from_pin(plane.dataplane.pins().map("SESSIONS"))?;
    let mut entries = plane.dataplane.ipv4.sessions.entries()?;
    if entries.is_empty() {
        return Ok(());
    }
    for entry in &mut entries {
        entry.record.seen_s = seen_s;
    }
    update(
        &sessions,
        entries.iter().map(|entry| (entry.key, entry.record)),
    )
}

/// A guest's session with one remote.
struct Session {
    internal: Endpoint<Addr4>,
    external: Endpoint<Addr4>,
}

impl Session {
    /// Every number is another internal and another external endpoint.
    fn new(number: u32) -> Self {
        let [_, high, ports @ ..] = number.to_be_bytes();
        Self {
            internal: Endpoint::new(Addr4([172, 22, 161, high]), Port(ports)),
            external: Endpoint::new(Addr4([19, 19, 8, high]), Port(ports)),
        }
    }

    fn record(from: Endpoint<Addr4>, to: Endpoint<Addr4>, seen_s: u32) -> SessionRecord4 {
        SessionRecord4 {
            source: from.address,
            destination: to.address,
            source_port: from.port,
            destination_port: to.port,
            peer_network: 0,
            peer_view: View::Outside as u8,
            flags: SessionFlags::empty(),
            rule: 1,
            opened_s: seen_s,
            seen_s,
            state: 0,
            next_hop: 0,
            xdp_passed_at: 0,
        }
    }

    fn key(from: Endpoint<Addr4>, to: Endpoint<Addr4>, view: View) -> SessionKey4 {
        SessionKey4 {
            source: from.address,
            destination: to.address,
            source_port: from.port,
            destination_port: to.port,
            network: if view == View::Inside {
                NETWORK_NUMBER
            } else {
                0
            },
            protocol: UDP,
            view: view as u8,
        }
    }

    fn request(&self, seen_s: u32) -> (SessionKey4, SessionRecord4) {
        let held = SessionFlags::REFS_PORT | SessionFlags::REFS_PERMIT;
        let record = SessionRecord4 {
            flags: SessionFlags::PRIMARY | SessionFlags::FROM_INITIATOR | held,
            ..Self::record(self.external, REMOTE, seen_s)
        };
        (Self::key(self.internal, REMOTE, View::Inside), record)
    }

    fn answer(&self, seen_s: u32) -> (SessionKey4, SessionRecord4) {
        let record = SessionRecord4 {
            flags: SessionFlags::IN,
            peer_network: NETWORK_NUMBER,
            peer_view: View::Inside as u8,
            ..Self::record(REMOTE, self.internal, seen_s)
        };
        (Self::key(REMOTE, self.external, View::Outside), record)
    }

    fn mapping(&self) -> (MappingKey4, MappingRecord4) {
        let key = MappingKey4 {
            address: self.internal.address,
            port: self.internal.port,
            network: NETWORK_NUMBER,
            uplink: 1,
            protocol: UDP,
            reserved: 0,
        };
        let record = MappingRecord4 {
            address: self.external.address,
            port: self.external.port,
            reserved: [0; 2],
        };
        (key, record)
    }

    fn port(&self) -> (PortKey4, PortRecord4) {
        let record = PortRecord4 {
            address: self.internal.address,
            port: self.internal.port,
            network: NETWORK_NUMBER,
            uplink: 1,
            filtering: nat_common::tables::snats::filtering::ADDRESS_DEPENDENT,
            flags: 0,
            rule: 1,
            references: 1,
        };
        (PortKey4::new(self.external, UDP), record)
    }

    fn permit(&self) -> PermitKey4 {
        PermitKey4::new(self.external, REMOTE.address, UDP)
    }
}

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: i32,
    elem_flags: u64,
    flags: u64,
}

/// Writes entries into a map, those under known keys in place.
fn update<K, V>(map: &MapData, entries: impl Iterator<Item = (K, V)>) -> Result<()> {
    let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len())?,
        map_fd: map.fd().as_fd().as_raw_fd(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attribute is a prefix of `union bpf_attr`, its pointers lead to `count` keys and
    // values of the map's layout, and all live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_BATCH,
            &raw mut attr,
            size_of::<BatchAttr>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("fill a table");
    }
    Ok(())
}
