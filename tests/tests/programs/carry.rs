//! Sessions and counts that are carried over into other tables.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use nat_common::tables::{
    guests::{GuestKey4, GuestRecord},
    interfaces::role,
    mappings::{MappingKey4, MappingRecord4},
    next_hops,
    permits::PermitKey4,
    ports::{PortKey4, PortRecord4},
    sessions::{JUST_OPENED, SessionFlags, SessionKey4, SessionRecord4},
};
use nat_user::dataplane::{Dataplane, Plain, Sizes};

use super::{
    harness::{HOOK, PUBLIC, Plane},
    vectors::{GUEST, REMOTE, flow, udp},
};

/// Another guest.
const CLIENT: [u8; 4] = [172, 22, 161, 171];
/// Rules that there is room for; the harness makes as much.
const RULES: usize = 16;

/// Every table that a session has a part in, as bytes.
type Contents = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

fn contents(plane: &Plane) -> Result<Contents> {
    let mut contents = Contents::new();
    contents.insert(
        "MAPPINGS",
        read::<MappingKey4, MappingRecord4>(plane, "MAPPINGS")?,
    );
    contents.insert("PORTS", read::<PortKey4, PortRecord4>(plane, "PORTS")?);
    contents.insert("PERMITS", read::<PermitKey4, u32>(plane, "PERMITS")?);
    contents.insert("GUESTS", read::<GuestKey4, GuestRecord>(plane, "GUESTS")?);
    let mut sessions = read::<SessionKey4, SessionRecord4>(plane, "SESSIONS")?;
    for record in sessions.values_mut() {
        let record: &mut SessionRecord4 = bytemuck::from_bytes_mut(record);
        // What is not carried over, and the clock, which may have gone on.
        record.next_hop = next_hops::NONE;
        record.xdp_passed_at = JUST_OPENED;
        record.seen_s = 0;
    }
    contents.insert("SESSIONS", sessions);
    Ok(contents)
}

fn read<K: bytemuck::Pod, V: bytemuck::Pod>(
    plane: &Plane,
    name: &str,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let map = MapData::from_pin(plane.dataplane.pins().map(name))?;
    let map: HashMap<_, Plain<K>, Plain<V>> = HashMap::try_from(Map::HashMap(map))?;
    let bytes = |entry| {
        let (Plain(key), Plain(value)): (Plain<K>, Plain<V>) = entry?;
        Ok((
            bytemuck::bytes_of(&key).to_vec(),
            bytemuck::bytes_of(&value).to_vec(),
        ))
    };
    map.iter().map(bytes).collect()
}

impl Plane {
    /// One session of every kind: out, in by a forward, by a hairpin, and the host's own that
    /// collides with a guest's.
    fn open_one_of_each(&mut self, port: u16) -> Result<()> {
        self.outbound(&udp(GUEST, REMOTE, (port, 7000), b"out"))?;
        self.outbound(&udp(CLIENT, REMOTE, (port, 7000), b"out, another port"))?;
        self.inbound(&udp(REMOTE, PUBLIC.octets(), (port, 10000), b"in"))?;
        self.host_outbound(&udp(PUBLIC.octets(), REMOTE, (port, 7000), b"host"))?;
        self.guest_sends(&udp(CLIENT, PUBLIC.octets(), (port, 10001), b"hairpin"))?;
        // By the mapping of another guest's.
        self.guest_sends(&udp(
            CLIENT,
            PUBLIC.octets(),
            (port + 1, port),
            b"to a mapping",
        ))?;
        Ok(())
    }

    fn guest_sends(&mut self, packet: &[u8]) -> Result<()> {
        let out = self.run("nat_from_guest", role::NETWORK, packet, HOOK)?;
        ensure!(flow(&out.packet)?.2 != PUBLIC, "not translated");
        Ok(())
    }

    fn primaries(&self) -> Result<Vec<SessionKey4>> {
        let entries = self.dataplane.ipv4.sessions.entries()?;
        let is_primary = |record: SessionRecord4| record.flags.contains(SessionFlags::PRIMARY);
        let primaries = entries.iter().filter(|entry| is_primary(entry.record));
        Ok(primaries.map(|entry| entry.key).collect())
    }

    fn capacities(&self) -> Result<(u32, u32)> {
        Ok((
            self.dataplane.ipv4.sessions.capacity()?,
            self.dataplane.rule_capacity(),
        ))
    }

    /// What `natbpf run` does with the pins of a dead one.
    fn take_over(&mut self, sizes: &Sizes) -> Result<()> {
        let pins = self.pins();
        let (dataplane, programs, carry) = Dataplane::take_over(pins, sizes, false)?;
        (self.dataplane, self.programs) = (dataplane, programs);
        if let Some(mut carry) = carry {
            carry.begin()?;
            carry.finish(&mut self.dataplane, &mut self.programs)?;
        }
        Ok(())
    }

