//! Answering neighbours that ask for an IPv6 address on the uplink's link.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_UNSPEC},
    helpers::{bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes},
    macros::map,
    maps::LpmTrie,
    programs::TcContext,
};
use nat_common::{
    headers::neighbour::FRAME_LEN,
    pipeline::neighbours,
    tables::neighbours::{Neighbour, NeighbourKey, Neighbours},
    wire::{address::Addr6, packet::Packet as _, protocol::ICMPV6},
};
use network_types::{eth::EtherType, ip::Ipv6Hdr};

use crate::{
    ETHERNET,
    family::Room,
    maps::{Maps, bits},
    skb::{Skb, VLAN_ID},
};

/// Where an IPv6 header says what follows it, and where the type of an ICMPv6 message is.
const NEXT_HEADER: usize = ETHERNET + 6;
const MESSAGE: usize = ETHERNET + Ipv6Hdr::LEN;

/// The type of a solicitation (RFC 4861 section 4.3).
const SOLICITATION: u8 = 135;

/// For which addresses natbpf answers; see [`NeighbourKey`] for what the daemon writes.
#[map]
static NEIGHBOURS6: LpmTrie<NeighbourKey, Neighbour> = LpmTrie::pinned(1 << 16, 0);

impl Neighbours for Maps {
    #[inline(always)]
    fn neighbour(&self, generation: u16, uplink: u16, address: Addr6) -> Option<&Neighbour> {
        let key = NeighbourKey {
            generation,
            uplink,
            address,
        };
        NEIGHBOURS6.get(self.room.prefix(bits::<NeighbourKey>(), &key))
    }
}

/// Answers a solicitation, if natbpf answers for its target; returns the code for the kernel.
#[inline(always)]
pub(crate) fn answer(ctx: &TcContext) -> i32 {
    match is_solicitation(ctx) {
        true => reply(ctx).unwrap_or(TC_ACT_UNSPEC),
        false => TC_ACT_UNSPEC,
    }
}

/// Whether the packet may be a solicitation, of this interface: without the number of a VLAN.
#[inline(always)]
fn is_solicitation(ctx: &TcContext) -> bool {
    // SAFETY: the kernel passes a valid context to every program.
    let (protocol, tag) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_tci) };
    if protocol != u32::from(EtherType::Ipv6 as u16) || tag & VLAN_ID != 0 {
        return false;
    }
    let mut skb = Skb::new(ctx);
    skb.make_readable(MESSAGE + 2);
    let next = skb.read::<2>(NEXT_HEADER);
    next.is_some_and(|[next, _]| next == ICMPV6)
        && skb
            .read::<2>(MESSAGE)
            .is_some_and(|[kind, _]| kind == SOLICITATION)
}

#[inline(always)]
fn reply(ctx: &TcContext) -> Option<i32> {
    let mut skb = Skb::new(ctx);
    skb.take_tag_off();
    let maps = Maps::new(ctx.as_ptr(), Room::of_packets()?);
    let interface = skb.interface();
    let frame = neighbours::answer(&mut skb, &maps, interface)?;
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    // SAFETY: the context is valid, and no pointer into the packet is used after this.
    unsafe {
        if bpf_skb_change_tail(skb.skb, FRAME_LEN as u32, 0) != 0 {
            return None;
        }
        let from = frame.as_ptr().cast();
        if bpf_skb_store_bytes(skb.skb, 0, from, FRAME_LEN as u32, flags) != 0 {
            return None;
        }
        Some(bpf_redirect(skb.interface(), 0) as i32)
    }
}
