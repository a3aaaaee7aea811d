//! `[[guest]]`.

use super::names::Names;
use crate::{
    model::Guest,
    syntax::{Key, Report, Section, key},
    values,
};

/// The keys of `[[guest]]`.
pub(crate) const KEYS: &[Key] = &[
    key("name", "\"web1\""),
    key("network", "\"lan\""),
    key("address", "\"172.22.161.170\""),
    key("mac", "\"52:54:00:12:34:56\""),
    key("duid", "\"00:03:00:01:52:54:00:12:34:56\""),
    key("port", "\"tap1\""),
];

pub(crate) fn read_guest(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Guest> {
    report.errors(section.unknown_keys());
    let network = report.keep(section.required("network", |field| names.network(field)));
    let addresses = report.keep(names.addresses_of(section));
    let mac = report.keep(section.required("mac", values::mac));
    let duid = report.keep(section.optional("duid", values::duid));
    let port = report.keep(section.optional("port", values::interface));
    let addresses = addresses?;
    Some(Guest {
        name: section.name.to_string(),
        network: network?,
        address: addresses.ipv4,
        addresses6: addresses.ipv6,
        mac: mac?,
        duid: duid?,
        port: port?,
    })
}