    /// No other data plane is pinned.
    fn is_alone(&self) -> Result<()> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.bpffs())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| !name.ends_with(".debug"));
        ensure!(names.len() == 1, "{names:?}");
        Ok(())
    }

    /// Ends all sessions, after which nothing may be left of them.
    fn ends_without_a_trace(&self) -> Result<()> {
        let primaries = self.primaries()?;
        let ended = self.dataplane.ipv4.sessions.end(&primaries)?;
        ensure!(
            ended as usize == primaries.len(),
            "{ended} of {} ended",
            primaries.len()
        );
        for (table, entries) in contents(self)? {
            ensure!(entries.is_empty(), "{table} still has {entries:x?}");
        }
        Ok(())
    }
}

#[test]
fn other_sizes_carry_all_sessions_over() -> Result<()> {
    let mut plane = Plane::new()?;
    plane.open_one_of_each(5000)?;
    let answer = udp(REMOTE, PUBLIC.octets(), (7000, 5000), b"answer");
    plane.inbound(&answer)?;
    let before = contents(&plane)?;
    for sessions in [4096, 65_536, 100] {
        let (mut dataplane, mut programs, mut carry) = plane
            .dataplane
            .resize(&Sizes::new(sessions, RULES), false)?;
        carry.begin()?;
        carry.finish(&mut dataplane, &mut programs)?;
        (plane.dataplane, plane.programs) = (dataplane, programs);
        ensure!(plane.capacities()?.0 == sessions);
        let after = contents(&plane)?;
        ensure!(after == before, "{after:x?}, not {before:x?}");
        let back = plane.inbound(&answer)?;
        ensure!(flow(&back.packet)? == (REMOTE.into(), 7000, GUEST.into(), 5000));
    }
    plane.ends_without_a_trace()
}

#[test]
fn sessions_that_do_not_fit_stay_where_they_are() -> Result<()> {
    let mut plane = Plane::new()?;
    plane.open_one_of_each(5000)?;
    let (before, capacities) = (contents(&plane)?, plane.capacities()?);
    let Err(error) = plane.dataplane.resize(&Sizes::new(2, RULES), false) else {
        bail!("six sessions fit a table of two");
    };
    let said = format!("{error:#}");
    ensure!(
        said.contains("6 sessions live") && said.contains("limits.sessions = 2"),
        "{said}"
    );
    ensure!(contents(&plane)? == before && plane.capacities()? == capacities);
    plane.is_alone()?;
    Ok(())
}

#[test]
fn changes_during_a_migration_are_kept() -> Result<()> {
    let mut plane = Plane::new()?;
    plane.open_one_of_each(5000)?;
    let gone = plane.primaries()?;
    let (mut dataplane, mut programs, mut carry) =
        plane.dataplane.resize(&Sizes::new(4096, RULES), false)?;
    // The former programs go on: sessions come, get answers, and end.
    plane.open_one_of_each(6000)?;
    plane.inbound(&udp(REMOTE, PUBLIC.octets(), (7000, 6000), b"answer"))?;
    plane.dataplane.ipv4.sessions.end(&gone[..1])?;
    let expected = contents(&plane)?;
    carry.begin()?;
    carry.finish(&mut dataplane, &mut programs)?;
    (plane.dataplane, plane.programs) = (dataplane, programs);
    ensure!(contents(&plane)? == expected);
    plane.ends_without_a_trace()
}

#[test]
fn a_port_that_is_claimed_meanwhile_is_not_taken_from_its_owner() -> Result<()> {
    let mut plane = Plane::new()?;
    let (dataplane, programs, mut carry) =
        plane.dataplane.resize(&Sizes::new(4096, RULES), false)?;
    plane.outbound(&udp(GUEST, REMOTE, (5000, 7000), b"late"))?;
    (plane.dataplane, plane.programs) = (dataplane, programs);
    let first = plane.outbound(&udp(
        CLIENT,
        REMOTE,
        (5000, 7000),
        b"first with the new ones",
    ))?;
    ensure!(flow(&first.packet)?.1 == 5000);
    let expected = contents(&plane)?;
    carry.begin()?;
    carry.finish(&mut plane.dataplane, &mut plane.programs)?;
    ensure!(
        contents(&plane)? == expected,
        "half of the late one was added"
    );
    plane.ends_without_a_trace()
}

