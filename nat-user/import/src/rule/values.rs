//! The values of options that natbpf's rules can express: addresses, ports, protocols, states.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    condition::{Condition, Interfaces},
    family::Family,
    ranges::{Addresses, Ports, Protocols, Ranges},
};

/// Of the file's family, as `icmp` in natbpf's rules is: ICMP, or ICMPv6.
pub(crate) const ICMP: u128 = 1;
pub(crate) const TCP: u128 = 6;
pub(crate) const UDP: u128 = 17;

const NOT_OF_IPV6: &str = "no packet of IPv6 has this protocol; that of IPv6 is ipv6-icmp";

/// How many ports `-m multiport` accepts (`XT_MULTI_PORTS`).
const MOST_PORTS: usize = 15;

/// The protocols that iptables-save writes by name (`/etc/protocols`, `xtables_chain_protos`).
const PROTOCOLS: [(&str, u128); 15] = [
    ("tcp", TCP),
    ("udp", UDP),
    ("icmp", ICMP),
    ("igmp", 2),
    ("ipencap", 4),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ipv6-crypt", 50),
    ("ah", 51),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", 132),
    ("udplite", 136),
];

/// What an option matches, if natbpf's rules may express it.
pub(crate) fn matched(
    family: Family,
    name: &str,
    value: &str,
    is: bool,
) -> Option<Result<Condition, String>> {
    let mut narrow = Condition::default();
    let read = match name {
        "-s" | "--source" | "--src" => {
            addresses(family, value, is).map(|addresses| narrow.sources = addresses)
        }
        "-d" | "--destination" | "--dst" => {
            addresses(family, value, is).map(|addresses| narrow.destinations = addresses)
        }
        "--src-range" => range(family, value, is).map(|addresses| narrow.sources = addresses),
        "--dst-range" => range(family, value, is).map(|addresses| narrow.destinations = addresses),
        "-p" | "--protocol" | "--proto" => {
            protocol(family, value, is).map(|protocols| narrow.protocols = protocols)
        }
        "-i" | "--in-interface" => {
            interface(value).map(|()| narrow.input = Interfaces::one(is, value))
        }
        "-o" | "--out-interface" => {
            interface(value).map(|()| narrow.output = Interfaces::one(is, value))
        }
        "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
            ports(value, is).map(|ports| narrow.ports = ports)
        }
        "--sport" | "--source-port" | "--sports" | "--source-ports" => {
            ports(value, is).map(|ports| narrow.source_ports = ports)
        }
        "--dst-type" if value == "LOCAL" => {
            narrow.is_local = Some(is);
            Ok(())
        }
        "--ctstate" | "--state" => {
            state(value, is).map(|translated| narrow.is_translated = translated)
        }
        "--icmpv6-type" if is && ["128", "128/0", "echo-request", "ping"].contains(&value) => {
            Ok(())
        }
        "--icmp-type" if is && ["8", "8/0", "echo-request", "ping", "any"].contains(&value) => {
            Ok(())
        }
        _ => return None,
    };
    Some(read.map(|()| narrow))
}

fn signed<const MAX: u128>(ranges: Ranges<MAX>, is: bool) -> Ranges<MAX> {
    if is { ranges } else { ranges.complement() }
}

/// What the kernel accepts as a name (`dev_valid_name`), `+` at its end included.
fn interface(name: &str) -> Result<(), String> {
    let is_strange = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    if name.is_empty()
        || name.len() > 15
        || name == "."
        || name == ".."
        || name.contains(is_strange)
    {
        return Err(format!("`{name}` is not the name of an interface"));
    }
    Ok(())
}

fn addresses(family: Family, text: &str, is: bool) -> Result<Addresses, String> {
    let mut all = Addresses::empty();
    for part in text.split(',') {
        all = all.or(&Addresses::prefix(prefix(family, part)?));
    }
    Ok(signed(all, is))
}

fn range(family: Family, text: &str, is: bool) -> Result<Addresses, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = Addresses::span(address(family, first)?, address(family, last)?);
    Ok(signed(range, is))
}

/// Reads `A`, `A/24` and `A/255.255.255.0`.
pub(crate) fn prefix(family: Family, text: &str) -> Result<IpNet, String> {
    let (start, length) = text.split_once('/').unwrap_or((text, ""));
    let start = address(family, start)?;
    let net = match length.parse::<IpAddr>() {
        Err(_) if !text.contains('/') => Some(start.into()),
        Ok(mask) => IpNet::with_netmask(start, mask).ok(),
        Err(_) => length
            .parse()
            .ok()
            .and_then(|length| IpNet::new(start, length).ok()),
    };
    net.map(|net| net.trunc())
        .ok_or_else(|| format!("{text} is not a prefix of addresses"))
}

pub(crate) fn address(family: Family, text: &str) -> Result<IpAddr, String> {
    let (read, wanted) = match family {
        Family::V4 => (text.parse().map(IpAddr::V4), "IPv4"),
        Family::V6 => (text.parse().map(IpAddr::V6), "IPv6"),
    };
    read.map_err(|_| {
        if family == Family::V4 && (text.contains(':') || text.starts_with('[')) {
            "is about IPv6 in a file of rules of IPv4: give rules of IPv6 in a file of their own"
                .to_owned()
        } else {
            format!("{text} is not an {wanted} address: write it in numbers")
        }
    })
}

pub(crate) fn number(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("{text} is not a port: write it in numbers"))
}

fn ports(text: &str, is: bool) -> Result<Ports, String> {
    if text.split(',').count() > MOST_PORTS {
        return Err(format!(
            "names more than {MOST_PORTS} ports, and iptables refuses such a rule"
        ));
    }
    let mut all = Ports::empty();
    for part in text.split(',') {
        let (first, last) = match part.split_once(':') {
            Some(("", last)) => (0, number(last)?),
            Some((first, "")) => (number(first)?, u16::MAX),
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        all = all.or(&Ports::range(first.into(), last.into()));
    }
    Ok(signed(all, is))
}

pub(crate) fn protocol_name(number: u128) -> String {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

fn protocol(family: Family, text: &str, is: bool) -> Result<Protocols, String> {
    let text = text.to_ascii_lowercase();
    if family == Family::V6 {
        match text.as_str() {
            "ipv6-icmp" | "icmpv6" | "58" => return Ok(signed(Protocols::one(ICMP), is)),
            "icmp" | "1" => return Err(NOT_OF_IPV6.to_owned()),
            _ => {}
        }
    }
    let known = PROTOCOLS.iter().find(|(name, _)| *name == text);
    let number = match known {
        Some((_, number)) => *number,
        None if text == "all" => 0,
        None => {
            let number = text.parse::<u8>();
            number
                .map_err(|_| format!("{text} is not a protocol: write its number"))?
                .into()
        }
    };
    let protocols = if number == 0 {
        Protocols::full()
    } else {
        Protocols::one(number)
    };
    Ok(signed(protocols, is))
}

/// The effect of states in the nat table, which sees only the first packet of each connection: NEW.
fn state(text: &str, is: bool) -> Result<Option<bool>, String> {
    let states: Vec<&str> = text.split(',').collect();
    let names = |state: &str| states.contains(&state);
    if states == ["DNAT"] {
        Ok(Some(is))
    } else if names("NEW") == is && !names("DNAT") && !names("SNAT") {
        Ok(None)
    } else {
        Err("natbpf's rules match the first packet of a connection".to_owned())
    }
}
