//! `[[nat]]`.

use super::names::Names;
use crate::{
    model::{Forwarding, NatRule},
    syntax::{Key, Report, Section, key},
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
    let to = report.keep(section.required("to", |field| names.guest(field)));
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
