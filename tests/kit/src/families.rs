//! The kit in each family. A test that takes its kit from `ipv4` holds for IPv4; a file of tests
//! that takes it from a name for either module can hold for both.

/// Makes a family's module for addresses of these bytes.
macro_rules! family {
    ($(#[$doc:meta])* $name:ident, $octets:ty, $host:path) => {
        $(#[$doc])*
        pub mod $name {
            use std::ops::Range;

            use crate::{
                octets::Octets,
                packets::{self, At, ETHERNET},
                tables, world,
            };

            pub use $host as host;

            /// The bytes of an address.
            pub type Ip = $octets;
            /// An address in the data plane.
            pub type Addr = <Ip as Octets>::Address;
            /// The host.
            pub type World = world::World<Ip>;
            /// The tables of its data plane.
            pub type MemoryTables = tables::MemoryTables<Ip>;
            /// A packet that is being made.
            pub type Make = packets::Make<Ip>;
            /// What a receiver sees of a packet.
            pub type Seen = packets::Seen<Ip>;

            /// Protocol number of ICMP.
            pub const ICMP: u8 = <Ip as Octets>::ICMP;
            /// Length of a header without options or extension headers in bytes.
            pub const HEADER: usize = <Ip as Octets>::HEADER;

            /// Type of the error that a destination is unreachable.
            pub const UNREACHABLE: u8 = <Ip as Octets>::UNREACHABLE;
            /// Type of the error that the last hop is behind the packet.
            pub const TIME_EXCEEDED: u8 = <Ip as Octets>::TIME_EXCEEDED;
            /// Type of the error that a header is wrong.
            pub const PARAMETER_PROBLEM: u8 = <Ip as Octets>::PARAMETER_PROBLEM;
            /// Type and code of the error that a packet is too big.
            pub const TOO_BIG: [u8; 2] = <Ip as Octets>::TOO_BIG;
            /// Type of a redirect.
            pub const REDIRECT: u8 = <Ip as Octets>::REDIRECT;
            /// Length of all headers before a fragment's bytes.
            pub const FRAGMENT_HEADER: usize = <Ip as Octets>::FRAGMENT_HEADER;
            /// The most bytes behind a header without options.
            pub const LONGEST: usize = <Ip as Octets>::LONGEST;
            /// Whether this is IPv6, where what is expected differs.
            pub const IS_IPV6: bool = size_of::<Ip>() == 16;
            /// Bits of an address.
            pub const ADDRESS_BITS: u32 = 8 * size_of::<Ip>() as u32;
            /// Where a frame has its hops: TTL or hop limit.
            pub const HOPS: usize = ETHERNET + <Ip as Octets>::HOPS;
            /// Where a frame has the length that its header says.
            pub const LENGTH: usize = ETHERNET + <Ip as Octets>::LENGTH;
            /// Where a frame has its source address.
            pub const SOURCE: Range<usize> = place_of(0);
            /// Where a frame has its destination address.
            pub const DESTINATION: Range<usize> = place_of(1);
            /// Where the frame of a datagram has the datagram's checksum.
            pub const UDP_CHECKSUM: Range<usize> = ETHERNET + HEADER + 6..ETHERNET + HEADER + 8;

            const fn place_of(number: usize) -> Range<usize> {
                let start = ETHERNET + <Ip as Octets>::SOURCE + number * size_of::<Ip>();
                start..start + size_of::<Ip>()
            }

            /// The host's own address on the uplink.
            pub const PUBLIC: Ip = host([19, 19, 8, 10]);
            /// A pool of four addresses that the host does not hold.
            pub const POOL: [Ip; 2] = [host([19, 19, 8, 12]), host([19, 19, 8, 15])];

            /// A guest in the first network.
            pub const C1: Ip = host([172, 22, 161, 170]);
            /// Another guest in the first network.
            pub const C2: Ip = host([172, 22, 161, 171]);
            /// In the other network.
            pub const C3: Ip = host([10, 50, 0, 7]);

            /// The first address of a remote with two.
            pub const S1A: Ip = host([198, 51, 100, 2]);
            /// Its second address.
            pub const S1B: Ip = host([198, 51, 100, 3]);
            /// Another remote.
            pub const S2: Ip = host([203, 0, 113, 2]);

            /// The address in the data plane of these bytes.
            pub fn addr(address: Ip) -> Addr {
                address.address()
            }

            /// Reads a packet that is no fragment and checks all its checksums.
            pub fn read(packet: &[u8]) -> Seen {
                packets::read(packet)
            }

            /// Source and destination of a packet whose checksums are all right.
            pub fn ends(packet: &[u8]) -> (At<Ip>, At<Ip>) {
                read(packet).ends()
            }

            /// A packet cut into fragments with so many bytes of payload each, a multiple of eight.
            pub fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
                packets::fragments::<Ip>(packet, size)
            }

            /// A fragment of a packet with these bytes of it, which start so many bytes behind its
            /// header, a multiple of eight.
            pub fn piece_of(packet: &[u8], start: usize, part: &[u8], more: bool) -> Vec<u8> {
                packets::piece_of::<Ip>(packet, start, part, more)
            }

            /// The packet from all its fragments, in any order.
            pub fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
                packets::reassemble::<Ip>(fragments)
            }

            /// The source of a packet from its header on.
            pub fn sender(packet: &[u8]) -> Ip {
                Ip::at(packet, Ip::SOURCE)
            }

            /// A fragment at another block of eight bytes.
            pub fn placed(fragment: &[u8], block: u16, more_fragments: bool) -> Vec<u8> {
                packets::placed::<Ip>(fragment, block, more_fragments)
            }

            /// The identification of a fragment.
            pub fn fragment_id(fragment: &[u8]) -> u32 {
                Ip::fragment_id(&fragment[ETHERNET..])
            }

            /// The frame with the checksum that its header without options should have.
            pub fn corrected(mut frame: Vec<u8>) -> Vec<u8> {
                Ip::correct_header(&mut frame[ETHERNET..]);
                frame
            }

            /// A mask of so many bits behind what all addresses of the tests have in common.
            pub fn mask(len: u32) -> Addr {
                let mut bytes = Ip::default();
                for bit in 0..(Ip::PREFIX_BITS + len) as usize {
                    bytes[bit / 8] |= 0x80 >> (bit % 8);
                }
                addr(bytes)
            }

            /// Whether an address is a guest's.
            pub fn is_inside(address: Ip) -> bool {
                world::network_of(address).is_some()
            }

            /// Checks that no packet on the uplink shows a guest's address.
            #[track_caller]
            pub fn assert_hidden(packet: &[u8]) {
                let seen = read(packet);
                assert!(!is_inside(seen.source.0), "{seen:?}");
                assert!(!is_inside(seen.destination.0), "{seen:?}");
            }
        }
    };
}

family! {
    /// The kit over IPv4 packets.
    ipv4, [u8; 4], crate::octets::ipv4
}

family! {
    /// The kit over IPv6 packets.
    ipv6, [u8; 16], crate::octets::ipv6
}
