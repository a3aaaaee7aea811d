//! natbpf's BPF programs for IPv6, and for the host's own sockets: entry points.
//!
//! A separate object with tables of its own: a host without IPv6 loads none of it. The modules are
//! those of IPv4's object, compiled for the other family.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod adopt;
#[path = "family/ipv6.rs"]
mod family;
mod hooks;
mod local;
mod local_ipv6;
mod maps;
mod memory;
mod nat64;
mod neighbours;
mod offload;
mod prefixes;
mod refusal_ipv6;
mod reply;
mod route;
mod sessions;
mod skb;
mod socket;
mod xdp;

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_SHOT, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use family::{Addr, Room};
use hooks::{ETHERNET, NEXT, NO_LINK_LAYER, entry_points, run};
use maps::{Maps, count_drop};
use nat_common::{
    drop_reason::DropReason,
    pipeline::{self, fragments, guard, guard_ipv6},
};
use skb::{Hook, Skb};

entry_points! {
    /// Uplink, ingress.
    nat6_inbound, nat6_inbound_l3, hook: Ingress => pipeline::inbound::<Addr, _, _>;
    /// Uplink, egress.
    nat6_outbound, nat6_outbound_l3, hook: Egress => pipeline::outbound::<Addr, _, _>;
    /// Network, ingress.
    nat6_from_guest, nat6_from_guest_l3, hook: Ingress => pipeline::from_guest::<Addr, _, _>;
    /// Network, egress.
    nat6_to_guest, nat6_to_guest_l3, hook: Egress => pipeline::to_guest::<Addr, _, _>;
}

/// Uplink with Ethernet, ingress, behind `nat6_inbound`, which lets messages between neighbours
/// pass: answers for addresses of guests on the uplink's link; see [`neighbours`].
#[classifier]
pub(crate) fn nat6_neighbours(ctx: TcContext) -> i32 {
    neighbours::answer(&ctx)
}

/// Uplink and network, ingress, in front of the others; see [`prefixes`].
#[classifier]
pub(crate) fn nat6_from_prefix(ctx: TcContext) -> i32 {
    prefixes::ingress::<ETHERNET>(&ctx)
}

/// The same for devices without a link-layer header.
#[classifier]
pub(crate) fn nat6_from_prefix_l3(ctx: TcContext) -> i32 {
    prefixes::ingress::<NO_LINK_LAYER>(&ctx)
}

/// Uplink and network, egress, behind the others; see [`prefixes`].
#[classifier]
pub(crate) fn nat6_to_prefix(ctx: TcContext) -> i32 {
    prefixes::egress::<ETHERNET>(&ctx)
}

/// The same for devices without a link-layer header.
#[classifier]
pub(crate) fn nat6_to_prefix_l3(ctx: TcContext) -> i32 {
    prefixes::egress::<NO_LINK_LAYER>(&ctx)
}

/// Port of a network's bridge, ingress.
#[classifier]
pub(crate) fn nat6_from_port(ctx: TcContext) -> i32 {
    Skb::clear_marks(&ctx);
    run::<ETHERNET>(&ctx, Hook::Port, pipeline::from_port::<Addr, _, _>)
}

/// Port of the bridge of a network with `anti_spoof`, ingress.
#[classifier]
pub(crate) fn nat6_from_guarded_port(ctx: TcContext) -> i32 {
    Skb::clear_marks(&ctx);
    if !Skb::is_of_family(&ctx) {
        return NEXT;
    }
    let Some(room) = Room::of_packets() else {
        return TC_ACT_SHOT;
    };
    let mut skb = Skb::new(&ctx);
    let (index, vlan) = (skb.interface(), skb.vlan());
    let reason = match guard_ipv6::check(&mut skb, &Maps::new(ctx.as_ptr(), room), index, vlan) {
        guard::PASSES => return from_port(&ctx),
        guard::PASSES_SLOWLY => return NEXT,
        guard::FORGED => DropReason::Spoofed,
        _ => DropReason::RogueRa,
    };
    count_drop(reason);
    TC_ACT_SHOT
}

/// The fast path of a port. (A separate function: it and the guard share the stack.)
#[inline(never)]
fn from_port(ctx: &TcContext) -> i32 {
    run::<ETHERNET>(ctx, Hook::Port, pipeline::from_port::<Addr, _, _>)
}

/// Uplink, before the kernel processes a frame: the fast path of established sessions. IPv4's
/// program calls it for what it does not take itself.
#[xdp]
pub(crate) fn nat6_early(ctx: XdpContext) -> u32 {
    match xdp::is_of_family(&ctx) {
        true => xdp::run(&ctx),
        false => xdp_action::XDP_PASS,
    }
}

/// NAT64's device, egress.
#[classifier]
pub(crate) fn nat64_translate(ctx: TcContext) -> i32 {
    nat64::translate(&ctx)
}

/// Ends the sessions whose primary keys are in the packet; see [`sessions`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many it ended.
#[classifier]
pub(crate) fn end_sessions6(ctx: TcContext) -> i32 {
    Room::of_daemon().map_or(0, |room| {
        sessions::end_all(&ctx, &Maps::new(ctx.as_ptr(), room))
    })
}

/// Adds sessions that the former programs have opened; see [`adopt`]. The daemon runs it by
/// `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many could not be added.
#[classifier]
pub(crate) fn adopt_sessions6(ctx: TcContext) -> i32 {
    Room::of_daemon().map_or(0, |room| {
        adopt::adopt_all(&ctx, &Maps::new(ctx.as_ptr(), room))
    })
}

/// Frees the fragments that have waited too long for the first one of their packet. The daemon runs
/// it by `BPF_PROG_TEST_RUN`; it is attached nowhere. Returns how many it freed.
#[classifier]
pub(crate) fn expire_fragments6(ctx: TcContext) -> i32 {
    Room::of_daemon().map_or(0, |room| {
        fragments::expire_all(&Maps::new(ctx.as_ptr(), room))
    })
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
