//! A packet at a traffic control hook.

use core::{mem::size_of, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_xfrm_state,
    },
    helpers::{
        bpf_clone_redirect, bpf_csum_diff, bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
        bpf_skb_vlan_pop,
        generated::{bpf_csum_update, bpf_skb_get_xfrm_state},
    },
    programs::TcContext,
};
use nat_common::{
    family::Family as _,
    tables::{
        fragments::FragmentKey,
        interfaces::{InterfaceFlags, Interfaces},
        next_hops::NextHopFlags,
        queued::{Busy, QUEUE_BYTES, QueuedPacket},
    },
    verifier::verifier_barrier,
    wire::{
        address::Address,
        checksum::{self, Diff, fold},
        offload::{Offload, Sum},
        packet::{ChecksumKind, Frames, Packet},
    },
    work::Redirect,
};

use crate::{
    family::{self, Addr, ETHER_TYPE, FORWARDED, QUEUED_MARK, RECEIVED_ANEW, Room},
    maps::{self, Maps},
    memory, offload,
};
use network_types::{eth::EtherType, ip::Ipv4Hdr};

/// The VLAN identifier in a tag; the rest is priority.
pub(crate) const VLAN_ID: u32 = 0x0fff;

/// How much of a message is summed at a time, in bytes.
const CHUNK: usize = 64;
/// How many chunks a message may have.
const CHUNKS: usize = 64;

/// `pkt_type` of a frame for the interface's own address (`PACKET_HOST`, `linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// A hook, as far as packets look different there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// A packet has come in by an uplink or a network. A priority tag (VLAN 0) only carries a
    /// priority and ends here: the kernel removes it after this hook.
    Ingress,
    /// A packet has come in by a port of a bridge. A packet with a priority tag is left to the
    /// bridge.
    Port,
    /// A packet is about to leave.
    Egress,
}

/// A packet at a traffic control hook.
pub(crate) struct Skb {
    /// The kernel's context.
    pub(crate) skb: *mut __sk_buff,
}

impl Skb {
    /// Whether the fast path has sent it here; true only once.
    #[inline(always)]
    pub(crate) fn was_forwarded(ctx: &TcContext) -> bool {
        // SAFETY: the kernel passes a valid context to every program.
        unsafe {
            let was_forwarded = (*ctx.skb.skb).tc_index == u32::from(FORWARDED);
            if was_forwarded {
                (*ctx.skb.skb).tc_index = 0;
            }
            was_forwarded
        }
    }

    /// The code for a packet that this hook has rewritten before: it passes. If no packets are
    /// received again here, the mark is forged.
    #[inline(always)]
    pub(crate) fn received_anew(ctx: &TcContext) -> Option<i32> {
        // SAFETY: the kernel passes a valid context to every program.
        let has_mark = unsafe { (*ctx.skb.skb).tc_index == u32::from(RECEIVED_ANEW) };
        has_mark.then(|| match Room::of_packets() {
            Some(room) => Self::new(ctx).go_on(&Maps::new(ctx.as_ptr(), room)),
            None => TC_ACT_SHOT,
        })
    }

    #[inline(never)]
    fn go_on(&self, maps: &Maps) -> i32 {
        let interface = maps.interface(self.interface());
        let is_here = interface
            .is_some_and(|interface| interface.flags.contains(InterfaceFlags::NETFILTER_FIRST));
        if !is_here {
            return TC_ACT_SHOT;
        }
        // SAFETY: the context is valid. The frame was for the host at one of the bridge's
        // addresses; the kernel has compared it with only one of them.
        unsafe {
            (*self.skb).tc_index = 0;
            if (*self.skb).pkt_type != PACKET_HOST {
                bpf_skb_change_type(self.skb, PACKET_HOST);
            }
        }
        TC_ACT_UNSPEC
    }

