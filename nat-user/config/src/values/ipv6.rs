//! IPv6 addresses and prefixes.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::list::distinct;
use crate::{
    syntax::{Fault, Field},
    text::words::quote,
};

/// The items of a list, by family: those that `ipv4` reads, and those that `ipv6` reads.
pub(crate) fn by_family<'s, T, U>(
    items: Vec<Field<'s>>,
    ipv4: impl Fn(Field<'s>) -> Result<T, Fault>,
    ipv6: impl Fn(Field<'s>) -> Result<U, Fault>,
) -> Result<(Vec<T>, Vec<U>), Fault>
where
    T: Clone + Eq + std::hash::Hash,
    U: Clone + Eq + std::hash::Hash,
{
    let (of_ipv6, of_ipv4) = items.into_iter().partition(looks_like_ipv6);
    Ok((distinct(of_ipv4, ipv4)?, distinct(of_ipv6, ipv6)?))
}

/// Whether a value is meant as IPv6. (In a file without IPv6, it is a wrong IPv4 value.)
pub(crate) fn looks_like_ipv6(field: &Field<'_>) -> bool {
    field.string().is_ok_and(|text| text.contains(':'))
}

/// An address that one host can have.
pub(crate) fn host_address6(field: Field<'_>) -> Result<Ipv6Addr, Fault> {
    host_address_of(field, field.string()?)
}

/// The same for a part of a value.
pub(crate) fn host_address_of(field: Field<'_>, text: &str) -> Result<Ipv6Addr, Fault> {
    usable(field, address(field, text)?)
}

/// An address, or the part of one behind the prefix.
pub(crate) fn address_or_suffix(field: Field<'_>) -> Result<Ipv6Addr, Fault> {
    let address = address(field, field.string()?)?;
    match is_suffix(address) {
        true => Ok(address),
        false => usable(field, address),
    }
}

/// Addresses from one to another, or parts of addresses behind a prefix: `"::100-::1ff"`.
pub(crate) fn address_range6(field: Field<'_>) -> Result<(Ipv6Addr, Ipv6Addr), Fault> {
    let text = field.string()?;
    let Some((first, last)) = text.split_once('-') else {
        let remedy = "write two addresses, or the part behind the prefix, as in \"::100-::1ff\"";
        return Err(field.fault(format!("{} is not a range", quote(text)), remedy));
    };
    let end = |text: &str| {
        let end = address(field, text)?;
        match is_suffix(end) {
            true => Ok(end),
            false => usable(field, end),
        }
    };
    let (first, last) = (end(first)?, end(last)?);
    if is_suffix(first) != is_suffix(last) {
        let problem = format!("{first} and {last} are a part of an address and a whole one");
        return Err(field.fault(problem, "write two of the same kind"));
    }
    if first > last {
        let problem = format!("the range {first}-{last} is inverted");
        return Err(field.fault(problem, format!("write \"{last}-{first}\"")));
    }
    Ok((first, last))
}

/// Whether an address is only the part behind a prefix, such as `::10`.
pub(crate) fn is_suffix(address: Ipv6Addr) -> bool {
    !address.is_unspecified()
        && address.segments()[..4] == [0; 4]
        && address.to_ipv4_mapped().is_none()
}

/// The address with a suffix in a prefix, if there is room for it.
pub(crate) fn join(prefix: Ipv6Net, suffix: Ipv6Addr) -> Option<Ipv6Addr> {
    let (prefix, suffix) = (prefix.trunc(), u128::from(suffix));
    let fits = suffix & u128::from(prefix.netmask()) == 0;
    fits.then(|| Ipv6Addr::from(u128::from(prefix.network()) | suffix))
}

fn address(field: Field<'_>, text: &str) -> Result<Ipv6Addr, Fault> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let before = |mark| text.split_once(mark).map_or(text, |(before, _)| before);
    let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let alone = |before: &str| format!("write the address alone: \"{before}\"");
    let (what, remedy) = if is_address(before('/')) {
        ("has a prefix length", alone(before('/')))
    } else if is_address(before('%')) {
        ("names an interface", alone(before('%')))
    } else {
        let remedy = "write groups of hexadecimal digits, as in \"2001:db8::10\"";
        ("is not an IPv6 address", remedy.to_owned())
    };
    Err(field.fault(format!("{} {what}", quote(text)), remedy))
}

/// Refuses addresses that no host can have for traffic that is routed.
fn usable(field: Field<'_>, address: Ipv6Addr) -> Result<Ipv6Addr, Fault> {
    let what = if address.is_unspecified() {
        "is not the address of a host"
    } else if address.is_loopback() {
        "is a loopback address"
    } else if address.is_multicast() {
        "is a multicast address"
    } else if address.is_unicast_link_local() {
        let problem = format!("{address} is a link-local address, which is not routed");
        return Err(field.fault(problem, "write a global or a unique local address"));
    } else if let Some(ipv4) = address.to_ipv4_mapped() {
        let problem = format!("{address} is an IPv4 address in the form of IPv6");
        return Err(field.fault(problem, format!("write \"{ipv4}\"")));
    } else {
        return Ok(address);
    };
    Err(field.fault(
        format!("{address} {what}"),
        "write an address that one host can have",
    ))
}

/// A host's address together with the prefix of its network.
pub(crate) fn address_in_prefix6(field: Field<'_>) -> Result<Ipv6Net, Fault> {
    let text = field.string()?;
    let Some(parts) = text.split_once('/') else {
        let address = address(field, text)?;
        let remedy = format!("write, for example, \"{address}/64\"");
        return Err(field.fault(format!("`{address}` has no prefix length"), remedy));
    };
    let net = prefix_of(field, parts)?;
    usable(field, net.addr())?;
    if net.prefix_len() == 0 {
        let remedy = "write a length from 1 to 128";
        return Err(field.fault(format!("`{net}` makes every address an inside one"), remedy));
    }
    if is_anycast(net, net.addr()) {
        let next = Ipv6Addr::from(u128::from(net.network()) + 1);
        let problem = format!(
            "{} is the routers' anycast address in {}",
            net.addr(),
            net.trunc()
        );
        return Err(field.fault(problem, format!("write another one, such as \"{next}\"")));
    }
    Ok(net)
}

/// Whether an address belongs to all routers of a network (RFC 4291 section 2.6.1, RFC 6164).
pub(crate) fn is_anycast(net: Ipv6Net, address: Ipv6Addr) -> bool {
    net.prefix_len() < 127 && address == net.network()
}

/// A prefix such as `2001:db8::/32`; an address alone is a prefix of 128 bits.
pub(crate) fn prefix6(field: Field<'_>) -> Result<Ipv6Net, Fault> {
    let text = field.string()?;
    let Some(parts) = text.split_once('/') else {
        return host_address6(field).map(Ipv6Net::from);
    };
    let net = prefix_of(field, parts)?;
    if net.addr() != net.network() {
        let problem = format!("`{net}` has bits set beyond its prefix length");
        return Err(field.fault(problem, format!("write \"{}\"", net.trunc())));
    }
    if net.prefix_len() > 0 {
        usable(field, net.addr())?;
    }
    Ok(net)
}

fn prefix_of(field: Field<'_>, (before, length): (&str, &str)) -> Result<Ipv6Net, Fault> {
    let address = address(field, before)?;
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let net = length
        .parse()
        .ok()
        .and_then(|length| Ipv6Net::new(address, length).ok());
    net.filter(|_| is_number).ok_or_else(|| {
        let problem = format!("{} is not a prefix length", quote(length));
        let remedy = format!("write a length from 0 to 128, as in \"{address}/64\"");
        field.fault(problem, remedy)
    })
}
