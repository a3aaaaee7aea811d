//! natbpf's BPF programs for IPv4, and for the host's own sockets: entry points.
//!
//! `nat-common` makes the decisions. This crate has the hooks, the maps and the access to packets,
//! and decides nothing about addresses.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod adopt;
mod arp;
mod counts;
#[path = "family/ipv4.rs"]
mod family;
mod hooks;
mod local;
mod local_ipv4;
mod maps;
mod memory;
mod offload;
mod refusal;
mod reply;
mod route;
mod sessions;
mod skb;
mod socket;
mod xdp;

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_SHOT, xdp_action},
    macros::{classifier, map, xdp},
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use family::{Addr, Room};
use hooks::{ETHERNET, NEXT, NO_LINK_LAYER, entry_points, run};
use maps::{Maps, count_drop};
use nat_common::{
    drop_reason::DropReason,
    pipeline::{self, fragments, guard},
};
use skb::{Hook, Skb};

/// Uplink, ingress.
#[classifier]
pub(crate) fn nat_inbound(ctx: TcContext) -> i32 {
    if arp::is_arp(&ctx) {
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
    run::<ETHERNET>(&ctx, Hook::Port, pipeline::from_port::<Addr, _, _>)
}

/// Port of the bridge of a network with `anti_spoof`, ingress.
#[classifier]
pub(crate) fn nat_from_guarded_port(ctx: TcContext) -> i32 {
    Skb::clear_marks(&ctx);
    let mut skb = Skb::new(&ctx);
    let (index, vlan) = (skb.interface(), skb.vlan());
    match guard::check(&mut skb, &Maps::new(ctx.as_ptr(), Room), index, vlan) {
        guard::PASSES => run::<ETHERNET>(&ctx, Hook::Port, |packet, maps, place, work| {
            pipeline::from_port::<Addr, _, _>(packet, maps, place, work)
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
    nat_outbound, nat_outbound_l3, hook: Egress => pipeline::outbound::<Addr, _, _>;
    /// Network, ingress.
    nat_from_guest, nat_from_guest_l3, hook: Ingress => pipeline::from_guest::<Addr, _, _>;
    /// Network, egress.
    nat_to_guest, nat_to_guest_l3, hook: Egress => pipeline::to_guest::<Addr, _, _>;
}

/// The program that [`nat_early`] calls for other frames, because an interface has one XDP program:
/// that of IPv6, or none.
#[map]
static EARLY_OTHERS: ProgramArray = ProgramArray::pinned(1, 0);

/// Uplink, before the kernel processes a frame: the fast path of established sessions. Everything
/// else passes unchanged.
#[xdp]
pub(crate) fn nat_early(ctx: XdpContext) -> u32 {
    if !xdp::is_of_family(&ctx) {
        // SAFETY: the program takes the same context. The call returns if there is none.
        unsafe { EARLY_OTHERS.tail_call(&ctx, 0) };
        return xdp_action::XDP_PASS;
    }
    xdp::run(&ctx)
}

/// Ends the sessions whose primary keys are in the packet; see [`sessions`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many it ended.
#[classifier]
pub(crate) fn end_sessions(ctx: TcContext) -> i32 {
    sessions::end_all(&ctx, &Maps::new(ctx.as_ptr(), Room))
}

/// Adds sessions that the former programs have opened; see [`adopt`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many could not be added.
#[classifier]
pub(crate) fn adopt_sessions(ctx: TcContext) -> i32 {
    adopt::adopt_all(&ctx, &Maps::new(ctx.as_ptr(), Room))
}

/// Adds what the former programs have counted; see [`counts`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many entries it added.
#[classifier]
pub(crate) fn add_counts(ctx: TcContext) -> i32 {
    counts::add_all(&ctx)
}

/// Frees the fragments that have waited too long for the first one of their packet. The daemon runs
/// it by `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many it freed.
#[classifier]
pub(crate) fn expire_fragments(ctx: TcContext) -> i32 {
    fragments::expire_all(&Maps::new(ctx.as_ptr(), Room))
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
