//! What the measuring programs and `cargo xtask bench` tell each other, as it lies in BPF maps.
//!
//! Words of packets are kept as they lie in memory: the internet checksum comes out the same in
//! either byte order (RFC 1071 section 2), so nothing has to be swapped to add them up.

#![no_std]

use bytemuck::{Pod, Zeroable};

/// Words of 16 bits of a frame's headers: Ethernet (7), IPv4 without options (10), UDP (4).
pub const HEADER_WORDS: usize = 21;
/// Length of the headers in bytes.
pub const HEADER_BYTES: usize = 2 * HEADER_WORDS;
/// Length of a frame in bytes, without the checksum at its end; what follows the headers is 0.
pub const FRAME_BYTES: usize = 64;

/// First word of the IPv4 header.
pub const IP: usize = 7;
/// The IPv4 header's checksum.
pub const IP_CHECKSUM: usize = IP + 5;
/// The source address's first word.
pub const SOURCE: usize = IP + 6;
/// The destination address's first word.
pub const DESTINATION: usize = IP + 8;
/// First word of the UDP header, the source port.
pub const UDP: usize = IP + 10;
/// The UDP length.
pub const UDP_LENGTH: usize = UDP + 2;
/// The UDP checksum.
pub const UDP_CHECKSUM: usize = UDP + 3;

/// Words of the headers of an IPv6 frame: Ethernet (7), IPv6 (20), UDP (4).
pub const HEADER6_WORDS: usize = 31;
/// Length of these headers in bytes.
pub const HEADER6_BYTES: usize = 2 * HEADER6_WORDS;
/// Length of such a frame in bytes: its payload is that of [`FRAME_BYTES`].
pub const FRAME6_BYTES: usize = FRAME_BYTES + 20;

/// The next header and the hop limit.
pub const NEXT6: usize = IP + 3;
/// The IPv6 source address's first word.
pub const SOURCE6: usize = IP + 4;
/// The IPv6 destination address's first word.
pub const DESTINATION6: usize = IP + 12;
/// First word of the UDP header behind IPv6, the source port.
pub const UDP6: usize = IP + 20;

/// What the generator is to send by IPv6: flows that differ in their source port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic6 {
    /// Everything but the source port and the checksum, which are 0.
    pub header: [u16; HEADER6_WORDS],
    /// The first flow's port, in the machine's byte order.
    pub first_port: u16,
    /// Flows in all, 1 at the least: after the last one the first comes again.
    pub flows: u32,
    /// Sum of the UDP header's words and of the pseudo header's (RFC 8200 section 8.1).
    pub udp_sum: u32,
    /// The interface by which the frames leave.
    pub interface: u32,
}

/// What the sink is to receive by IPv6, in words as they lie in a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Expected6 {
    /// Source and destination address.
    pub addresses: [u16; 16],
    /// Destination port.
    pub port: u16,
}

/// What the generator is to send.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic {
    /// Everything but the address and port of the flow, and checksums, which are 0.
    pub header: [u16; HEADER_WORDS],
    /// The first flow's port, in the machine's byte order.
    pub first_port: u16,
    /// The first flow's address, in the machine's byte order.
    pub first_address: u32,
    /// Ports used with each address, 1 at the least.
    pub ports: u32,
    /// Flows in all, 1 at the least: after the last one the first comes again.
    pub flows: u32,
    /// Sum of the IPv4 header's words.
    pub ip_sum: u32,
    /// Sum of the UDP header's words and of the pseudo header's (RFC 768).
    pub udp_sum: u32,
    /// The interface by which the frames leave.
    pub interface: u32,
    /// 0 if the flow's address and port are the packet's source, 1 if its destination.
    pub is_answer: u32,
}

/// Where the generator is; one for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Progress {
    /// Flow of the next packet.
    pub flow: u32,
    /// Its port, counted from the first one.
    pub port: u32,
    /// Its address, counted from the first one.
    pub address: u32,
    /// Fills the gap, 0.
    pub reserved: u32,
    /// Packets made so far.
    pub made: u64,
}

/// What the sink is to receive, in words as they lie in a frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Expected {
    /// Source address; only the bits in `source_mask` count.
    pub source: [u16; 2],
    /// Which bits of the source address count.
    pub source_mask: [u16; 2],
    /// Destination address; only the bits in `destination_mask` count.
    pub destination: [u16; 2],
    /// Which bits of the destination address count.
    pub destination_mask: [u16; 2],
    /// Destination port; only the bits in `port_mask` count.
    pub port: u16,
    /// Which bits of the destination port count.
    pub port_mask: u16,
}

/// What the sink has received; one for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Received {
    /// Packets with the expected addresses and port, and both checksums right.
    pub right: u64,
    /// Other UDP packets.
    pub wrong: u64,
    /// Addresses and ports of the last wrong one, as they lie in a packet; then its checksums. Of
    /// IPv6, the last words of the addresses, the ports and the checksum.
    pub last_wrong: [u16; 8],
}

/// The two interfaces that the bare redirects join.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Joined {
    /// One interface's index.
    pub a: u32,
    /// The other's.
    pub b: u32,
}

impl Joined {
    /// Where what came in by `interface` goes.
    #[inline(always)]
    #[must_use]
    pub fn other(&self, interface: u32) -> u32 {
        if interface == self.a { self.b } else { self.a }
    }
}

/// The ones' complement of a sum of words: the internet checksum (RFC 1071).
#[inline(always)]
#[must_use]
pub fn checksum(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}
