//! ICMP messages of one family as those of the other (RFC 7915 sections 4.2 and 5.2).

use network_types::icmp::Icmpv4Hdr;

use crate::wire::protocol::{ICMP, ICMPV6};

/// Length of a message's header in bytes, in both families.
pub(super) const ICMP_LEN: usize = Icmpv4Hdr::LEN;

/// An echo request and its answer, in each family.
pub(super) const ECHO_REQUEST_4: u8 = 8;
pub(super) const ECHO_REPLY_4: u8 = 0;
pub(super) const ECHO_REQUEST_6: u8 = 128;
pub(super) const ECHO_REPLY_6: u8 = 129;

/// Errors of IPv4 (RFC 792).
const UNREACHABLE_4: u8 = 3;
const TIME_EXCEEDED_4: u8 = 11;
const PARAMETER_PROBLEM_4: u8 = 12;

/// Errors of IPv6 (RFC 4443).
const UNREACHABLE_6: u8 = 1;
const PACKET_TOO_BIG: u8 = 2;
const TIME_EXCEEDED_6: u8 = 3;
const PARAMETER_PROBLEM_6: u8 = 4;

/// Codes of "unreachable" for IPv4: fragmentation needed, and administratively prohibited.
const PROTOCOL_UNREACHABLE: u8 = 2;
const FRAGMENTATION_NEEDED: u8 = 4;

/// How much longer an IPv6 header is than an IPv4 header, in bytes.
const DIFFERENCE: u32 = 20;

/// The smallest MTU of an IPv6 link (RFC 8200 section 5), and of an IPv4 link (RFC 791).
pub(super) const MIN_MTU_6: u32 = 1280;
const MIN_MTU_4: u32 = 68;

/// Where an IPv6 header has its next header.
const NEXT_HEADER: u32 = 6;

/// Likely MTUs, for routers that do not name theirs (RFC 1191 section 7), down to the smallest of
/// IPv6.
const PLATEAUS: [u32; 7] = [32000, 17914, 8166, 4352, 2002, 1492, 1280];

/// An error's type, code, and the four bytes behind its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Error {
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) rest: [u8; 4],
}

/// The type of an echo message in the other family; `protocol` is the ICMP of its own.
#[inline(always)]
pub(super) const fn echo(protocol: u8, icmp_type: u8) -> Option<u8> {
    match (protocol, icmp_type) {
        (ICMP, ECHO_REQUEST_4) => Some(ECHO_REQUEST_6),
        (ICMP, ECHO_REPLY_4) => Some(ECHO_REPLY_6),
        (ICMPV6, ECHO_REQUEST_6) => Some(ECHO_REQUEST_4),
        (ICMPV6, ECHO_REPLY_6) => Some(ECHO_REPLY_4),
        _ => None,
    }
}

/// An error of IPv6 as one of IPv4; `None` if IPv4 has none like it.
#[inline(always)]
pub(super) const fn error_to_ipv4(error: Error) -> Option<Error> {
    let number = u32::from_be_bytes(error.rest);
    let (kind, code, rest) = match (error.kind, error.code) {
        (UNREACHABLE_6, 0 | 2 | 3) => (UNREACHABLE_4, 1, 0),
        (UNREACHABLE_6, 1) => (UNREACHABLE_4, 10, 0),
        (UNREACHABLE_6, 4) => (UNREACHABLE_4, 3, 0),
        (PACKET_TOO_BIG, _) => (UNREACHABLE_4, FRAGMENTATION_NEEDED, mtu_of_ipv4(number)),
        (TIME_EXCEEDED_6, code) => (TIME_EXCEEDED_4, code, 0),
        (PARAMETER_PROBLEM_6, 0) => match pointer_to_ipv4(number) {
            Some(pointer) => (PARAMETER_PROBLEM_4, 0, pointer << 24),
            None => return None,
        },
        (PARAMETER_PROBLEM_6, 1) => (UNREACHABLE_4, PROTOCOL_UNREACHABLE, 0),
        _ => return None,
    };
    let rest = rest.to_be_bytes();
    Some(Error { kind, code, rest })
}

