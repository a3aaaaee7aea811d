//! `[[snat]]`.

use std::collections::{BTreeSet, HashMap};

use ipnet::Ipv4Net;

use super::{
    diagnostic::{Fault, Report},
    model::{
        FilteringBehaviour, Forwarding, MappingBehaviour, Network, NetworkId, PortRange, SnatRule,
        SnatSource, UplinkId,
    },
    parse::{Field, Key, Section, key, quote},
    tables::{Item, Names},
    values,
};

/// The keys of `[[snat]]`.
pub(super) const KEYS: &[Key] = &[
    key("name", "\"lan-out\""),
    key("network", "\"lan\""),
    key("source", "\"172.22.161.0/24\""),
    key("uplink", "\"wan\""),
    key("to", "\"masquerade\""),
    key("ports", "\"1024-65535\""),
    key("mapping", "\"endpoint-independent\""),
    key("filtering", "\"address-dependent\""),
    key("exclude", "[\"10.0.0.0/8\"]"),
    key("forwarding", "\"kernel\""),
];

const PORTS: PortRange = PortRange {
    first: 1024,
    last: 65535,
};

pub(super) fn read_snat(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<SnatRule> {
    report.errors(section.unknown_keys());
    let source = report.keep(source(section, names));
    let uplink = report.keep(section.required("uplink", |field| names.uplink(field)));
    let to = report.keep(section.required("to", values::snat_target));
    let ports = report.keep(section.optional("ports", ports));
    let mapping = report.keep(section.optional("mapping", mapping));
    let filtering = report.keep(section.optional("filtering", filtering));
    let exclude = section.optional("exclude", |field| {
        values::distinct(field.items(), values::prefix)
    });
    let exclude = report.keep(exclude);
    let forwarding = report.keep(section.optional("forwarding", values::forwarding));
    Some(SnatRule {
        name: section.name.to_string(),
        source: source?,
        uplink: uplink?,
        to: to?,
        ports: ports?.unwrap_or(PORTS),
        mapping: mapping?.unwrap_or(MappingBehaviour::EndpointIndependent),
        filtering: filtering?.unwrap_or(FilteringBehaviour::AddressDependent),
        exclude: exclude?.unwrap_or_default(),
        forwarding: forwarding?.unwrap_or(Forwarding::Fast),
    })
}

fn source(section: &Section<'_>, names: &Names<'_>) -> Result<SnatSource, Fault> {
    match (section.field("network"), section.field("source")) {
        (Some(network), None) => names.network(network).map(SnatSource::Network),
        (None, Some(source)) => values::prefix(source).map(SnatSource::Prefix),
        (Some(_), Some(source)) => {
            Err(source.fault("cannot be combined with network", "keep one of the two"))
        }
        (None, None) => {
            // A mistyped `network` or `source` is reported as that.
            let mistyped = [section.mistyped("network"), section.mistyped("source")];
            let missing = || {
                let remedy = "write network = \"NAME\" or source = \"PREFIX\"";
                section.fault_here("network", "is missing, and so is source", remedy)
            };
            Err(mistyped
                .into_iter()
                .flatten()
                .next()
                .unwrap_or_else(missing))
        }
    }
}

fn ports(field: Field<'_>) -> Result<PortRange, Fault> {
    match field.items()[..] {
        [item] => values::port_range(item),
        _ => Err(field.fault("is a list", "write one range, as in ports = \"1024-65535\"")),
    }
}

fn mapping(field: Field<'_>) -> Result<MappingBehaviour, Fault> {
    use MappingBehaviour::{AddressAndPortDependent, EndpointIndependent};
    field.choice(&[
        ("endpoint-independent", EndpointIndependent),
        ("address-and-port-dependent", AddressAndPortDependent),
    ])
}

fn filtering(field: Field<'_>) -> Result<FilteringBehaviour, Fault> {
    use FilteringBehaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    field.choice(&[
        ("endpoint-independent", EndpointIndependent),
        ("address-dependent", AddressDependent),
        ("address-and-port-dependent", AddressAndPortDependent),
    ])
}

/// Warns of rules that can never match, because an earlier one takes every packet.
pub(super) fn shadowed(
    rules: &[Item<'_, SnatRule>],
    networks: &[Item<'_, Network>],
    report: &mut Report<'_>,
) {
    let mut earlier = Earlier::default();
    for rule in rules {
        let prefix = match rule.value.source {
            SnatSource::Prefix(prefix) => Some(prefix),
            SnatSource::Network(NetworkId(id)) => networks
                .get(id)
                .map(|network| network.value.address.trunc()),
        };
        let before = earlier.covering(&rule.value, prefix).or_else(|| {
            let around = networks.iter().zip((0..).map(NetworkId));
            let mut around = around.filter(|(network, _)| {
                prefix.is_some_and(|prefix| network.value.address.contains(&prefix))
            });
            around.find_map(|(_, id)| earlier.of_network(&rule.value, id))
        });
        if let Some(before) = before {
            let problem = format!("can never match: shadowed by {}", quote(&before.value.name));
            let remedy = "put it before that rule, or remove it";
            report.warn(
                rule.section
                    .fault_here("", &problem, remedy)
                    .see(before.section.at),
            );
        } else {
            earlier.add(rule);
        }
    }
}

/// The rules so far, by what they match.
#[derive(Default)]
struct Earlier<'r> {
    by_network: HashMap<(UplinkId, NetworkId), Vec<&'r Item<'r, SnatRule>>>,
    by_prefix: HashMap<(UplinkId, Ipv4Net), Vec<&'r Item<'r, SnatRule>>>,
    /// The existing prefix lengths, so that others need no lookup.
    lengths: BTreeSet<u8>,
}

impl<'r> Earlier<'r> {
    fn add(&mut self, rule: &'r Item<'r, SnatRule>) {
        let uplink = rule.value.uplink;
        match rule.value.source {
            SnatSource::Network(id) => self.by_network.entry((uplink, id)).or_default().push(rule),
            SnatSource::Prefix(prefix) => {
                self.lengths.insert(prefix.prefix_len());
                self.by_prefix
                    .entry((uplink, prefix))
                    .or_default()
                    .push(rule);
            }
        }
    }

    /// A rule for a whole network that takes what `rule` would match of it.
    fn of_network(&self, rule: &SnatRule, id: NetworkId) -> Option<&'r Item<'r, SnatRule>> {
        let rules = self.by_network.get(&(rule.uplink, id))?;
        let covers = |before: &&&'r Item<'r, SnatRule>| excludes_no_more(&before.value, rule);
        rules.iter().find(covers).copied()
    }

    /// A rule that takes all that `rule`, whose sources are within `prefix`, would match.
    fn covering(&self, rule: &SnatRule, prefix: Option<Ipv4Net>) -> Option<&'r Item<'r, SnatRule>> {
        let covers = |before: &&&'r Item<'r, SnatRule>| excludes_no_more(&before.value, rule);
        let prefix = prefix?;
        let lengths = self.lengths.range(..=prefix.prefix_len());
        let wider = lengths.filter_map(|length| Ipv4Net::new(prefix.addr(), *length).ok());
        let mut rules = wider.filter_map(|wider| self.by_prefix.get(&(rule.uplink, wider.trunc())));
        rules.find_map(|rules| rules.iter().find(covers)).copied()
    }
}

/// Whether `rule` also excludes everything that `before` excludes.
fn excludes_no_more(before: &SnatRule, rule: &SnatRule) -> bool {
    before
        .exclude
        .iter()
        .all(|prefix| rule.exclude.iter().any(|wider| wider.contains(prefix)))
}
