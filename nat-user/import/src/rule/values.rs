//! The values of options that natbpf's rules can express: addresses, ports, protocols, states.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{
    condition::{Condition, Interfaces},
    ranges::{Addresses, Ports, Protocols, Ranges},
};

pub(crate) const ICMP: u32 = 1;
pub(crate) const TCP: u32 = 6;
pub(crate) const UDP: u32 = 17;

/// How many ports `-m multiport` accepts (`XT_MULTI_PORTS`).
const MOST_PORTS: usize = 15;

/// The protocols that iptables-save writes by name (`/etc/protocols`, `xtables_chain_protos`).
const PROTOCOLS: [(&str, u32); 15] = [
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
pub(crate) fn matched(name: &str, value: &str, is: bool) -> Option<Result<Condition, String>> {
    let mut narrow = Condition::default();
    let read = match name {
        "-s" | "--source" | "--src" => {
            addresses(value, is).map(|addresses| narrow.sources = addresses)
        }
        "-d" | "--destination" | "--dst" => {
            addresses(value, is).map(|addresses| narrow.destinations = addresses)
        }
        "--src-range" => range(value, is).map(|addresses| narrow.sources = addresses),
        "--dst-range" => range(value, is).map(|addresses| narrow.destinations = addresses),
        "-p" | "--protocol" | "--proto" => {
            protocol(value, is).map(|protocols| narrow.protocols = protocols)
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
        "--icmp-type" if is && ["8", "8/0", "echo-request", "ping", "any"].contains(&value) => {
            Ok(())
        }
        _ => return None,
    };
    Some(read.map(|()| narrow))
}

fn signed<const MAX: u32>(ranges: Ranges<MAX>, is: bool) -> Ranges<MAX> {
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

fn addresses(text: &str, is: bool) -> Result<Addresses, String> {
    let mut all = Addresses::empty();
    for part in text.split(',') {
        all = all.or(&Addresses::prefix(prefix(part)?));
    }
    Ok(signed(all, is))
}

fn range(text: &str, is: bool) -> Result<Addresses, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = Addresses::range(address(first)?.into(), address(last)?.into());
    Ok(signed(range, is))
}

/// Reads `A`, `A/24` and `A/255.255.255.0`.
pub(crate) fn prefix(text: &str) -> Result<Ipv4Net, String> {
    let (start, length) = text.split_once('/').unwrap_or((text, "32"));
    let start = address(start)?;
    let net = match length.parse::<Ipv4Addr>() {
        Ok(mask) => Ipv4Net::with_netmask(start, mask).ok(),
        Err(_) => length
            .parse()
            .ok()
            .and_then(|length| Ipv4Net::new(start, length).ok()),
    };
    net.map(|net| net.trunc())
        .ok_or_else(|| format!("{text} is not a prefix of addresses"))
}

pub(crate) fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| {
        if text.contains(':') || text.starts_with('[') {
            "is about IPv6, and import reads rules of IPv4 alone".to_owned()
        } else {
            format!("{text} is not an IPv4 address: write it in numbers")
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

pub(crate) fn protocol_name(number: u32) -> String {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

fn protocol(text: &str, is: bool) -> Result<Protocols, String> {
    let text = text.to_ascii_lowercase();
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
