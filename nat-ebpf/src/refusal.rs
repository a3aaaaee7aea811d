//! Turning a refused packet into the ICMP error that tells its sender.

use core::{mem::size_of, ptr};

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1},
    helpers::{bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_store_bytes},
};
use nat_common::{
    pipeline::refusal,
    wire::{
        address::Addr4,
        packet::Packet,
        unreachable::{self, MAX_LEN, QUOTE_LEN, Recipient},
    },
    work::Work,
};

use crate::{ETHERNET, maps::Maps, skb::Skb};

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
    send(skb, &work.refusal, len as u32, l3, &to).unwrap_or(TC_ACT_SHOT)
}

/// Replaces the packet by `len` bytes after an Ethernet header and sends it to the guest; the
/// kernel writes that header.
#[inline(always)]
fn send(
    skb: &Skb,
    bytes: &[u8; MAX_LEN],
    len: u32,
    l3: usize,
    to: &Recipient<Addr4>,
) -> Option<i32> {
    let missing = (ETHERNET - l3) as u32;
    // SAFETY: the context is valid, `bytes` has at least `len` bytes, and no pointer into the
    // packet is used after this.
    unsafe {
        if missing > 0 && bpf_skb_change_head(skb.skb, missing, 0) != 0 {
            return None;
        }
        if bpf_skb_change_tail(skb.skb, ETHERNET as u32 + len, 0) != 0 {
            return None;
        }
        let from = bytes.as_ptr().cast();
        if bpf_skb_store_bytes(skb.skb, ETHERNET as u32, from, len, 0) != 0 {
            return None;
        }
    }
    let mut hop = bpf_redir_neigh {
        nh_family: AF_INET,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv4_nh: u32::from_ne_bytes(to.guest.0),
        },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the next hop is valid for the call.
    let verdict = unsafe { bpf_redirect_neigh(to.interface, ptr::from_mut(&mut hop), size, 0) };
    Some(verdict as i32)
}
