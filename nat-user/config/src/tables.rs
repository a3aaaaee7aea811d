//! Reads the tables of a file one after the other, then checks them against each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{
    claim,
    diagnostic::{Fault, Report},
    forward, guest, interfaces, limits,
    model::{
        Config, ForwardRule, Forwarding, Guest, GuestAddress, Identity, Limits, NatRule, Network,
        NetworkId, PolicyEnd, PolicyRule, Route, SnatRule, Timeouts, Uplink, UplinkId, mac_text,
    },
    nat, network,
    parse::{Field, Key, Section, key, quote},
    policy, route, shadow, snat, suggest, target, uplink, values,
};

/// The tables of a file.
pub(super) const KEYS: &[Key] = &[
    key("forwarding", "\"fast\""),
    key("template", ""),
    key("uplink", ""),
    key("network", ""),
    key("guest", ""),
    key("route", ""),
    key("snat", ""),
    key("forward", ""),
    key("nat", ""),
    key("policy", ""),
    key("limits", ""),
    key("timeouts", ""),
];

/// A value with the table from which it was read.
#[derive(Debug)]
pub(super) struct Item<'a, T> {
    pub(super) section: Section<'a>,
    pub(super) value: T,
}

/// The names of uplinks, networks and guests, which rules refer to.
#[derive(Debug)]
pub(super) struct Names<'n> {
    uplinks: BTreeMap<&'n str, usize>,
    networks: BTreeMap<&'n str, usize>,
    guests: BTreeMap<&'n str, usize>,
    /// The guests' names, in the order of the file.
    addresses: Vec<Result<GuestAddress, Fault>>,
    macs: BTreeMap<[u8; 6], usize>,
    /// The networks in which addresses are leased.
    leasing: BTreeSet<usize>,
}

impl<'n> Names<'n> {
    fn new(
        uplinks: &'n [Section<'_>],
        networks: &'n [Section<'_>],
        guests: &'n [Section<'_>],
    ) -> Self {
        let by_name = |sections: &'n [Section<'_>]| {
            let names = sections.iter().map(|section| &*section.name);
            names.zip(0..).collect()
        };
        let leasing = networks.iter().enumerate();
        let leasing = leasing.filter(|(_, section)| section.field("dhcp").is_some());
        let macs = guests.iter().zip(0..);
        let macs = macs.filter_map(|(section, index)| {
            Some((section.field("mac").map(guest::mac)?.ok()?, index))
        });
        let mut names = Self {
            uplinks: by_name(uplinks),
            networks: by_name(networks),
            guests: by_name(guests),
            addresses: Vec::new(),
            macs: macs.collect(),
            leasing: leasing.map(|(index, _)| index).collect(),
        };
        names.addresses = guests
            .iter()
            .map(|section| guest::address(section, &names))
            .collect();
        names
    }

    /// Whether addresses are leased in a network.
    pub(super) fn has_leases(&self, network: NetworkId) -> bool {
        self.leasing.contains(&network.0)
    }

    pub(super) fn uplink(&self, field: Field<'_>) -> Result<UplinkId, Fault> {
        find("uplink", &self.uplinks, field).map(UplinkId)
    }

    pub(super) fn network(&self, field: Field<'_>) -> Result<NetworkId, Fault> {
        find("network", &self.networks, field).map(NetworkId)
    }

    /// A guest's address: literal, by the guest's name, or by the owner of a lease. A fault in the
    /// address of a guest is reported only once.
    pub(super) fn guest(&self, field: Field<'_>) -> Result<GuestAddress, Fault> {
        let text = field.string()?;
        if text.trim().parse::<Ipv4Addr>().is_ok() {
            return values::host_address(field).map(GuestAddress::Fixed);
        }
        if let Some(index) = self.guests.get(text) {
            return self.addresses[*index].clone();
        }
        if let Ok(mac) = guest::mac(field) {
            return self.by_mac(field, mac);
        }
        let looks_like_address =
            text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':');
        let may_be_leased = !self.leasing.is_empty() && is_host_name(text);
        if looks_like_address && !may_be_leased {
            return values::host_address(field).map(GuestAddress::Fixed);
        }
        if may_be_leased {
            let name = Identity::Name(text.to_ascii_lowercase());
            return Ok(GuestAddress::leased(None, name));
        }
        if self.guests.is_empty() {
            let problem = format!("{} is not an address", quote(text));
            let remedy = "write one such as \"172.22.161.170\", or add a [[guest]] of that name";
            return Err(field.fault(problem, remedy));
        }
        let index = find("guest", &self.guests, field)?;
        self.addresses[index].clone()
    }

    /// The kinds of objects with this name; none, or more than one.
    pub(super) fn ends(&self, name: &str) -> Vec<(&'static str, PolicyEnd)> {
        let uplink = self.uplinks.get(name);
        let uplink = uplink.map(|index| ("uplink", PolicyEnd::Uplink(UplinkId(*index))));
        let network = self.networks.get(name);
        let network = network.map(|index| ("network", PolicyEnd::Network(NetworkId(*index))));
        let guest = self.guests.get(name);
        let guest = guest.and_then(|index| self.addresses[*index].clone().ok());
        let guest = guest.map(|address| ("guest", PolicyEnd::Guest(address)));
        uplink.into_iter().chain(network).chain(guest).collect()
    }

    /// All names of uplinks, networks and guests.
    pub(super) fn all(&self) -> impl Iterator<Item = &'n str> + Clone {
        let names = self.uplinks.keys().chain(self.networks.keys());
        names.chain(self.guests.keys()).copied()
    }

    /// The guest with an Ethernet address, or the owner of a lease with it.
    fn by_mac(&self, field: Field<'_>, mac: [u8; 6]) -> Result<GuestAddress, Fault> {
        if let Some(index) = self.macs.get(&mac) {
            return self.addresses[*index].clone();
        }
        if self.leasing.is_empty() {
            let problem = format!("there is no guest with {}", mac_text(mac));
            let remedy = "add a [[guest]] with this mac, or add [network.NAME.dhcp] to a network";
            return Err(field.fault(problem, remedy));
        }
        Ok(GuestAddress::leased(None, Identity::Mac(mac)))
    }
}

