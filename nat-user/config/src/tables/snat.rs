//! `[[snat]]`.

use super::names::Names;
use crate::{
    model::{FilteringBehaviour, Forwarding, MappingBehaviour, PortRange, SnatRule, SnatSource},
    syntax::{Fault, Field, Key, Report, Section, key},
    values,
};

/// The keys of `[[snat]]`.
pub(crate) const KEYS: &[Key] = &[
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

pub(crate) fn read_snat(
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
