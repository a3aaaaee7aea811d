//! The maps of each layout, and how to read sessions of older layouts.

use std::io;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, MapInfo};
use nat_common::{
    LAYOUT_VERSION,
    tables::{
        addresses::{AddressKey4, ExternalAddress},
        bindings::{BindingRecord, Name},
        counters::RuleCounters,
        datagrams::Datagram,
        excludes::ExcludeKey4,
        forward_sources::{ForwardSource4, ForwardSourceKey4},
        forwards::{Forward4, ForwardKey4},
        fragments::{FragmentKey4, FragmentPorts},
        guests::{GuestKey4, GuestRecord},
        inside::{Inside4, InsideKey4},
        interfaces::{CachedInterface, Interface},
        mappings::{MappingKey4, MappingRecord4},
        next_hops::{self, NextHopKey, NextHopRecord},
        permits::PermitKey4,
        policies::{Chain, ChainKey, Policy4},
        ports::{PortKey4, PortRecord4},
        queued::Queued,
        sessions::{JUST_OPENED, SessionKey4, SessionRecord4},
        settings::Settings,
        snats::{Snat4, SnatKey4},
        uplinks::Uplink,
    },
    wire::address::Addr4,
};

use super::{Pins, batch};

/// A layout of the maps.
pub(super) struct Layout {
    pub(super) version: u32,
    /// Every pinned map that is read; not all maps of an older layout are.
    maps: &'static [Shape],
    /// Calls for every entry of the session table, with the record as it is today.
    visit_sessions: fn(&MapData, &mut Visitor<'_>) -> io::Result<()>,
}

/// What is called for every entry of the session table.
type Visitor<'a> = dyn FnMut(&SessionKey4, &SessionRecord4) + 'a;

/// A map's name, and the sizes of its key and value in bytes.
struct Shape {
    name: &'static str,
    key_len: usize,
    value_len: usize,
}

const fn shape(name: &'static str, key_len: usize, value_len: usize) -> Shape {
    Shape {
        name,
        key_len,
        value_len,
    }
}

/// Bytes before the data in the key of a longest-prefix match.
const PREFIX_LEN: usize = size_of::<u32>();

/// The layout of this version of natbpf.
pub(super) static CURRENT: Layout = Layout {
    version: LAYOUT_VERSION,
    maps: MAPS,
    visit_sessions: |map, visit| batch::for_each(map, visit),
};

const MAPS: &[Shape] = &[
    shape(
        "SESSIONS",
        size_of::<SessionKey4>(),
        size_of::<SessionRecord4>(),
    ),
    shape(
        "MAPPINGS",
        size_of::<MappingKey4>(),
        size_of::<MappingRecord4>(),
    ),
    shape("PORTS", size_of::<PortKey4>(), size_of::<PortRecord4>()),
    shape("PERMITS", size_of::<PermitKey4>(), size_of::<u32>()),
    shape(
        "FORWARDS",
        PREFIX_LEN + size_of::<ForwardKey4>(),
        size_of::<Forward4>(),
    ),
    shape(
        "SNATS",
        PREFIX_LEN + size_of::<SnatKey4>(),
        size_of::<Snat4>(),
    ),
    shape(
        "EXCLUDES",
        PREFIX_LEN + size_of::<ExcludeKey4>(),
        size_of::<u8>(),
    ),
    shape(
        "INSIDE",
        PREFIX_LEN + size_of::<InsideKey4>(),
        size_of::<Inside4>(),
    ),
    shape(
        "ADDRESSES",
        size_of::<AddressKey4>(),
        size_of::<ExternalAddress>(),
    ),
    shape("INTERFACES", size_of::<u32>(), size_of::<Interface>()),
    shape("SETTINGS", size_of::<u32>(), size_of::<Settings>()),
    shape(
        "FRAGMENTS",
        size_of::<FragmentKey4>(),
        size_of::<FragmentPorts>(),
    ),
    shape(
        "DATAGRAMS",
        size_of::<FragmentKey4>(),
        size_of::<Datagram>(),
    ),
    shape("NEXT_HOPS", size_of::<u32>(), size_of::<NextHopRecord>()),
    shape("NEXT_HOP_TAGS", size_of::<NextHopKey>(), size_of::<u32>()),
    shape("FAST_UNTIL", size_of::<u32>(), size_of::<u32>()),
    shape("RULES", size_of::<u32>(), size_of::<u32>()),
    shape("COUNTERS", size_of::<u32>(), size_of::<RuleCounters>()),
    shape("DROPS", size_of::<u32>(), size_of::<u64>()),
    shape("CHAINS", size_of::<ChainKey>(), size_of::<Chain>()),
    shape("POLICIES", size_of::<u32>(), size_of::<Policy4>()),
    // (These two had other names before. Sessions do not depend on them.)
    shape("QUEUED", size_of::<u32>(), size_of::<Queued<Addr4>>()),
    shape(
        "INTERFACE_CACHE",
        size_of::<u32>(),
        size_of::<CachedInterface>(),
    ),
    shape(
        "FORWARD_SOURCES",
        PREFIX_LEN + size_of::<ForwardSourceKey4>(),
        size_of::<ForwardSource4>(),
    ),
    shape("UPLINKS", size_of::<u32>(), size_of::<Uplink>()),
    shape("EXITS", size_of::<u32>(), size_of::<u8>()),
    shape("BINDINGS", size_of::<Name>(), size_of::<BindingRecord>()),
    shape("NAMES", size_of::<u32>(), size_of::<u32>()),
    // (It was shorter before. Its content follows from the sessions.)
    shape("GUESTS", size_of::<GuestKey4>(), size_of::<GuestRecord>()),
];

/// How many of [`MAPS`] layout 4 did not have: the last ones.
const NEW_MAPS_5: usize = 8;
/// How many of [`MAPS`] layout 3 did not have.
const NEW_MAPS_4: usize = 2 + NEW_MAPS_5;

/// Before the intermediate keys of hairpinned answers were the reverse of the requests, and before
/// forwards kept their port outwards.
static WITH_OWN_ANSWERS: Layout = Layout {
    version: 4,
    maps: MAPS.split_at(MAPS.len() - NEW_MAPS_5).0,
    visit_sessions: |map, visit| batch::for_each(map, visit),
};

/// Before policies, and before interfaces were found without a search.
static WITHOUT_POLICIES: Layout = Layout {
    version: 3,
    maps: MAPS.split_at(MAPS.len() - NEW_MAPS_4).0,
    visit_sessions: |map, visit| batch::for_each(map, visit),
};

/// Before the fast path: sessions had no next hop.
static WITHOUT_NEXT_HOPS: Layout = Layout {
    version: 2,
    maps: &[
        shape("SESSIONS", size_of::<SessionKey4>(), RECORD_2_LEN),
        shape("PORTS", size_of::<PortKey4>(), size_of::<PortRecord4>()),
        shape("SETTINGS", size_of::<u32>(), size_of::<Settings>()),
        shape("COUNTERS", size_of::<u32>(), size_of::<RuleCounters>()),
        shape("DROPS", size_of::<u32>(), size_of::<u64>()),
    ],
    visit_sessions: |map, visit| {
        batch::for_each(map, |key, record| visit(key, &from_record_2(record)))
    },
};

/// The layouts from which sessions can migrate, the newest first.
static LAYOUTS: [&Layout; 4] = [
    &CURRENT,
    &WITH_OWN_ANSWERS,
    &WITHOUT_POLICIES,
    &WITHOUT_NEXT_HOPS,
];

/// Length of a session's record in layout 2.
const RECORD_2_LEN: usize = 32;

/// A record of layout 2 is the beginning of today's.
fn from_record_2(record: &[u8; RECORD_2_LEN]) -> SessionRecord4 {
    let mut bytes = [0; size_of::<SessionRecord4>()];
    bytes[..RECORD_2_LEN].copy_from_slice(record);
    SessionRecord4 {
        next_hop: next_hops::NONE,
        xdp_passed_at: JUST_OPENED,
        ..bytemuck::pod_read_unaligned(&bytes)
    }
}

/// Compares every pinned map with what this version of natbpf expects.
///
/// # Errors
///
/// When one is missing or has another shape.
pub(super) fn check_current(pins: &Pins) -> Result<()> {
    pins.check_owners()?;
    if !pins.exist() {
        bail!(
            "no data plane in {}; start it with natbpf run, or name another --bpffs",
            pins.directory().display()
        );
    }
    CURRENT.check(pins)
}

impl Layout {
    /// The one of this version, if this natbpf knows it.
    pub(super) fn of_version(version: u32) -> Option<&'static Self> {
        LAYOUTS
            .iter()
            .find(|layout| layout.version == version)
            .copied()
    }

