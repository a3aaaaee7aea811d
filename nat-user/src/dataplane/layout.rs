//! The maps of each layout, and how to read sessions of older layouts.

use std::io;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, MapInfo};
use nat_common::{
    LAYOUT_VERSION,
    nat64::{Counterpart, Nat64Settings},
    tables::{
        addresses::{AddressKey, ExternalAddress},
        bindings::{BindingRecord, Name},
        counters::RuleCounters,
        datagrams::Datagram,
        excludes::ExcludeKey,
        forward_sources::{ForwardSource, ForwardSourceKey},
        forwards::{Forward, ForwardKey},
        fragments::{FragmentKey, FragmentPorts},
        guests::{GuestKey, GuestRecord},
        inside::{Inside, InsideKey},
        interfaces::{CachedInterface, Interface},
        mappings::{MappingKey, MappingRecord},
        neighbours::{Neighbour, NeighbourKey},
        next_hops::{self, NextHopKey, NextHopRecord},
        permits::PermitKey,
        policies::{Chain, ChainKey, Policy},
        ports::{PortKey, PortKey4, PortRecord, PortRecord4},
        queued::Queued,
        sessions::{JUST_OPENED, SessionKey, SessionKey4, SessionRecord, SessionRecord4},
        settings::Settings,
        snats::{Snat, SnatKey},
        uplinks::Uplink,
    },
    translation::prefix_table::{PrefixEntry, PrefixKey},
    wire::address::{Addr4, Addr6},
};

use super::{Pins, batch};

/// A layout of the maps.
pub(super) struct Layout {
    pub(super) version: u32,
    /// Every pinned map that is read; not all maps of an older layout are.
    maps: &'static [&'static [Shape]],
    /// The maps of IPv6, which exist all or not at all.
    optional: &'static [&'static [Shape]],
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

/// The maps that hold no addresses: those of layout 3, and those that layouts 4 and 5 have added.
const SHARED: [&[Shape]; 3] = [
    &[
        shape("INTERFACES", size_of::<u32>(), size_of::<Interface>()),
        shape("SETTINGS", size_of::<u32>(), size_of::<Settings>()),
        shape("NEXT_HOPS", size_of::<u32>(), size_of::<NextHopRecord>()),
        shape("NEXT_HOP_TAGS", size_of::<NextHopKey>(), size_of::<u32>()),
        shape("FAST_UNTIL", size_of::<u32>(), size_of::<u32>()),
        shape("RULES", size_of::<u32>(), size_of::<u32>()),
        shape("COUNTERS", size_of::<u32>(), size_of::<RuleCounters>()),
        shape("DROPS", size_of::<u32>(), size_of::<u64>()),
    ],
    &[],
    &[
        // (It had another name before. Sessions do not depend on it.)
        shape(
            "INTERFACE_CACHE",
            size_of::<u32>(),
            size_of::<CachedInterface>(),
        ),
        shape("UPLINKS", size_of::<u32>(), size_of::<Uplink>()),
        shape("EXITS", size_of::<u32>(), size_of::<u8>()),
        shape("BINDINGS", size_of::<Name>(), size_of::<BindingRecord>()),
        shape("NAMES", size_of::<u32>(), size_of::<u32>()),
    ],
];

/// The maps of a family, in the same order. Its names end in a suffix.
macro_rules! maps_of {
    ($address:ty, $suffix:literal) => {
        [
            &[
                maps_of!("SESSIONS", $suffix, SessionKey<$address>, SessionRecord<$address>),
                maps_of!("MAPPINGS", $suffix, MappingKey<$address>, MappingRecord<$address>),
                maps_of!("PORTS", $suffix, PortKey<$address>, PortRecord<$address>),
                maps_of!("PERMITS", $suffix, PermitKey<$address>, u32),
                maps_of!("FORWARDS", $suffix, prefix ForwardKey<$address>, Forward<$address>),
                maps_of!("SNATS", $suffix, prefix SnatKey<$address>, Snat<$address>),
                maps_of!("EXCLUDES", $suffix, prefix ExcludeKey<$address>, u8),
                maps_of!("INSIDE", $suffix, prefix InsideKey<$address>, Inside<$address>),
                maps_of!("ADDRESSES", $suffix, AddressKey<$address>, ExternalAddress),
                maps_of!("FRAGMENTS", $suffix, FragmentKey<$address>, FragmentPorts),
                maps_of!("DATAGRAMS", $suffix, FragmentKey<$address>, Datagram),
            ],
            &[
                maps_of!("CHAINS", $suffix, ChainKey, Chain),
                maps_of!("POLICIES", $suffix, u32, Policy<$address>),
            ],
            &[
                // (It had another name before. Sessions do not depend on it.)
                maps_of!("QUEUED", $suffix, u32, Queued<$address>),
                maps_of!(
                    "FORWARD_SOURCES",
                    $suffix,
                    prefix ForwardSourceKey<$address>,
                    ForwardSource<$address>
                ),
                // (It was shorter before. Its content follows from the sessions.)
                maps_of!("GUESTS", $suffix, GuestKey<$address>, GuestRecord),
            ],
        ]
    };
    ($name:literal, $suffix:literal, prefix $key:ty, $value:ty) => {
        shape(
            concat!($name, $suffix),
            PREFIX_LEN + size_of::<$key>(),
            size_of::<$value>(),
        )
    };
    ($name:literal, $suffix:literal, $key:ty, $value:ty) => {
        shape(
            concat!($name, $suffix),
            size_of::<$key>(),
            size_of::<$value>(),
        )
    };
}

