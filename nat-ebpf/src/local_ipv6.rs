//! Programs at the host's own sockets that name IPv6 addresses; see [`local`]. Those of IPv4's
//! object are for the IPv4-mapped ones, which the kernel shows to both.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};

use crate::{
    family::Addr,
    local::{self, Call, Count, Form},
};

/// `connect`, TCP and UDP.
#[cgroup_sock_addr(connect6)]
pub(crate) fn local6_connect(ctx: SockAddrContext) -> i32 {
    local::ask(&Call::<Named>::new(ctx), Count::EachTime);
    local::GO_ON
}

/// A datagram with a destination.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn local6_send(ctx: SockAddrContext) -> i32 {
    local::ask(&Call::<Named>::new(ctx), Count::Once);
    local::GO_ON
}

/// The source of a datagram.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn local6_receive(ctx: SockAddrContext) -> i32 {
    local::show(&Call::<Named>::new(ctx));
    local::GO_ON
}

/// `getpeername`.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn local6_peer(ctx: SockAddrContext) -> i32 {
    local::show(&Call::<Named>::new(ctx));
    local::GO_ON
}

/// An address as it is.
struct Named;

impl Form for Named {
    #[inline(always)]
    unsafe fn address(call: *const bpf_sock_addr) -> Option<Addr> {
        // SAFETY: the caller's pointer is valid.
        let address = unsafe { read((&raw const (*call).user_ip6).cast()) };
        (!address.is_mapped()).then_some(address)
    }

    #[inline(always)]
    unsafe fn set_address(call: *mut bpf_sock_addr, to: Addr) {
        // SAFETY: as above.
        let words = unsafe { (&raw mut (*call).user_ip6).cast::<u32>() };
        for (number, word) in to.words().into_iter().enumerate() {
            // SAFETY: there are four.
            unsafe { words.add(number).write_volatile(word) };
        }
    }

    #[inline(always)]
    unsafe fn bound(socket: *const bpf_sock) -> Addr {
        // SAFETY: as above.
        unsafe { read((&raw const (*socket).src_ip6).cast()) }
    }
}

/// Reads an address of the kernel's, which allows words only.
///
/// # Safety
///
/// There must be four words.
#[inline(always)]
unsafe fn read(words: *const u32) -> Addr {
    // SAFETY: as the caller promises.
    Addr::of_words([0, 1, 2, 3].map(|number| unsafe { words.add(number).read_volatile() }))
}
