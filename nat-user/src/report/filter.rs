//! The sessions to which a command applies.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use clap::Args;
use ipnet::IpNet;

use super::{
    protocol::Protocol,
    session::{Endpoint, SessionView},
};

/// Sessions that match every given condition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct SessionFilter {
    /// Only this protocol: tcp, udp, icmp (of both families), icmpv6, sctp, gre, esp or a number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,
    /// Only this guest: an address, one with a port (in brackets for IPv6), or a prefix
    #[arg(long, value_name = "ENDPOINT")]
    pub internal: Option<EndpointFilter>,
    /// Only this external endpoint
    #[arg(long, value_name = "ENDPOINT")]
    pub external: Option<EndpointFilter>,
    /// Only this remote
    #[arg(long, value_name = "ENDPOINT")]
    pub remote: Option<EndpointFilter>,
    /// Only the rule with this name
    #[arg(long, value_name = "NAME")]
    pub rule: Option<String>,
}

/// Endpoints of one address or prefix, with one port or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointFilter {
    addresses: IpNet,
    port: Option<u16>,
}

impl SessionFilter {
    /// Whether the session, with the name of its rule, matches.
    #[must_use]
    pub fn matches(&self, session: &SessionView, rule_name: &str) -> bool {
        let at = |filter: Option<EndpointFilter>, endpoint| {
            filter.is_none_or(|filter| filter.matches(endpoint))
        };
        self.protocol
            .is_none_or(|protocol| protocol.covers(session.protocol))
            && at(self.internal, session.internal)
            && at(self.external, session.external)
            && at(self.remote, session.remote)
            && self.rule.as_ref().is_none_or(|rule| rule == rule_name)
    }

    /// Whether all sessions match.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl EndpointFilter {
    fn matches(self, endpoint: Endpoint) -> bool {
        self.addresses.contains(&endpoint.address)
            && self.port.is_none_or(|port| port == endpoint.port)
    }
}

impl FromStr for EndpointFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self {
                addresses: address.into(),
                port: None,
            });
        }
        if let Ok(endpoint) = text.parse::<SocketAddr>() {
            let port = Some(endpoint.port());
            return Ok(Self {
                addresses: endpoint.ip().into(),
                port,
            });
        }
        match text.parse() {
            Ok(addresses) => Ok(Self {
                addresses,
                port: None,
            }),
            Err(_) => {
                Err("expected ADDRESS, ADDRESS:PORT, [IPV6]:PORT or a prefix such as 10.0.0.0/8")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::session::SessionState;

    fn endpoint(address: [u8; 4], port: u16) -> Endpoint {
        Endpoint {
            address: address.into(),
            port,
        }
    }

    fn session() -> SessionView {
        SessionView {
            protocol: Protocol(17),
            internal: endpoint([172, 22, 161, 170], 5000),
            external: endpoint([19, 19, 8, 10], 5001),
            remote: endpoint([1, 2, 3, 4], 53),
            rule_number: 1,
            state: SessionState::Replied,
            idle_s: 0,
            expires_s: 300,
        }
    }

    fn at(text: &str) -> Option<EndpointFilter> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_session_matches_when_all_that_is_given_holds() {
        let all = SessionFilter {
            protocol: Some(Protocol(17)),
            internal: at("172.22.161.0/24"),
            external: at("19.19.8.10"),
            remote: at("1.2.3.4:53"),
            rule: Some("lan-out".to_owned()),
        };
        assert!(all.matches(&session(), "lan-out"));
        assert!(SessionFilter::default().matches(&session(), ""));
        assert!(SessionFilter::default().is_empty() && !all.is_empty());
        let others = [
            SessionFilter {
                protocol: Some(Protocol(6)),
                ..all.clone()
            },
            SessionFilter {
                internal: at("172.22.162.0/24"),
                ..all.clone()
            },
            SessionFilter {
                external: at("19.19.8.10:5000"),
                ..all.clone()
            },
            SessionFilter {
                remote: at("1.2.3.5:53"),
                ..all.clone()
            },
            SessionFilter {
                rule: Some("lan".to_owned()),
                ..all.clone()
            },
        ];
        for other in others {
            assert!(!other.matches(&session(), "lan-out"), "{other:?}");
        }
    }

    #[test]
    fn a_prefix_holds_all_of_its_addresses() {
        for prefix in [
            "0.0.0.0/0",
            "172.16.0.0/12",
            "172.22.161.170/32",
            "172.22.161.1/24",
        ] {
            let filter = SessionFilter {
                internal: at(prefix),
                ..SessionFilter::default()
            };
            assert!(filter.matches(&session(), ""), "{prefix}");
        }
    }

    #[test]
    fn ipv6_addresses_ports_and_prefixes_are_conditions() {
        let address: IpAddr = "2001:db8::10".parse().unwrap();
        let of_ipv6 = SessionView {
            internal: Endpoint {
                address,
                port: 5000,
            },
            ..session()
        };
        for (text, holds) in [
            ("2001:db8::10", true),
            ("2001:db8::11", false),
            ("[2001:db8::10]:5000", true),
            ("[2001:db8::10]:5001", false),
            ("2001:db8::/64", true),
            ("::/0", true),
            ("0.0.0.0/0", false),
        ] {
            let filter = SessionFilter {
                internal: at(text),
                ..SessionFilter::default()
            };
            assert_eq!(filter.matches(&of_ipv6, ""), holds, "{text}");
        }
    }

    #[test]
    fn an_invalid_endpoint_is_refused_with_the_valid_forms() {
        for text in [
            "",
            "web",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.1:65536",
            "10.0.0.1:",
            "[::1]",
            "::1/129",
            "fe80::1%eth0",
        ] {
            let error = text.parse::<EndpointFilter>().unwrap_err();
            assert!(
                error.contains("ADDRESS:PORT, [IPV6]:PORT or a prefix"),
                "{text}"
            );
        }
    }
}
