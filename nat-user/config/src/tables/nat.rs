//! `[[nat]]`.

use ipnet::Ipv6Net;

use super::names::Names;
use crate::{
    model::{Forwarding, NatRule, PrefixRule},
    syntax::{Fault, Field, Key, Report, Section, key},
    text::words::quote,
    values,
};

/// The keys of `[[nat]]`.
pub(crate) const KEYS: &[Key] = &[
    key("name", "\"mail\""),
    key("uplink", "\"wan\""),
    key("address", "\"192.0.2.11\""),
    key("to", "\"172.22.161.171\""),
    key("hairpin", "true"),
    key("forwarding", "\"kernel\""),
];

pub(crate) fn read_nat(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<NatRule> {
    report.errors(section.unknown_keys());
    let uplink = report.keep(section.required("uplink", |field| names.uplink(field)));
    let address = report.keep(section.required("address", values::host_address));
    let to = report.keep(section.required("to", |field| names.ipv4_guest(field)));
    let hairpin = report.keep(section.optional("hairpin", |field| field.boolean()));
    let forwarding = report.keep(section.optional("forwarding", values::forwarding));
    Some(NatRule {
        name: section.name.to_string(),
        uplink: uplink?,
        address: address?,
        to: to?,
        hairpin: hairpin?.unwrap_or(true),
        forwarding: forwarding?.unwrap_or(Forwarding::Fast),
    })
}

/// Whether a rule translates IPv6 prefixes.
pub(super) fn is_of_prefixes(section: &Section<'_>) -> bool {
    let address = section.field("address");
    address.is_some_and(|field| values::looks_like_ipv6(&field))
}

/// A rule that translates IPv6 prefixes.
pub(super) fn read_prefixes(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<PrefixRule> {
    report.errors(section.unknown_keys());
    let uplink = report.keep(section.required("uplink", |field| names.uplink(field)));
    let external = report.keep(section.required("address", prefix));
    let internal = report.keep(section.required("to", prefix));
    let hairpin = report.keep(section.optional("hairpin", |field| field.boolean()));
    if section.field("forwarding").is_some() {
        let problem = "has no effect on prefixes, whose packets have no sessions";
        report.error(section.fault("forwarding", problem, "leave it out"));
    }
    let rule = PrefixRule {
        name: section.name.to_string(),
        uplink: uplink?,
        external: external?,
        internal: internal?,
        hairpin: hairpin?.unwrap_or(true),
    };
    let (length, expected) = (rule.internal.prefix_len(), rule.external.prefix_len());
    if length != expected {
        let problem = format!("has {length} bits, but the prefix of address has {expected}");
        let remedy = "write two prefixes of the same length";
        report.error(section.fault("to", &problem, remedy));
    }
    Some(rule)
}

/// A prefix that NPTv6 can translate.
fn prefix(field: Field<'_>) -> Result<Ipv6Net, Fault> {
    let text = field.string()?;
    let remedy = "write a prefix of 1 to 64 bits, as in \"2001:db8:5::/64\"";
    if !text.contains(':') {
        let problem = format!("{} is not an IPv6 prefix, but address is one", quote(text));
        return Err(field.fault(problem, remedy));
    }
    let prefix = values::prefix6(field)?;
    match prefix.prefix_len() {
        1..=64 => Ok(prefix),
        _ => {
            let problem = format!("`{prefix}` cannot be translated as a prefix");
            Err(field.fault(problem, remedy))
        }
    }
}
