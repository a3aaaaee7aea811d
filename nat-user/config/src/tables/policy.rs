//! `[[policy]]`.

use std::{collections::HashSet, net::Ipv4Addr};

use super::names::Names;
use crate::{
    model::{ForwardProtocol, PolicyEnd, PolicyRule, PortRange},
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

pub(crate) fn read_policy(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<PolicyRule> {
    report.errors(section.unknown_keys());
    let from = report.keep(ends(section, "from", names));
    let to = report.keep(ends(section, "to", names));
    let protocols = report.keep(section.optional("protocol", values::protocols));
    let protocols = protocols.map(|protocols| protocols.unwrap_or(vec![ForwardProtocol::All]));
    let ports = report.keep(ports(section, protocols.as_deref()));
    let action = report.keep(section.required("action", values::action));
    report.errors(nothing_named(section));
    Some(PolicyRule {
        name: section.name.to_string(),
        from: from?,
        to: to?,
        protocols: protocols?,
        ports: ports?,
        action: action?,
    })
}

fn ends(
    section: &Section<'_>,
    name: &'static str,
    names: &Names<'_>,
) -> Result<Vec<PolicyEnd>, Fault> {
    let Some(field) = section.field(name) else {
        return match section.mistyped(name) {
            Some(fault) => Err(fault),
            None => Ok(vec![PolicyEnd::Any]),
        };
    };
    let items = field.some_items()?;
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for item in items {
        let end = end(item, name, names)?;
        if !seen.insert(end.clone()) {
            return Err(item.repeated());
        }
        found.push(end);
    }
    if found.len() > 1 && found.contains(&PolicyEnd::Any) {
        let problem = "`any` already includes the others";
        return Err(field.fault(problem, "write \"any\" alone"));
    }
    Ok(found)
}

fn end(field: Field<'_>, key: &str, names: &Names<'_>) -> Result<PolicyEnd, Fault> {
    let text = field.string()?;
    match text {
        ANY => return Ok(PolicyEnd::Any),
        HOST if key == "to" => return Ok(PolicyEnd::Host),
        HOST => {
            let problem = "policies do not apply to packets that the host itself sends";
            return Err(field.fault(problem, "write a network, an uplink or an address"));
        }
        _ => {}
    }
    if text.contains('/') {
        return values::prefix(field).map(PolicyEnd::Prefix);
    }
    let (kind, name) = match text.split_once('.') {
        Some((kind @ ("uplink" | "network" | "guest"), name)) => (Some(kind), name),
        _ => (None, text),
    };
    let mut found = names.ends(name);
    found.retain(|(one, _)| kind.is_none_or(|kind| kind == *one));
    match found.as_slice() {
        [] => {}
        [(_, end)] => return Ok(end.clone()),
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
    let is_address = text.trim().parse::<Ipv4Addr>().is_ok();
    match names.guest(field) {
        Ok(address) => Ok(PolicyEnd::Guest(address)),
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
