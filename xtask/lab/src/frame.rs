//! A frame as a packet socket saw it.

use std::time::SystemTime;

use anyhow::Result;

use crate::packet::{self, Packet};
use crate::packet6::{self, Packet6};

/// A frame as a packet socket saw it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When the kernel saw it.
    pub at: SystemTime,
    /// Whether it left by the interface; otherwise it came in.
    pub outgoing: bool,
    /// Whether it begins with an Ethernet header; otherwise with the IP header.
    pub has_ethernet: bool,
    /// The VLAN of a tag that the kernel keeps beside the frame.
    pub vlan: Option<u16>,
    /// Whether the L4 checksum is still to be finished (CHECKSUM_PARTIAL).
    pub checksum_pending: bool,
    /// The frame, from the link layer up.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The IPv4 packet in the frame, in as many bytes as its header says; `None` when it holds
    /// something else.
    #[must_use]
    pub fn ipv4(&self) -> Option<&[u8]> {
        packet::ipv4_of(self.behind([0x08, 0x00])?)
    }

    /// The IPv6 packet in the frame, in as many bytes as its header says; `None` when it holds
    /// something else.
    #[must_use]
    pub fn ipv6(&self) -> Option<&[u8]> {
        packet6::ipv6_of(self.behind([0x86, 0xdd])?)
    }

    /// What follows the Ethernet header, with a tag or without, if its type is this one.
    fn behind(&self, ether_type: [u8; 2]) -> Option<&[u8]> {
        if !self.has_ethernet {
            return Some(&self.bytes);
        }
        match self.bytes.get(12..14)? {
            found if *found == ether_type => self.bytes.get(14..),
            [0x81, 0x00] if *self.bytes.get(16..18)? == ether_type => self.bytes.get(18..),
            _ => None,
        }
    }

    /// The IPv4 packet in the frame, taken apart.
    #[must_use]
    pub fn packet(&self) -> Option<Packet> {
        Packet::parse(self.ipv4()?)
    }

    /// The IPv6 packet in the frame, taken apart.
    #[must_use]
    pub fn packet6(&self) -> Option<Packet6> {
        Packet6::parse(self.ipv6()?)
    }

    /// Whether all checksums outside are right; see [`crate::checksums`]. True for frames
    /// without an IP packet.
    ///
    /// # Errors
    /// Says which one is wrong.
    pub fn checksums(&self) -> Result<()> {
        if let Some(bytes) = self.ipv4() {
            packet::checksums(bytes, self.checksum_pending)
        } else if let Some(bytes) = self.ipv6() {
            packet6::checksums(bytes, self.checksum_pending)
        } else {
            Ok(())
        }
    }
}
