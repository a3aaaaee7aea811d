//! What is IPv4's own: its tables, and how the kernel shows its packets.

use core::mem::{MaybeUninit, size_of};

use aya_ebpf::{
    bindings::{
        __sk_buff, bpf_fib_lookup, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    },
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, lpm_trie::Key},
};
use nat_common::{
    tables::{
        addresses::{AddressKey, ExternalAddress},
        bindings::{Bindings as _, Name},
        datagrams::Datagram,
        destinations::{OriginalDestination, OriginalDestinationKey},
        excludes::ExcludeKey,
        forward_sources::{ForwardSource, ForwardSourceKey},
        forwards::{Forward, ForwardKey},
        fragments::{FragmentKey, FragmentPorts},
        guests::{GuestKey, GuestRecord},
        inside::{Inside, InsideKey},
        mappings::{MappingKey, MappingRecord},
        permits::PermitKey,
        policies::{Chain, ChainKey, MAX_POLICIES, Policy},
        ports::{PortKey, PortRecord},
        queued::{QUEUE_SETS, QUEUE_WAYS, Queued},
        sessions::{SessionKey, SessionRecord},
        snats::{Snat, SnatKey},
    },
    wire::{address::Endpoint, checksum::Diff, protocol::ICMP},
};
use network_types::{eth::EtherType, ip::Ipv4Hdr, tcp::TcpHdr};

use crate::maps::Maps;
pub(crate) use crate::refusal::answer as refuse;

/// An address.
pub(crate) type Addr = nat_common::wire::address::Addr4;

/// The protocol number of a frame with a packet.
pub(crate) const ETHER_TYPE: EtherType = EtherType::Ipv4;

/// `tc_index` of a fragment that was queued and is on its way to the same hook again. No other
/// software in use today writes that field before the ingress hooks. (Each family has its own
/// numbers: both have programs at a hook.)
pub(crate) const QUEUED_MARK: u16 = 0x6e61;

/// `tc_index` of a packet that the fast path has sent to an interface with a program at its egress,
/// which then does nothing.
pub(crate) const FORWARDED: u16 = 0x6e66;

/// `tc_index` of a packet that an ingress hook has rewritten and the kernel receives again; see
/// [`nat_common::pipeline::Verdict::ReceivedAnew`].
pub(crate) const RECEIVED_ANEW: u16 = 0x6e72;

/// Bytes of the headers of an ICMP packet and of the packet that it quotes, with all options.
const ICMP_HEADERS: usize = 192;

/// The address family in the kernel (`AF_INET` in `include/linux/socket.h`).
const AF_INET: u8 = 2;

#[map]
pub(crate) static SESSIONS: HashMap<SessionKey<Addr>, SessionRecord<Addr>> =
    HashMap::pinned(2 * 262_144, 0);
#[map]
pub(crate) static MAPPINGS: HashMap<MappingKey<Addr>, MappingRecord<Addr>> =
    HashMap::pinned(262_144, 0);
#[map]
pub(crate) static PORTS: HashMap<PortKey<Addr>, PortRecord<Addr>> = HashMap::pinned(262_144, 0);
#[map]
pub(crate) static PERMITS: HashMap<PermitKey<Addr>, u32> = HashMap::pinned(262_144, 0);
#[map]
pub(crate) static GUESTS: HashMap<GuestKey<Addr>, GuestRecord> = HashMap::pinned(262_144, 0);
#[map]
pub(crate) static FORWARDS: LpmTrie<ForwardKey<Addr>, Forward<Addr>> = LpmTrie::pinned(1 << 20, 0);
/// The external port from which packets of a forwarded port leave.
#[map]
pub(crate) static FORWARD_SOURCES: LpmTrie<ForwardSourceKey<Addr>, ForwardSource<Addr>> =
    LpmTrie::pinned(1 << 20, 0);