/// An error of IPv4 as one of IPv6; `None` if IPv6 has none like it. `quoted_len` is the length of
/// the quoted packet in bytes, as its header says.
#[inline(always)]
pub(super) const fn error_to_ipv6(error: Error, quoted_len: u32) -> Option<Error> {
    let [pointer, _, mtu_upper, mtu_lower] = error.rest;
    let (kind, code, rest) = match (error.kind, error.code) {
        (UNREACHABLE_4, 0 | 1 | 5..=8 | 11 | 12) => (UNREACHABLE_6, 0, 0),
        (UNREACHABLE_4, PROTOCOL_UNREACHABLE) => (PARAMETER_PROBLEM_6, 1, NEXT_HEADER),
        (UNREACHABLE_4, 3) => (UNREACHABLE_6, 4, 0),
        (UNREACHABLE_4, FRAGMENTATION_NEEDED) => {
            let mtu = u16::from_be_bytes([mtu_upper, mtu_lower]);
            (PACKET_TOO_BIG, 0, mtu_of_ipv6(mtu as u32, quoted_len))
        }
        (UNREACHABLE_4, 9 | 10 | 13 | 15) => (UNREACHABLE_6, 1, 0),
        (TIME_EXCEEDED_4, code) => (TIME_EXCEEDED_6, code, 0),
        (PARAMETER_PROBLEM_4, 0 | 2) => match pointer_to_ipv6(pointer) {
            Some(pointer) => (PARAMETER_PROBLEM_6, 0, pointer),
            None => return None,
        },
        _ => return None,
    };
    let rest = rest.to_be_bytes();
    Some(Error { kind, code, rest })
}

#[inline(always)]
const fn mtu_of_ipv4(mtu: u32) -> u32 {
    let mtu = mtu.saturating_sub(DIFFERENCE);
    if mtu < MIN_MTU_4 {
        MIN_MTU_4
    } else if mtu > u16::MAX as u32 {
        u16::MAX as u32
    } else {
        mtu
    }
}

/// Of a router that names no MTU, the greatest likely one that the quoted packet was too long for.
#[inline(always)]
const fn mtu_of_ipv6(mtu: u32, quoted_len: u32) -> u32 {
    let mtu = match mtu {
        0 => plateau(quoted_len),
        mtu => mtu + DIFFERENCE,
    };
    if mtu < MIN_MTU_6 { MIN_MTU_6 } else { mtu }
}

#[inline(always)]
const fn plateau(quoted_len: u32) -> u32 {
    let mut at = 0;
    while at < PLATEAUS.len() {
        if PLATEAUS[at] < quoted_len {
            return PLATEAUS[at] + DIFFERENCE;
        }
        at += 1;
    }
    MIN_MTU_6
}

