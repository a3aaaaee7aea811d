//! `[[snat]]`.

use std::net::Ipv6Addr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{item::Halves, names::Names};
use crate::{
    model::{
        Address, FilteringBehaviour, Forwarding, MappingBehaviour, PortRange, SnatRule, SnatSource,
        SnatTarget, UplinkId,
    },
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
) -> Option<Halves<SnatRule, SnatRule<Ipv6Addr>>> {
    report.errors(section.unknown_keys());
    let source = report.keep(source(section, names));
    let uplink = report.keep(section.required("uplink", |field| names.uplink(field)));
    let to = report.keep(section.required("to", values::snat_target));
    let ports = report.keep(section.optional("ports", ports));
    let mapping = report.keep(section.optional("mapping", mapping));
    let filtering = report.keep(section.optional("filtering", filtering));
    let exclude = section.optional("exclude", |field| {
        values::by_family(field.items(), values::prefix, values::prefix6)
    });
    let exclude = report.keep(exclude);
    let forwarding = report.keep(section.optional("forwarding", values::forwarding));
    let rule = Written {
        name: section.name.to_string(),
        uplink: uplink?,
        ports: ports?.unwrap_or(PORTS),
        mapping: mapping?.unwrap_or(MappingBehaviour::EndpointIndependent),
        filtering: filtering?.unwrap_or(FilteringBehaviour::AddressDependent),
        forwarding: forwarding?.unwrap_or(Forwarding::Fast),
    };
    let (source, to, exclude) = (source?, to?, exclude?.unwrap_or_default());
    report.errors(mixed(section, &source, &to, &exclude));
    let ipv4 = source.0.zip(to.0);
    let ipv6 = source.1.zip(to.1);
    Some((
        ipv4.map(|(source, to)| rule.from(source, to, exclude.0)),
        ipv6.map(|(source, to)| rule.from(source, to, exclude.1)),
    ))
}

/// What a rule says about both families.
struct Written {
    name: String,
    uplink: UplinkId,
    ports: PortRange,
    mapping: MappingBehaviour,
    filtering: FilteringBehaviour,
    forwarding: Forwarding,
}

impl Written {
    fn from<A: Address>(
        &self,
        source: SnatSource<A>,
        to: SnatTarget<A>,
        exclude: Vec<A::Prefix>,
    ) -> SnatRule<A> {
        SnatRule {
            name: self.name.clone(),
            source,
            uplink: self.uplink,
            to,
            ports: self.ports,
            mapping: self.mapping,
            filtering: self.filtering,
            exclude,
            forwarding: self.forwarding,
        }
    }
}

type Sources = Halves<SnatSource, SnatSource<Ipv6Addr>>;
type Targets = Halves<SnatTarget, SnatTarget<Ipv6Addr>>;
type Excludes = (Vec<Ipv4Net>, Vec<Ipv6Net>);

/// The rule translates nothing, or excludes what it does not translate.
fn mixed(
    section: &Section<'_>,
    source: &Sources,
    to: &Targets,
    exclude: &Excludes,
) -> Option<Fault> {
    let is_ipv4 = source.0.is_some() && to.0.is_some();
    let is_ipv6 = source.1.is_some() && to.1.is_some();
    let by_source = section.field("source").is_some();
    if !is_ipv4 && !is_ipv6 {
        return Some(match (source, to) {
            ((None, None), _) => untranslated(section),
            (_, (_, None)) if !by_source => {
                let problem = "is of IPv4, but the network has no IPv4 address";
                let remedy = "write an IPv6 address or \"masquerade\"";
                section.fault("to", problem, remedy)
            }
            (_, (None, _)) if !by_source => {
                let problem = "is of IPv6, but the network has no unique local prefix, and public \
                               addresses are translated only by source";
                let remedy = "write source = \"PREFIX\" instead of network, or leave IPv6 alone";
                section.fault("to", problem, remedy)
            }
            (_, to) => {
                let (to, source) = match to.0 {
                    Some(_) => ("IPv4", "IPv6"),
                    None => ("IPv6", "IPv4"),
                };
                let problem = format!("is of {to}, but source is of {source}");
                section.fault("to", &problem, "write both of one family")
            }
        });
    }
    let other = match (is_ipv4, is_ipv6) {
        (false, true) if !exclude.0.is_empty() => ("IPv4", "IPv6"),
        (true, false) if !exclude.1.is_empty() => ("IPv6", "IPv4"),
        _ => return None,
    };
    let problem = format!(
        "excludes {} destinations, but the rule translates only {}",
        other.0, other.1
    );
    Some(section.fault(
        "exclude",
        &problem,
        "write prefixes of the family that it translates",
    ))
}

/// The network has only public IPv6 addresses.
fn untranslated(section: &Section<'_>) -> Fault {
    let problem = "translates nothing: the network has only public IPv6 addresses, which leave as \
                   they are";
    let remedy = "remove the rule, or write source = \"PREFIX\" to translate them nevertheless";
    section.fault("network", problem, remedy)
}

fn source(section: &Section<'_>, names: &Names<'_>) -> Result<Sources, Fault> {
    match (section.field("network"), section.field("source")) {
        (Some(network), None) => {
            let id = names.network(network)?;
            let (ipv4, ipv6) = names.translated_in(id);
            let ipv4 = ipv4.then_some(SnatSource::Network(id));
            Ok((ipv4, ipv6.then_some(SnatSource::Network(id))))
        }
        (None, Some(source)) if values::looks_like_ipv6(&source) => {
            let prefix = values::prefix6(source)?;
            Ok((None, Some(SnatSource::Prefix(prefix))))
        }
        (None, Some(source)) => {
            let prefix = values::prefix(source)?;
            Ok((Some(SnatSource::Prefix(prefix)), None))
        }
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
