//! The programs and their maps.

use core::ptr;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use bench_ebpf::{
    DESTINATION, DESTINATION6, Expected, Expected6, HEADER_BYTES, HEADER_WORDS, HEADER6_BYTES,
    HEADER6_WORDS, IP, IP_CHECKSUM, Joined, NEXT6, Progress, Received, SOURCE, SOURCE6, Traffic,
    Traffic6, UDP, UDP_CHECKSUM, UDP_LENGTH, UDP6, checksum,
};

#[map]
static TRAFFIC: Array<Traffic> = Array::with_max_entries(1, 0);
#[map]
static PROGRESS: PerCpuArray<Progress> = PerCpuArray::with_max_entries(1, 0);
#[map]
static EXPECTED: Array<Expected> = Array::with_max_entries(1, 0);
#[map]
static RECEIVED: PerCpuArray<Received> = PerCpuArray::with_max_entries(1, 0);
#[map]
static TRAFFIC6: Array<Traffic6> = Array::with_max_entries(1, 0);
#[map]
static EXPECTED6: Array<Expected6> = Array::with_max_entries(1, 0);
#[map]
static JOINED: Array<Joined> = Array::with_max_entries(1, 0);

/// The Ethernet types, as they lie in a frame.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
/// Version 4 and five words of header: the first byte of IPv4 without options.
const NO_OPTIONS: u8 = 0x45;
/// UDP's protocol number.
const UDP_PROTOCOL: u8 = 17;
/// The same with 0 before it, as it lies in the pseudo header (RFC 768).
const PSEUDO_UDP: u16 = (UDP_PROTOCOL as u16).to_be();

type Header = [u16; HEADER_WORDS];
type Header6 = [u16; HEADER6_WORDS];

/// The frame's headers, if it is long enough to have them.
#[inline(always)]
fn header(ctx: &XdpContext) -> Option<*mut Header> {
    let start = ctx.data();
    (start + HEADER_BYTES <= ctx.data_end()).then_some(start as *mut Header)
}

/// The same for IPv6.
#[inline(always)]
fn header6(ctx: &XdpContext) -> Option<*mut Header6> {
    let start = ctx.data();
    (start + HEADER6_BYTES <= ctx.data_end()).then_some(start as *mut Header6)
}

/// Makes the next packet of the traffic and sends it. For live frames of `BPF_PROG_TEST_RUN`; they
/// are reused with the receiver's changes, so all headers are written.
#[xdp]
pub(crate) fn generate(ctx: XdpContext) -> u32 {
    let (Some(header), Some(traffic), Some(progress)) =
        (header(&ctx), TRAFFIC.get(0), PROGRESS.get_ptr_mut(0))
    else {
        return XDP_DROP;
    };
    // SAFETY: the slot is this CPU's own, where one generator runs at a time.
    let progress = unsafe { &mut *progress };
    // SAFETY: `header` holds the headers' words, checked against the frame's end.
    unsafe { write_packet(header, traffic, progress) };
    advance(traffic, progress);
    // SAFETY: the helper takes no pointers.
    unsafe { bpf_redirect(traffic.interface, 0) as u32 }
}

/// The same for IPv6.
#[xdp]
pub(crate) fn generate6(ctx: XdpContext) -> u32 {
    let (Some(header), Some(traffic), Some(progress)) =
        (header6(&ctx), TRAFFIC6.get(0), PROGRESS.get_ptr_mut(0))
    else {
        return XDP_DROP;
    };
    // SAFETY: the slot is this CPU's own, where one generator runs at a time.
    let progress = unsafe { &mut *progress };
    let port = traffic.first_port.wrapping_add(progress.flow as u16);
    let port = port.to_be();
    // 0 would say that there is none.
    let udp_checksum = match checksum(traffic.udp_sum + u32::from(port)) {
        0 => 0xffff,
        sum => sum,
    };
    let header = header.cast::<u16>();
    let mut index = 0;
    while index < HEADER6_WORDS {
        // SAFETY: the index is below the number of words, checked against the frame's end.
        unsafe { ptr::write(header.add(index), traffic.header[index]) };
        index += 1;
    }
    for (index, word) in [(UDP6, port), (UDP6 + 3, udp_checksum)] {
        // SAFETY: both of them are indices of header words.
        unsafe { ptr::write(header.add(index), word) };
    }
    progress.made += 1;
    progress.flow += 1;
    if progress.flow >= traffic.flows {
        progress.flow = 0;
    }
    // SAFETY: the helper takes no pointers.
    unsafe { bpf_redirect(traffic.interface, 0) as u32 }
}

