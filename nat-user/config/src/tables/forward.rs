//! `[[forward]]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    item::{self, Halves, Item},
    names::{GuestAddresses, Names},
};
use crate::{
    model::{
        Address, ForwardMatch, ForwardProtocol, ForwardRule, Forwarding, GuestAddress, Nat64,
        PortForward, PortRange, UplinkId,
    },
    syntax::{Fault, Field, Key, Report, Section, key},
    values,
};

/// The keys of `[[forward]]`.
pub(crate) const KEYS: &[Key] = &[
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

pub(crate) fn read_forward(
    section: &Section<'_>,
    names: &Names<'_>,
    report: &mut Report<'_>,
) -> Option<Forward> {
    report.errors(section.unknown_keys());
    let uplink = report.keep(section.required("uplink", |field| names.uplink(field)));
    let protocols = report.keep(section.required("protocol", values::protocols));
    let address = report.keep(section.optional("address", values::any_address));
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
    let rule = Written {
        name: section.name.to_string(),
        uplink: uplink?,
        matches: ForwardMatch {
            protocols: protocols?,
            ports,
        },
        hairpin: hairpin?.unwrap_or(true),
        local: is_local,
        forwarding: forwarding?.unwrap_or(Forwarding::Fast),
    };
    let GuestAddresses { ipv4, ipv6 } = to?;
    Some(Forward {
        rule,
        address: address?,
        ipv4,
        ipv6: preferred(ipv6),
    })
}

/// The rules of each family. With NAT64, a rule to a guest with IPv6 alone is one of IPv4 too: to
/// the address that stands for the guest.
pub(super) fn by_family<'a>(
    forwards: Vec<Item<'a, Forward>>,
    mut nat64: Option<&mut Nat64>,
    report: &mut Report<'_>,
) -> (Forwards<'a>, Forwards<'a, Ipv6Addr>) {
    let halves = forwards.into_iter().filter_map(|item| {
        let halves = item.value.halves(&item.section, nat64.as_deref_mut());
        let value = report.keep(halves)?;
        Some(Item::new(item.section, value))
    });
    item::by_family(halves.collect())
}

/// The rules of one family.
type Forwards<'a, A = Ipv4Addr> = Vec<Item<'a, ForwardRule<A>>>;

/// A rule as the file has it.
#[derive(Debug)]
pub(crate) struct Forward {
    rule: Written,
    address: Option<IpAddr>,
    ipv4: Option<GuestAddress>,
    ipv6: Option<GuestAddress<Ipv6Addr>>,
}

impl Forward {
    fn halves(
        self,
        section: &Section<'_>,
        nat64: Option<&mut Nat64>,
    ) -> Result<Halves<ForwardRule, ForwardRule<Ipv6Addr>>, Fault> {
        let Self {
            rule,
            address,
            ipv4,
            ipv6,
        } = self;
        let guest = ipv6.as_ref().and_then(GuestAddress::fixed);
        let of_ipv4 = |address: Option<Ipv4Addr>| match (ipv4, nat64, guest) {
            (None, Some(nat64), Some(guest)) => {
                let held = nat64.hold(guest).map(GuestAddress::Fixed);
                let to = held.ok_or_else(|| pool_is_used_up(section))?;
                if address.is_some() && rule.local && section.field("local").is_some() {
                    return Err(unreached(section));
                }
                // NAT64 would not see the guest's answers to the host.
                let to = ForwardRule {
                    local: false,
                    ..rule.to(address, to)
                };
                Ok(Some(to))
            }
            (own, ..) => Ok(own.map(|to| rule.to(address, to))),
        };
        Ok(match address {
            None => (of_ipv4(None)?, ipv6.map(|to| rule.to(None, to))),
            Some(IpAddr::V4(address)) => {
                let ipv4 = of_ipv4(Some(address))?;
                let ipv4 = ipv4.ok_or_else(|| mixed(section, "IPv6", "IPv4"))?;
                (Some(ipv4), None)
            }
            Some(IpAddr::V6(address)) => {
                let to = ipv6.ok_or_else(|| mixed(section, "IPv4", "IPv6"))?;
                (None, Some(rule.to(Some(address), to)))
            }
        })
    }
}

/// What a rule says about both families.
#[derive(Debug)]
struct Written {
    name: String,
    uplink: UplinkId,
    matches: ForwardMatch,
    hairpin: bool,
    local: bool,
    forwarding: Forwarding,
}

impl Written {
    fn to<A: Address>(&self, address: Option<A>, to: GuestAddress<A>) -> ForwardRule<A> {
        ForwardRule {
            name: self.name.clone(),
            uplink: self.uplink,
            matches: self.matches.clone(),
            address,
            to,
            hairpin: self.hairpin,
            local: self.local,
            forwarding: self.forwarding,
        }
    }
}

/// Of a guest's addresses, a unique local one: it stays when the provider's prefix changes.
fn preferred(addresses: Vec<GuestAddress<Ipv6Addr>>) -> Option<GuestAddress<Ipv6Addr>> {
    let is_local = |own: &GuestAddress<Ipv6Addr>| {
        let fixed = own.fixed();
        fixed.is_some_and(|address| address.is_unique_local())
    };
    let mut addresses = addresses.into_iter();
    let first = addresses.next()?;
    match is_local(&first) {
        true => Some(first),
        false => Some(addresses.find(is_local).unwrap_or(first)),
    }
}

fn pool_is_used_up(section: &Section<'_>) -> Fault {
    let problem = "NAT64's pool has no address left for this guest";
    section.fault("to", problem, "write a larger pool in [nat64]")
}

/// NAT64 does not serve the host itself.
fn unreached(section: &Section<'_>) -> Fault {
    let problem = "the host does not reach a guest with IPv6 alone by an IPv4 address";
    section.fault("local", problem, "leave local out, or leave address out")
}

/// No packet has addresses of both families.
fn mixed(section: &Section<'_>, to: &str, address: &str) -> Fault {
    let problem = format!("has only {to}, but address is an {address} address");
    section.fault("to", &problem, "write a guest and an address of one family")
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
fn have_ports(protocols: &[ForwardProtocol]) -> bool {
    protocols.iter().any(|one| one.has_ports())
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
    let external = values::external_ports(ports)?;
    match section.field("to_ports") {
        Some(to_ports) => paired(&external, to_ports),
        None => Ok(external.iter().map(|range| pair(*range, *range)).collect()),
    }
}

fn pair(external: PortRange, internal: PortRange) -> PortForward {
    PortForward { external, internal }
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
        internal,
        internal.count(),
        external,
        external.count(),
    );
    let last = u32::from(internal.first) + external.count() - 1;
    let remedy = match u16::try_from(last) {
        Ok(last) => {
            let fitting = PortRange {
                first: internal.first,
                last,
            };
            format!("write \"{fitting}\", or one port")
        }
        Err(_) => format!("write a range of {} ports, or one port", external.count()),
    };
    item.fault(problem, remedy)
}
