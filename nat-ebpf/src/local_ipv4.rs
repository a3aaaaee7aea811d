//! Programs at the host's own sockets that name IPv4 addresses; see [`local`].

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use nat_common::wire::address::Addr4;

use crate::local::{self, Call, Count, Form};

/// `connect`, TCP and UDP.
#[cgroup_sock_addr(connect4)]
pub(crate) fn local_connect(ctx: SockAddrContext) -> i32 {
    local::ask(&Call::<Named>::new(ctx), Count::EachTime);
    local::GO_ON
}

/// `connect` of a socket that speaks IPv6 as well, to an IPv4 address.
#[cgroup_sock_addr(connect6)]
pub(crate) fn local_connect_6(ctx: SockAddrContext) -> i32 {
    local::ask(&Call::<Mapped>::new(ctx), Count::EachTime);
    local::GO_ON
}

/// A datagram with a destination, from either kind of socket.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn local_send(ctx: SockAddrContext) -> i32 {
    local::ask(&Call::<Named>::new(ctx), Count::Once);
    local::GO_ON
}

/// The source of a datagram.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn local_receive(ctx: SockAddrContext) -> i32 {
    local::show(&Call::<Named>::new(ctx));
    local::GO_ON
}

/// The source of a datagram, for a socket that speaks IPv6 as well.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn local_receive_6(ctx: SockAddrContext) -> i32 {
    local::show(&Call::<Mapped>::new(ctx));
    local::GO_ON
}

/// `getpeername`.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn local_peer(ctx: SockAddrContext) -> i32 {
    local::show(&Call::<Named>::new(ctx));
    local::GO_ON
}

/// `getpeername` of a socket that speaks IPv6 as well.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn local_peer_6(ctx: SockAddrContext) -> i32 {
    local::show(&Call::<Mapped>::new(ctx));
    local::GO_ON
}

/// An address as it is.
struct Named;

/// An address in the form of IPv6 (RFC 4291 section 2.5.5.2).
struct Mapped;

/// The third word of an IPv4-mapped IPv6 address, as it is in memory.
const MAPPED_WORD: u32 = 0xffff_u32.to_be();

impl Form for Named {
    #[inline(always)]
    unsafe fn address(call: *const bpf_sock_addr) -> Option<Addr4> {
        // SAFETY: the caller's pointer is valid.
        let word = unsafe { (&raw const (*call).user_ip4).read_volatile() };
        Some(Addr4(word.to_ne_bytes()))
    }

    #[inline(always)]
    unsafe fn set_address(call: *mut bpf_sock_addr, to: Addr4) {
        // SAFETY: as above.
        unsafe { (&raw mut (*call).user_ip4).write_volatile(u32::from_ne_bytes(to.0)) };
    }

    #[inline(always)]
    unsafe fn bound(socket: *const bpf_sock) -> Addr4 {
        // SAFETY: as above.
        let word = unsafe { (&raw const (*socket).src_ip4).read_volatile() };
        Addr4(word.to_ne_bytes())
    }
}

impl Form for Mapped {
    #[inline(always)]
    unsafe fn address(call: *const bpf_sock_addr) -> Option<Addr4> {
        // SAFETY: the caller's pointer is valid.
        unsafe {
            let words = (&raw const (*call).user_ip6).cast::<u32>();
            let prefix = words.read_volatile() | words.add(1).read_volatile();
            if prefix != 0 || words.add(2).read_volatile() != MAPPED_WORD {
                return None;
            }
            Some(Addr4(words.add(3).read_volatile().to_ne_bytes()))
        }
    }

    #[inline(always)]
    unsafe fn set_address(call: *mut bpf_sock_addr, to: Addr4) {
        // SAFETY: as above.
        unsafe {
            let words = (&raw mut (*call).user_ip6).cast::<u32>();
            words.add(3).write_volatile(u32::from_ne_bytes(to.0));
        }
    }

    #[inline(always)]
    unsafe fn bound(socket: *const bpf_sock) -> Addr4 {
        // SAFETY: as above.
        unsafe { Named::bound(socket) }
    }
}
