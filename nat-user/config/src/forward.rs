//! `[[forward]]`.

use std::{collections::HashSet, net::Ipv4Addr};

use super::{
    diagnostic::{Fault, Report},
    model::{
        ForwardMatch, ForwardProtocol, ForwardRule, Forwarding, NatRule, Network, PortForward,
        PortRange, SnatRule, SnatTarget, Uplink, UplinkAddresses, UplinkId,
    },
    network::ByAddress,
    parse::{Field, Key, Section, key, quote},
    route,
    tables::{Item, Names},
    target,
    uplink::SSH,
    values,
};

/// The keys of `[[forward]]`.
pub(super) const KEYS: &[Key] = &[
    key("name", "\"web\""),
    key("uplink", "\"wan\""),
    key("protocol", "\"tcp\""),
    key("address", "\"192.0.2.10\""),
    key("ports", "\"10000-10999\""),
    key("to", "\"172.22.161.170\""),
    key("to_ports", "80"),
    key("hairpin", "true"),
    key("local", "true"),
    key("forwarding", "\"kernel\""),
];

pub(super) fn read_forward(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<ForwardRule> {
    report.errors(section.unknown_keys());
    let uplink = report.keep(section.required("uplink", |field| names.uplink(field)));
    let protocols = report.keep(section.required("protocol", protocols));
    let address = report.keep(section.optional("address", values::host_address));
    let ports = report.keep(ports(section, protocols.as_deref()));
    let to = report.keep(section.required("to", |field| names.guest(field)));
    let hairpin = report.keep(section.optional("hairpin", |field| field.boolean()));
    let local = report.keep(local(section, protocols.as_deref()));
    let forwarding = report.keep(section.optional("forwarding", values::forwarding));
    let ports = ports?;
    // By default only a rule with ports serves the host. A rule without ports takes everything that
    // the host does not serve, and a connection of a host's program to its own stopped service must
    // not reach a guest.
    let is_local = local?.unwrap_or(!ports.is_empty());
    Some(ForwardRule {
        name: section.name.to_string(),
        uplink: uplink?,
        matches: ForwardMatch {
            protocols: protocols?,
            ports,
        },
        address: address?,
        to: to?,
        hairpin: hairpin?.unwrap_or(true),
        local: is_local,
        forwarding: forwarding?.unwrap_or(Forwarding::Fast),
    })
}

pub(super) fn protocols(field: Field<'_>) -> Result<Vec<ForwardProtocol>, Fault> {
    let choices = [
        ("tcp", ForwardProtocol::Tcp),
        ("udp", ForwardProtocol::Udp),
        ("icmp", ForwardProtocol::Icmp),
        ("all", ForwardProtocol::All),
    ];
    let protocols = values::distinct(field.required_items()?, |item| item.choice(&choices))?;
    if protocols.len() > 1 && protocols.contains(&ForwardProtocol::All) {
        return Err(field.fault(
            "`all` already includes the other protocols",
            "write \"all\" alone",
        ));
    }
    Ok(protocols)
}

/// Local access, if the rule says so. It works only for ports.
fn local(
    section: &Section<'_>,
    protocols: Option<&[ForwardProtocol]>,
) -> Result<Option<bool>, Fault> {
    let local = section.optional("local", |field| field.boolean())?;
    let has_ports = |protocols| have_ports(protocols) || protocols == [ForwardProtocol::All];
    match section.field("local") {
        Some(field) if local == Some(true) && !protocols.is_none_or(has_ports) => Err(field.fault(
            "local access works only for tcp and udp",
            "leave local out, or write protocol = \"tcp\" or \"udp\"",
        )),
        _ => Ok(local),
    }
}

/// Whether one of the protocols has ports.
pub(super) fn have_ports(protocols: &[ForwardProtocol]) -> bool {
    protocols
        .iter()
        .any(|one| matches!(one, ForwardProtocol::Tcp | ForwardProtocol::Udp))
}

/// Pairs `ports` with `to_ports`. `protocols` is `None` if that key is wrong.
fn ports(
    section: &Section<'_>,
    protocols: Option<&[ForwardProtocol]>,
) -> Result<Vec<PortForward>, Fault> {
    let Some(ports) = section.field("ports") else {
        return match section.field("to_ports") {
            Some(_) if section.mistyped("ports").is_some() => Ok(Vec::new()),
            Some(to_ports) => {
                Err(to_ports.fault("needs ports beside it", "add ports = 80, for example"))
            }
            None => Ok(Vec::new()),
        };
    };
    if protocols.is_some_and(|protocols| !have_ports(protocols)) {
        let remedy = "leave ports out, or write protocol = \"tcp\" or \"udp\"";
        return Err(ports.fault("protocols without tcp and udp have no ports", remedy));
    }
    let external = external_ports(ports)?;
    match section.field("to_ports") {
        Some(to_ports) => paired(&external, to_ports),
        None => Ok(external.iter().map(|range| pair(*range, *range)).collect()),
    }
}

fn pair(external: PortRange, internal: PortRange) -> PortForward {
    PortForward { external, internal }
}

pub(super) fn external_ports(field: Field<'_>) -> Result<Vec<PortRange>, Fault> {
    let items = field.some_items()?;
    let ranges: Vec<_> = items
        .iter()
        .map(|item| values::port_range(*item))
        .collect::<Result<_, _>>()?;
    match overlap(&ranges) {
        None => Ok(ranges),
        Some((before, after)) => {
            let problem = format!(
                "{} overlaps {} in the same list",
                text(ranges[after]),
                text(ranges[before])
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

/// A range as it is written in the file.
pub(super) fn text(range: PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}

/// One port takes all; otherwise each item of `ports` has one of `to_ports` beside it.
fn paired(external: &[PortRange], field: Field<'_>) -> Result<Vec<PortForward>, Fault> {
    let items = field.some_items()?;
    let internal: Vec<_> = items
        .iter()
        .map(|item| values::port_range(*item))
        .collect::<Result<_, _>>()?;
    if let [one] = internal[..]
        && one.count() == 1
    {
        return Ok(external.iter().map(|range| pair(*range, one)).collect());
    }
    if internal.len() != external.len() {
        let problem = format!(
            "has {} items, but ports has {}",
            internal.len(),
            external.len()
        );
        return Err(field.fault(
            problem,
            "write one item for each item of ports, or one port for all",
        ));
    }
    let misfit = external.iter().zip(&internal);
    let misfit = misfit
        .zip(&items)
        .find(|((external, internal), _)| !fits(**external, **internal));
    match misfit {
        Some(((external, internal), item)) => Err(unequal(*external, *internal, *item)),
        None => Ok(external
            .iter()
            .zip(&internal)
            .map(|(e, i)| pair(*e, *i))
            .collect()),
    }
}

fn fits(external: PortRange, internal: PortRange) -> bool {
    internal.count() == 1 || internal.count() == external.count()
}

fn unequal(external: PortRange, internal: PortRange, item: Field<'_>) -> Fault {
    let problem = format!(
        "{} holds {} ports, but {} of ports holds {}",
        text(internal),
        internal.count(),
        text(external),
        external.count(),
    );
    let last = u32::from(internal.first) + external.count() - 1;
    let remedy = match u16::try_from(last) {
        Ok(last) => {
            let fitting = PortRange {
                first: internal.first,
                last,
            };
            format!("write \"{}\", or one port", text(fitting))
        }
        Err(_) => format!("write a range of {} ports, or one port", external.count()),
    };
    item.fault(problem, remedy)
}

/// Further input of the warnings about forwards.
pub(super) struct Surroundings<'c> {
    pub(super) uplinks: &'c [Item<'c, Uplink>],
    pub(super) networks: &'c [Item<'c, Network>],
    pub(super) routes: &'c route::ByAddress<'c>,
    pub(super) snat: &'c [Item<'c, SnatRule>],
    pub(super) nats: &'c [Item<'c, NatRule>],
}