    /// Makes the kernel receive the packet again at this interface, without netfilter's state
    /// (`skb_scrub_packet` in `net/core/skbuff.c`); returns the code for the kernel. A packet that
    /// is not for the host passes, but no further than the host.
    #[inline(always)]
    pub(crate) fn receive_anew(&self) -> i32 {
        if !self.is_to_host() {
            return TC_ACT_UNSPEC;
        }
        // SAFETY: the context is valid.
        unsafe {
            (*self.skb).tc_index = u32::from(RECEIVED_ANEW);
            bpf_redirect((*self.skb).ifindex, u64::from(BPF_F_INGRESS)) as i32
        }
    }

    /// Removes foreign marks from a packet that has just arrived from a guest.
    #[inline(always)]
    pub(crate) fn clear_marks(ctx: &TcContext) {
        // SAFETY: the kernel passes a valid context to every program.
        unsafe {
            if (*ctx.skb.skb).tc_index != 0 {
                (*ctx.skb.skb).tc_index = 0;
            }
        }
    }

    /// Sends the packet out by an interface; returns the code for the kernel.
    #[inline(always)]
    pub(crate) fn send(&self, redirect: Redirect) -> i32 {
        // SAFETY: the context is valid.
        unsafe {
            if redirect.flags.contains(NextHopFlags::HAS_EGRESS) {
                (*self.skb).tc_index = u32::from(FORWARDED);
            }
            bpf_redirect(redirect.port, 0) as i32
        }
    }

    /// Whether it is a frame for the address of the interface itself.
    #[inline(always)]
    pub(crate) fn is_to_host(&self) -> bool {
        // SAFETY: the context is valid.
        unsafe { (*self.skb).pkt_type == PACKET_HOST }
    }

    /// The packet, whatever it is.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// Whether another VLAN tag follows a priority tag (VLAN 0). The kernel removes the tags one by
    /// one, after all hooks, and receives the inner packet (`__netif_receive_skb_core`).
    #[inline(always)]
    pub(crate) fn is_hidden(ctx: &TcContext) -> bool {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel passes a valid context to every program.
        let protocol = unsafe { (*skb).protocol };
        let is_tag = protocol == u32::from(EtherType::Ieee8021q as u16)
            || protocol == u32::from(EtherType::Ieee8021ad as u16);
        // SAFETY: as above.
        is_tag && unsafe { (*skb).vlan_present != 0 && (*skb).vlan_tci & VLAN_ID == 0 }
    }

    /// Removes the packet's tag, if it has one.
    #[inline(always)]
    pub(crate) fn take_tag_off(&self) {
        // SAFETY: the context is valid; all packet pointers are derived again after this. The tag
        // of a received packet is stored beside it, and no tag follows it, so this cannot fail.
        unsafe {
            if (*self.skb).vlan_present != 0 {
                bpf_skb_vlan_pop(self.skb);
            }
        }
    }

    /// Whether the packet is of the family, whatever its tag.
    #[inline(always)]
    pub(crate) fn is_of_family(ctx: &TcContext) -> bool {
        // SAFETY: the kernel passes a valid context to every program.
        unsafe { (*ctx.skb.skb).protocol == u32::from(ETHER_TYPE as u16) }
    }

