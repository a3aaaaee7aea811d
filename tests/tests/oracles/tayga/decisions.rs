//! Where natbpf's translation means to differ from tayga's: every difference has one of these
//! names, or the test fails.

use kit::octets::Octets;
use nat_common::wire::protocol::{TCP, UDP};

use super::packets::Family;
use super::{Outcome, TAYGA, V4, V6};

/// A difference that is meant.
pub(super) struct Decision {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
    /// Makes the same of both results, if it is what they differ in: of the packet, and what tayga
    /// and natbpf made of it.
    pub(super) explains: fn(&[u8], &mut Outcome, &mut Outcome),
}

pub(super) const DECISIONS: &[Decision] = &[
    Decision {
        name: "NothingIsNotTranslated",
        why: "An IPv6 packet without anything behind its header has the length of a packet before \
              segmentation (RFC 2675): natbpf drops it.",
        explains: |packet, tayga, natbpf| {
            if packet[0] >> 4 == 6 && packet.len() == 40 && natbpf.is_empty() {
                tayga.clear();
            }
        },
    },
    Decision {
        name: "TheKernelCountsHops",
        why: "tayga is a router and says when a packet's hops have ended; natbpf's translation is \
              between two routers, the kernel's, which say so.",
        explains: |packet, tayga, natbpf| {
            let hops = if packet[0] >> 4 == 4 { 8 } else { 7 };
            if packet[hops] < 2 {
                tayga.clear();
                natbpf.clear();
            }
        },
    },
    Decision {
        name: "SmallPacketsMayBeFragmented",
        why: "Of an IPv4 packet of up to 1260 bytes, DF is 0 and there is an identification (RFC \
              7915 section 5.1, new since RFC 6145, which tayga follows).",
        explains: |_packet, tayga, natbpf| {
            let ([theirs], [ours]) = (&mut tayga[..], &natbpf[..]) else {
                return;
            };
            if ours[0] != 0x45 {
                return;
            }
            may_be_fragmented(theirs, ours);
            if ours[9] == 1 && ERRORS.contains(&ours[20]) && ours.len() >= 48 {
                // The quoted packet's header has a sum of its own: that of the error stays.
                may_be_fragmented(&mut theirs[28..], &ours[28..]);
            }
        },
    },
    Decision {
        name: "ADatagramMayHaveNoChecksum",
        why: "A datagram without a checksum gets one in IPv6 (RFC 7915 section 4.5). One of IPv6 \
              stays without (RFC 6935). tayga drops both.",
        explains: |packet, tayga, natbpf| {
            let is_unsummed = match packet[0] >> 4 {
                4 => packet[9] == UDP && packet[26..28] == [0, 0],
                _ => packet[6] == UDP && packet[46..48] == [0, 0],
            };
            if is_unsummed && tayga.is_empty() {
                natbpf.clear();
            }
        },
    },
    Decision {
        name: "AllErrorsOfRfc7915",
        why: "RFC 7915 (sections 4.2 and 5.2) has counterparts of \"address unreachable\", of \
              pointers in \"parameter problem\" and of an MTU of 0 for IPv6: tayga drops them.",
        explains: |packet, tayga, natbpf| {
            let is_unknown = matches!(
                (packet[0] >> 4, error(packet)),
                (4, Some([12, 0, ..]))
                    | (6, Some([1, 3, ..] | [4, 0, ..] | [2, 0, _, _, 0, 0, 0, 0]))
            );
            if is_unknown && tayga.is_empty() {
                natbpf.clear();
            }
        },
    },
    Decision {
        name: "AnMtuIsTheRouters",
        why: "An MTU is that of the router, 20 more or less, but one that the family has: tayga \
              takes its device's if that is less. natbpf's kernel tells its own MTUs itself.",
        explains: |packet, tayga, natbpf| {
            let (field, is_other) = match (packet[0] >> 4, error(packet)) {
                (4, Some([3, 4, _, _, _, _, a, b])) => (44, u16::from_be_bytes([*a, *b]) > 1480),
                (6, Some([2, 0, _, _, a, b, c, d])) => {
                    let mtu = u32::from_be_bytes([*a, *b, *c, *d]);
                    (24, !(88..=1500).contains(&mtu))
                }
                _ => return,
            };
            for packet in tayga.iter_mut().chain(natbpf).filter(|_| is_other) {
                // With the error's checksum before it.
                packet[field - 2..field].fill(0);
                packet[field..field + 4].fill(0);
            }
        },
    },
    Decision {
        name: "RoutersNeedNoCounterpart",
        why: "An error by a router without an IPv4 address comes from an address for all of them \
              (RFC 6791): tayga drops it.",
        explains: |packet, tayga, natbpf| {
            if packet[0] >> 4 == 6 && packet[8..24] == V6::ROUTER && tayga.is_empty() {
                natbpf.retain(|packet| packet[12..16] != TAYGA);
            }
        },
    },
    Decision {
        name: "EightBytesAreEnough",
        why: "A router quotes at least 8 bytes behind the header (RFC 792), or less of a shorter \
              packet: tayga drops an error that does not quote the transport's checksum.",
        explains: |packet, tayga, natbpf| {
            let Some(quote) = quote(packet) else {
                return;
            };
            let header = if packet[0] >> 4 == 4 {
                V4::HEADER
            } else {
                V6::HEADER
            };
            let protocol = if header == V4::HEADER { 9 } else { 6 };
            let needed = match quote.get(protocol) {
                Some(&TCP) => 20,
                Some(_) => 8,
                None => return,
            };
            if tayga.is_empty() && quote.len() < header + needed {
                natbpf.clear();
            }
        },
    },
    Decision {
        name: "TheKernelFragments",
        why: "A packet without DF is sent on as a whole, and the link's router says that it is too \
              big for that link; tayga cuts what is longer than 1280 bytes (RFC 7915 section 4 \
              leaves the size to the operator).",
        explains: |packet, tayga, natbpf| {
            let is_whole = natbpf.len() == 1 && natbpf[0].len() > 1280;
            if is_whole && packet[0] >> 4 == 4 && packet[6] & 0x40 == 0 && tayga.len() > 1 {
                let parts: Vec<&[u8]> = tayga.iter().map(Vec::as_slice).collect();
                *tayga = vec![V6::join(&parts)];
            }
        },
    },
];

/// The header of an error.
fn error(packet: &[u8]) -> Option<&[u8; 8]> {
    let (is_icmp, header) = match packet[0] >> 4 {
        4 => (packet[9] == <V4 as Octets>::ICMP, V4::HEADER),
        _ => (packet[6] == <V6 as Octets>::ICMP, V6::HEADER),
    };
    let error: &[u8; 8] = packet.get(header..)?.first_chunk()?;
    let is_error = match packet[0] >> 4 {
        4 => ERRORS.contains(&error[0]),
        _ => error[0] < 128,
    };
    (is_icmp && is_error).then_some(error)
}

/// What an error quotes.
fn quote(packet: &[u8]) -> Option<&[u8]> {
    error(packet)?;
    let header = if packet[0] >> 4 == 4 {
        V4::HEADER
    } else {
        V6::HEADER
    };
    packet.get(header + 8..)
}

/// Types of ICMP errors for IPv4.
const ERRORS: [u8; 3] = [3, 11, 12];

/// Takes DF out of a packet that natbpf sends without, if that is all.
fn may_be_fragmented(theirs: &mut [u8], ours: &[u8]) {
    if ours[6..8] == [0, 0] && theirs.get(4..8) == Some(&[0, 0, 0x40, 0]) {
        theirs[6] = 0;
        V4::correct_header(theirs);
    }
}
