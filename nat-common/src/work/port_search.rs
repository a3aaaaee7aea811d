//! Choice of an external port (RFC 4787 sections 4.2 and 4.3, RFC 6056).
//!
//! The internal port is kept when it is free. Otherwise candidates come from the same band (system
//! ports or the others) from an unpredictable start, by a stride that visits every port of a small
//! range once, so a search is short at any fill level, and complete if the range is small.

use crate::wire::{
    address::Port,
    protocol::{ICMP, ICMPV6},
};

/// How many candidates are tried before the flow is refused.
pub const MAX_ATTEMPTS: u32 = 128;

/// First port that is not a system port (RFC 6335 section 6).
const FIRST_USER_PORT: u16 = 1024;

/// First port by which guests leave from an address whose every port a forward takes: above the
/// ports that Linux uses for connections by default, where hardly any service listens.
const FIRST_BESIDE: u16 = 61_000;

/// The ports that guests share with a forward of every port, under a rule that may use
/// `first..=last`.
#[inline(always)]
pub(crate) const fn beside(first: u16, last: u16) -> (u16, u16) {
    match first <= FIRST_BESIDE && last == u16::MAX {
        true => (FIRST_BESIDE, last),
        false => (first, last),
    }
}

/// The candidates for one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortSearch {
    preferred: Option<u16>,
    first: u16,
    count: u32,
    start: u32,
    stride: u32,
    is_beside: bool,
}

impl PortSearch {
    /// Of no flow yet.
    pub(crate) const EMPTY: Self = Self {
        preferred: None,
        first: 0,
        count: 0,
        start: 0,
        stride: 0,
        is_beside: false,
    };

    /// For a flow whose internal port is `wanted`, under a rule that may use `first..=last`.
    /// Identifiers of ICMP queries are no ports: the rule's range does not apply to them, and only
    /// 0 is excluded, which means "none" in keys.
    #[inline(always)]
    #[must_use]
    pub fn new(protocol: u8, wanted: Port, first: u16, last: u16, random: u32) -> Self {
        let wanted = wanted.number();
        let (first, last) = match protocol {
            ICMP | ICMPV6 => (1, u16::MAX),
            _ => Self::band(wanted, first, last),
        };
        Self {
            preferred: (first <= wanted && wanted <= last).then_some(wanted),
            ..Self::anywhere(first, last, random)
        }
    }

    /// For a flow that leaves from an address whose every port a forward takes, under a rule that
    /// may use `first..=last`. The guest does not choose the port: it could choose that of a
    /// service behind the forward.
    #[inline(always)]
    #[must_use]
    pub(crate) fn beside_forward(first: u16, last: u16, random: u32) -> Self {
        let (first, last) = beside(first, last);
        Self {
            is_beside: true,
            ..Self::anywhere(first, last, random)
        }
    }

    /// Whether it is one of [`beside_forward`](Self::beside_forward).
    pub(crate) const fn is_beside_forward(&self) -> bool {
        self.is_beside
    }

    #[inline(always)]
    fn anywhere(first: u16, last: u16, random: u32) -> Self {
        let count = u32::from(last.saturating_sub(first)) + 1;
        // A prime that does not divide the range visits each of its ports once.
        let stride = if count % 4093 == 0 { 4091 } else { 4093 };
        Self {
            preferred: None,
            first,
            count,
            start: random % count,
            stride,
            is_beside: false,
        }
    }

    /// The part of the range that is in the wanted port's band, or all of it if there is none.
    #[inline(always)]
    fn band(wanted: u16, first: u16, last: u16) -> (u16, u16) {
        if wanted < FIRST_USER_PORT && first < FIRST_USER_PORT {
            (
                first,
                if last < FIRST_USER_PORT {
                    last
                } else {
                    FIRST_USER_PORT - 1
                },
            )
        } else if wanted >= FIRST_USER_PORT && last >= FIRST_USER_PORT {
            (
                if first < FIRST_USER_PORT {
                    FIRST_USER_PORT
                } else {
                    first
                },
                last,
            )
        } else {
            (first, last)
        }
    }

    /// The candidate number `attempt`, or `None` if there are no more.
    #[inline(always)]
    #[must_use]
    pub fn candidate(&self, attempt: u32) -> Option<Port> {
        let index = match (self.preferred, attempt) {
            (Some(port), 0) => return Some(Port::new(port)),
            (Some(_), attempt) => attempt - 1,
            (None, attempt) => attempt,
        };
        if index >= self.count {
            return None;
        }
        let offset = self.start.wrapping_add(index.wrapping_mul(self.stride));
        let offset = offset.checked_rem(self.count)?;
        Some(Port::new(self.first.wrapping_add(offset as u16)))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use super::*;
    use crate::wire::protocol::UDP;

    fn candidates(search: PortSearch, attempts: u32) -> std::vec::Vec<u16> {
        (0..attempts)
            .map_while(|n| search.candidate(n))
            .map(Port::number)
            .collect()
    }

    #[test]
    fn keeps_the_internal_port_first() {
        let search = PortSearch::new(UDP, Port::new(5000), 1024, 65535, 77);
        assert_eq!(search.candidate(0), Some(Port::new(5000)));
    }

    #[test]
    fn visits_every_port_of_a_small_range_and_then_ends() {
        for random in [0, 1, 63, u32::MAX] {
            let search = PortSearch::new(UDP, Port::new(9), 2000, 2063, random);
            let tried = candidates(search, 1000);
            assert_eq!(tried.len(), 64);
            assert_eq!(tried.iter().collect::<HashSet<_>>().len(), 64);
            assert!(tried.iter().all(|port| (2000..=2063).contains(port)));
        }
    }

    #[test]
    fn stays_in_the_band_of_the_internal_port() {
        let low = PortSearch::new(UDP, Port::new(53), 1, 65535, 12345);
        assert!(
            candidates(low, 500)
                .iter()
                .all(|&port| port < 1024 && port > 0)
        );
        let high = PortSearch::new(UDP, Port::new(53000), 1, 65535, 12345);
        assert!(candidates(high, 500).iter().all(|&port| port >= 1024));
    }

    #[test]
    fn uses_the_other_band_when_the_rule_leaves_no_choice() {
        let search = PortSearch::new(UDP, Port::new(53), 1024, 65535, 5);
        assert!(
            search
                .candidate(0)
                .is_some_and(|port| port.number() >= 1024)
        );
    }

    #[test]
    fn beside_a_forward_the_guest_does_not_choose_the_port() {
        let ports = candidates(PortSearch::beside_forward(1024, 65535, 999), 9000);
        assert_eq!(ports.len(), 65536 - 61_000);
        assert!(ports.iter().all(|&port| port >= 61_000));
        // Ports that a rule names are the administrator's choice.
        let named = candidates(PortSearch::beside_forward(2000, 2063, 7), 1000);
        assert_eq!(named.len(), 64);
        assert!(named.iter().all(|port| (2000..=2063).contains(port)));
    }

    #[test]
    fn icmp_identifiers_ignore_the_range() {
        let search = PortSearch::new(ICMP, Port::new(3), 1024, 65535, 5);
        assert_eq!(search.candidate(0), Some(Port::new(3)));
    }
}
