//! Protocols and ports.

use super::list::distinct;
use crate::{
    model::{ForwardProtocol, PortRange},
    syntax::{Fault, Field},
    text::words::quote,
};

pub(crate) fn protocols(field: Field<'_>) -> Result<Vec<ForwardProtocol>, Fault> {
    let choices = [
        ("tcp", ForwardProtocol::Tcp),
        ("udp", ForwardProtocol::Udp),
        ("icmp", ForwardProtocol::Icmp),
        ("all", ForwardProtocol::All),
    ];
    let protocols = distinct(field.required_items()?, |item| item.choice(&choices))?;
    if protocols.len() > 1 && protocols.contains(&ForwardProtocol::All) {
        return Err(field.fault(
            "`all` already includes the other protocols",
            "write \"all\" alone",
        ));
    }
    Ok(protocols)
}

/// One port or one range: `80`, `"80"` or `"10000-10999"`.
pub(crate) fn port_range(field: Field<'_>) -> Result<PortRange, Fault> {
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
pub(crate) fn kept_port(field: Field<'_>) -> Result<(ForwardProtocol, u16), Fault> {
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

pub(crate) fn external_ports(field: Field<'_>) -> Result<Vec<PortRange>, Fault> {
    let items = field.some_items()?;
    let ranges: Vec<_> = items
        .iter()
        .map(|item| port_range(*item))
        .collect::<Result<_, _>>()?;
    match overlap(&ranges) {
        None => Ok(ranges),
        Some((before, after)) => {
            let problem = format!(
                "{} overlaps {} in the same list",
                ranges[after], ranges[before]
            );
            Err(items[after].fault(problem, "write each port once"))
        }
    }
}

/// The indices, in order, of two ranges that share a port.
fn overlap(ranges: &[PortRange]) -> Option<(usize, usize)> {
    let mut by_start: Vec<_> = (0..ranges.len()).collect();
    by_start.sort_by_key(|index| ranges[*index]);
    let shared = by_start
        .windows(2)
        .find(|pair| ranges[pair[0]].overlaps(ranges[pair[1]]))?;
    Some((shared[0].min(shared[1]), shared[0].max(shared[1])))
}