/// # Safety
/// `header` must be valid for writing.
#[inline(always)]
unsafe fn write_packet(header: *mut Header, traffic: &Traffic, progress: &Progress) {
    let address = traffic.first_address.wrapping_add(progress.address).to_be();
    let (first, second) = (address as u16, (address >> 16) as u16);
    let port = traffic
        .first_port
        .wrapping_add(progress.port as u16)
        .to_be();
    let sum = u32::from(first) + u32::from(second);
    let (address_at, port_at) = match traffic.is_answer {
        0 => (SOURCE, UDP),
        _ => (DESTINATION, UDP + 1),
    };
    // 0 would say that there is none (RFC 768).
    let udp_checksum = match checksum(traffic.udp_sum + sum + u32::from(port)) {
        0 => 0xffff,
        sum => sum,
    };
    let header = header.cast::<u16>();
    // Frames begin at an even address; the words are written one by one, as `memcpy` would go
    // byte by byte.
    let mut index = 0;
    while index < HEADER_WORDS {
        // SAFETY: the index is below the number of words.
        unsafe { ptr::write(header.add(index), traffic.header[index]) };
        index += 1;
    }
    for (index, word) in [
        (address_at, first),
        (address_at + 1, second),
        (port_at, port),
        (IP_CHECKSUM, checksum(traffic.ip_sum + sum)),
        (UDP_CHECKSUM, udp_checksum),
    ] {
        // SAFETY: all of them are indices of header words.
        unsafe { ptr::write(header.add(index), word) };
    }
}

#[inline(always)]
fn advance(traffic: &Traffic, progress: &mut Progress) {
    progress.made += 1;
    progress.flow += 1;
    progress.port += 1;
    if progress.port >= traffic.ports {
        progress.port = 0;
        progress.address += 1;
    }
    if progress.flow >= traffic.flows {
        progress.flow = 0;
        progress.port = 0;
        progress.address = 0;
    }
}

/// Counts the expected and the other UDP packets, and drops them. Packets other than UDP, such as
/// the bridge's IGMP, pass.
#[xdp]
pub(crate) fn sink(ctx: XdpContext) -> u32 {
    let Some(header) = header(&ctx) else {
        return XDP_PASS;
    };
    // SAFETY: checked against the frame's end; every content is a valid value.
    let header = unsafe { &*header };
    if header[IP - 1] == IPV6 {
        return sink6(&ctx);
    }
    if header[IP - 1] != IPV4 || header[IP + 4].to_ne_bytes()[1] != UDP_PROTOCOL {
        return XDP_PASS;
    }
    let (Some(expected), Some(received)) = (EXPECTED.get(0), RECEIVED.get_ptr_mut(0)) else {
        return XDP_DROP;
    };
    // SAFETY: the slot is this CPU's own, where one sink runs at a time.
    let received = unsafe { &mut *received };
    if is_addressed(header, expected) && sums_are_right(header) {
        received.right += 1;
    } else {
        received.wrong += 1;
        received.last_wrong = [
            header[SOURCE],
            header[SOURCE + 1],
            header[DESTINATION],
            header[DESTINATION + 1],
            header[UDP],
            header[UDP + 1],
            header[IP_CHECKSUM],
            header[UDP_CHECKSUM],
        ];
    }
    XDP_DROP
}

