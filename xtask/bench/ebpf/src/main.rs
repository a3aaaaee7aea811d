//! The benchmark's own programs: a generator of frames, a sink that looks at what arrives and counts
//! it, and the bare redirects that are the limit of their hooks.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

use core::ptr;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action},
    helpers::bpf_redirect,
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray},
    programs::{TcContext, XdpContext},
};

/// Length of every frame in bytes.
const FRAME: usize = 64;

/// What is sent, as user space writes it. Numbers in the byte order of the wire lie in memory as they
/// do in the frame.
#[derive(Clone, Copy)]
#[repr(C)]
struct Plan {
    /// The frame of flow 0, with checksums.
    frame: [u8; FRAME],
    /// How many flows there are.
    flows: u32,
    /// How many of them have the same source address: their source ports count up from the frame's.
    ports: u32,
}

/// What is expected to arrive: addresses of an IPv4 header, 0 for any.
#[derive(Clone, Copy)]
#[repr(C)]
struct Expected {
    source: [u8; 4],
    destination: [u8; 4],
}

/// Packets that the sink has seen.
#[derive(Clone, Copy)]
#[repr(C)]
struct Seen {
    expected: u64,
    other: u64,
}

#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
#[map]
static NEXT_FLOW: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
#[map]
static EXPECTED: Array<Expected> = Array::with_max_entries(1, 0);
#[map]
static SEEN: PerCpuArray<Seen> = PerCpuArray::with_max_entries(1, 0);

/// The interface that the bare redirects send to, by index.
#[unsafe(no_mangle)]
static TARGET: u32 = 0;

fn target() -> u32 {
    // SAFETY: the pointer is that of a constant; volatile, since the loader writes another.
    unsafe { (&raw const TARGET).read_volatile() }
}

/// A frame's first bytes, if it has so many.
#[inline(always)]
fn bytes<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// A checksum field after words that summed up to `old` have become `new` (RFC 1624).
#[inline(always)]
fn corrected(field: u16, old: u32, new: u32) -> u16 {
    let sum = u32::from(!field) + u32::from(!fold(old)) + u32::from(fold(new));
    !fold(sum)
}

#[inline(always)]
fn words(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Writes the next flow's frame over a recycled one and sends it out by the interface that it is run
/// for.
#[xdp]
pub(crate) fn generate(ctx: XdpContext) -> u32 {
    generate_frame(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn generate_frame(ctx: &XdpContext) -> Option<u32> {
    let plan = PLAN.get(0)?;
    let next = NEXT_FLOW.get_ptr_mut(0)?;
    let frame = bytes::<[u64; FRAME / 8]>(ctx, 0)?;
    // SAFETY: the counter is this CPU's own; the frame's bounds were checked; the plan's frame has
    // the same length.
    unsafe {
        let flow = *next;
        *next = if flow + 1 < plan.flows { flow + 1 } else { 0 };
        let template = (&raw const plan.frame).cast::<u64>();
        for word in 0..FRAME / 8 {
            (*frame)[word] = template.add(word).read_unaligned();
        }
        let header = frame.cast::<u8>();
        let host = flow.checked_div(plan.ports).unwrap_or(0);
        let number = flow.wrapping_sub(host.wrapping_mul(plan.ports));
        let (source, port) = (header.add(26).cast::<u32>(), header.add(34).cast::<u16>());
        let (old_source, old_port) = (source.read_unaligned(), port.read_unaligned());
        let new_source = u32::from_be(old_source).wrapping_add(host).to_be();
        let new_port = u16::from_be(old_port).wrapping_add(number as u16).to_be();
        source.write_unaligned(new_source);
        port.write_unaligned(new_port);
        let (ip_check, udp_check) = (header.add(24).cast::<u16>(), header.add(40).cast::<u16>());
        let (old, new) = (words(old_source), words(new_source));
        ip_check.write_unaligned(corrected(ip_check.read_unaligned(), old, new));
        let (old, new) = (old + u32::from(old_port), new + u32::from(new_port));
        udp_check.write_unaligned(corrected(udp_check.read_unaligned(), old, new));
    }
    Some(xdp_action::XDP_TX)
}

/// Counts frames, and ends their way here.
#[xdp]
pub(crate) fn sink(ctx: XdpContext) -> u32 {
    let (Some(seen), Some(expected)) = (SEEN.get_ptr_mut(0), EXPECTED.get(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(addresses) = bytes::<[[u8; 4]; 2]>(&ctx, 26) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the counter is this CPU's own; the frame's bounds were checked.
    unsafe {
        let [source, destination] = ptr::read_unaligned(addresses);
        let fits = |expected: [u8; 4], found| expected == [0; 4] || expected == found;
        if fits(expected.source, source) && fits(expected.destination, destination) {
            (*seen).expected += 1;
        } else {
            (*seen).other += 1;
        }
    }
    xdp_action::XDP_DROP
}

/// Sends every frame on as it is, and looks nothing up: the limit of XDP.
#[xdp]
pub(crate) fn bare_xdp(_ctx: XdpContext) -> u32 {
    // SAFETY: only names an interface.
    unsafe { bpf_redirect(target(), 0) as u32 }
}

/// The same at a traffic control hook.
#[classifier]
pub(crate) fn bare_tc(_ctx: TcContext) -> i32 {
    // SAFETY: as above.
    let verdict = unsafe { bpf_redirect(target(), 0) as i32 };
    if verdict < 0 { TC_ACT_SHOT } else { verdict }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some helpers to programs with a GPL-compatible licence only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
