//! natbpf's BPF programs: entry points, and the table of verdicts.
//!
//! `nat-common` makes the decisions. This crate has the hooks, the maps and the access to packets,
//! and decides nothing about addresses.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod adopt;
mod arp;
mod local;
mod maps;
mod memory;
mod offload;
mod refusal;
mod route;
mod sessions;
mod skb;
mod socket;
mod xdp;

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use maps::{Maps, count_drop, work_area};
use nat_common::{
    drop_reason::DropReason,
    headers::parsed::Parsed,
    pipeline::{self, Place, Verdict, fragments, guard},
    wire::address::Addr4,
    work::Work,
};
use skb::{Hook, Skb};

/// Length of an Ethernet header in bytes.
const ETHERNET: usize = 14;
/// Length of the link-layer header of a device that has none (PPP, WireGuard, TUN).
const NO_LINK_LAYER: usize = 0;

/// A packet that passes, changed or not, continues to the next program and then to the stack, so
/// other programs on the same hook also run.
const NEXT: i32 = TC_ACT_UNSPEC;

macro_rules! entry_points {
    ($($(#[$doc:meta])* $name:ident, $raw_name:ident, hook: $hook:ident => $function:path;)*) => {
        $(
            $(#[$doc])*
            #[classifier]
            pub(crate) fn $name(ctx: TcContext) -> i32 {
                let done = match Hook::$hook {
                    Hook::Egress => Skb::was_forwarded(&ctx).then_some(NEXT),
                    _ => Skb::received_anew(&ctx),
                };
                if let Some(verdict) = done {
                    return verdict;
                }
                run::<ETHERNET>(&ctx, Hook::$hook, |packet, maps, place, work| {
                    $function(packet, maps, place, work)
                })
            }

            $(#[$doc])*
            ///
            /// For devices without a link-layer header.
            #[classifier]
            pub(crate) fn $raw_name(ctx: TcContext) -> i32 {
                if Hook::$hook == Hook::Egress && Skb::was_forwarded(&ctx) {
                    return NEXT;
                }
                run::<NO_LINK_LAYER>(&ctx, Hook::$hook, |packet, maps, place, work| {
                    $function(packet, maps, place, work)
                })
            }
        )*
    };
}

/// Uplink, ingress.
#[classifier]
pub(crate) fn nat_inbound(ctx: TcContext) -> i32 {
    if Skb::is_arp(&ctx) {
        return arp::answer(&ctx);
    }
    if let Some(verdict) = Skb::received_anew(&ctx) {
        return verdict;
    }
    run::<ETHERNET>(&ctx, Hook::Ingress, |packet, maps, place, work| {
        pipeline::inbound(packet, maps, place, work)
    })
}

/// Uplink, ingress.
///
/// For devices without a link-layer header.
#[classifier]
pub(crate) fn nat_inbound_l3(ctx: TcContext) -> i32 {
    run::<NO_LINK_LAYER>(&ctx, Hook::Ingress, |packet, maps, place, work| {
        pipeline::inbound(packet, maps, place, work)
    })
}

/// Port of a network's bridge, ingress.
#[classifier]
pub(crate) fn nat_from_port(ctx: TcContext) -> i32 {
    Skb::clear_marks(&ctx);
    run::<ETHERNET>(&ctx, Hook::Port, pipeline::from_port::<Addr4, _, _>)
}

/// Port of the bridge of a network with `anti_spoof`, ingress.
#[classifier]
pub(crate) fn nat_from_guarded_port(ctx: TcContext) -> i32 {
    Skb::clear_marks(&ctx);
    let mut skb = Skb::new(&ctx);
    let (index, vlan) = (skb.interface(), Skb::vlan(&ctx));
    match guard::check(&mut skb, &Maps::new(ctx.as_ptr()), index, vlan) {
        guard::PASSES => run::<ETHERNET>(&ctx, Hook::Port, |packet, maps, place, work| {
            pipeline::from_port::<Addr4, _, _>(packet, maps, place, work)
        }),
        guard::PASSES_SLOWLY => NEXT,
        _ => {
            count_drop(DropReason::Spoofed);
            TC_ACT_SHOT
        }
    }
}

entry_points! {
    /// Uplink, egress.
    nat_outbound, nat_outbound_l3, hook: Egress => pipeline::outbound::<Addr4, _, _>;
    /// Network, ingress.
    nat_from_guest, nat_from_guest_l3, hook: Ingress => pipeline::from_guest::<Addr4, _, _>;
    /// Network, egress.
    nat_to_guest, nat_to_guest_l3, hook: Egress => pipeline::to_guest::<Addr4, _, _>;
}

/// Runs a hook's decision on an IPv4 packet and turns the outcome into the code for the kernel.
#[inline(always)]
fn run<const L3: usize>(
    ctx: &TcContext,
    hook: Hook,
    decide: impl FnOnce(&mut Skb, &Maps, Place, &mut Work<Addr4>) -> Verdict,
) -> i32 {
    let Some(mut skb) = Skb::ipv4(ctx, L3, hook) else {
        if L3 == ETHERNET && hook == Hook::Ingress && Skb::is_hidden(ctx) {
            count_drop(DropReason::HiddenByTags);
            return TC_ACT_SHOT;
        }
        return NEXT;
    };
    // SAFETY: this is a program at a hook, and asks once.
    let Some(work) = (unsafe { work_area() }) else {
        return NEXT;
    };
    let place = Place {
        l3: L3,
        interface: skb.interface(),
        is_to_host: L3 == ETHERNET && skb.is_to_host(),
    };
    let maps = Maps::new(ctx.as_ptr());
    match decide(&mut skb, &maps, place, work) {
        Verdict::Untouched | Verdict::Beyond | Verdict::Translated => NEXT,
        Verdict::Opened => {
            log_packet(ctx, place.interface, &work.parsed, "session opened");
            NEXT
        }
        Verdict::ReceivedAnew => {
            log_packet(ctx, place.interface, &work.parsed, "received anew");
            skb.receive_anew()
        }
        Verdict::Forwarded => skb.send(work.redirect),
        Verdict::Queued => TC_ACT_SHOT,
        Verdict::Dropped(reason) => {
            log_packet(ctx, place.interface, &work.parsed, reason.name());
            count_drop(reason);
            if reason.is_refusal() {
                refusal::answer(&skb, &maps, work, L3)
            } else {
                TC_ACT_SHOT
            }
        }
    }
}

/// Writes a debug message, if the programs were loaded with them: otherwise the verifier removes
/// all of this.
#[inline(never)]
fn log_packet(ctx: &TcContext, interface: u32, parsed: &Parsed<Addr4>, what: &str) {
    debug!(
        ctx,
        "interface {}: protocol {}, {:i}:{} to {:i}:{}: {}",
        interface,
        parsed.header.protocol,
        parsed.header.source.0,
        parsed.source_port.number(),
        parsed.header.destination.0,
        parsed.destination_port.number(),
        what
    );
}

/// Ends the sessions whose primary keys are in the packet; see [`sessions`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many it ended.
#[classifier]
pub(crate) fn end_sessions(ctx: TcContext) -> i32 {
    sessions::end_all(&ctx, &Maps::new(ctx.as_ptr()))
}

/// Adds sessions that the former programs have opened; see [`adopt`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many could not be added.
#[classifier]
pub(crate) fn adopt_sessions(ctx: TcContext) -> i32 {
    adopt::adopt_all(&ctx, &Maps::new(ctx.as_ptr()))
}

/// Adds what the former programs have counted; see [`adopt`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many entries it added.
#[classifier]
pub(crate) fn add_counts(ctx: TcContext) -> i32 {
    adopt::count_all(&ctx)
}

/// Frees the fragments that have waited too long for the first one of their packet. The daemon runs
/// it by `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many it freed.
#[classifier]
pub(crate) fn expire_fragments(ctx: TcContext) -> i32 {
    fragments::expire_all(&Maps::new(ctx.as_ptr()))
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel offers some helpers only to programs with a GPL-compatible licence.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