    /// The number of the VLAN in the packet's tag, 0 if it has none or only a priority.
    #[inline(always)]
    pub(crate) fn vlan(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.skb).vlan_tci & VLAN_ID }
    }

    /// The packet if it is of the family, with readable headers.
    ///
    /// A packet with a VLAN tag belongs to a VLAN interface on top of this one; only a priority tag
    /// does not count.
    #[inline(always)]
    pub(crate) fn of_family(ctx: &TcContext, l3: usize, hook: Hook) -> Option<Self> {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel passes a valid context to every program.
        let (tci, len) = unsafe { ((*skb).vlan_tci, (*skb).len) };
        if !Self::is_of_family(ctx) || tci & VLAN_ID != 0 {
            return None;
        }
        let this = Self { skb };
        match hook {
            Hook::Ingress if l3 != 0 => this.take_tag_off(),
            // SAFETY: as above.
            Hook::Port if unsafe { (*skb).vlan_present != 0 } => return None,
            Hook::Ingress | Hook::Port | Hook::Egress => {}
        }
        this.pull(l3 + Addr::HEADER_LEN, len);
        if let Some(header) = this.read::<{ Addr::HEADER_LEN }>(l3) {
            this.pull(family::headers_end(&header, l3), len);
        }
        Some(this)
    }

    /// Makes `wanted` bytes readable, or all `len` bytes.
    ///
    /// No more than that: the payload of a large TCP packet is in pages that the receiver uses
    /// directly, and moving a part of it costs more than everything else here.
    #[inline(always)]
    fn pull(&self, wanted: usize, len: u32) {
        let wanted = if wanted < len as usize {
            wanted
        } else {
            len as usize
        };
        if self.linear() < wanted {
            // SAFETY: the context is valid; all packet pointers are derived again after this.
            unsafe { bpf_skb_pull_data(self.skb, wanted as u32) };
        }
    }

    /// Index of the interface whose hook this is.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.skb).ifindex }
    }

    /// Payload of each segment in bytes, 0 if the packet needs no segmentation.
    ///
    /// In assembly: the compiler would keep a pointer to the field for several reads, and the
    /// verifier allows only pointers to the start of the context.
    #[inline(always)]
    fn segment_len(&self) -> u32 {
        #[cfg(target_arch = "bpf")]
        // SAFETY: the context is valid.
        unsafe {
            let segment_len: u32;
            core::arch::asm!(
                "{len} = *(u32 *)({skb} + {at})",
                len = out(wreg) segment_len,
                skb = in(reg) self.skb,
                at = const core::mem::offset_of!(__sk_buff, gso_size),
                options(nostack, readonly, pure),
            );
            segment_len
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: as above.
        unsafe {
            (*self.skb).gso_size
        }
    }

    #[inline(always)]
    fn linear(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is valid.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context is valid.
        unsafe { (*self.skb).data_end as usize }
    }

    /// A pointer to `N` bytes that lie within the packet.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        memory::within(self.data(), self.data_end(), offset)
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the context is valid.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        // SAFETY: the pointer was checked against the packet's end.
        self.at::<N>(offset)
            .map(|bytes| unsafe { memory::load(bytes) })
    }

    #[inline(always)]
    fn make_readable(&mut self, end: usize) {
        self.pull(end, self.len() as u32);
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        // SAFETY: as above.
        self.at::<N>(offset)
            .map(|place| unsafe { memory::store(place, bytes) })
    }

    #[inline(always)]
    fn write_unsummed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let before = self.read::<N>(offset)?;
        self.write(offset, bytes)?;
        let change = Diff::NONE.replace(checksum::sum(&before), checksum::sum(&bytes));
        // SAFETY: the context is valid. It fails if the kernel has no sum of the packet.
        unsafe { bpf_csum_update(self.skb, fold(change.0).into()) };
        Some(())
    }

    #[inline(always)]
    fn update_checksum(
        &mut self,
        offset: usize,
        kind: ChecksumKind,
        offload: Offload,
        pseudo: Diff,
        payload: Diff,
    ) -> Option<()> {
        let changes = u32::from(fold(pseudo.0)) << 16 | u32::from(fold(payload.0));
        Self::correct(self.skb, offset, kind, offload, changes).then_some(())
    }

    #[inline(always)]
    fn update_checksum_fast(
        &mut self,
        offset: usize,
        kind: ChecksumKind,
        offload: Offload,
        pseudo: Diff,
        payload: Diff,
    ) -> Option<()> {
        let sum = offload.sum_at(offset, self.segment_len() != 0);
        if sum != Sum::AsKernelKnows {
            let field = self.read::<2>(offset)?;
            return self.write(offset, kind.corrected(field, sum, pseudo, payload));
        }
        // For UDP the helper keeps 0, which means none, and writes a sum of 0 as 0xffff.
        let udp = match kind {
            ChecksumKind::Udp => u64::from(BPF_F_MARK_MANGLED_0),
            ChecksumKind::Tcp | ChecksumKind::Icmp => 0,
        };
        if kind != ChecksumKind::Icmp {
            self.replace(offset, pseudo, udp | u64::from(BPF_F_PSEUDO_HDR))?;
            family::follow_pseudo(self.skb, pseudo);
        }
        if payload == Diff::NONE {
            return Some(());
        }
        self.replace(offset, payload, udp)
    }

    #[inline(always)]
    fn sum(&self, offset: usize, end: usize) -> Option<u32> {
        // SAFETY: the context is valid; all packet pointers are derived again after this.
        unsafe { bpf_skb_pull_data(self.skb, end as u32) };
        let mut at = offset;
        let mut sum = 0;
        for _ in 0..CHUNKS {
            if at + CHUNK > end {
                break;
            }
            let chunk = self.at::<CHUNK>(at)?;
            // SAFETY: the chunk lies within the packet, and nothing is subtracted.
            sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, chunk.cast(), CHUNK as u32, sum) }
                as u32;
            at += CHUNK;
        }
        let mut total = u32::from(fold(sum));
        for _ in 0..CHUNK / size_of::<u16>() {
            if at + 2 > end {
                break;
            }
            total += u32::from(u16::from_ne_bytes(self.read::<2>(at)?));
            at += 2;
        }
        if at + 1 == end {
            // Read with the byte before: the verifier derives no bound from a check for one byte.
            let [_, last] = self.read::<2>(at - 1)?;
            total += u32::from(u16::from_ne_bytes([last, 0]));
            at += 1;
        }
        (at == end).then_some(total)
    }

    #[inline(always)]
    fn frames(&self) -> Frames {
        Frames {
            segment_len: self.segment_len(),
        }
    }

    #[inline(always)]
    fn offload(&self) -> Offload {
        offload::of(self.skb)
    }

    #[inline(always)]
    fn offload_fast(&self) -> Offload {
        offload::here(self.skb)
    }

    #[inline(always)]
    fn ingress_interface(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    fn was_decrypted(&self) -> bool {
        if !maps::has_xfrm() {
            return false;
        }
        // SAFETY: zeroes are a valid value of all fields.
        let mut state: bpf_xfrm_state = unsafe { core::mem::zeroed() };
        let len = size_of::<bpf_xfrm_state>() as u32;
        // SAFETY: context and answer are valid for as long as the call takes.
        unsafe { bpf_skb_get_xfrm_state(self.skb, 0, &mut state, len, 0) == 0 }
    }
}