#[inline(always)]
fn sink6(ctx: &XdpContext) -> u32 {
    let Some(header) = header6(ctx) else {
        return XDP_PASS;
    };
    // SAFETY: checked against the frame's end; every content is a valid value.
    let header = unsafe { &*header };
    if header[NEXT6].to_ne_bytes()[0] != UDP_PROTOCOL {
        return XDP_PASS;
    }
    let (Some(expected), Some(received)) = (EXPECTED6.get(0), RECEIVED.get_ptr_mut(0)) else {
        return XDP_DROP;
    };
    // SAFETY: the slot is this CPU's own, where one sink runs at a time.
    let received = unsafe { &mut *received };
    if is_right6(header, expected) {
        received.right += 1;
    } else {
        received.wrong += 1;
        received.last_wrong = [
            header[DESTINATION6 - 2],
            header[DESTINATION6 - 1],
            header[UDP6 - 2],
            header[UDP6 - 1],
            header[UDP6],
            header[UDP6 + 1],
            0,
            header[UDP6 + 3],
        ];
    }
    XDP_DROP
}

/// Whether addresses, port and checksum are right, given that the payload is 0.
#[inline(always)]
fn is_right6(header: &Header6, expected: &Expected6) -> bool {
    let mut sum = u32::from(PSEUDO_UDP) + u32::from(header[UDP6 + 2]);
    let mut differs = header[UDP6 + 1] ^ expected.port;
    let mut index = 0;
    while index < UDP6 - SOURCE6 {
        sum += u32::from(header[SOURCE6 + index]);
        differs |= header[SOURCE6 + index] ^ expected.addresses[index];
        index += 1;
    }
    index = UDP6;
    while index < HEADER6_WORDS {
        sum += u32::from(header[index]);
        index += 1;
    }
    differs == 0 && checksum(sum) == 0
}

#[inline(always)]
fn is_addressed(header: &Header, expected: &Expected) -> bool {
    header[IP].to_ne_bytes()[0] == NO_OPTIONS
        && header[SOURCE] & expected.source_mask[0] == expected.source[0]
        && header[SOURCE + 1] & expected.source_mask[1] == expected.source[1]
        && header[DESTINATION] & expected.destination_mask[0] == expected.destination[0]
        && header[DESTINATION + 1] & expected.destination_mask[1] == expected.destination[1]
        && header[UDP + 1] & expected.port_mask == expected.port
}

/// Whether both checksums are right, given that the payload is 0.
#[inline(always)]
fn sums_are_right(header: &Header) -> bool {
    let mut ip = 0;
    let mut index = IP;
    while index < UDP {
        ip += u32::from(header[index]);
        index += 1;
    }
    let mut udp = u32::from(PSEUDO_UDP) + u32::from(header[UDP_LENGTH]);
    index = SOURCE;
    while index < HEADER_WORDS {
        udp += u32::from(header[index]);
        index += 1;
    }
    checksum(ip) == 0 && checksum(udp) == 0
}

/// Sends every frame out by the other interface, unchanged.
#[xdp]
pub(crate) fn redirect_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the kernel's, valid while the program runs.
    let interface = unsafe { (*ctx.ctx).ingress_ifindex };
    match JOINED.get(0) {
        // SAFETY: the helper takes no pointers.
        Some(joined) => unsafe { bpf_redirect(joined.other(interface), 0) as u32 },
        None => XDP_PASS,
    }
}

/// Sends every packet out by the other interface, unchanged.
#[classifier]
pub(crate) fn redirect_tc(ctx: TcContext) -> i32 {
    // SAFETY: the context is the kernel's, valid while the program runs.
    let interface = unsafe { (*ctx.skb.skb).ingress_ifindex };
    match JOINED.get(0) {
        // SAFETY: the helper takes no pointers.
        Some(joined) => unsafe { bpf_redirect(joined.other(interface), 0) as i32 },
        None => TC_ACT_UNSPEC,
    }
}
