//! Sockets of the host, which have precedence over guests.

use core::{ffi::c_void, mem::size_of};

use aya_ebpf::{
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    },
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use nat_common::{
    tables::host::HostSocket,
    wire::{
        address::{Addr4, Endpoint},
        protocol::{TCP, UDP},
    },
};

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
    remote: Endpoint<Addr4>,
    local: Endpoint<Addr4>,
) -> HostSocket {
    let mut tuple = bpf_sock_tuple {
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
    // SAFETY: context and tuple are valid; the tuple's length says that it is IPv4.
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
