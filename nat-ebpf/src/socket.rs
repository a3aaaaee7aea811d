//! Sockets of the host, which have precedence over guests.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use nat_common::{
    tables::host::HostSocket,
    wire::{
        address::Endpoint,
        protocol::{TCP, UDP},
    },
};

use crate::family::{self, Addr};

/// State of a listening TCP socket (`TCP_LISTEN` in `net/tcp_states.h`).
const TCP_LISTEN: u32 = 10;

/// The network namespace of the packet (`BPF_F_CURRENT_NETNS`).
const CURRENT_NETNS: u64 = u64::MAX;

/// Which socket of the host receives packets of `protocol` from `remote` to `local`. `ctx` is the
/// program's, whose network namespace counts.
#[inline(always)]
pub(crate) fn find(
    ctx: *mut c_void,
    protocol: u8,
    remote: Endpoint<Addr>,
    local: Endpoint<Addr>,
) -> HostSocket {
    let (mut tuple, len) = family::socket_tuple(remote, local);
    // SAFETY: context and tuple are valid; the tuple's length says of which family it is.
    let socket = unsafe {
        match protocol {
            TCP => bpf_sk_lookup_tcp(ctx, &mut tuple, len, CURRENT_NETNS, 0),
            UDP => bpf_sk_lookup_udp(ctx, &mut tuple, len, CURRENT_NETNS, 0),
            _ => return HostSocket::None,
        }
    };
    if socket.is_null() {
        return HostSocket::None;
    }
    // SAFETY: the socket is held until it is released.
    let is_connected = unsafe {
        match protocol {
            TCP => (*socket).state != TCP_LISTEN,
            _ => (*socket).dst_port != 0,
        }
    };
    // SAFETY: it was looked up above and is not used after this.
    unsafe { bpf_sk_release(socket.cast()) };
    if is_connected {
        HostSocket::Connected
    } else {
        HostSocket::Listening
    }
}
