//! Rules of PREROUTING: from DNAT to `[[forward]]`.

mod hairpin;

use std::net::IpAddr;

use super::{
    condition::{Condition, Rest},
    family::is_of_link,
    findings::Findings,
    flatten::Step,
    forward::{protocols, set, targets, unreached},
    plan::{Forward, Origin, Plan},
    ranges::{Addresses, Ports, Protocols},
    rule::{Action, COUNTS, Choice, TCP, UDP, protocol_name},
    topology::Topology,
};

const IN_TURNS: &str = "natbpf forwards to one guest, not to several in turn";

/// More single addresses than this are not converted individually.
const MOST_ADDRESSES: u128 = 16;
/// A prefix of NETMAP that is written out.
const MOST_OF_NETMAP: u128 = 256;

pub(super) struct Destinations<'a, 'd> {
    pub(super) topology: &'a Topology,
    /// The steps of PREROUTING that can match.
    pub(super) steps: &'a [Step],
    /// Those of POSTROUTING.
    pub(super) after: &'a [Step],
    pub(super) findings: &'a mut Findings<'d>,
    pub(super) plan: &'a mut Plan,
}

/// A condition restricted to packets from one interface and some senders.
pub(super) fn seen(
    condition: &Condition,
    interface: &str,
    senders: &Addresses,
) -> Option<Condition> {
    let mut seen = condition.clone();
    if !seen.input.matches(interface) || !seen.sources.meets(senders) {
        return None;
    }
    seen.input = Default::default();
    if seen.sources.covers(senders) {
        seen.sources = Addresses::full();
    }
    Some(seen)
}

impl Destinations<'_, '_> {
    pub(super) fn translate(&mut self) {
        for index in 0..self.steps.len() {
            let step = &self.steps[index];
            match &step.action {
                Action::Dnat(choice) => self.dnat(index, step, choice),
                Action::Redirect => self.findings.untranslated(step.rule, TO_HOST),
                Action::Netmap(_) if self.plan.is_nat(step.rule) => {}
                Action::Netmap(to) => self.netmap(index, step, *to),
                _ => {}
            }
        }
        for index in 0..self.plan.forwards.len() {
            self.hairpin(index);
        }
        self.guests_only();
        self.leave_alone();
    }

    fn dnat(&mut self, index: usize, step: &Step, choice: &Choice) {
        let refusal = match (choice.addresses, choice.address()) {
            (None, _) => Some(TO_HOST.to_owned()),
            (Some(_), None) => Some(IN_TURNS.to_owned()),
            (_, Some(to)) if to.is_loopback() => Some(TO_HOST.to_owned()),
            (_, Some(to)) if self.is_host(to) => Some(TO_HOST.to_owned()),
            _ => refusal(&step.condition, choice).or_else(|| self.in_turns(index)),
        };
        if let Some(refusal) = refusal {
            return self.findings.untranslated(step.rule, refusal);
        }
        let outside = self.topology.inside().complement();
        let uplinks = self.uplinks_of(&step.condition, &outside);
        if uplinks.is_empty() {
            return; // For guests only; see `guests_only`.
        }
        if !step.condition.sources.covers(&outside) {
            let reason = "takes connections of certain senders only, but natbpf's forwards take \
                          those of all senders: leave it in netfilter";
            return self.findings.untranslated(step.rule, reason);
        }
        let addresses = match self.addresses(&step.condition) {
            Ok(addresses) => addresses,
            Err(reason) => return self.findings.untranslated(step.rule, reason),
        };
        for &uplink in &uplinks {
            let kept = self.plan.kept.len();
            let Some(ports) = self.ports_left(index, uplink, &outside) else {
                continue;
            };
            let spares = self.plan.kept.len() > kept;
            for address in &addresses {
                if address.is_none_or(|address| self.is_of(address, uplink, &uplinks)) {
                    self.add(step, choice, (uplink, *address), &ports, spares);
                }
            }
        }
        self.catches_passing(step);
    }

    /// An earlier rule takes some of the same packets by counting or by chance: this rule takes the
    /// rest and is no forward by itself.
    fn in_turns(&self, index: usize) -> Option<String> {
        let counts = |step: &&Step| {
            let mut foreign = step.condition.foreign.iter();
            matches!(step.action, Action::Dnat(_)) && foreign.any(|it| it.reason == COUNTS)
        };
        let mut earlier = self.steps[..index].iter().filter(counts);
        let condition = &self.steps[index].condition;
        earlier
            .any(|step| step.condition.meets(condition))
            .then(|| IN_TURNS.to_owned())
    }