/// Whether a guest could use this name, and the name cannot be mistaken for an address.
fn is_host_name(text: &str) -> bool {
    values::is_label(text) && text.contains(|c: char| c.is_ascii_alphabetic())
}

/// How many of the names that exist a message lists.
const NAMES_SHOWN: usize = 8;

fn find(kind: &str, names: &BTreeMap<&str, usize>, field: Field<'_>) -> Result<usize, Fault> {
    let name = field.string()?;
    if let Some(index) = names.get(name) {
        return Ok(*index);
    }
    let mut existing: Vec<_> = names.iter().collect();
    existing.sort_by_key(|(_, index)| **index);
    let listed: Vec<_> = existing
        .iter()
        .take(NAMES_SHOWN)
        .map(|(name, _)| quote(name))
        .collect();
    let more = if existing.len() > NAMES_SHOWN {
        ", …"
    } else {
        ""
    };
    let nearest = suggest::nearest(name, existing.iter().map(|(name, _)| **name));
    let remedy = match (nearest, &listed[..]) {
        (_, []) => format!("there is none at all, so add [{kind}.NAME]"),
        (Some(near), [_]) => format!("did you mean {}?", quote(near)),
        (Some(near), _) => format!(
            "did you mean {}? there are {}{more}",
            quote(near),
            listed.join(", ")
        ),
        (None, [only]) => format!("the only {kind} is {only}"),
        (None, _) => format!("the {kind}s are {}{more}", listed.join(", ")),
    };
    Err(field.fault(format!("there is no {kind} {}", quote(name)), remedy))
}

/// Applies `read` to each table. A failure leaves an error in the report.
fn read_each<'a, T>(
    sections: Vec<Section<'a>>,
    report: &mut Report<'_>,
    read: impl Fn(&Section<'a>, &mut Report<'_>) -> Option<T>,
) -> Vec<Item<'a, T>> {
    let read_one =
        |section: Section<'a>| read(&section, report).map(|value| Item { section, value });
    sections.into_iter().filter_map(read_one).collect()
}

/// Everything that has been read.
#[derive(Debug)]
struct Parts<'a> {
    forwarding: Forwarding,
    uplinks: Vec<Item<'a, Uplink>>,
    networks: Vec<Item<'a, Network>>,
    guests: Vec<Item<'a, Guest>>,
    routes: Vec<Item<'a, Route>>,
    snat: Vec<Item<'a, SnatRule>>,
    forwards: Vec<Item<'a, ForwardRule>>,
    nats: Vec<Item<'a, NatRule>>,
    policies: Vec<Item<'a, PolicyRule>>,
    limits: Limits,
    timeouts: Timeouts,
}

