//! Sending a packet of natbpf's own in place of a guest's.

use core::{mem::size_of, ptr};

use aya_ebpf::{
    bindings::bpf_redir_neigh,
    helpers::{bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_store_bytes},
};

use crate::{
    ETHERNET,
    skb::{Skb, packet_len},
};

/// Replaces the packet by `len` bytes after an Ethernet header and sends it by a network to a
/// guest; the kernel writes that header. Returns the code for the kernel.
#[inline(always)]
pub(crate) fn send<const N: usize>(
    skb: &Skb,
    bytes: &[u8; N],
    len: u32,
    l3: usize,
    interface: u32,
    guest: &mut bpf_redir_neigh,
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
        // Here, because the verifier of Linux 6.1 forgets bounds during the calls before.
        let len = packet_len(len, N as u32)?;
        let from = bytes.as_ptr().cast();
        if bpf_skb_store_bytes(skb.skb, ETHERNET as u32, from, len, 0) != 0 {
            return None;
        }
    }
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the next hop is valid for the call.
    let verdict = unsafe { bpf_redirect_neigh(interface, ptr::from_mut(guest), size, 0) };
    Some(verdict as i32)
}