/// Warns about valid but probably unintended settings.
pub(super) fn forward_doubts(
    rules: &[Item<'_, ForwardRule>],
    around: &Surroundings<'_>,
    report: &mut Report<'_>,
) {
    let by_address = ByAddress::new(around.networks);
    let named_ssh: HashSet<_> = rules
        .iter()
        .filter(|rule| names_ssh(&rule.value))
        .map(scope)
        .collect();
    for rule in rules {
        let faults = [
            target::doubt(&rule.section, &rule.value.to, &by_address, around),
            foreign_address(rule, around),
            kept_ssh(rule, around.uplinks, &named_ssh),
            no_ports_left(rule, around),
        ];
        faults
            .into_iter()
            .flatten()
            .for_each(|fault| report.warn(fault));
    }
}

type Scope = (UplinkId, Option<Ipv4Addr>);

fn scope(rule: &Item<'_, ForwardRule>) -> Scope {
    (rule.value.uplink, rule.value.address)
}

/// The external address is not a known address of the uplink.
fn foreign_address(rule: &Item<'_, ForwardRule>, around: &Surroundings<'_>) -> Option<Fault> {
    let address = rule.value.address?;
    let uplink = &around.uplinks.get(rule.value.uplink.0)?.value;
    let UplinkAddresses::Fixed(addresses) = &uplink.addresses else {
        return None;
    };
    let in_pool = |snat: &Item<'_, SnatRule>| match snat.value.to {
        SnatTarget::Pool { first, last } => {
            snat.value.uplink == rule.value.uplink && (first..=last).contains(&address)
        }
        SnatTarget::Masquerade => false,
    };
    let of_guest = |nat: &Item<'_, NatRule>| {
        nat.value.uplink == rule.value.uplink && nat.value.address == address
    };
    if addresses.contains(&address)
        || around.snat.iter().any(in_pool)
        || around.nats.iter().any(of_guest)
    {
        return None;
    }
    let problem = format!(
        "{address} is not an address of uplink {}",
        quote(&uplink.name)
    );
    let remedy = "add it to the uplink's addresses, unless it is routed to the host";
    Some(rule.section.fault("address", &problem, remedy))
}