#[test]
fn counts_go_on_in_larger_tables() -> Result<()> {
    let mut plane = Plane::new()?;
    plane.open_one_of_each(5000)?;
    plane.outbound(&udp(GUEST, [10, 0, 0, 1], (0, 7000), b"dropped"))?;
    let rules = plane.capacities()?.1;
    let (mut dataplane, mut programs, mut carry) = plane
        .dataplane
        .resize(&Sizes::new(1024, rules as usize), false)?;
    // Counted by the former programs while the tables are filled.
    plane.outbound(&udp(GUEST, REMOTE, (5000, 7000), b"again"))?;
    let expected: Vec<_> = (0..rules)
        .map(|rule| plane.dataplane.rule_counters(rule))
        .collect::<Result<_>>()?;
    let drops = plane.dataplane.drops()?;
    carry.begin()?;
    carry.finish(&mut dataplane, &mut programs)?;
    (plane.dataplane, plane.programs) = (dataplane, programs);
    ensure!(plane.capacities()?.1 > rules);
    let counted: Vec<_> = (0..rules)
        .map(|rule| plane.dataplane.rule_counters(rule))
        .collect::<Result<_>>()?;
    ensure!(counted == expected, "{counted:?}, not {expected:?}");
    ensure!(plane.dataplane.drops()? == drops);
    Ok(())
}

/// A daemon that dies before the links are handed over leaves all as it was, one that dies later
/// leaves it to the next to go on.
#[test]
fn a_daemon_that_dies_in_the_middle_loses_nothing() -> Result<()> {
    let sizes = Sizes::new(4096, RULES);
    for has_begun in [false, true] {
        let mut plane = Plane::new()?;
        plane.open_one_of_each(5000)?;
        let (dataplane, programs, mut carry) = plane.dataplane.resize(&sizes, false)?;
        plane.open_one_of_each(6000)?;
        let expected = contents(&plane)?;
        if has_begun {
            carry.begin()?;
        }
        std::mem::forget(carry);
        drop((dataplane, programs));
        plane
            .take_over(&sizes)
            .with_context(|| format!("links handed over: {has_begun}"))?;
        ensure!(plane.capacities()?.0 == 4096);
        ensure!(
            contents(&plane)? == expected,
            "links handed over: {has_begun}"
        );
        plane.is_alone()?;
        plane.ends_without_a_trace()?;
    }
    Ok(())
}

/// An older layout that had fewer maps, and was as this one otherwise.
fn is_carried_over(version: &str, missing: &[&str]) -> Result<()> {
    let sizes = Sizes::new(1024, RULES);
    let mut plane = Plane::new()?;
    plane.open_one_of_each(5000)?;
    let expected = contents(&plane)?;
    let counters = plane.dataplane.rule_counters(1)?;
    let (now, before) = (plane.bpffs().join("v5"), plane.bpffs().join(version));
    for map in missing.iter().chain(&["QUEUED", "INTERFACE_CACHE"]) {
        std::fs::remove_file(plane.dataplane.pins().map(map))?;
    }
    // What sockets have named is shared, also under its former name.
    let destinations = map_id(&now.join("DESTINATIONS"))?;
    std::fs::rename(now.join("DESTINATIONS"), now.join("ASKED"))?;
    std::fs::rename(&now, &before)?;
    plane.take_over(&sizes)?;
    ensure!(map_id(&now.join("DESTINATIONS"))? == destinations);
    ensure!(contents(&plane)? == expected);
    ensure!(plane.dataplane.rule_counters(1)? == counters);
    ensure!(now.exists() && !before.exists());
    plane.is_alone()?;
    plane.ends_without_a_trace()
}

/// The kernel's number of a pinned map.
fn map_id(pin: &Path) -> Result<u32> {
    Ok(MapData::from_pin(pin)?.info()?.id())
}

#[test]
fn a_layout_without_policies_is_carried_over() -> Result<()> {
    let missing = ["CHAINS", "POLICIES", "FORWARD_SOURCES", "UPLINKS", "EXITS"];
    is_carried_over("v3", &missing)
}

#[test]
fn a_layout_in_which_forwards_did_not_keep_their_port_is_carried_over() -> Result<()> {
    is_carried_over("v4", &["FORWARD_SOURCES", "UPLINKS", "EXITS"])
}

#[test]
fn a_layout_of_the_future_is_left_alone() -> Result<()> {
    let plane = Plane::new()?;
    std::fs::create_dir(plane.bpffs().join("v4711"))?;
    let result = Dataplane::take_over(plane.pins(), &Sizes::new(1024, RULES), false);
    let Err(error) = result else {
        bail!("it was taken over");
    };
    let said = format!("{error:#}");
    ensure!(
        said.contains("layout 4711") && said.contains("this natbpf knows 2, 3, 4, 5"),
        "{said}"
    );
    Ok(())
}