impl QueuedPacket for Skb {
    #[inline(always)]
    fn was_queued(&mut self) -> bool {
        // SAFETY: the context is valid.
        unsafe {
            let was_queued = (*self.skb).tc_index == u32::from(QUEUED_MARK);
            if was_queued {
                (*self.skb).tc_index = 0;
            }
            was_queued
        }
    }

    #[inline(always)]
    fn queue<A: Address>(&self, slot: &mut Busy<'_, A>, key: &FragmentKey<A>) -> Option<()> {
        slot.set_key(key);
        let len = self.len() as u32;
        // SAFETY: so many bytes have room.
        unsafe { self.load_whole(slot.bytes_mut().as_mut_ptr(), len, QUEUE_BYTES as u32)? };
        slot.set_len(len);
        Some(())
    }

    #[inline(always)]
    fn save(&self) -> Option<()> {
        // SAFETY: a program saves one packet at a time, and borrows it no longer than this.
        let saved = unsafe { maps::saved_packet()? };
        let len = self.len() as u32;
        // SAFETY: so many bytes have room.
        unsafe { self.load_whole(saved.bytes.as_mut_ptr(), len, SAVED_BYTES as u32)? };
        saved.len = len;
        Some(())
    }

    #[inline(always)]
    fn send_queued<A: Address>(&mut self, slot: &Busy<'_, A>, key: &FragmentKey<A>) -> bool {
        if slot.key() != *key {
            return false;
        }
        let len = slot.frame_len();
        let bytes = slot.bytes().as_ptr();
        // SAFETY: so many bytes are there.
        if unsafe { self.become_other(bytes, len, QUEUE_BYTES as u32) }.is_some() {
            // SAFETY: the context is valid. A clone that cannot be sent is a fragment that is lost.
            unsafe {
                (*self.skb).tc_index = u32::from(QUEUED_MARK);
                bpf_clone_redirect(self.skb, (*self.skb).ifindex, u64::from(BPF_F_INGRESS));
                (*self.skb).tc_index = 0;
            }
        }
        true
    }