/// The place in an IPv4 header of what an IPv6 header has at `pointer` (RFC 7915 figure 6).
#[inline(always)]
const fn pointer_to_ipv4(pointer: u32) -> Option<u32> {
    match pointer {
        0 | 1 => Some(pointer),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}

/// The place in an IPv6 header of what an IPv4 header has at `pointer` (RFC 7915 figure 3).
#[inline(always)]
const fn pointer_to_ipv6(pointer: u8) -> Option<u32> {
    match pointer {
        0 => Some(0),
        1 => Some(1),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn error(kind: u8, code: u8, rest: u32) -> Error {
        let rest = rest.to_be_bytes();
        Error { kind, code, rest }
    }

    #[test]
    fn x6_2_every_error_of_ipv6_has_the_counterpart_of_rfc_7915() {
        let rows = [
            (error(1, 0, 0), Some(error(3, 1, 0))),
            (error(1, 1, 0), Some(error(3, 10, 0))),
            (error(1, 2, 0), Some(error(3, 1, 0))),
            (error(1, 3, 0), Some(error(3, 1, 0))),
            (error(1, 4, 0), Some(error(3, 3, 0))),
            (error(1, 5, 0), None),
            (error(2, 0, 1420), Some(error(3, 4, 1400))),
            (error(2, 0, 10), Some(error(3, 4, 68))),
            (error(2, 0, 100_000), Some(error(3, 4, 65535))),
            (error(3, 0, 0), Some(error(11, 0, 0))),
            (error(3, 1, 0), Some(error(11, 1, 0))),
            (error(4, 0, 0), Some(error(12, 0, 0))),
            (error(4, 0, 1), Some(error(12, 0, 1 << 24))),
            (error(4, 0, 2), None),
            (error(4, 0, 4), Some(error(12, 0, 2 << 24))),
            (error(4, 0, 5), Some(error(12, 0, 2 << 24))),
            (error(4, 0, 6), Some(error(12, 0, 9 << 24))),
            (error(4, 0, 7), Some(error(12, 0, 8 << 24))),
            (error(4, 0, 8), Some(error(12, 0, 12 << 24))),
            (error(4, 0, 23), Some(error(12, 0, 12 << 24))),
            (error(4, 0, 24), Some(error(12, 0, 16 << 24))),
            (error(4, 0, 39), Some(error(12, 0, 16 << 24))),
            (error(4, 0, 40), None),
            (error(4, 1, 6), Some(error(3, 2, 0))),
            (error(4, 2, 0), None),
            (error(5, 0, 0), None),
            (error(135, 0, 0), None),
        ];
        for (from, to) in rows {
            assert_eq!(error_to_ipv4(from), to, "{from:?}");
        }
    }

    #[test]
    fn x6_2_every_error_of_ipv4_has_the_counterpart_of_rfc_7915() {
        let rows = [
            (error(3, 0, 0), Some(error(1, 0, 0))),
            (error(3, 1, 0), Some(error(1, 0, 0))),
            (error(3, 2, 0), Some(error(4, 1, 6))),
            (error(3, 3, 0), Some(error(1, 4, 0))),
            (error(3, 4, 1400), Some(error(2, 0, 1420))),
            (error(3, 4, 0xabcd_0578), Some(error(2, 0, 1420))),
            (error(3, 4, 600), Some(error(2, 0, 1280))),
            (error(3, 5, 0), Some(error(1, 0, 0))),
            (error(3, 8, 0), Some(error(1, 0, 0))),
            (error(3, 9, 0), Some(error(1, 1, 0))),
            (error(3, 10, 0), Some(error(1, 1, 0))),
            (error(3, 11, 0), Some(error(1, 0, 0))),
            (error(3, 12, 0), Some(error(1, 0, 0))),
            (error(3, 13, 0), Some(error(1, 1, 0))),
            (error(3, 14, 0), None),
            (error(3, 15, 0), Some(error(1, 1, 0))),
            (error(3, 16, 0), None),
            (error(4, 0, 0), None),
            (error(5, 1, 0), None),
            (error(11, 0, 0), Some(error(3, 0, 0))),
            (error(11, 1, 0), Some(error(3, 1, 0))),
            (error(12, 0, 0), Some(error(4, 0, 0))),
            (error(12, 0, 3 << 24), Some(error(4, 0, 4))),
            (error(12, 0, 4 << 24), None),
            (error(12, 0, 8 << 24), Some(error(4, 0, 7))),
            (error(12, 0, 9 << 24), Some(error(4, 0, 6))),
            (error(12, 0, 10 << 24), None),
            (error(12, 0, 15 << 24), Some(error(4, 0, 8))),
            (error(12, 2, 16 << 24), Some(error(4, 0, 24))),
            (error(12, 1, 0), None),
            (error(12, 0, 20 << 24), None),
        ];
        for (from, to) in rows {
            assert_eq!(error_to_ipv6(from, 1500), to, "{from:?}");
        }
    }

    #[test]
    fn x6_2_a_router_without_an_mtu_gets_the_next_plateau() {
        let rows = [
            (65535, 32020),
            (32000, 17934),
            (1500, 1512),
            (1492, 1300),
            (1280, 1280),
            (576, 1280),
        ];
        for (quoted_len, mtu) in rows {
            let error = error_to_ipv6(error(3, 4, 0), quoted_len).unwrap();
            assert_eq!(u32::from_be_bytes(error.rest), mtu, "{quoted_len}");
        }
    }
}