/// Reads the tables one after the other, then checks them against each other.
pub(super) fn read_tables(root: &Section<'_>, end: usize, report: &mut Report<'_>) -> Config {
    report.errors(root.unknown_keys());
    let uplinks = root.named_tables("uplink", uplink::KEYS, report);
    let networks = root.named_tables("network", network::KEYS, report);
    if uplinks.is_empty() {
        report.error(no_uplink(root, end));
    }
    interfaces::roles(&uplinks, &networks, report);

    let guests = root.rules("guest", guest::KEYS, report);
    let names = Names::new(&uplinks, &networks, &guests);
    let guests = guests.iter().map(|section| {
        let value = guest::read_guest(section, &names, report)?;
        Some(Item {
            section: section.clone(),
            value,
        })
    });
    let guests: Vec<_> = guests.collect();
    let routes = root.rules("route", route::KEYS, report);
    let routes = read_each(routes, report, |section, report| {
        route::read_route(section, &names, report)
    });
    let snat = root.rules("snat", snat::KEYS, report);
    let snat = read_each(snat, report, |section, report| {
        snat::read_snat(section, &names, report)
    });
    let forwards = root.rules("forward", forward::KEYS, report);
    let forwards = read_each(forwards, report, |section, report| {
        forward::read_forward(section, &names, report)
    });
    let nats = root.rules("nat", nat::KEYS, report);
    let nats = read_each(nats, report, |section, report| {
        nat::read_nat(section, &names, report)
    });
    let policies = root.rules("policy", policy::KEYS, report);
    let policies = read_each(policies, report, |section, report| {
        policy::read_policy(section, &names, report)
    });
    let limits = root.table("limits", limits::LIMITS, report);
    let limits = limits.and_then(|section| limits::limits(&section, report));
    let timeouts = root.table("timeouts", limits::TIMEOUTS, report);
    let timeouts = timeouts.and_then(|section| limits::timeouts(&section, report));
    let forwarding = report.keep(root.optional("forwarding", values::forwarding));
    let parts = Parts {
        forwarding: forwarding.flatten().unwrap_or(Forwarding::Fast),
        uplinks: read_each(uplinks, report, uplink::read_uplink),
        networks: read_each(networks, report, network::read_network),
        guests: guests.into_iter().flatten().collect(),
        routes,
        snat,
        forwards,
        nats,
        policies,
        limits: limits.unwrap_or_default(),
        timeouts: timeouts.unwrap_or_default(),
    };
    check_together(&parts, report);
    parts.into_config()
}

fn no_uplink(root: &Section<'_>, end: usize) -> Fault {
    let problem = "there is no uplink";
    let remedy = "add [uplink.NAME] with interface = \"vmbr0\", for example";
    let missing = root.fault_here("uplink", problem, remedy);
    root.mistyped("uplink")
        .unwrap_or(Fault { at: end, ..missing })
}

fn check_together(parts: &Parts<'_>, report: &mut Report<'_>) {
    network::overlaps(&parts.networks, report);
    guest::check_guests(&parts.guests, &parts.networks, report);
    let by_address = network::ByAddress::new(&parts.networks);
    let forwards = parts.forwards.iter();
    let forwards = forwards.map(|rule| (&rule.section, &rule.value.to));
    let nats = parts.nats.iter();
    let nats = nats.map(|rule| (&rule.section, &rule.value.to));
    target::check_targets(forwards.chain(nats), &by_address, report);
    nat::check_nats(&parts.nats, &by_address, report);
    policy::check_policies(&parts.policies, report);
    shadow::check_shadows(&parts.forwards, &parts.uplinks, report);
    claim::check_claims(&parts.snat, &parts.uplinks, report);
    snat::shadowed(&parts.snat, &parts.networks, report);
    let routes = route::ByAddress::new(&parts.routes);
    let others = route::Others {
        uplinks: &parts.uplinks,
        networks: &parts.networks,
        snat: &parts.snat,
        forwards: &parts.forwards,
        nats: &parts.nats,
    };
    route::check_routes(&routes, &others, report);
    let around = forward::Surroundings {
        routes: &routes,
        uplinks: &parts.uplinks,
        networks: &parts.networks,
        snat: &parts.snat,
        nats: &parts.nats,
    };
    forward::forward_doubts(&parts.forwards, &around, report);
    nat::nat_doubts(&around, report);
}

impl Parts<'_> {
    fn into_config(self) -> Config {
        Config {
            forwarding: self.forwarding,
            uplinks: values_of(self.uplinks),
            networks: values_of(self.networks),
            guests: values_of(self.guests),
            routes: values_of(self.routes),
            snat: values_of(self.snat),
            forwards: values_of(self.forwards),
            nats: values_of(self.nats),
            policies: values_of(self.policies),
            limits: self.limits,
            timeouts: self.timeouts,
        }
    }
}

fn values_of<T>(items: Vec<Item<'_, T>>) -> Vec<T> {
    items.into_iter().map(|item| item.value).collect()
}
