//! Turning a refused packet into the ICMP error that tells its sender.

use aya_ebpf::bindings::{TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use nat_common::{
    pipeline::refusal,
    wire::{
        address::Addr4,
        packet::Packet,
        unreachable::{self, QUOTE_LEN},
    },
    work::Work,
};

use crate::{maps::Maps, reply, skb::Skb};

/// Family of IPv4 addresses in the kernel (`AF_INET`).
const AF_INET: u32 = 2;

/// Sends an ICMP error to the sender of the refused packet, if it may receive one, and returns the
/// code for the kernel. The packet itself is dropped in any case.
#[inline(never)]
pub(crate) fn answer(skb: &Skb, maps: &Maps, work: &mut Work<Addr4>, l3: usize) -> i32 {
    let interfaces = [skb.ingress_interface(), skb.interface()];
    let Some(to) = refusal::recipient(maps, &work.parsed, interfaces) else {
        return TC_ACT_SHOT;
    };
    let Some(quote) = skb.read::<QUOTE_LEN>(l3) else {
        return TC_ACT_SHOT;
    };
    let len = unreachable::write(&mut work.refusal, work.parsed.header.protocol, &to, &quote);
    let mut hop = bpf_redir_neigh {
        nh_family: AF_INET,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv4_nh: u32::from_ne_bytes(to.guest.0),
        },
    };
    reply::send(skb, &work.refusal, len as u32, l3, to.interface, &mut hop).unwrap_or(TC_ACT_SHOT)
}