    /// The versions that this natbpf knows, in words.
    pub(super) fn known() -> String {
        let versions = LAYOUTS
            .iter()
            .rev()
            .map(|layout| layout.version.to_string());
        versions.collect::<Vec<_>>().join(", ")
    }

    /// Compares the pinned maps with what they should be.
    ///
    /// # Errors
    ///
    /// When one is missing or has another shape.
    pub(super) fn check(&self, pins: &Pins) -> Result<()> {
        self.maps.iter().try_for_each(|shape| shape.check(pins))
    }

    /// Whether some of the maps are pinned, as they should be, and others are not.
    pub(super) fn is_part_of(&self, pins: &Pins) -> bool {
        let is_there = |shape: &&Shape| pins.map(shape.name).exists();
        let (there, missing): (Vec<_>, Vec<_>) = self.maps.iter().partition(is_there);
        let fits = there.iter().all(|shape| shape.check(pins).is_ok());
        fits && !there.is_empty() && !missing.is_empty()
    }

    /// Reads the session table.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) fn visit_sessions(
        &self,
        sessions: &MapData,
        mut visit: impl FnMut(&SessionKey4, &SessionRecord4),
    ) -> Result<()> {
        (self.visit_sessions)(sessions, &mut visit).context("read map SESSIONS")
    }

    /// Names of the pinned maps.
    pub(super) fn map_names(&self) -> impl Iterator<Item = &'static str> {
        self.maps.iter().map(|shape| shape.name)
    }
}

impl Shape {
    fn check(&self, pins: &Pins) -> Result<()> {
        let path = pins.map(self.name);
        let info =
            MapInfo::from_pin(&path).with_context(|| format!("open map {}", path.display()))?;
        let found = (info.key_size() as usize, info.value_size() as usize);
        if found != (self.key_len, self.value_len) {
            bail!(
                "map {} has keys of {} and values of {} bytes, not {} and {}: another program or \
                 version created it; remove it with that one, or name another --bpffs",
                path.display(),
                found.0,
                found.1,
                self.key_len,
                self.value_len,
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_layout_2_keep_all_that_they_say() {
        let record = SessionRecord4 {
            source: Addr4([19, 19, 8, 10]),
            destination: Addr4([198, 51, 100, 2]),
            rule: 7,
            opened_s: 100,
            seen_s: 200,
            state: 3,
            next_hop: next_hops::NONE,
            xdp_passed_at: JUST_OPENED,
            ..bytemuck::Zeroable::zeroed()
        };
        let old = bytemuck::bytes_of(&record)
            .first_chunk()
            .expect("it was shorter");
        assert_eq!(from_record_2(old), record);
    }
}
