//! Programs at the host's own sockets: the host reaches forwards by its own addresses and by
//! 127.0.0.1. See [`nat_common::pipeline::local`].
//!
//! They are attached to the root of all control groups, so they run for every socket of the
//! machine: they ignore those of other network namespaces. The system call always continues.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    macros::{cgroup_sock_addr, map},
    maps::{Array, LruHashMap},
    programs::SockAddrContext,
};
use nat_common::{
    pipeline::local::{Caller, redirect},
    tables::destinations::{
        OriginalDestination, OriginalDestination4, OriginalDestinationKey, OriginalDestinationKey4,
        OwnAddresses4,
    },
    wire::address::{Addr4, Endpoint, Port},
};

use crate::{
    family::Room,
    maps::{COUNTERS, Maps, add_at_once},
};

/// The kernel's number of the daemon's network namespace, which the loader writes. 0 is the number
/// of no namespace.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;

/// What the loopback address stands for.
#[map]
static OWN_ADDRESSES: Array<OwnAddresses4> = Array::with_max_entries(1, 0);

/// The destinations that sockets with guests as peers have named. The least recently used are
/// evicted.
#[map]
static DESTINATIONS: LruHashMap<OriginalDestinationKey4, OriginalDestination4> =
    LruHashMap::pinned(16_384, 0);

/// What the loopback address stands for.
#[inline(always)]
fn own_addresses<'a>() -> Option<&'a OwnAddresses4> {
    OWN_ADDRESSES.get(0)
}

/// The destination that a socket with a guest as its peer has named.
#[inline(always)]
fn destination(key: &OriginalDestinationKey4) -> Option<OriginalDestination4> {
    // SAFETY: it is copied at once; an entry that is recycled meanwhile shows another socket's.
    unsafe { DESTINATIONS.get(key) }.copied()
}

/// Stores the destination that a socket has named.
#[inline(always)]
fn remember_destination(key: &OriginalDestinationKey4, value: &OriginalDestination4) {
    let _full_of_newer = DESTINATIONS.insert(key, value, 0);
}

/// Forgets the destination of a socket: it uses the guest's own address.
#[inline(always)]
fn forget_destination(key: &OriginalDestinationKey4) {
    let _gone_already = DESTINATIONS.remove(key);
}

/// Counts a connection of the host. It is no session, because its end is unknown.
#[inline(always)]
fn count_local(rule: u32) {
    if let Some(counters) = COUNTERS.get_ptr_mut(rule) {
        // SAFETY: the slot is a valid one. A packet may interrupt this program and count there, so
        // each count is one instruction.
        unsafe {
            add_at_once(&raw mut (*counters).opened, 1);
            add_at_once(&raw mut (*counters).closed, 1);
        }
    }
}

/// The code for the kernel: the system call continues. (The hooks that show a source allow nothing
/// else.)
const GO_ON: i32 = 1;

/// `connect`, TCP and UDP.
#[cgroup_sock_addr(connect4)]
pub(crate) fn local_connect(ctx: SockAddrContext) -> i32 {
    ask(&Call::<false>(ctx), Count::EachTime);
    GO_ON
}

/// `connect` of a socket that speaks IPv6 as well, to an IPv4 address.
#[cgroup_sock_addr(connect6)]
pub(crate) fn local_connect_6(ctx: SockAddrContext) -> i32 {
    ask(&Call::<true>(ctx), Count::EachTime);
    GO_ON
}

/// A datagram with a destination, from either kind of socket.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn local_send(ctx: SockAddrContext) -> i32 {
    ask(&Call::<false>(ctx), Count::Once);
    GO_ON
}

/// The source of a datagram.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn local_receive(ctx: SockAddrContext) -> i32 {
    show(&Call::<false>(ctx));
    GO_ON
}

/// The source of a datagram, for a socket that speaks IPv6 as well.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn local_receive_6(ctx: SockAddrContext) -> i32 {
    show(&Call::<true>(ctx));
    GO_ON
}

/// `getpeername`.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn local_peer(ctx: SockAddrContext) -> i32 {
    show(&Call::<false>(ctx));
    GO_ON
}

/// `getpeername` of a socket that speaks IPv6 as well.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn local_peer_6(ctx: SockAddrContext) -> i32 {
    show(&Call::<true>(ctx));
    GO_ON
}

/// When a connection is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    /// At each call.
    EachTime,
    /// At the first call.
    Once,
}