const IPV4: [&[Shape]; 3] = maps_of!(Addr4, "");
/// They exist only where natbpf carries IPv6.
const IPV6: [&[Shape]; 3] = maps_of!(Addr6, "6");
/// IPv4 has none of them.
const IPV6_ALONE: &[Shape] = &[
    shape(
        "NEIGHBOURS6",
        PREFIX_LEN + size_of::<NeighbourKey>(),
        size_of::<Neighbour>(),
    ),
    shape(
        "PREFIXES6",
        PREFIX_LEN + size_of::<PrefixKey>(),
        size_of::<PrefixEntry>(),
    ),
];

/// The maps of NAT64, which come with those of IPv6.
const NAT64: &[Shape] = &[
    shape("NAT64", size_of::<u32>(), size_of::<Nat64Settings>()),
    shape("NAT64_GUESTS", size_of::<Addr6>(), size_of::<Counterpart>()),
    shape("NAT64_ADDRESSES", size_of::<Addr4>(), size_of::<Addr6>()),
];

/// The layout of this version of natbpf.
pub(super) static CURRENT: Layout = Layout {
    version: LAYOUT_VERSION,
    maps: &[IPV4[0], SHARED[0], IPV4[1], SHARED[1], IPV4[2], SHARED[2]],
    optional: &[IPV6[0], IPV6[1], IPV6[2], IPV6_ALONE, NAT64],
    visit_sessions: |map, visit| batch::for_each(map, visit),
};

/// Before the intermediate keys of hairpinned answers were the reverse of the requests, and before
/// forwards kept their port outwards.
static WITH_OWN_ANSWERS: Layout = Layout {
    version: 4,
    maps: &[IPV4[0], SHARED[0], IPV4[1], SHARED[1]],
    optional: &[],
    visit_sessions: |map, visit| batch::for_each(map, visit),
};

/// Before policies, and before interfaces were found without a search.
static WITHOUT_POLICIES: Layout = Layout {
    version: 3,
    maps: &[IPV4[0], SHARED[0]],
    optional: &[],
    visit_sessions: |map, visit| batch::for_each(map, visit),
};

/// Before the fast path: sessions had no next hop.
static WITHOUT_NEXT_HOPS: Layout = Layout {
    version: 2,
    maps: &[&[
        shape("SESSIONS", size_of::<SessionKey4>(), RECORD_2_LEN),
        shape("PORTS", size_of::<PortKey4>(), size_of::<PortRecord4>()),
        shape("SETTINGS", size_of::<u32>(), size_of::<Settings>()),
        shape("COUNTERS", size_of::<u32>(), size_of::<RuleCounters>()),
        shape("DROPS", size_of::<u32>(), size_of::<u64>()),
    ]],
    optional: &[],
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
        self.present(pins).try_for_each(|shape| shape.check(pins))
    }

    /// Whether some of the maps are pinned, as they should be, and others are not.
    pub(super) fn is_part_of(&self, pins: &Pins) -> bool {
        let is_there = |shape: &&Shape| pins.map(shape.name).exists();
        let (there, missing): (Vec<_>, Vec<_>) =
            self.maps.iter().copied().flatten().partition(is_there);
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
    ) -> io::Result<()> {
        (self.visit_sessions)(sessions, &mut visit)
    }

    /// Names of the maps that are pinned there: those of IPv6 only where natbpf carries it.
    pub(super) fn map_names(&self, pins: &Pins) -> impl Iterator<Item = &'static str> {
        self.present(pins).map(|shape| shape.name)
    }

    /// Names of all maps that can be pinned.
    pub(super) fn all_names(&self) -> impl Iterator<Item = &'static str> {
        let all = self.maps.iter().chain(self.optional);
        all.copied().flatten().map(|shape| shape.name)
    }

    /// Names of the maps of IPv6.
    pub(super) fn ipv6_names(&self) -> impl Iterator<Item = &'static str> {
        self.optional
            .iter()
            .copied()
            .flatten()
            .map(|shape| shape.name)
    }

    fn present(&self, pins: &Pins) -> impl Iterator<Item = &'static Shape> {
        let optional = match pins.have_ipv6() {
            true => self.optional,
            false => &[],
        };
        self.maps.iter().chain(optional).copied().flatten()
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
