//! Prefixes that become others (NPTv6): the table, and programs of their own, which only hosts with
//! such rules have.
//!
//! The mark of a packet between guests says, from the ingress of the sender's network to the egress
//! of the receiver's, that its source must become an external one.

use aya_ebpf::{macros::map, maps::LpmTrie, programs::TcContext};
use nat_common::{
    pipeline::{Verdict, prefixes},
    tables::interfaces::{Interfaces as _, role},
    translation::prefix_table::{PrefixEntry, PrefixKey, PrefixTable},
    wire::address::Addr6,
};

use crate::{
    family::{QUEUED_MARK, RECEIVED_ANEW},
    hooks::{NEXT, run},
    maps::{Maps, bits},
    skb::{Hook, Skb},
};

/// `tc_index` of a packet between guests by an external address.
const HAIRPIN: u32 = 0x6e50;

/// The prefixes; see [`PrefixKey`] for what the daemon writes.
#[map]
static PREFIXES6: LpmTrie<PrefixKey, PrefixEntry> = LpmTrie::pinned(1 << 16, 0);

impl PrefixTable for Maps {
    #[inline(always)]
    fn prefix(&self, generation: u16, uplink: u16, address: Addr6) -> Option<&PrefixEntry> {
        let key = PrefixKey {
            generation,
            uplink,
            address,
        };
        PREFIXES6.get(self.room.prefix(bits::<PrefixKey>(), &key))
    }
}

/// Ingress: the destination. Packets that natbpf receives a second time have been here before.
#[inline(always)]
pub(crate) fn ingress<const L3: usize>(ctx: &TcContext) -> i32 {
    let mark = mark(ctx);
    if mark == u32::from(RECEIVED_ANEW) || mark == u32::from(QUEUED_MARK) {
        return NEXT;
    }
    if mark == HAIRPIN {
        Skb::clear_marks(ctx);
    }
    run::<L3>(ctx, Hook::Ingress, |packet, maps, place, work| {
        let verdict = prefixes::from_prefix(packet, maps, place, work);
        if verdict == Verdict::Translated && is_network(maps, place.interface) {
            // SAFETY: the context is valid.
            unsafe { (*packet.skb).tc_index = HAIRPIN };
        }
        verdict
    })
}

/// Egress: the source.
#[inline(always)]
pub(crate) fn egress<const L3: usize>(ctx: &TcContext) -> i32 {
    let is_hairpin = mark(ctx) == HAIRPIN;
    if is_hairpin {
        Skb::clear_marks(ctx);
    }
    run::<L3>(ctx, Hook::Egress, |packet, maps, place, work| {
        match is_hairpin || !is_network(maps, place.interface) {
            true => prefixes::to_prefix(packet, maps, place, work),
            false => Verdict::Untouched,
        }
    })
}

#[inline(always)]
fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel passes a valid context to every program.
    unsafe { (*ctx.skb.skb).tc_index }
}

#[inline(always)]
fn is_network(maps: &Maps, interface: u32) -> bool {
    let interface = maps.interface(interface);
    interface.is_some_and(|interface| interface.role == role::NETWORK)
}
