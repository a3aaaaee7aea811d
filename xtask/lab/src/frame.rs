//! A frame as a packet socket saw it.

use std::time::SystemTime;

use anyhow::Result;

use crate::packet::{self, Packet};

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
        packet::ipv4_of(if self.has_ethernet {
            match self.bytes.get(12..14)? {
                [0x08, 0x00] => self.bytes.get(14..)?,
                [0x81, 0x00] if self.bytes.get(16..18)? == [0x08, 0x00] => self.bytes.get(18..)?,
                _ => return None,
            }
        } else {
            &self.bytes
        })
    }

    /// The IPv4 packet in the frame, taken apart.
    #[must_use]
    pub fn packet(&self) -> Option<Packet> {
        Packet::parse(self.ipv4()?)
    }

    /// Whether all checksums outside are right; see [`crate::checksums`]. True for frames
    /// without an IPv4 packet.
    ///
    /// # Errors
    /// Says which one is wrong.
    pub fn checksums(&self) -> Result<()> {
        self.ipv4().map_or(Ok(()), |bytes| {
            packet::checksums(bytes, self.checksum_pending)
        })
    }
}