#[map]
pub(crate) static SNATS: LpmTrie<SnatKey<Addr>, Snat<Addr>> = LpmTrie::pinned(1 << 16, 0);
#[map]
pub(crate) static EXCLUDES: LpmTrie<ExcludeKey<Addr>, u8> = LpmTrie::pinned(1 << 16, 0);
#[map]
pub(crate) static INSIDE: LpmTrie<InsideKey<Addr>, Inside<Addr>> = LpmTrie::pinned(1 << 16, 0);
/// Policies by the sides of a flow, as runs of [`POLICIES`].
#[map]
pub(crate) static CHAINS: HashMap<ChainKey, Chain> = HashMap::pinned(1 << 15, 1);
/// Odd generations are in the first half and even ones in the second, so a new rule set is written
/// beside the one in use.
#[map]
pub(crate) static POLICIES: Array<Policy<Addr>> = Array::pinned(2 * MAX_POLICIES, 0);
#[map]
pub(crate) static ADDRESSES: HashMap<AddressKey<Addr>, ExternalAddress> =
    HashMap::pinned(1 << 17, 1);
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey<Addr>, FragmentPorts> =
    LruHashMap::pinned(16_384, 0);
#[map]
pub(crate) static DATAGRAMS: LruHashMap<FragmentKey<Addr>, Datagram> = LruHashMap::pinned(4096, 0);
#[map]
pub(crate) static QUEUED: Array<Queued<Addr>> = Array::pinned(QUEUE_SETS * QUEUE_WAYS, 0);

/// The destinations that sockets with guests as peers have named. The least recently used are
/// evicted.
#[map]
pub(crate) static DESTINATIONS: LruHashMap<
    OriginalDestinationKey<Addr>,
    OriginalDestination<Addr>,
> = LruHashMap::pinned(16_384, 0);

/// Room for keys and values, which addresses of four bytes do not need.
pub(crate) struct Room;

/// None.
pub(crate) type RoomBytes = ();

impl Room {
    /// That of the programs at system calls.
    #[inline(always)]
    pub(crate) fn within(_bytes: &mut MaybeUninit<RoomBytes>) -> Self {
        Self
    }

    /// That of the programs at the hooks.
    #[inline(always)]
    pub(crate) fn of_packets() -> Option<Self> {
        Some(Self)
    }

    /// A key as a map takes it.
    #[inline(always)]
    pub(crate) fn key<'k, K>(&'k self, key: &'k K) -> &'k K {
        key
    }

    /// A key of a longest-prefix match with so many bits.
    #[inline(always)]
    pub(crate) fn prefix<K: Copy>(&self, bits: u32, key: &K) -> Key<K> {
        Key::new(bits, *key)
    }

    /// A value as a map takes it.
    #[inline(always)]
    pub(crate) fn value<'v, V>(&'v self, value: &'v V) -> &'v V {
        value
    }
}

/// Where the headers of a packet end whose network header is at `l3` and starts with these bytes.
#[inline(always)]
pub(crate) fn headers_end(header: &[u8; Ipv4Hdr::LEN], l3: usize) -> usize {
    match header[9] {
        ICMP => ICMP_HEADERS,
        _ => l3 + usize::from(header[0] & 0x0f) * 4 + TcpHdr::LEN,
    }
}

/// Nothing: a change of addresses leaves the kernel's sum of the packet as it is, because the
/// header's checksum takes it back.
#[inline(always)]
pub(crate) fn follow_pseudo(_skb: *mut __sk_buff, _change: Diff) {}

/// Names the family and the addresses of a question about a route.
#[inline(always)]
pub(crate) fn set_route(route: &mut bpf_fib_lookup, source: Addr, destination: Addr) {
    route.family = AF_INET;
    route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source.0);
    route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination.0);
}

/// A question about a socket, and its length in bytes.
#[inline(always)]
pub(crate) fn socket_tuple(remote: Endpoint<Addr>, local: Endpoint<Addr>) -> (bpf_sock_tuple, u32) {
    let tuple = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: u32::from_ne_bytes(remote.address.0),
                daddr: u32::from_ne_bytes(local.address.0),
                sport: u16::from_ne_bytes(remote.port.0),
                dport: u16::from_ne_bytes(local.port.0),
            },
        },
    };
    let len = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
    (tuple, len)
}

/// The port of a bridge to which an address is bound, 0 if to none.
#[inline(always)]
pub(crate) fn port_of(maps: &Maps, address: Addr, network: u16) -> u32 {
    let name = Name::of_address(address, network);
    maps.binding(&name).map_or(0, |binding| binding.port.load())
}

/// An address as messages show it.
#[inline(always)]
pub(crate) fn shown(address: Addr) -> [u8; 4] {
    address.0
}
