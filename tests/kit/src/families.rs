//! The kit in each family. A test that takes its kit from `ipv4` holds for IPv4; a file of tests
//! that takes it from a name for either module can hold for both.

/// Makes a family's module for addresses of these bytes.
macro_rules! family {
    ($(#[$doc:meta])* $name:ident, $octets:ty, $host:path) => {
        $(#[$doc])*
        pub mod $name {
            use crate::{
                octets::Octets,
                packets::{self, At},
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

            /// The packet from all its fragments, in any order.
            pub fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
                packets::reassemble::<Ip>(fragments)
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