    /// Whether an address is known to be the host's own inside address.
    fn is_host(&self, address: IpAddr) -> bool {
        let network = self.topology.network_of(address);
        network.is_some_and(|net| net.address.addr() == address && net.check_address.is_none())
    }

    /// Whether no host of its network can have an address.
    fn is_reserved(&self, address: IpAddr) -> bool {
        let network = self
            .topology
            .network_of(address)
            .map(|network| network.address);
        let network =
            network.filter(|net| net.prefix_len() <= self.topology.family.longest_network());
        network.is_some_and(|net| {
            address == net.network() || net.addr().is_ipv4() && address == net.broadcast()
        })
    }

    /// Whether an external address counts for an uplink: for the one that is known to have it, else
    /// for the first possible one.
    fn is_of(&self, address: IpAddr, uplink: usize, uplinks: &[usize]) -> bool {
        let has = |uplink: &&usize| self.topology.uplinks[**uplink].addresses.contains(&address);
        let owner = uplinks.iter().find(has).or(uplinks.first());
        owner == Some(&uplink)
    }

    /// The uplinks by which matching packets arrive.
    fn uplinks_of(&self, condition: &Condition, outside: &Addresses) -> Vec<usize> {
        let uplinks = (0..).zip(&self.topology.uplinks);
        let matching = uplinks.filter(|(_, up)| seen(condition, &up.interface, outside).is_some());
        matching.map(|(number, _)| number).collect()
    }

    /// The external addresses that a rule names; `None` is every one of the uplink.
    fn addresses(&self, condition: &Condition) -> Result<Vec<Option<IpAddr>>, String> {
        let named = &condition.destinations;
        let inside = self.topology.inside();
        let family = self.topology.family;
        let loopback = Addresses::loopback(family);
        // `! -d 127.0.0.0/8` says nothing about packets from outside.
        if named
            .complement()
            .without(&inside)
            .without(&loopback)
            .is_empty()
        {
            return Ok(vec![None]);
        }
        if named.hosts(family) > MOST_ADDRESSES {
            return Err(
                "natbpf's forwards name single external addresses, or all of an uplink".to_owned(),
            );
        }
        let all: Vec<IpAddr> = named.each(family).collect();
        let unusable = |address: &&IpAddr| {
            let is_low = matches!(address, IpAddr::V4(address) if address.octets()[0] == 0);
            address.is_loopback()
                || address.is_unspecified()
                || Addresses::never_translated(family).covers(&Addresses::address(**address))
                || is_of_link(**address)
                || is_low
        };
        if let Some(address) = all.iter().find(unusable) {
            return Err(format!("packets to {address} do not arrive by an uplink"));
        }
        Ok(all.into_iter().map(Some).collect())
    }

    /// The ports that earlier rules leave, unless an earlier rule exempts them. `None` if there are
    /// none.
    fn ports_left(&mut self, index: usize, uplink: usize, outside: &Addresses) -> Option<Ports> {
        let interface = &self.topology.uplinks[uplink].interface;
        let mut left = seen(&self.steps[index].condition, interface, outside)?;
        let mut reached = left.clone();
        for before in &self.steps[..index] {
            if !before.condition.meets(&self.steps[index].condition) {
                continue;
            }
            let is_taking = before.action == Action::Accept
                || before.ends() && self.findings.is_done(before.rule);
            let taken = seen(&before.condition, interface, outside);
            let Some(taken) = taken.filter(|_| is_taking) else {
                continue;
            };
            match reached.without(&taken) {
                Rest::Nothing => return None,
                Rest::Some(some) if unreached().covers(&some.ports) => return None,
                Rest::Some(some) => reached = *some,
                Rest::All | Rest::Unclear => {}
            }
            if self.is_forward(before.rule) {
                continue; // Comes first there too.
            }
            match left.without(&taken) {
                Rest::All => {}
                Rest::Nothing => return None,
                Rest::Some(some) if some.ports != left.ports && !left.ports.is_full() => {
                    if before.action == Action::Accept {
                        let note = "its ports are left out of what rules behind it forward";
                        self.findings.note(before.rule, note);
                    }
                    left = *some;
                }
                Rest::Some(_) | Rest::Unclear if before.action != Action::Accept => {
                    let warning = "natbpf runs before netfilter, and a later rule sends packets of \
                                   this one to a guest";
                    self.findings.warning(before.rule, warning);
                }
                Rest::Some(_) | Rest::Unclear => self.takes_from(before, &taken, &left),
            }
        }
        Some(left.ports)
    }

