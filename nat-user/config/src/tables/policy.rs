//! `[[policy]]`.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::names::{GuestAddresses, Named, Names};
use crate::{
    model::{ForwardProtocol, NetworkId, PolicyEnd, PolicyRule, PortRange, UplinkId},
    syntax::{Fault, Field, Key, Report, Section, key},
    text::{suggest, words::quote},
    values,
};

/// The keys of `[[policy]]`.
pub(crate) const KEYS: &[Key] = &[
    key("name", "\"web-in\""),
    key("from", "\"wan\""),
    key("to", "\"lan\""),
    key("protocol", "\"tcp\""),
    key("ports", "443"),
    key("action", "\"accept\""),
];

/// Reserved words.
const ANY: &str = "any";
const HOST: &str = "host";

/// A policy, by family.
pub(crate) type BothFamilies = (PolicyRule, PolicyRule<Ipv6Addr>);

pub(crate) fn read_policy(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<BothFamilies> {
    report.errors(section.unknown_keys());
    let from = report.keep(ends(section, "from", names));
    let to = report.keep(ends(section, "to", names));
    let protocols = report.keep(section.optional("protocol", values::protocols));
    let protocols = protocols.map(|protocols| protocols.unwrap_or(vec![ForwardProtocol::All]));
    let ports = report.keep(ports(section, protocols.as_deref()));
    let action = report.keep(section.required("action", values::action));
    report.errors(nothing_named(section));
    let (from, to) = (from?, to?);
    report.errors(mixed(section, &from, &to));
    let (name, protocols, ports, action) = (section.name.to_string(), protocols?, ports?, action?);
    let ipv6 = PolicyRule {
        name: name.clone(),
        from: from.ipv6,
        to: to.ipv6,
        protocols: protocols.clone(),
        ports: ports.clone(),
        action,
    };
    let ipv4 = PolicyRule {
        name,
        from: from.ipv4,
        to: to.ipv4,
        protocols,
        ports,
        action,
    };
    Some((ipv4, ipv6))
}

/// Ends by family.
#[derive(Default)]
struct Ends {
    ipv4: Vec<PolicyEnd>,
    ipv6: Vec<PolicyEnd<Ipv6Addr>>,
}

impl Ends {
    fn push(&mut self, end: End) {
        match end {
            End::Any => self.both(PolicyEnd::Any, PolicyEnd::Any),
            End::Host => self.both(PolicyEnd::Host, PolicyEnd::Host),
            End::Uplink(id) => self.both(PolicyEnd::Uplink(id), PolicyEnd::Uplink(id)),
            End::Network(id) => self.both(PolicyEnd::Network(id), PolicyEnd::Network(id)),
            End::Prefix(IpNet::V4(prefix)) => self.ipv4.push(PolicyEnd::Prefix(prefix)),
            End::Prefix(IpNet::V6(prefix)) => self.ipv6.push(PolicyEnd::Prefix(prefix)),
            End::Guest(GuestAddresses { ipv4, ipv6 }) => {
                self.ipv4.extend(ipv4.map(PolicyEnd::Guest));
                self.ipv6.extend(ipv6.into_iter().map(PolicyEnd::Guest));
            }
        }
    }

    fn both(&mut self, ipv4: PolicyEnd, ipv6: PolicyEnd<Ipv6Addr>) {
        self.ipv4.push(ipv4);
        self.ipv6.push(ipv6);
    }
}

/// One end as it is written.
#[derive(Clone, PartialEq, Eq, Hash)]
enum End {
    Any,
    Host,
    Uplink(UplinkId),
    Network(NetworkId),
    Prefix(IpNet),
    Guest(GuestAddresses),
}

impl From<Named> for End {
    fn from(named: Named) -> Self {
        match named {
            Named::Uplink(id) => Self::Uplink(id),
            Named::Network(id) => Self::Network(id),
            Named::Guest(addresses) => Self::Guest(addresses),
        }
    }
}

/// No flow has both ends.
fn mixed(section: &Section<'_>, from: &Ends, to: &Ends) -> Option<Fault> {
    let is_ipv4 = !from.ipv4.is_empty() && !to.ipv4.is_empty();
    let is_ipv6 = !from.ipv6.is_empty() && !to.ipv6.is_empty();
    let (first, second) = match from.ipv4.is_empty() {
        true => ("IPv6", "IPv4"),
        false => ("IPv4", "IPv6"),
    };
    let problem = format!("is of {second}, but from is of {first}, so no flow matches");
    let fault = || section.fault("to", &problem, "write ends of one family");
    (!is_ipv4 && !is_ipv6).then(fault)
}

fn ends(section: &Section<'_>, name: &'static str, names: &Names<'_>) -> Result<Ends, Fault> {
    let mut ends = Ends::default();
    let Some(field) = section.field(name) else {
        return match section.mistyped(name) {
            Some(fault) => Err(fault),
            None => {
                ends.push(End::Any);
                Ok(ends)
            }
        };
    };
    let items = field.some_items()?;
    let mut seen = HashSet::new();
    for item in items {
        let end = end(item, name, names)?;
        if !seen.insert(end.clone()) {
            return Err(item.repeated());
        }
        ends.push(end);
    }
    if seen.len() > 1 && seen.contains(&End::Any) {
        let problem = "`any` already includes the others";
        return Err(field.fault(problem, "write \"any\" alone"));
    }
    Ok(ends)
}

fn end(field: Field<'_>, key: &str, names: &Names<'_>) -> Result<End, Fault> {
    let text = field.string()?;
    match text {
        ANY => return Ok(End::Any),
        HOST if key == "to" => return Ok(End::Host),
        HOST => {
            let problem = "policies do not apply to packets that the host itself sends";
            return Err(field.fault(problem, "write a network, an uplink or an address"));
        }
        _ => {}
    }
    if text.contains('/') {
        return match values::looks_like_ipv6(&field) {
            true => values::prefix6(field).map(IpNet::V6),
            false => values::prefix(field).map(IpNet::V4),
        }
        .map(End::Prefix);
    }
    let (kind, name) = match text.split_once('.') {
        Some((kind @ ("uplink" | "network" | "guest"), name)) => (Some(kind), name),
        _ => (None, text),
    };
    let mut found = names.named(name);
    found.retain(|(one, _)| kind.is_none_or(|kind| kind == *one));
    match found.as_slice() {
        [] => {}
        [(_, named)] => return Ok(named.clone().into()),
        [(first, _), (second, _), ..] => {
            let problem = format!(
                "{} is the name of an {first} and of a {second}",
                quote(name)
            );
            let remedy = format!("write \"{first}.{name}\" or \"{second}.{name}\"");
            return Err(field.fault(problem, remedy));
        }
    }
    // An address, a guest that has a lease, or a mistake.
    let is_address = match values::looks_like_ipv6(&field) {
        true => text.trim().parse::<Ipv6Addr>().is_ok(),
        false => text.trim().parse::<Ipv4Addr>().is_ok(),
    };
    match names.guest(field) {
        Ok(addresses) => Ok(End::Guest(addresses)),
        Err(fault) if is_address => Err(fault),
        Err(_) => Err(unknown(field, text, names)),
    }
}

fn unknown(field: Field<'_>, text: &str, names: &Names<'_>) -> Fault {
    let problem = format!(
        "there is no uplink, network or guest {}, and it is not an address",
        quote(text)
    );
    let remedy = match suggest::nearest(text, names.all().chain([ANY, HOST])) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "write the name of one, an address, a prefix such as \"10.0.0.0/8\", or \"any\""
            .to_owned(),
    };
    field.fault(problem, remedy)
}

fn ports(
    section: &Section<'_>,
    protocols: Option<&[ForwardProtocol]>,
) -> Result<Vec<PortRange>, Fault> {
    let Some(field) = section.field("ports") else {
        return Ok(Vec::new());
    };
    let has_ports = |one: &ForwardProtocol| one.has_ports();
    if protocols.is_some_and(|protocols| !protocols.iter().all(has_ports)) {
        let remedy = "leave ports out, or write protocol = \"tcp\" or \"udp\"";
        return Err(field.fault("only tcp and udp have ports", remedy));
    }
    values::external_ports(field)
}

/// A policy without any condition.
fn nothing_named(section: &Section<'_>) -> Option<Fault> {
    let is_about = ["from", "to", "protocol"];
    let names_something = |key| section.field(key).is_some() || section.mistyped(key).is_some();
    if is_about.into_iter().any(names_something) {
        return None;
    }
    let problem = "has no condition, so it would match every flow";
    let remedy =
        "write from, to or protocol; for a default write policy = \"drop\" in [network.NAME]";
    Some(section.fault_here("", problem, remedy))
}
