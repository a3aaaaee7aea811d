//! What a forward takes, as a condition, and the forwards that a condition needs.

use super::{
    condition::Condition,
    flatten::Step,
    plan::{Forward, Plan, PortRange},
    ranges::{Addresses, Ports, Protocols},
    rule::{Action, Choice, ICMP, TCP, UDP},
};

/// External ports, the guest's ports, and a warning.
type Part = (Vec<PortRange>, Vec<PortRange>, Option<String>);

/// The words for a set of protocols; none if it cannot be expressed.
pub(super) fn protocols(set: &Protocols) -> Vec<&'static str> {
    if set.is_full() {
        return vec!["all"];
    }
    let known = [(TCP, "tcp"), (UDP, "udp"), (ICMP, "icmp")];
    let words: Vec<&str> = known
        .iter()
        .filter(|(number, _)| set.contains(*number))
        .map(|(_, word)| *word)
        .collect();
    if words.len() as u128 == set.count() {
        words
    } else {
        Vec::new()
    }
}

pub(super) fn numbers(words: &[&str]) -> Protocols {
    words
        .iter()
        .fold(Protocols::empty(), |all, word| match *word {
            "tcp" => all.or(&Protocols::one(TCP)),
            "udp" => all.or(&Protocols::one(UDP)),
            "icmp" => all.or(&Protocols::one(ICMP)),
            _ => Protocols::full(),
        })
}

/// The ports of a list; all of them if it is empty.
pub(super) fn set(ports: &[PortRange]) -> Ports {
    if ports.is_empty() {
        return Ports::full();
    }
    ports.iter().fold(Ports::empty(), |all, (first, last)| {
        all.or(&Ports::range((*first).into(), (*last).into()))
    })
}

fn list(ports: &Ports) -> Vec<PortRange> {
    if ports.is_full() {
        return Vec::new();
    }
    let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
    let ports = ports.without(&unreached());
    let ranges = ports.ranges().iter();
    ranges
        .map(|(first, last)| (port(*first), port(*last)))
        .collect()
}

/// Port 0 cannot be reached.
pub(super) fn unreached() -> Ports {
    Ports::one(0)
}

/// The packets that a forward takes from outside.
pub(super) fn external(forward: &Forward) -> Condition {
    Condition {
        destinations: forward
            .address
            .map_or_else(Addresses::full, Addresses::address),
        protocols: numbers(&forward.protocols),
        ports: set(&forward.ports),
        ..Condition::default()
    }
}

/// Whether a rule sends to the guest and ports of a forward.
pub(super) fn leads_to(step: &Step, forward: &Forward) -> bool {
    match &step.action {
        Action::Dnat(choice) => {
            let same_ports = |parts: Vec<Part>| {
                parts
                    .iter()
                    .any(|(_, to_ports, _)| *to_ports == forward.to_ports)
            };
            let ports = set(&forward.ports);
            choice.address() == Some(forward.to) && targets(&ports, choice).is_ok_and(same_ports)
        }
        Action::Netmap(to) => to.contains(&forward.to),
        _ => false,
    }
}

/// The mapping of ports as in netfilter (`nf_nat_l4proto_unique_tuple`).
pub(super) fn targets(ports: &Ports, choice: &Choice) -> Result<Vec<Part>, String> {
    let Some((first, last)) = choice.ports else {
        return Ok(vec![(list(ports), Vec::new(), None)]);
    };
    if first == 0 || last < first {
        return Err(format!("{first}-{last} is not a range of ports"));
    }
    if let Some(base) = choice.base {
        return shifted(ports, (first, last), base);
    }
    if first == last {
        let same = ports.single() == Some(first.into());
        if same {
            return Ok(vec![(list(ports), Vec::new(), None)]);
        }
        // `to_ports` needs `ports`.
        let ports = list(&ports.without(&unreached()));
        return Ok(vec![(ports, vec![(first, first)], None)]);
    }
    let ports = ports.without(&unreached());
    // A port of the range is kept; all others get the first one.
    let range = Ports::range(first.into(), last.into());
    let (kept, moved) = (ports.and(&range), ports.without(&range));
    let mut parts = Vec::new();
    if !kept.is_empty() {
        parts.push((list(&kept), Vec::new(), None));
    }
    if !moved.is_empty() {
        let mut warning = None;
        if moved.count() > 1 {
            warning = Some(format!(
                "netfilter does not shift ranges: ports outside of {first}-{last} all go to \
                 {first}, and the configuration does the same; to map port by port, write to_ports \
                 = \"{first}-{last}\""
            ));
        }
        parts.push((list(&moved), vec![(first, first)], warning));
    }
    Ok(parts)
}

fn shifted(ports: &Ports, (first, last): PortRange, base: u16) -> Result<Vec<Part>, String> {
    let size = u128::from(last - first);
    let (base, first) = (u128::from(base), u128::from(first));
    if !Ports::range(base, (base + size).min(65535)).covers(ports) {
        return Err("ports outside of the shifted range wrap around".to_owned());
    }
    let moved = ports
        .ranges()
        .iter()
        .map(|(from, to)| (from - base + first, to - base + first));
    let moved = moved.map(|(from, to)| Ports::range(from, to));
    let to_ports = moved.flat_map(|range| list(&range)).collect();
    Ok(vec![(list(ports), to_ports, None)])
}

/// The forward whose other half is a step.
pub(super) fn forward_of<'p>(step: &Step, plan: &'p mut Plan) -> Option<&'p mut Forward> {
    let is_half = |forward: &&mut Forward| {
        leads_to(step, forward) && step.condition.meets(&external(forward))
    };
    plan.forwards.iter_mut().find(is_half)
}
