//! Names of IP protocols.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// An IP protocol number, displayed by name if it has one here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

const NAMES: [(&str, u8); 7] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("sctp", 132),
    ("gre", 47),
    ("esp", 50),
];

impl Protocol {
    const ICMP: Self = Self(1);
    const ICMPV6: Self = Self(58);

    /// Whether a condition that names this one holds for another: ICMP stands for that of both
    /// families, as in the configuration.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self == other || (self, other) == (Self::ICMP, Self::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.pad(name),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, number)) = NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
        {
            return Ok(Self(*number));
        }
        text.parse().map(Self).map_err(|_| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            format!("expected {names} or a number from 0 to 255")
        })
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_displayed_number_is_read_back() {
        for number in 0..=u8::MAX {
            assert_eq!(Protocol(number).to_string().parse(), Ok(Protocol(number)));
        }
        assert_eq!("6".parse(), Ok(Protocol(6)));
        assert_eq!("UDP".parse(), Ok(Protocol(17)));
        assert!(Protocol(1).covers(Protocol(58)) && !Protocol(58).covers(Protocol(1)));
    }

    #[test]
    fn unknown_protocols_are_refused_with_those_that_are_known() {
        for text in ["", "http", "256", "-1"] {
            let error = text.parse::<Protocol>().unwrap_err();
            assert!(
                error.contains("tcp, udp, icmp, icmpv6, sctp, gre, esp or a number"),
                "{error}"
            );
        }
    }
}