/// The rule names every port by which guests could leave with the same address.
fn no_ports_left(rule: &Item<'_, ForwardRule>, around: &Surroundings<'_>) -> Option<Fault> {
    let leaves_nothing = |snat: &&Item<'_, SnatRule>| {
        let ports = snat.value.ports;
        let mut named = rule.value.matches.ports.iter();
        let is_whole = named.any(|named| {
            named.external.first <= ports.first.max(FIRST_FREE) && ports.last <= named.external.last
        });
        let is_same = rule
            .value
            .address
            .is_none_or(|address| match snat.value.to {
                SnatTarget::Pool { first, last } => first == address && last == address,
                SnatTarget::Masquerade => {
                    first_address(snat, around).is_none_or(|own| own == address)
                }
            });
        snat.value.uplink == rule.value.uplink && is_whole && is_same
    };
    let snat = around.snat.iter().find(leaves_nothing)?;
    let problem = format!(
        "takes every port that snat {} could use on the same address",
        quote(&snat.value.name)
    );
    let remedy = "leave ports out, so that guests share the remaining ports; or use two different \
        addresses";
    let fault = rule.section.fault("ports", &problem, remedy);
    Some(fault.see(snat.section.at))
}

/// What masquerade uses, as far as the file tells.
fn first_address(snat: &Item<'_, SnatRule>, around: &Surroundings<'_>) -> Option<Ipv4Addr> {
    match &around.uplinks.get(snat.value.uplink.0)?.value.addresses {
        UplinkAddresses::Fixed(addresses) => addresses.first().copied(),
        UplinkAddresses::Interface => None,
    }
}

/// Almost all ports of guests are at or above this one.
const FIRST_FREE: u16 = 1024;

fn names_ssh(rule: &ForwardRule) -> bool {
    let single = PortRange {
        first: SSH.1,
        last: SSH.1,
    };
    rule.matches.protocols.contains(&SSH.0)
        && rule
            .matches
            .ports
            .iter()
            .any(|ports| ports.external == single)
}

/// The range of the rule includes tcp/22, which nevertheless stays with the host. No warning if
/// `keep` is set.
fn kept_ssh(
    rule: &Item<'_, ForwardRule>,
    uplinks: &[Item<'_, Uplink>],
    named: &HashSet<Scope>,
) -> Option<Fault> {
    let reason = takes_ssh(&rule.value)?;
    let uplink = uplinks.get(rule.value.uplink.0)?;
    let by_default = uplink.section.field("keep").is_none();
    // It is not known here whether the host holds an address that only the rule names; usually it
    // does not.
    let own_address = match (&uplink.value.addresses, rule.value.address) {
        (UplinkAddresses::Fixed(addresses), Some(address)) => addresses.contains(&address),
        (UplinkAddresses::Interface, Some(_)) => false,
        (_, None) => true,
    };
    let named = named.contains(&(rule.value.uplink, None)) || named.contains(&scope(rule));
    if !by_default || !own_address || named {
        return None;
    }
    // It is not known here whether the host holds an address that the uplink lists.
    let holds = match rule.value.address {
        Some(address) => format!(" where that holds {address}"),
        None => String::new(),
    };
    let problem = format!("tcp port 22 stays with the host{holds}, although {reason} includes it");
    let remedy = format!(
        "name port 22 by itself to forward it, or set {}.keep to the host's ports",
        uplink.section.path()
    );
    let key = if rule.value.matches.ports.is_empty() {
        "protocol"
    } else {
        "ports"
    };
    Some(rule.section.fault(key, &problem, &remedy))
}

/// The part of a rule that includes the host's ssh port without naming it.
fn takes_ssh(rule: &ForwardRule) -> Option<String> {
    let matches = &rule.matches;
    let all = matches.protocols.contains(&ForwardProtocol::All);
    let tcp = matches.protocols.contains(&SSH.0);
    if matches.ports.is_empty() {
        return (all || tcp).then(|| if all { "`all`" } else { "tcp without ports" }.to_owned());
    }
    let ranges = matches.ports.iter().map(|ports| ports.external);
    let mut wide = ranges.filter(|range| range.count() > 1);
    let range = wide.find(|range| (range.first..=range.last).contains(&SSH.1))?;
    tcp.then(|| text(range))
}
