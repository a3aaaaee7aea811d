//! Checks of single values: addresses, prefixes, interface names, ports.

use std::{
    collections::HashSet,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv4Net;

use super::{
    diagnostic::Fault,
    model::{ForwardProtocol, Forwarding, PortRange, SnatTarget},
    parse::{Field, quote},
};

/// Addresses that one pool may hold.
const LARGEST_POOL: u32 = 65_536;

/// Bytes of an interface's name (the kernel's IFNAMSIZ, without the zero at its end).
const LONGEST_INTERFACE: usize = 15;

/// The path of packets of established sessions.
pub(super) fn forwarding(field: Field<'_>) -> Result<Forwarding, Fault> {
    field.choice(&[("fast", Forwarding::Fast), ("kernel", Forwarding::Kernel)])
}

/// The name of a network interface, by the rules of the kernel (`dev_valid_name`).
pub(super) fn interface(field: Field<'_>) -> Result<String, Fault> {
    let name = field.string()?;
    let not_in_a_name = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    let problem = if name.is_empty() || matches!(name, "." | "..") {
        format!("{} is not the name of an interface", quote(name))
    } else if name.len() > LONGEST_INTERFACE {
        format!(
            "{} has {} bytes, but the name of an interface has at most {LONGEST_INTERFACE}",
            quote(name),
            name.len()
        )
    } else if let Some(c) = name.chars().find(|c| not_in_a_name(*c)) {
        format!(
            "{} holds {c:?}, which the name of an interface cannot contain",
            quote(name)
        )
    } else {
        return Ok(name.to_owned());
    };
    Err(field.fault(problem, "write a name as `ip link` shows it"))
}

/// An address that one host can have.
pub(super) fn host_address(field: Field<'_>) -> Result<Ipv4Addr, Fault> {
    let text = field.string()?;
    let address = address(field, text)?;
    usable(field, address)
}

fn address(field: Field<'_>, text: &str) -> Result<Ipv4Addr, Fault> {
    let problem = |what: &str| format!("{} {what}", quote(text));
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    Err(
        if let Some((before, _)) = text
            .split_once('/')
            .filter(|(before, _)| is_address(before))
        {
            field.fault(
                problem("has a prefix length"),
                format!("write the address alone: \"{before}\""),
            )
        } else if text.parse::<Ipv6Addr>().is_ok() {
            field.fault(
                problem("is an IPv6 address"),
                "write an IPv4 address; natbpf translates only IPv4",
            )
        } else {
            field.fault(
                problem("is not an IPv4 address"),
                "write four numbers from 0 to 255, as in \"192.0.2.10\"",
            )
        },
    )
}

fn is_address(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

/// Refuses addresses that no host can have.
pub(super) fn usable(field: Field<'_>, address: Ipv4Addr) -> Result<Ipv4Addr, Fault> {
    let what = if address.octets()[0] == 0 {
        "is not the address of a host"
    } else if address.is_loopback() {
        "is a loopback address"
    } else if address.is_multicast() {
        "is a multicast address"
    } else if address.is_broadcast() {
        "is the broadcast address"
    } else {
        return Ok(address);
    };
    Err(field.fault(
        format!("{address} {what}"),
        "write an address that one host can have",
    ))
}

/// A host's address together with the prefix of its network, which the address must fit.
pub(super) fn address_in_prefix(field: Field<'_>) -> Result<Ipv4Net, Fault> {
    let text = field.string()?;
    let net = match text.split_once('/') {
        Some(parts) => prefix_of(field, parts)?,
        None => {
            let address = address(field, text)?;
            let remedy = format!("write, for example, \"{address}/24\"");
            return Err(field.fault(format!("`{address}` has no prefix length"), remedy));
        }
    };
    usable(field, net.addr())?;
    if net.prefix_len() == 0 {
        let remedy = "write a length from 1 to 32";
        return Err(field.fault(format!("`{net}` makes every address an inside one"), remedy));
    }
    match reserved_in(net, net.addr()) {
        Some(what) => Err(field.fault(
            format!("{} is {what} in {}", net.addr(), net.trunc()),
            hosts_of(net),
        )),
        None => Ok(net),
    }
}

/// What an address is in a network, if it is not one for hosts.
pub(super) fn reserved_in(net: Ipv4Net, address: Ipv4Addr) -> Option<&'static str> {
    if net.prefix_len() > 30 {
        None // RFC 3021: both addresses of a /31 are hosts.
    } else if address == net.network() {
        Some("the network's own address")
    } else if address == net.broadcast() {
        Some("the broadcast address")
    } else {
        None
    }
}

/// Which addresses hosts of a network can have, as advice.
pub(super) fn hosts_of(net: Ipv4Net) -> String {
    let (low, high) = (u32::from(net.network()), u32::from(net.broadcast()));
    let (low, high) = (Ipv4Addr::from(low + 1), Ipv4Addr::from(high - 1));
    format!("write an address from {low} to {high}")
}

/// A prefix such as `10.0.0.0/8`; an address alone is a prefix of 32 bits.
pub(super) fn prefix(field: Field<'_>) -> Result<Ipv4Net, Fault> {
    let text = field.string()?;
    let Some(parts) = text.split_once('/') else {
        return Ok(address(field, text)?.into());
    };
    let net = prefix_of(field, parts)?;
    if net.addr() != net.network() {
        let problem = format!("`{net}` has bits set beyond its prefix length");
        return Err(field.fault(problem, format!("write \"{}\"", net.trunc())));
    }
    Ok(net)
}

fn prefix_of(field: Field<'_>, (before, length): (&str, &str)) -> Result<Ipv4Net, Fault> {
    let address = address(field, before)?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let net = length
        .parse()
        .ok()
        .and_then(|length| Ipv4Net::new(address, length).ok());
    net.filter(|_| is_number).ok_or_else(|| {
        let problem = format!("{} is not a prefix length", quote(length));
        field.fault(
            problem,
            format!("write a length from 0 to 32, as in \"{address}/24\""),
        )
    })
}

/// `"masquerade"`, an address or a pool `"A-B"`.
pub(super) fn snat_target(field: Field<'_>) -> Result<SnatTarget, Fault> {
    let text = field.string()?;
    if text == "masquerade" {
        return Ok(SnatTarget::Masquerade);
    }
    let looks_like_addresses = text.starts_with(|c: char| c.is_ascii_digit());
    if !looks_like_addresses {
        let remedy = "write \"masquerade\", an address or a pool such as \"192.0.2.10-192.0.2.13\"";
        return Err(field.fault(format!("{} is not an address", quote(text)), remedy));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first = usable(field, address(field, first)?)?;
    let last = usable(field, address(field, last)?)?;
    pool(field, first, last)
}

fn pool(field: Field<'_>, first: Ipv4Addr, last: Ipv4Addr) -> Result<SnatTarget, Fault> {
    let Some(more) = u32::from(last).checked_sub(u32::from(first)) else {
        let problem = format!("the pool {first}-{last} is inverted");
        return Err(field.fault(problem, format!("write \"{last}-{first}\"")));
    };
    if more >= LARGEST_POOL {
        let problem = format!(
            "the pool {first}-{last} holds {} addresses",
            u64::from(more) + 1
        );
        return Err(field.fault(problem, format!("a pool holds at most {LARGEST_POOL}")));
    }
    Ok(SnatTarget::Pool { first, last })
}

/// Addresses from one to another, such as `"172.22.161.10-172.22.161.200"`.
pub(super) fn address_range(field: Field<'_>) -> Result<(Ipv4Addr, Ipv4Addr), Fault> {
    let text = field.string()?;
    let Some((first, last)) = text.split_once('-') else {
        let remedy = "write two addresses, as in \"172.22.161.10-172.22.161.200\"";
        return Err(field.fault(format!("{} is not a range", quote(text)), remedy));
    };
    let first = usable(field, address(field, first)?)?;
    let last = usable(field, address(field, last)?)?;
    if first > last {
        let problem = format!("the range {first}-{last} is inverted");
        return Err(field.fault(problem, format!("write \"{last}-{first}\"")));
    }
    Ok((first, last))
}

/// The longest label of a name (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;
/// The longest name, without the dot at its end.
const LONGEST_DOMAIN: usize = 253;

/// Whether a text can be the name of a host, without its domain (RFC 1123 section 2.1; the
/// underscore, which many use, passes as well).
pub(super) fn is_label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=LONGEST_LABEL).contains(&text.len())
        && text.chars().all(inside)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// A domain, such as `"lan"` or `"guests.example.org"`.
pub(super) fn domain(field: Field<'_>) -> Result<String, Fault> {
    let text = field.string()?;
    if text.len() <= LONGEST_DOMAIN && text.split('.').all(is_label) {
        return Ok(text.to_ascii_lowercase());
    }
    let remedy = "write names between dots, as in \"lan\" or \"guests.example.org\"";
    Err(field.fault(format!("{} is not a domain", quote(text)), remedy))
}

/// One port or one range: `80`, `"80"` or `"10000-10999"`.
pub(super) fn port_range(field: Field<'_>) -> Result<PortRange, Fault> {
    let text = field.digits()?;
    let (first, last) = text
        .split_once('-')
        .filter(|(first, _)| !first.is_empty())
        .unwrap_or((&text, &text));
    let (first, last) = (port(field, first)?, port(field, last)?);
    if first > last {
        let problem = format!("the range {first}-{last} is inverted");
        return Err(field.fault(problem, format!("write \"{last}-{first}\"")));
    }
    Ok(PortRange { first, last })
}

fn port(field: Field<'_>, text: &str) -> Result<u16, Fault> {
    let text = text.trim();
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    {
        let remedy = "write a port such as 80 or a range such as \"10000-10999\"";
        return Err(field.fault(format!("{} is not a port", quote(text)), remedy));
    }
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| {
        field.fault(
            format!("{} is not a port", quote(text)),
            "a port is a number from 1 to 65535",
        )
    })
}

/// A protocol and a port, such as `tcp/22`.
pub(super) fn kept_port(field: Field<'_>) -> Result<(ForwardProtocol, u16), Fault> {
    let text = field.string()?;
    let (protocol, number) = text.split_once('/').unwrap_or(("", text));
    let protocol = match protocol {
        "tcp" => ForwardProtocol::Tcp,
        "udp" => ForwardProtocol::Udp,
        _ => {
            let problem = format!("{} is not a protocol and a port", quote(text));
            return Err(field.fault(
                problem,
                "write \"tcp/PORT\" or \"udp/PORT\", as in \"tcp/22\"",
            ));
        }
    };
    Ok((protocol, port(field, number)?))
}

/// Checks every item of a list; a duplicate is a fault.
pub(super) fn distinct<'s, T: Clone + Eq + Hash>(
    items: Vec<Field<'s>>,
    check: impl Fn(Field<'s>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    if let [only] = items[..] {
        return Ok(vec![check(only)?]);
    }
    let mut values = Vec::with_capacity(items.len());
    let mut seen = HashSet::with_capacity(items.len());
    for item in items {
        let value = check(item)?;
        if !seen.insert(value.clone()) {
            return Err(item.repeated());
        }
        values.push(value);
    }
    Ok(values)
}