/// Replaces the named destination by the guest, if there is one.
#[inline(always)]
fn ask<const MAPPED: bool>(call: &Call<MAPPED>, count: Count) {
    if !call.is_here() {
        return;
    }
    let (Some(wanted), Some(own)) = (call.address(), own_addresses()) else {
        return;
    };
    let maps = Maps::new(call.0.as_ptr(), Room);
    let found = redirect(&maps, own, &call.caller(), call.protocol(), wanted);
    let Some(found) = found else {
        // It may have named the same guest before, by another address.
        let key = OriginalDestinationKey::new(call.socket(), wanted);
        if destination(&key).is_some() {
            forget_destination(&key);
        }
        return;
    };
    let key = OriginalDestinationKey::new(call.socket(), found.guest);
    let value = OriginalDestination::new(wanted);
    let before = destination(&key);
    if before != Some(value) {
        remember_destination(&key, &value);
    }
    if count == Count::EachTime || before.is_none() {
        count_local(found.rule);
    }
    call.set_address(found.guest);
}

/// Replaces the guest by the destination that the program has named.
#[inline(always)]
fn show<const MAPPED: bool>(call: &Call<MAPPED>) {
    if !call.is_here() {
        return;
    }
    let Some(guest) = call.address() else { return };
    if let Some(named) = destination(&OriginalDestinationKey::new(call.socket(), guest)) {
        call.set_address(named.endpoint());
    }
}

/// A system call that names an address; in the form of IPv6 (RFC 4291 section 2.5.5.2) if `MAPPED`.
struct Call<const MAPPED: bool>(SockAddrContext);

/// The third word of an IPv4-mapped IPv6 address, as it is in memory.
const MAPPED_WORD: u32 = 0xffff_u32.to_be();

impl<const MAPPED: bool> Call<MAPPED> {
    /// Whether the socket is in the daemon's network namespace.
    #[inline(always)]
    fn is_here(&self) -> bool {
        // SAFETY: the pointer is that of a constant; volatile, since the compiler does not know
        // that the loader has written another.
        let here = unsafe { (&raw const NETNS_COOKIE).read_volatile() };
        // SAFETY: the context is the program's.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) == here }
    }

    /// The kernel's number of the socket.
    #[inline(always)]
    fn socket(&self) -> u64 {
        // SAFETY: the context is the program's.
        unsafe { bpf_get_socket_cookie(self.0.as_ptr()) }
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: the context is the program's; volatile, since the kernel allows whole fields
        // only.
        let protocol = unsafe { (&raw const (*self.0.sock_addr).protocol).read_volatile() };
        // (That of multipath TCP is larger than a byte; its subflows are TCP.)
        if protocol > 0xff { 0 } else { protocol as u8 }
    }

    /// The address of the call, if it is one of IPv4.
    #[inline(always)]
    fn address(&self) -> Option<Endpoint<Addr4>> {
        let call = self.0.sock_addr;
        // SAFETY: as above.
        let (address, port) = unsafe {
            let address = if MAPPED {
                let words = &raw const (*call).user_ip6;
                let words = words.cast::<u32>();
                let prefix = words.read_volatile() | words.add(1).read_volatile();
                if prefix != 0 || words.add(2).read_volatile() != MAPPED_WORD {
                    return None;
                }
                words.add(3).read_volatile()
            } else {
                (&raw const (*call).user_ip4).read_volatile()
            };
            (address, (&raw const (*call).user_port).read_volatile())
        };
        let [first, second, ..] = port.to_ne_bytes();
        Some(Endpoint::new(
            Addr4(address.to_ne_bytes()),
            Port([first, second]),
        ))
    }

    #[inline(always)]
    fn set_address(&self, to: Endpoint<Addr4>) {
        let call = self.0.sock_addr;
        let address = u32::from_ne_bytes(to.address.0);
        let [first, second] = to.port.0;
        // SAFETY: as above.
        unsafe {
            if MAPPED {
                let words = &raw mut (*call).user_ip6;
                words.cast::<u32>().add(3).write_volatile(address);
            } else {
                (&raw mut (*call).user_ip4).write_volatile(address);
            }
            let port = u32::from_ne_bytes([first, second, 0, 0]);
            (&raw mut (*call).user_port).write_volatile(port);
        }
    }

    /// The socket that asks.
    #[inline(always)]
    fn caller(&self) -> Caller<Addr4> {
        // SAFETY: as above; every such call has a socket.
        let (interface, address, port) = unsafe {
            let socket = (&raw const (*self.0.sock_addr).__bindgen_anon_1.sk).read_volatile();
            (
                (&raw const (*socket).bound_dev_if).read_volatile(),
                (&raw const (*socket).src_ip4).read_volatile(),
                (&raw const (*socket).src_port).read_volatile(),
            )
        };
        Caller {
            bound: Endpoint::new(Addr4(address.to_ne_bytes()), Port::new(port as u16)),
            interface,
        }
    }
}
