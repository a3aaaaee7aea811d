//! What is IPv6's own: its tables, and how the kernel shows its packets.

use core::{
    mem::{MaybeUninit, size_of},
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::{
        __sk_buff, bpf_fib_lookup, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::bpf_csum_update,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
};
use nat_common::{
    family::Family as _,
    tables::{
        addresses::{AddressKey, ExternalAddress},
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
    wire::{
        address::Endpoint,
        checksum::{Diff, fold},
        protocol::ICMPV6,
    },
};
use network_types::{eth::EtherType, ip::Ipv6Hdr, tcp::TcpHdr};

use crate::maps::Maps;
pub(crate) use crate::refusal_ipv6::answer as refuse;

/// An address.
pub(crate) type Addr = nat_common::wire::address::Addr6;

/// The protocol number of a frame with a packet.
pub(crate) const ETHER_TYPE: EtherType = EtherType::Ipv6;

/// `tc_index` of a fragment that was queued and is on its way to the same hook again. (Each family
/// has its own numbers: both have programs at a hook.)
pub(crate) const QUEUED_MARK: u16 = 0x6e41;

/// `tc_index` of a packet that the fast path has sent to an interface with a program at its egress,
/// which then does nothing.
pub(crate) const FORWARDED: u16 = 0x6e46;

/// `tc_index` of a packet that an ingress hook has rewritten and the kernel receives again; see
/// [`nat_common::pipeline::Verdict::ReceivedAnew`].
pub(crate) const RECEIVED_ANEW: u16 = 0x6e52;

/// Bytes of the headers of an ICMPv6 packet and of the packet that it quotes, and of a packet with
/// extension headers: a packet of this length passes everywhere.
const ALL_HEADERS: usize = 1280;

/// The address family in the kernel (`AF_INET6` in `include/linux/socket.h`).
const AF_INET6: u8 = 10;

#[map(name = "SESSIONS6")]
pub(crate) static SESSIONS: HashMap<SessionKey<Addr>, SessionRecord<Addr>> =
    HashMap::pinned(2 * 262_144, 0);
#[map(name = "MAPPINGS6")]
pub(crate) static MAPPINGS: HashMap<MappingKey<Addr>, MappingRecord<Addr>> =
    HashMap::pinned(262_144, 0);
#[map(name = "PORTS6")]
pub(crate) static PORTS: HashMap<PortKey<Addr>, PortRecord<Addr>> = HashMap::pinned(262_144, 0);
#[map(name = "PERMITS6")]
pub(crate) static PERMITS: HashMap<PermitKey<Addr>, u32> = HashMap::pinned(262_144, 0);
#[map(name = "GUESTS6")]
pub(crate) static GUESTS: HashMap<GuestKey<Addr>, GuestRecord> = HashMap::pinned(262_144, 0);
#[map(name = "FORWARDS6")]
pub(crate) static FORWARDS: LpmTrie<ForwardKey<Addr>, Forward<Addr>> = LpmTrie::pinned(1 << 20, 0);
/// The external port from which packets of a forwarded port leave.
#[map(name = "FORWARD_SOURCES6")]
pub(crate) static FORWARD_SOURCES: LpmTrie<ForwardSourceKey<Addr>, ForwardSource<Addr>> =
    LpmTrie::pinned(1 << 20, 0);
#[map(name = "SNATS6")]
pub(crate) static SNATS: LpmTrie<SnatKey<Addr>, Snat<Addr>> = LpmTrie::pinned(1 << 16, 0);
#[map(name = "EXCLUDES6")]
pub(crate) static EXCLUDES: LpmTrie<ExcludeKey<Addr>, u8> = LpmTrie::pinned(1 << 16, 0);
#[map(name = "INSIDE6")]
pub(crate) static INSIDE: LpmTrie<InsideKey<Addr>, Inside<Addr>> = LpmTrie::pinned(1 << 16, 0);
/// Policies by the sides of a flow, as runs of [`POLICIES`].
#[map(name = "CHAINS6")]
pub(crate) static CHAINS: HashMap<ChainKey, Chain> = HashMap::pinned(1 << 15, 1);
/// Odd generations are in the first half and even ones in the second, so a new rule set is written
/// beside the one in use.
#[map(name = "POLICIES6")]
pub(crate) static POLICIES: Array<Policy<Addr>> = Array::pinned(2 * MAX_POLICIES, 0);
#[map(name = "ADDRESSES6")]
pub(crate) static ADDRESSES: HashMap<AddressKey<Addr>, ExternalAddress> =
    HashMap::pinned(1 << 17, 1);
#[map(name = "FRAGMENTS6")]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey<Addr>, FragmentPorts> =
    LruHashMap::pinned(16_384, 0);
#[map(name = "DATAGRAMS6")]
pub(crate) static DATAGRAMS: LruHashMap<FragmentKey<Addr>, Datagram> = LruHashMap::pinned(4096, 0);
#[map(name = "QUEUED6")]
pub(crate) static QUEUED: Array<Queued<Addr>> = Array::pinned(QUEUE_SETS * QUEUE_WAYS, 0);

/// The destinations that sockets with guests as peers have named. The least recently used are
/// evicted.
#[map(name = "DESTINATIONS6")]
pub(crate) static DESTINATIONS: LruHashMap<
    OriginalDestinationKey<Addr>,
    OriginalDestination<Addr>,
> = LruHashMap::pinned(16_384, 0);

/// Room for one key and one value of a map, for which a packet's stack has no room.
pub(crate) type RoomBytes = [u64; 2 * ROOM / 8];

/// Bytes of the longest key and the longest value, and a word.
const ROOM: usize = 72;

/// Room for the programs at the hooks.
#[map]
static ROOM_OF_PACKETS: PerCpuArray<RoomBytes> = PerCpuArray::with_max_entries(1, 0);

/// Room for the programs that the daemon runs, which packets may interrupt.
#[map]
static ROOM_OF_DAEMON: PerCpuArray<RoomBytes> = PerCpuArray::with_max_entries(1, 0);

/// Room for keys and values. A key or value is there until the next one.
pub(crate) struct Room(NonNull<RoomBytes>);

impl Room {
    /// That of the programs at the hooks.
    #[inline(always)]
    pub(crate) fn of_packets() -> Option<Self> {
        ROOM_OF_PACKETS
            .get_ptr_mut(0)
            .and_then(NonNull::new)
            .map(Self)
    }

    /// That of the programs that the daemon runs.
    #[inline(always)]
    pub(crate) fn of_daemon() -> Option<Self> {
        ROOM_OF_DAEMON
            .get_ptr_mut(0)
            .and_then(NonNull::new)
            .map(Self)
    }

    /// That of the programs at system calls, which packets may interrupt: on their own stack. The
    /// room must not be used after `bytes`.
    #[inline(always)]
    pub(crate) fn within(bytes: &mut MaybeUninit<RoomBytes>) -> Self {
        Self(NonNull::from(bytes).cast())
    }

    /// A key as a map takes it.
    #[inline(always)]
    pub(crate) fn key<K>(&self, key: &K) -> &K {
        self.put(0, key)
    }

    /// A key of a longest-prefix match with so many bits.
    #[inline(always)]
    pub(crate) fn prefix<K>(&self, bits: u32, key: &K) -> &Key<K> {
        // SAFETY: there is room for both, without padding in between.
        unsafe {
            self.0.as_ptr().cast::<u32>().write(bits);
            &*ptr::from_ref(self.put(1, key))
                .byte_sub(size_of::<u32>())
                .cast()
        }
    }

    /// A value as a map takes it.
    #[inline(always)]
    pub(crate) fn value<V>(&self, value: &V) -> &V {
        self.put(ROOM / size_of::<u32>(), value)
    }

    /// Writes what starts at a word, as words: the compiler would copy a packed structure by bytes.
    #[inline(always)]
    fn put<T>(&self, word: usize, value: &T) -> &T {
        const {
            assert!(size_of::<T>() <= ROOM - size_of::<u32>() && size_of::<T>().is_multiple_of(4));
            assert!(align_of::<T>() >= align_of::<u32>());
        }
        // SAFETY: there is room, in words. A map reads it at once, and nothing else refers to it.
        unsafe {
            let to = self.0.as_ptr().cast::<u32>().add(word).cast::<T>();
            let from = ptr::from_ref(value);
            match align_of::<T>() == align_of::<u64>() && word.is_multiple_of(2) {
                true => to.copy_from_nonoverlapping(from, 1),
                false => to.cast::<u32>().copy_from_nonoverlapping(
                    from.cast::<u32>(),
                    size_of::<T>() / size_of::<u32>(),
                ),
            }
            &*to
        }
    }
}

/// Where the headers of a packet end whose network header is at `l3` and starts with these bytes.
#[inline(always)]
pub(crate) fn headers_end(header: &[u8; Ipv6Hdr::LEN], l3: usize) -> usize {
    match header[6] {
        next if next == ICMPV6 || Addr::is_extension(next) => ALL_HEADERS,
        _ => l3 + Ipv6Hdr::LEN + TcpHdr::LEN,
    }
}

/// Puts a change of addresses back into the kernel's sum of the packet, if it has one: the helper
/// that corrects checksums takes it out, as IPv4's header would. (`BPF_F_IPV6` says the same to
/// that helper, but kernels before June 2025 refuse it.)
#[inline(always)]
pub(crate) fn follow_pseudo(skb: *mut __sk_buff, change: Diff) {
    // SAFETY: the context is valid. It fails if the kernel has no sum.
    unsafe { bpf_csum_update(skb, fold(change.0).into()) };
}

/// Names the family and the addresses of a question about a route.
#[inline(always)]
pub(crate) fn set_route(route: &mut bpf_fib_lookup, source: Addr, destination: Addr) {
    route.family = AF_INET6;
    route.__bindgen_anon_3.ipv6_src = source.words();
    route.__bindgen_anon_4.ipv6_dst = destination.words();
}

/// A question about a socket, and its length in bytes.
#[inline(always)]
pub(crate) fn socket_tuple(remote: Endpoint<Addr>, local: Endpoint<Addr>) -> (bpf_sock_tuple, u32) {
    let tuple = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv6: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: remote.address.words(),
                daddr: local.address.words(),
                sport: u16::from_ne_bytes(remote.port.0),
                dport: u16::from_ne_bytes(local.port.0),
            },
        },
    };
    let len = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
    (tuple, len)
}

/// No port: addresses are not bound to ports.
#[inline(always)]
pub(crate) fn port_of(_maps: &Maps, _address: Addr, _network: u16) -> u32 {
    0
}

/// An address as messages show it.
#[inline(always)]
pub(crate) fn shown(address: Addr) -> [u8; 16] {
    address.bytes()
}