    #[inline(always)]
    fn restore(&mut self) {
        // SAFETY: as above.
        if let Some(saved) = unsafe { maps::saved_packet() } {
            let len = saved.len;
            // SAFETY: so many bytes are there.
            let _too_long =
                unsafe { self.become_other(saved.bytes.as_ptr(), len, SAVED_BYTES as u32) };
        }
    }
}

/// The longest packet that can be set aside in bytes. `bpf_skb_change_tail` makes none longer than
/// `BPF_SKB_MAX_LEN` (`net/core/filter.c`): four pages without `struct skb_shared_info`, which has
/// up to 768 bytes.
pub(crate) const SAVED_BYTES: usize = 15 << 10;

/// A packet that is set aside while queued fragments are sent.
#[repr(C)]
pub(crate) struct Saved {
    len: u32,
    /// Its room.
    pub(crate) bytes: [u8; SAVED_BYTES],
}

/// `len` if a packet can be that long and there is room for it.
///
/// Two comparisons, neither with 0: the compiler would merge them, and the verifier of Linux 6.1
/// does not conclude from "not 0" that the length is positive.
#[inline(always)]
pub(crate) fn packet_len(len: u32, room: u32) -> Option<u32> {
    if len > room {
        return None;
    }
    let mut len = u64::from(len);
    verifier_barrier(&mut len);
    if len < Ipv4Hdr::LEN as u64 {
        return None;
    }
    Some(len as u32)
}

impl Skb {
    /// Copies the whole packet to `place`, which has room for `room` bytes.
    ///
    /// # Safety
    ///
    /// `place` must have room for `room` bytes.
    #[inline(always)]
    unsafe fn load_whole(&self, place: *mut u8, len: u32, room: u32) -> Option<()> {
        let len = packet_len(len, room)?;
        // SAFETY: the context is valid, and `place` has room for `len` bytes.
        let result = unsafe { bpf_skb_load_bytes(self.skb.cast(), 0, place.cast(), len) };
        (result == 0).then_some(())
    }

    /// Replaces this packet by the `len` bytes at `place`.
    ///
    /// # Safety
    ///
    /// `place` must have `room` bytes.
    #[inline(always)]
    unsafe fn become_other(&self, place: *const u8, len: u32, room: u32) -> Option<()> {
        let len = packet_len(len, room)?;
        // SAFETY: the context is valid, and `place` has `len` bytes. All packet pointers are
        // derived again after this.
        unsafe {
            if bpf_skb_change_tail(self.skb, len, 0) != 0 {
                return None;
            }
            let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
            (bpf_skb_store_bytes(self.skb, 0, place.cast_mut().cast(), len, flags) == 0)
                .then_some(())
        }
    }

    /// See [`Packet::update_checksum`]: changes of the pseudo-header above those of the payload. (A
    /// separate function: otherwise each caller would contain it, and the verifier would check it
    /// there.)
    #[inline(never)]
    fn correct(
        skb: *mut __sk_buff,
        offset: usize,
        kind: ChecksumKind,
        offload: Offload,
        changes: u32,
    ) -> bool {
        let (pseudo, payload) = (Diff(changes >> 16), Diff(changes & 0xffff));
        Self { skb }
            .update_checksum_fast(offset, kind, offload, pseudo, payload)
            .is_some()
    }

    #[inline(always)]
    fn replace(&self, offset: usize, diff: Diff, flags: u64) -> Option<()> {
        let diff = u64::from(fold(diff.0));
        // SAFETY: the context is valid; all packet pointers are derived again after this. A size of
        // 0 in the flags makes the third argument unused and the fourth a difference.
        let result = unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, diff, flags) };
        (result == 0).then_some(())
    }
}
