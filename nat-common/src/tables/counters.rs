//! `COUNTERS`: packets, bytes and sessions of each rule.

use crate::{
    drop_reason::DropReason,
    headers::{offloads::segment_headers, parsed::Parsed},
    wire::{address::Address, packet::Packet},
};

/// Value of `COUNTERS`, per CPU, at the index of the rule's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RuleCounters {
    /// Packets from the uplink to the guests.
    pub packets_in: u64,
    /// Bytes of those packets from the IP header on.
    pub bytes_in: u64,
    /// Packets from the guests to the uplink.
    pub packets_out: u64,
    /// Bytes of those packets from the IP header on.
    pub bytes_out: u64,
    /// Sessions opened.
    pub opened: u64,
    /// Sessions ended.
    pub closed: u64,
}

crate::map_layout!(RuleCounters, 48);

/// Number of the counters for packets without a rule, which are never shown.
pub const NO_RULE: u32 = 0;

impl<A: Address> Parsed<A> {
    /// What is counted, as frames on a wire.
    #[inline(always)]
    pub fn traffic<P: Packet>(&self, packet: &P, is_in: bool) -> Traffic {
        let (packets, bytes) = self.frames(packet);
        Traffic {
            is_in,
            packets,
            bytes,
        }
    }

    /// How many frames a packet is on the wire, and their bytes from the IP header on.
    #[inline(always)]
    pub(crate) fn frames<P: Packet>(&self, packet: &P) -> (u64, u64) {
        let bytes = self.header.total_len as u64;
        let segment = u64::from(packet.frames().segment_len);
        if segment == 0 {
            return (1, bytes);
        }
        let headers = segment_headers(packet, self).unwrap_or_else(|| self.headers_len()) as u64;
        let packets = bytes.saturating_sub(headers).div_ceil(segment).max(1);
        (packets, bytes + (packets - 1) * headers)
    }
}

/// What is counted for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Whether it goes to the guests.
    pub is_in: bool,
    /// Frames.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

/// The tables of counters.
pub trait Counters {
    /// Counts a packet under a rule.
    fn count(&self, rule: u32, traffic: Traffic);
    /// Counts a dropped packet.
    fn count_drop(&self, reason: DropReason);
    /// Counts a session that was opened.
    fn count_opened(&self, rule: u32);
    /// Counts a session that has ended.
    fn count_closed(&self, rule: u32);
}
