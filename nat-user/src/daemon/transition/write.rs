//! The third stage: the rules, interfaces and guests, written into the maps. The rules come before
//! the attachments, so a program never runs without them.

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use anyhow::Result;
use nat_common::tables::{
    bindings::Name,
    interfaces::{Interface, InterfaceFlags},
    rules::RuleFlags,
};
use nat_config::model::{Config, Forwarding, Limits, Timeouts};
use nat_sys::netlink::Kind;

use super::{active::Active, compile::Compiled, load::Loaded};
use crate::{
    daemon::host::Host,
    dataplane::{Bound, Rulesets, attach::Target},
    state::{Numbers, RuleKind},
};

/// The maps say what the configuration says.
pub(super) struct Written<'a> {
    pub(super) compiled: Compiled<'a>,
    pub(super) targets: Vec<Target>,
    pub(super) refused: Vec<(u32, String)>,
    /// When writing began.
    pub(super) begun: Instant,
}

impl<'a> Loaded<'a> {
    /// Writes the maps. When a table is full, the rules in use stay.
    pub(super) fn write(self, active: &mut Active) -> Result<Written<'a>> {
        let begun = Instant::now();
        let Self {
            compiled,
            targets,
            refused,
        } = self;
        let (config, host) = (compiled.wanted.config, compiled.wanted.host);
        // Even if writing fails: no number is given to another rule.
        active.state.numbers = compiled.numbers.clone();
        active.write_rules((compiled.rulesets.clone(), config.timeouts, config.limits))?;
        active.state.numbers.set_active(is_active(config));
        let flags = flags_of_rules(config, &active.state.numbers);
        let dataplane = &mut active.tables.dataplane;
        dataplane.set_rule_flags(&flags)?;
        dataplane.set_interfaces(&compiled.interfaces)?;
        dataplane.set_nat64(config.nat64())?;
        let bound = bound(config, host, &compiled.interfaces, &active.state.numbers);
        dataplane.bind(&bound)?;
        active.bound = bound;
        Ok(Written {
            compiled,
            targets,
            refused,
            begun,
        })
    }
}

impl Active {
    /// Writes the rules, unless they are those in use.
    fn write_rules(&mut self, rules: (Rulesets, Timeouts, Limits)) -> Result<()> {
        if self.rules.as_ref() != Some(&rules) {
            // If writing fails, the next attempt writes them again.
            self.rules = None;
            let (rulesets, timeouts, limits) = &rules;
            let dataplane = &mut self.tables.dataplane;
            self.state.generation = dataplane.set_rules(rulesets, timeouts, limits)?;
            self.rules = Some(rules);
        }
        Ok(())
    }
}

/// The flags of each rule, by its number.
fn flags_of_rules(config: &Config, numbers: &Numbers) -> BTreeMap<u32, RuleFlags> {
    let snat = config.snat.iter();
    let snat = snat.map(|rule| (RuleKind::Snat, &rule.name, rule.forwarding));
    let forwards = config.forwards.iter();
    let forwards = forwards.map(|rule| (RuleKind::Forward, &rule.name, rule.forwarding));
    let nats = config.nats.iter();
    let nats = nats.map(|rule| (RuleKind::Nat, &rule.name, rule.forwarding));
    let snat6 = config.ipv6.iter().flat_map(|ipv6| &ipv6.snat);
    let snat6 = snat6.map(|rule| (RuleKind::Snat, &rule.name, rule.forwarding));
    let forwards6 = config.ipv6.iter().flat_map(|ipv6| &ipv6.forwards);
    let forwards6 = forwards6.map(|rule| (RuleKind::Forward, &rule.name, rule.forwarding));
    snat.chain(forwards)
        .chain(nats)
        .chain(snat6)
        .chain(forwards6)
        .filter(|(_, _, forwarding)| *forwarding == Forwarding::Kernel)
        .filter_map(|(kind, name, _)| numbers.find_rule(kind, name))
        .map(|rule| (rule, RuleFlags::KERNEL))
        .collect()
}

/// Whether a rule is one of the configuration.
fn is_active(config: &Config) -> impl Fn(RuleKind, &str) -> bool {
    let snat = config.snat.iter();
    let snat = snat.map(|rule| (RuleKind::Snat, rule.name.as_str()));
    let forwards = config.forwards.iter();
    let forwards = forwards.map(|rule| (RuleKind::Forward, rule.name.as_str()));
    let nats = config.nats.iter();
    let nats = nats.map(|rule| (RuleKind::Nat, rule.name.as_str()));
    let policies = config.policies.iter();
    let policies = policies.map(|rule| (RuleKind::Policy, rule.name.as_str()));
    let networks = config.networks.iter();
    let defaults = networks.map(|network| (RuleKind::Default, network.name.as_str()));
    let translating = snat.chain(forwards).chain(nats);
    let ipv4 = translating.chain(policies).chain(defaults);
    let active: HashSet<(RuleKind, &str)> = ipv4.chain(of_ipv6(config)).collect();
    move |kind, name| active.contains(&(kind, name))
}

/// The rules that translate IPv6.
fn of_ipv6(config: &Config) -> impl Iterator<Item = (RuleKind, &str)> {
    config.ipv6.iter().flat_map(|ipv6| {
        let snat = ipv6.snat.iter();
        let snat = snat.map(|rule| (RuleKind::Snat, rule.name.as_str()));
        let forwards = ipv6.forwards.iter();
        let forwards = forwards.map(|rule| (RuleKind::Forward, rule.name.as_str()));
        let prefixes = ipv6.prefixes.iter();
        let prefixes = prefixes.map(|rule| (RuleKind::Nat, rule.name.as_str()));
        snat.chain(forwards).chain(prefixes)
    })
}

/// Which Ethernet addresses of guests are bound to ports: to those in the configuration, or to
/// those behind which their bridge has them now.
fn bound(
    config: &Config,
    host: &Host,
    interfaces: &BTreeMap<u32, Interface>,
    numbers: &Numbers,
) -> Bound {
    let ports = interfaces.iter();
    let ports = ports.filter(|(_, port)| port.flags.contains(InterfaceFlags::GUARDED));
    let mut bound = Bound {
        ports: ports.map(|(index, _)| *index).collect(),
        ..Bound::default()
    };
    for guest in &config.guests {
        let network = &config.networks[guest.network.0];
        let number = numbers.networks.get(&network.name).copied();
        let bridge = host.link(&network.interface);
        let bridge = bridge.filter(|link| network.anti_spoof && link.kind == Kind::Bridge);
        let (Some(bridge), Some(number)) = (bridge, number) else {
            continue;
        };
        let name = Name::of_mac(guest.mac, number);
        match &guest.port {
            Some(port) => {
                let port = host.link(port).map_or(0, |link| link.index);
                bound.fixed.insert(name, port);
            }
            None => {
                bound.sought.insert(name, bridge.index);
            }
        }
    }
    bound
}