    fn is_forward(&self, rule: usize) -> bool {
        self.plan
            .forwards
            .iter()
            .any(|forward| forward.origin.rules.contains(&rule))
    }

    /// An earlier rule takes a part that a forward cannot exclude.
    fn takes_from(&mut self, before: &Step, taken: &Condition, left: &Condition) {
        let ports: Vec<u128> = if taken.ports.count() <= MOST_ADDRESSES {
            taken.ports.numbers().collect()
        } else {
            Vec::new()
        };
        let protocol = match taken.protocols.single() {
            Some(TCP) => Some("tcp"),
            Some(UDP) => Some("udp"),
            _ => None,
        };
        let is_plain = taken.foreign.is_empty()
            && taken.sources.covers(&left.sources)
            // `keep` applies to all addresses of the host, which usually has one.
            && (taken.destinations.covers(&left.destinations)
                || left.destinations.is_full()
                    && taken.destinations.hosts(self.topology.family) <= MOST_ADDRESSES)
            && before.action == Action::Accept;
        if let Some(protocol) = protocol.filter(|_| is_plain && !ports.is_empty()) {
            let ports = ports.iter().map(|port| format!("{protocol}/{port}"));
            self.plan.kept.extend(ports);
            let note = "stays with the host, by the uplink's `keep`";
            return self.findings.note(before.rule, note);
        }
        let reason = "exempts a part of the packets that a later rule sends to a guest, and \
                      natbpf's forwards cannot leave that part out";
        self.findings.untranslated(before.rule, reason);
    }

    fn add(
        &mut self,
        step: &Step,
        choice: &Choice,
        (uplink, address): (usize, Option<IpAddr>),
        ports: &Ports,
        spares: bool,
    ) {
        let Some(to) = choice.address() else { return };
        if self.is_reserved(to) {
            let reason = format!(
                "{to} is not a guest's address, but the network's own or the \
                broadcast address"
            );
            return self.findings.untranslated(step.rule, reason);
        }
        let protocols = protocols(&step.condition.protocols);
        let parts = match targets(ports, choice) {
            Ok(parts) => parts,
            Err(reason) => return self.findings.untranslated(step.rule, reason),
        };
        for (ports, to_ports, warning) in parts {
            if let Some(warning) = warning {
                self.findings.warning(step.rule, warning);
            }
            let mut origin = Origin::default();
            origin.add(step.rule);
            if step.condition.is_local.is_some() {
                origin.remark(ALSO_OTHERS);
            }
            let forward = Forward {
                name: String::new(),
                uplink,
                protocols: protocols.clone(),
                address,
                ports,
                to,
                to_ports,
                hairpin: false,
                local: false,
                spares,
                origin,
            };
            self.push(forward);
        }
        self.findings.done(step.rule);
    }

    /// Adds a forward; an existing one gets one more source rule.
    fn push(&mut self, forward: Forward) {
        let same = self.plan.forwards.iter_mut().find(|other| {
            (other.uplink, other.address, other.to) == (forward.uplink, forward.address, forward.to)
                && other.protocols == forward.protocols
                && other.ports == forward.ports
                && other.to_ports == forward.to_ports
        });
        match same {
            Some(same) => forward
                .origin
                .rules
                .iter()
                .for_each(|rule| same.origin.add(*rule)),
            None => self.plan.forwards.push(forward),
        }
    }

