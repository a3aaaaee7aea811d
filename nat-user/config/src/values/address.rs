//! Addresses, prefixes and ranges of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;

use super::ipv6;
use crate::{
    model::{Address, SnatTarget},
    syntax::{Fault, Field},
    text::words::quote,
};

/// Addresses that one pool may hold.
const LARGEST_POOL: u128 = 65_536;

/// An address that one host can have.
pub(crate) fn host_address(field: Field<'_>) -> Result<Ipv4Addr, Fault> {
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
            field.fault(problem("is an IPv6 address"), "write an IPv4 address here")
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
pub(crate) fn usable(field: Field<'_>, address: Ipv4Addr) -> Result<Ipv4Addr, Fault> {
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
pub(crate) fn address_in_prefix(field: Field<'_>) -> Result<Ipv4Net, Fault> {
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
pub(crate) fn reserved_in(net: Ipv4Net, address: Ipv4Addr) -> Option<&'static str> {
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
pub(crate) fn hosts_of(net: Ipv4Net) -> String {
    let (low, high) = (u32::from(net.network()), u32::from(net.broadcast()));
    let (low, high) = (Ipv4Addr::from(low + 1), Ipv4Addr::from(high - 1));
    format!("write an address from {low} to {high}")
}

/// A prefix such as `10.0.0.0/8`; an address alone is a prefix of 32 bits.
pub(crate) fn prefix(field: Field<'_>) -> Result<Ipv4Net, Fault> {
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

/// `"masquerade"`, an address or a pool `"A-B"`, by family.
pub(crate) fn snat_target(
    field: Field<'_>,
) -> Result<(Option<SnatTarget>, Option<SnatTarget<Ipv6Addr>>), Fault> {
    let text = field.string()?;
    if text == "masquerade" {
        return Ok((Some(SnatTarget::Masquerade), Some(SnatTarget::Masquerade)));
    }
    if ipv6::looks_like_ipv6(&field) {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = ipv6::host_address_of(field, first)?;
        let last = ipv6::host_address_of(field, last)?;
        return Ok((None, Some(pool(field, first, last)?)));
    }
    let looks_like_addresses = text.starts_with(|c: char| c.is_ascii_digit());
    if !looks_like_addresses {
        let remedy = "write \"masquerade\", an address or a pool such as \"192.0.2.10-192.0.2.13\"";
        return Err(field.fault(format!("{} is not an address", quote(text)), remedy));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first = usable(field, address(field, first)?)?;
    let last = usable(field, address(field, last)?)?;
    Ok((Some(pool(field, first, last)?), None))
}

fn pool<A: Address>(field: Field<'_>, first: A, last: A) -> Result<SnatTarget<A>, Fault> {
    let count = first.count_to(last);
    if count == 0 {
        let problem = format!("the pool {first}-{last} is inverted");
        return Err(field.fault(problem, format!("write \"{last}-{first}\"")));
    }
    if count > LARGEST_POOL {
        let problem = format!("the pool {first}-{last} holds {count} addresses");
        return Err(field.fault(problem, format!("a pool holds at most {LARGEST_POOL}")));
    }
    Ok(SnatTarget::Pool { first, last })
}

/// An address of either family that one host can have.
pub(crate) fn any_address(field: Field<'_>) -> Result<IpAddr, Fault> {
    match ipv6::looks_like_ipv6(&field) {
        true => ipv6::host_address6(field).map(IpAddr::V6),
        false => host_address(field).map(IpAddr::V4),
    }
}

/// Addresses from one to another, such as `"172.22.161.10-172.22.161.200"`.
pub(crate) fn address_range(field: Field<'_>) -> Result<(Ipv4Addr, Ipv4Addr), Fault> {
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
