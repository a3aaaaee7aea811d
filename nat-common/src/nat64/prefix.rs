//! IPv4 addresses within an IPv6 prefix (RFC 6052).

use bytemuck::{Pod, Zeroable};

use crate::wire::address::{Addr4, Addr6, Address as _};

/// An IPv6 prefix of 96 bits whose last 32 bits are an IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Prefix(pub [u32; 3]);

impl Prefix {
    /// 64:ff9b::/96 (RFC 6052 section 2.1).
    pub const WELL_KNOWN: Self = Self([0x0064_ff9b_u32.to_be(), 0, 0]);

    /// The address that stands for an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn address_of(self, address: Addr4) -> Addr6 {
        let [a, b, c] = self.0;
        Addr6::of_words([a, b, c, u32::from_ne_bytes(address.0)])
    }

    /// The IPv4 address for which an address stands; `None` outside of the prefix.
    #[inline(always)]
    #[must_use]
    pub const fn ipv4_in(self, address: Addr6) -> Option<Addr4> {
        let ([a, b, c], [d, e, f, last]) = (self.0, address.words());
        if a != d || b != e || c != f {
            return None;
        }
        Some(Addr4(last.to_ne_bytes()))
    }

    /// Whether a guest may send to an IPv4 address by this prefix. The well-known one stands for
    /// no address that only a local network has (RFC 6052 section 3.1).
    #[inline(always)]
    #[must_use]
    pub fn reaches(self, address: Addr4) -> bool {
        let is_local = address.is_private() || matches!(address.0, [169, 254, ..]);
        address.is_valid_source() && !(is_local && self == Self::WELL_KNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x6_1_an_address_stands_for_an_ipv4_address_as_rfc_6052_says() {
        let server = Addr4([192, 0, 2, 33]);
        let own = Prefix([0x2001_0db8_u32.to_be(), 0x0122_0344_u32.to_be(), 0]);
        for (prefix, text) in [
            (Prefix::WELL_KNOWN, "64:ff9b::192.0.2.33"),
            (own, "2001:db8:122:344::192.0.2.33"),
        ] {
            let address: core::net::Ipv6Addr = text.parse().unwrap();
            let address = Addr6::new(address.octets());
            assert_eq!(prefix.address_of(server), address);
            assert_eq!(prefix.ipv4_in(address), Some(server));
        }
        let foreign = own.address_of(server);
        assert_eq!(Prefix::WELL_KNOWN.ipv4_in(foreign), None);
    }

    #[test]
    fn x6_5_the_well_known_prefix_does_not_reach_local_networks() {
        let own = Prefix([0x2001_0db8_u32.to_be(), 0, 0]);
        for local in [
            [10, 0, 0, 1],
            [192, 168, 1, 1],
            [169, 254, 169, 254],
            [100, 64, 0, 1],
        ] {
            assert!(!Prefix::WELL_KNOWN.reaches(Addr4(local)));
            assert!(own.reaches(Addr4(local)));
        }
        for nowhere in [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255; 4]] {
            assert!(!Prefix::WELL_KNOWN.reaches(Addr4(nowhere)));
            assert!(!own.reaches(Addr4(nowhere)));
        }
        assert!(Prefix::WELL_KNOWN.reaches(Addr4([203, 0, 113, 9])));
    }
}
