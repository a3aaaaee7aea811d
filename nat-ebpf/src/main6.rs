//! natbpf's BPF programs for IPv6: entry points.
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
mod maps;
mod memory;
mod neighbours;
mod offload;
mod route;
mod sessions;
mod skb;
mod socket;

use aya_ebpf::{EbpfContext, macros::classifier, programs::TcContext};
use family::{Addr, Room};
use hooks::{ETHERNET, NEXT, NO_LINK_LAYER, entry_points, run};
use maps::Maps;
use nat_common::pipeline::{self, fragments};
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

/// Port of a network's bridge, ingress.
#[classifier]
pub(crate) fn nat6_from_port(ctx: TcContext) -> i32 {
    Skb::clear_marks(&ctx);
    run::<ETHERNET>(&ctx, Hook::Port, pipeline::from_port::<Addr, _, _>)
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
