//! Answering ARP for external addresses that no interface holds.
//!
//! A router in the uplink's subnet asks for such an address. The kernel does not answer, because it
//! considers the address a neighbour's.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_UNSPEC},
    helpers::{bpf_redirect, bpf_skb_store_bytes},
    programs::TcContext,
};
use nat_common::{
    session::lease,
    tables::{
        addresses::ExternalAddresses,
        interfaces::{Interface, Interfaces, role},
        settings::CurrentSettings,
    },
    wire::{address::Addr4, packet::Packet},
};

use network_types::eth::EtherType;

use crate::{
    ETHERNET,
    family::Room,
    maps::Maps,
    skb::{Skb, VLAN_ID},
};

/// Ethernet and IPv4 addresses of six and four bytes, a request (RFC 826).
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
/// The same, a reply.
const REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];
/// Length of an ARP packet for Ethernet and IPv4 in bytes.
const ARP: usize = 28;

/// Whether the packet is ARP, and of this interface: without the number of a VLAN.
#[inline(always)]
pub(crate) fn is_arp(ctx: &TcContext) -> bool {
    // SAFETY: the kernel passes a valid context to every program.
    let (protocol, tag) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_tci) };
    protocol == u32::from(EtherType::Arp as u16) && tag & VLAN_ID == 0
}

/// Answers a request for an external address of this uplink that the host does not hold, unless
/// another host has it or other software manages it; returns the code for the kernel.
#[inline(never)]
pub(crate) fn answer(ctx: &TcContext) -> i32 {
    let maps = Maps::new(ctx.as_ptr(), Room);
    reply(&mut Skb::new(ctx), &maps).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn reply(skb: &mut Skb, maps: &Maps) -> Option<i32> {
    skb.make_readable(ETHERNET + ARP);
    let request = skb.read::<ARP>(ETHERNET)?;
    if request[..8] != REQUEST {
        return None;
    }
    let target = Addr4([request[24], request[25], request[26], request[27]]);
    let uplink = uplink_with(maps, skb.interface(), target)?;
    let mut frame = [0; ETHERNET + ARP];
    frame[..6].copy_from_slice(&request[8..14]);
    frame[6..12].copy_from_slice(&uplink.mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    frame[14..22].copy_from_slice(&REPLY);
    frame[22..28].copy_from_slice(&uplink.mac);
    frame[28..32].copy_from_slice(&target.0);
    frame[32..42].copy_from_slice(&request[8..18]);
    skb.take_tag_off();
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    // SAFETY: the context is valid, and no pointer into the packet is used after this.
    unsafe {
        let from = frame.as_ptr().cast();
        if bpf_skb_store_bytes(skb.skb, 0, from, frame.len() as u32, flags) != 0 {
            return None;
        }
        Some(bpf_redirect(skb.interface(), 0) as i32)
    }
}

/// The uplink, if it has that external address and the host neither holds it nor is about to get
/// it.
#[inline(always)]
fn uplink_with(maps: &Maps, interface: u32, target: Addr4) -> Option<&Interface> {
    let settings = maps.settings()?;
    let external = maps.external_address(settings.generation as u16, target)?;
    let uplink = maps.interface(interface)?;
    let is_ours = uplink.role == role::UPLINK
        && uplink.number == external.uplink
        && external.is_host == 0
        && external.is_silent == 0
        && uplink.mac != [0; 6]
        && !lease::is_acquiring(maps, uplink.number);
    is_ours.then_some(uplink)
}
