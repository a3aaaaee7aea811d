//! `[uplink.NAME]`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    model::{Claim, ForwardProtocol, Mode, MssClamp, Uplink, UplinkAddresses},
    syntax::{Fault, Field, Key, Report, Section, key},
    text::words::quote,
    values,
};

/// The keys of `[uplink.NAME]`.
pub(crate) const KEYS: &[Key] = &[
    key("interface", "\"vmbr0\""),
    key("addresses", "[\"192.0.2.10\"]"),
    key("mode", "\"auto\""),
    key("keep", "[\"tcp/22\"]"),
    key("mss_clamp", "1452"),
    key("claim", "\"arp\""),
];

/// The port that no range takes from the host by default: the administrator's access.
pub(crate) const SSH: (ForwardProtocol, u16) = (ForwardProtocol::Tcp, 22);

pub(crate) fn read_uplink(section: &Section<'_>, report: &mut Report<'_>) -> Option<Uplink> {
    report.errors(section.unknown_keys());
    let interface = report.keep(section.required("interface", values::interface));
    let addresses = report.keep(section.optional("addresses", addresses));
    let addresses = addresses.map(Option::unwrap_or_default);
    let mode = report.keep(section.optional("mode", mode));
    let reserved_ports = section.optional("keep", |field| {
        values::distinct(field.items(), values::kept_port)
    });
    let reserved_ports = report.keep(reserved_ports);
    let mss_clamp = report.keep(section.optional("mss_clamp", mss_clamp));
    let claim = report.keep(section.optional("claim", claim));
    let (ipv4, ipv6) = addresses?;
    Some(Uplink {
        name: section.name.to_string(),
        interface: interface?,
        addresses: fixed(ipv4),
        addresses6: fixed(ipv6),
        mode: mode?.unwrap_or(Mode::Auto),
        reserved_ports: reserved_ports?.unwrap_or_else(|| vec![SSH]),
        mss_clamp: mss_clamp?.unwrap_or(MssClamp::Auto),
        claim: claim?.unwrap_or(Claim::Arp),
    })
}

fn addresses(field: Field<'_>) -> Result<(Vec<Ipv4Addr>, Vec<Ipv6Addr>), Fault> {
    let items = field.some_items()?;
    values::by_family(items, values::host_address, values::host_address6)
}

/// The addresses of a family; those of the interface if the file names none.
fn fixed<A>(addresses: Vec<A>) -> UplinkAddresses<A> {
    match addresses.is_empty() {
        true => UplinkAddresses::Interface,
        false => UplinkAddresses::Fixed(addresses),
    }
}

fn mode(field: Field<'_>) -> Result<Mode, Fault> {
    field.choice(&[("auto", Mode::Auto), ("tc", Mode::Tc), ("xdp", Mode::Xdp)])
}

fn claim(field: Field<'_>) -> Result<Claim, Fault> {
    field.choice(&[
        ("arp", Claim::Arp),
        ("add", Claim::Add),
        ("none", Claim::None),
    ])
}

/// `"auto"`, `"off"` or a number of bytes.
fn mss_clamp(field: Field<'_>) -> Result<MssClamp, Fault> {
    let Ok(word) = field.string() else {
        let bytes = field.integer(MssClamp::LEAST.into(), MssClamp::MOST.into())?;
        return Ok(MssClamp::Bytes(
            u16::try_from(bytes).unwrap_or(MssClamp::MOST),
        ));
    };
    if word.parse::<u64>().is_ok() {
        let problem = format!("{} is a number in quotes", quote(word));
        return Err(field.fault(problem, format!("write mss_clamp = {word}")));
    }
    field.choice(&[("auto", MssClamp::Auto), ("off", MssClamp::Off)])
}