    fn netmap(&mut self, index: usize, step: &Step, to: ipnet::IpNet) {
        let family = self.topology.family;
        let prefix = match step.condition.destinations.prefixes(family)[..] {
            [prefix] if prefix.prefix_len() == to.prefix_len() => prefix,
            _ => {
                let reason = "does not map one prefix to another of the same size";
                return self.findings.untranslated(step.rule, reason);
            }
        };
        if step.condition.destinations.hosts(family) > MOST_OF_NETMAP {
            let reason = "natbpf needs one rule for each address, and these are more than 256";
            return self.findings.untranslated(step.rule, reason);
        }
        for (external, guest) in step
            .condition
            .destinations
            .each(family)
            .zip(Addresses::prefix(to).each(family))
        {
            let mut one = step.clone();
            one.condition.destinations = Addresses::address(external);
            let choice = Choice {
                addresses: Some((guest, guest)),
                ..Choice::default()
            };
            debug_assert!(prefix.contains(&external));
            self.dnat(index, &one, &choice);
        }
    }

    /// A rule without address and interface also takes forwarded packets.
    fn catches_passing(&mut self, step: &Step) {
        let Condition {
            destinations,
            input,
            is_local,
            ..
        } = &step.condition;
        let named = destinations.is_full() && is_local.is_none();
        let from_guests = |network: &super::topology::Network| input.matches(&network.interface);
        let by_guests = self.topology.networks.iter().any(from_guests) || input.is_any();
        if named && by_guests {
            let warning = "names no destination address and no interface, so it also takes \
                           forwarded traffic: guests' own connections to this port of any remote \
                           end at this guest; natbpf takes only packets for the uplink's addresses";
            self.findings.warning(step.rule, warning);
        }
    }

    /// Exempting rules that affect no other rule.
    fn leave_alone(&mut self) {
        for step in self.steps {
            if step.action == Action::Accept && !self.findings.is_done(step.rule) {
                let note = "exempts packets that natbpf and the later rules treat the same: \
                            nothing is needed for it";
                self.findings.note(step.rule, note);
            }
        }
    }
}

pub(super) const ALSO_OTHERS: &str = "The original also takes the host's addresses on other \
    interfaces (for example the guests' gateway)";
pub(super) const TO_HOST: &str =
    "sends to the host itself, but natbpf's forwards send to guests: leave it in netfilter";

/// The part of a condition that no forward can express.
fn refusal(condition: &Condition, choice: &Choice) -> Option<String> {
    if let Some(reasons) = foreign(condition) {
        return Some(reasons);
    }
    if !condition.source_ports.is_full() {
        return Some("natbpf's forwards do not look at source ports".to_owned());
    }
    if condition.is_local == Some(false) || condition.is_translated.is_some() {
        return Some("natbpf's forwards apply only to external addresses".to_owned());
    }
    if unreached().covers(&condition.ports) {
        return Some("port 0 cannot be reached".to_owned());
    }
    let with_ports = Protocols::one(TCP).or(&Protocols::one(UDP));
    let names_ports = !condition.ports.is_full() || choice.ports.is_some();
    if names_ports && !with_ports.covers(&condition.protocols) {
        return Some("names ports, which only tcp and udp have".to_owned());
    }
    if protocols(&condition.protocols).is_empty() {
        let named = condition
            .protocols
            .single()
            .map_or("others".to_owned(), protocol_name);
        return Some(format!(
            "natbpf forwards tcp, udp, icmp or all protocols, not {named} alone"
        ));
    }
    None
}

/// The reasons why natbpf cannot express a condition.
pub(super) fn foreign(condition: &Condition) -> Option<String> {
    let mut reasons: Vec<&str> = Vec::new();
    for foreign in &condition.foreign {
        if !reasons.contains(&foreign.reason.as_str()) {
            reasons.push(&foreign.reason);
        }
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// By default, natbpf leaves ssh to the host if a wide rule includes it; netfilter does not.
pub(super) fn keep(plan: &mut Plan) {
    let takes = |forward: &Forward| {
        let tcp = forward.is_all() || forward.protocols.contains(&"tcp");
        let by_name = forward.ports.contains(&(22, 22));
        tcp && !by_name && set(&forward.ports).contains(22)
    };
    plan.kept.sort();
    plan.kept.dedup();
    let why = if plan.kept.is_empty() && plan.forwards.iter().any(takes) {
        "A rule of the original sends tcp 22 to a guest as well; without this line it stays with \
         the host"
    } else if !plan.kept.is_empty() && plan.kept != ["tcp/22"] {
        "Rules of the original leave these to the host"
    } else {
        return;
    };
    plan.keep = Some((std::mem::take(&mut plan.kept), why.to_owned()));
}
