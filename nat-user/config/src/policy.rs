//! `[[policy]]`, and the policy keys of a network.

use std::{collections::HashSet, net::Ipv4Addr};

use super::{
    diagnostic::{Fault, Report},
    forward,
    model::{Action, ForwardProtocol, HostService, PolicyEnd, PolicyRule, PortRange},
    parse::{Field, Key, Section, key, quote},
    suggest,
    tables::{Item, Names},
    values,
};

/// The keys of `[[policy]]`.
pub(super) const KEYS: &[Key] = &[
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

pub(super) fn read_policy(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<PolicyRule> {
    report.errors(section.unknown_keys());
    let from = report.keep(ends(section, "from", names));
    let to = report.keep(ends(section, "to", names));
    let protocols = report.keep(section.optional("protocol", forward::protocols));
    let protocols = protocols.map(|protocols| protocols.unwrap_or(vec![ForwardProtocol::All]));
    let ports = report.keep(ports(section, protocols.as_deref()));
    let action = report.keep(section.required("action", action));
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

/// `"accept"` or `"drop"`.
pub(super) fn action(field: Field<'_>) -> Result<Action, Fault> {
    field.choice(&[("accept", Action::Accept), ("drop", Action::Drop)])
}

/// The services of the host for a network's guests: all, unless the network says otherwise or drops
/// by default.
pub(super) fn host(
    section: &Section<'_>,
    policy: Action,
) -> Result<Option<Vec<HostService>>, Fault> {
    let Some(field) = section.field("host") else {
        return Ok(match policy {
            Action::Accept => None,
            Action::Drop => Some(vec![HostService::Dhcp, HostService::Dns, HostService::Ping]),
        });
    };
    if field.string() == Ok("all") {
        return Ok(None);
    }
    values::distinct(field.items(), service).map(Some)
}

fn service(field: Field<'_>) -> Result<HostService, Fault> {
    let text = field.string()?;
    let protocol = match text.split_once('/') {
        Some(("tcp", _)) => ForwardProtocol::Tcp,
        Some(("udp", _)) => ForwardProtocol::Udp,
        _ => {
            let words = [
                ("dhcp", HostService::Dhcp),
                ("dns", HostService::Dns),
                ("ping", HostService::Ping),
            ];
            return field.choice(&words).map_err(|fault| Fault {
                remedy: "write \"dhcp\", \"dns\", \"ping\", a port such as \"tcp/22\", or host = \
                         \"all\""
                    .to_owned(),
                ..fault
            });
        }
    };
    let port = text[4..].parse().ok().filter(|port| *port != 0);
    port.map(|port| HostService::Port(protocol, port))
        .ok_or_else(|| {
            let problem = format!("{} names no port", quote(text));
            field.fault(problem, "write a port from 1 to 65535, as in \"tcp/22\"")
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
    let has_ports =
        |one: &ForwardProtocol| matches!(one, ForwardProtocol::Tcp | ForwardProtocol::Udp);
    if protocols.is_some_and(|protocols| !protocols.iter().all(has_ports)) {
        let remedy = "leave ports out, or write protocol = \"tcp\" or \"udp\"";
        return Err(field.fault("only tcp and udp have ports", remedy));
    }
    forward::external_ports(field)
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

/// How many ends and ports of policies are compared with each other: enough for some thousand
/// policies.
const MOST_COMPARISONS: usize = 10_000_000;

/// Warns of policies that can never match, because an earlier one takes every flow.
pub(super) fn check_policies(rules: &[Item<'_, PolicyRule>], report: &mut Report<'_>) {
    let (mut before, mut comparisons) = (0, 0);
    for (index, rule) in rules.iter().enumerate() {
        comparisons += before * size(&rule.value);
        before += size(&rule.value);
        if comparisons > MOST_COMPARISONS {
            let problem = "has too many policies before it, so natbpf does not check whether they \
                           shadow it or a later policy";
            let remedy = "write prefixes and ranges instead of single addresses and ports";
            report.warn(rule.section.fault_here("", problem, remedy));
            return;
        }
        let before = rules[..index].iter();
        let covering = before
            .rev()
            .find(|before| covers(&before.value, &rule.value));
        if let Some(before) = covering {
            let problem = format!("can never match: shadowed by {}", quote(&before.value.name));
            let remedy = "put it before that policy, or remove it";
            let fault = rule.section.fault_here("", &problem, remedy);
            report.warn(fault.see(before.section.at));
        }
    }
}

/// How much there is to compare in a policy.
fn size(rule: &PolicyRule) -> usize {
    rule.from.len().max(rule.to.len()).max(rule.ports.len())
}

/// Whether everything that `rule` matches is matched by `before`, as far as the rules themselves
/// tell.
fn covers(before: &PolicyRule, rule: &PolicyRule) -> bool {
    let end_covers = |wide: &PolicyEnd, narrow: &PolicyEnd| match (wide, narrow) {
        (PolicyEnd::Any, narrow) => *narrow != PolicyEnd::Host,
        (PolicyEnd::Prefix(wide), PolicyEnd::Prefix(narrow)) => wide.contains(narrow),
        (wide, narrow) => wide == narrow,
    };
    let ends_cover = |wide: &[PolicyEnd], narrow: &[PolicyEnd]| {
        narrow
            .iter()
            .all(|narrow| wide.iter().any(|wide| end_covers(wide, narrow)))
    };
    let all = ForwardProtocol::All;
    let protocols = rule.protocols.iter();
    let ports_cover = |narrow: &PortRange| {
        before
            .ports
            .iter()
            .any(|wide| wide.first <= narrow.first && narrow.last <= wide.last)
    };
    ends_cover(&before.from, &rule.from)
        && ends_cover(&before.to, &rule.to)
        && protocols
            .clone()
            .all(|one| before.protocols.contains(one) || before.protocols.contains(&all))
        && (before.ports.is_empty()
            || (!rule.ports.is_empty() && rule.ports.iter().all(ports_cover)))
}
