//! What a rule matches, as sets that can be compared.

use super::ranges::{Addresses, Ports, Protocols};

/// The interfaces by which a packet may have come, or may leave.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interfaces {
    /// Every one of these patterns matches.
    pub(super) is: Vec<String>,
    /// None of these does.
    pub(super) is_not: Vec<String>,
}

impl Interfaces {
    pub(super) fn one(is: bool, pattern: &str) -> Self {
        let mut interfaces = Self::default();
        // `-i +` is every interface.
        if is && pattern != "+" {
            interfaces.is.push(pattern.to_owned());
        } else if !is {
            interfaces.is_not.push(pattern.to_owned());
        }
        interfaces
    }

    pub(super) fn is_any(&self) -> bool {
        self.is.is_empty() && self.is_not.is_empty()
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.is.iter().all(|pattern| within(name, pattern))
            && !self.is_not.iter().any(|pattern| within(name, pattern))
    }

    fn and(&self, other: &Self) -> Self {
        let join = |a: &[String], b: &[String]| {
            let mut all = [a, b].concat();
            all.sort();
            all.dedup();
            all
        };
        Self {
            is: join(&self.is, &other.is),
            is_not: join(&self.is_not, &other.is_not),
        }
    }

    /// Whether one may match this and `other`.
    fn meets(&self, other: &Self) -> bool {
        let mut is = self.is.iter().chain(&other.is);
        !is.any(|a| {
            let apart = |b: &String| !within(a, b) && !within(b, a);
            let mut others = self.is.iter().chain(&other.is);
            let mut excluded = self.is_not.iter().chain(&other.is_not);
            others.any(apart) || excluded.any(|pattern| within(a, pattern))
        })
    }

    /// Whether it names interfaces, and does not only exclude some.
    pub(super) fn names_some(&self) -> bool {
        !self.is.is_empty()
    }

    /// Whether all that `other` matches is matched.
    fn covers(&self, other: &Self) -> bool {
        let is_certain = |pattern: &String| other.is.iter().any(|narrow| within(narrow, pattern));
        let is_excluded = |pattern: &String| {
            let apart = |narrow: &String| !within(narrow, pattern) && !within(pattern, narrow);
            other.is_not.iter().any(|wide| within(pattern, wide)) || other.is.iter().any(apart)
        };
        self.is.iter().all(is_certain) && self.is_not.iter().all(is_excluded)
    }

    /// The named interface, if there is exactly one.
    pub(super) fn named(&self) -> Option<&str> {
        self.is
            .iter()
            .find(|name| !name.ends_with('+'))
            .map(String::as_str)
    }
}

/// Whether a pattern covers an interface's name, or another pattern.
pub(super) fn within(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// A condition that natbpf's rules cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Foreign {
    /// As it is written in the rule.
    pub(super) text: String,
    /// Why natbpf cannot express it.
    pub(super) reason: String,
}

/// States of packets that open nothing, and of messages about open connections.
const ANSWERS: [&str; 2] = ["RELATED", "ESTABLISHED"];
const ERRORS: [&str; 15] = [
    "0",
    "3",
    "3/4",
    "4",
    "11",
    "11/0",
    "11/1",
    "12",
    "echo-reply",
    "destination-unreachable",
    "fragmentation-needed",
    "time-exceeded",
    "ttl-zero-during-transit",
    "source-quench",
    "parameter-problem",
];

const ERRORS_OF_IPV6: [&str; 13] = [
    "1",
    "2",
    "3",
    "4",
    "129",
    "destination-unreachable",
    "packet-too-big",
    "time-exceeded",
    "ttl-exceeded",
    "ttl-zero-during-transit",
    "parameter-problem",
    "bad-header",
    "echo-reply",
];

/// Multicast listeners, routers and neighbours (RFC 2710, 3810, 4861).
const NEIGHBOURS: [&str; 15] = [
    "130",
    "131",
    "132",
    "133",
    "134",
    "135",
    "136",
    "137",
    "143",
    "router-solicitation",
    "router-advertisement",
    "neighbour-solicitation",
    "neighbor-solicitation",
    "neighbour-advertisement",
    "neighbor-advertisement",
];

/// `1/0` is a type with a code.
fn without_code(kind: &str) -> &str {
    kind.split('/').next().unwrap_or(kind)
}

impl Foreign {
    /// Whether it is true only for answers and errors of open connections.
    pub(super) fn is_answer(&self) -> bool {
        let has = |known: &[&str], value: &str| value.split(',').all(|one| known.contains(&one));
        match self.text.split_once(' ') {
            Some(("--ctstate" | "--state", states)) => has(&ANSWERS, states),
            Some(("--icmp-type", kind)) => has(&ERRORS, kind),
            Some(("--icmpv6-type", kind)) => has(&ERRORS_OF_IPV6, without_code(kind)),
            _ => false,
        }
    }

    /// Whether it is true only for messages by which neighbours of one link find each other,
    /// which natbpf always lets pass.
    pub(super) fn is_about_neighbours(&self) -> bool {
        match self.text.split_once(' ') {
            Some(("--icmpv6-type", kind)) => NEIGHBOURS.contains(&without_code(kind)),
            _ => false,
        }
    }
}

/// What a rule matches: all of these at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) sources: Addresses,
    pub(super) destinations: Addresses,
    pub(super) protocols: Protocols,
    pub(super) source_ports: Ports,
    pub(super) ports: Ports,
    pub(super) input: Interfaces,
    pub(super) output: Interfaces,
    /// Whether the destination is an address of the host (`--dst-type LOCAL`).
    pub(super) is_local: Option<bool>,
    /// Whether netfilter has translated the destination (`--ctstate DNAT`).
    pub(super) is_translated: Option<bool>,
    pub(super) foreign: Vec<Foreign>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            sources: Addresses::full(),
            destinations: Addresses::full(),
            protocols: Protocols::full(),
            source_ports: Ports::full(),
            ports: Ports::full(),
            input: Interfaces::default(),
            output: Interfaces::default(),
            is_local: None,
            is_translated: None,
            foreign: Vec::new(),
        }
    }
}

impl Condition {
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut foreign = self.foreign.clone();
        foreign.extend(other.foreign.iter().cloned());
        let mut both = Self {
            sources: self.sources.and(&other.sources),
            destinations: self.destinations.and(&other.destinations),
            protocols: self.protocols.and(&other.protocols),
            source_ports: self.source_ports.and(&other.source_ports),
            ports: self.ports.and(&other.ports),
            input: self.input.and(&other.input),
            output: self.output.and(&other.output),
            is_local: self.is_local.or(other.is_local),
            is_translated: self.is_translated.or(other.is_translated),
            foreign,
        };
        if !agree(self.is_local, other.is_local) || !agree(self.is_translated, other.is_translated)
        {
            both.destinations = Addresses::empty();
        }
        both
    }

    /// Its size, in values of about ten to two hundred bytes each.
    pub(super) fn parts(&self) -> usize {
        let Self { input, output, .. } = self;
        let names = [&input.is, &input.is_not, &output.is, &output.is_not];
        1 + names.into_iter().map(Vec::len).sum::<usize>()
            + self.foreign.len()
            + self.sources.ranges().len()
            + self.destinations.ranges().len()
    }

    /// Whether no packet matches.
    pub(super) fn is_nothing(&self) -> bool {
        !self.meets(self)
    }

    /// Whether no packet that opens something matches.
    pub(super) fn is_about_answers(&self) -> bool {
        self.foreign.iter().any(Foreign::is_answer)
    }

    /// Whether only messages match by which neighbours of one link find each other.
    pub(super) fn is_about_neighbours(&self) -> bool {
        self.foreign.iter().any(Foreign::is_about_neighbours)
    }

    /// Whether a packet may match this and `other`. The fields that differ most often come first,
    /// because all rules are compared with each other.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.ports.meets(&other.ports)
            && self.destinations.meets(&other.destinations)
            && self.sources.meets(&other.sources)
            && self.protocols.meets(&other.protocols)
            && self.source_ports.meets(&other.source_ports)
            && agree(self.is_local, other.is_local)
            && agree(self.is_translated, other.is_translated)
            && self.input.meets(&other.input)
            && self.output.meets(&other.output)
    }

    /// Whether every packet that `other` matches is matched.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.narrower_than(other).is_empty()
    }

    /// In which fields this matches less than `other`.
    fn narrower_than(&self, other: &Self) -> Vec<Respect> {
        let within = |a: Option<bool>, b: Option<bool>| a.is_none() || a == b;
        let respects = [
            (self.sources.covers(&other.sources), Respect::Sources),
            (
                self.destinations.covers(&other.destinations),
                Respect::Destinations,
            ),
            (self.protocols.covers(&other.protocols), Respect::Protocols),
            (
                self.source_ports.covers(&other.source_ports),
                Respect::Other,
            ),
            (self.ports.covers(&other.ports), Respect::Ports),
            (self.input.covers(&other.input), Respect::Input),
            (self.output.covers(&other.output), Respect::Output),
            (within(self.is_local, other.is_local), Respect::Other),
            (
                within(self.is_translated, other.is_translated),
                Respect::Other,
            ),
            // Two equal conditions may still differ, for example because each has its own counter.
            (self.foreign.is_empty(), Respect::Other),
        ];
        let narrower = respects.into_iter().filter(|(covers, _)| !covers);
        narrower.map(|(_, respect)| respect).collect()
    }

    /// What is left when another rule takes its packets first.
    pub(super) fn without(&self, taken: &Self) -> Rest {
        if !self.meets(taken) {
            return Rest::All;
        }
        let mut rest = self.clone();
        match taken.narrower_than(self)[..] {
            [] => return Rest::Nothing,
            [Respect::Sources] => rest.sources = self.sources.without(&taken.sources),
            [Respect::Destinations] => {
                rest.destinations = self.destinations.without(&taken.destinations);
            }
            [Respect::Ports] => rest.ports = self.ports.without(&taken.ports),
            [Respect::Protocols] => rest.protocols = self.protocols.without(&taken.protocols),
            [Respect::Input] => match negated(&taken.input) {
                Some(negated) => rest.input = self.input.and(&negated),
                None => return Rest::Unclear,
            },
            [Respect::Output] => match negated(&taken.output) {
                Some(negated) => rest.output = self.output.and(&negated),
                None => return Rest::Unclear,
            },
            _ => return Rest::Unclear,
        }
        Rest::Some(Box::new(rest))
    }
}

/// Whether both can be true at once.
fn agree(a: Option<bool>, b: Option<bool>) -> bool {
    a.is_none() || b.is_none() || a == b
}

fn negated(interfaces: &Interfaces) -> Option<Interfaces> {
    match (&interfaces.is[..], &interfaces.is_not[..]) {
        ([pattern], []) => Some(Interfaces::one(false, pattern)),
        ([], [pattern]) => Some(Interfaces::one(true, pattern)),
        _ => None,
    }
}

/// The field in which one condition is narrower than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Respect {
    Sources,
    Destinations,
    Protocols,
    Ports,
    Input,
    Output,
    Other,
}

/// What is left of a condition; see [`Condition::without`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rest {
    All,
    Some(Box<Condition>),
    Nothing,
    /// Less than all, but more than one condition would be needed to say what.
    Unclear,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(interface: Interfaces) -> Condition {
        Condition {
            input: interface,
            ..Condition::default()
        }
    }

    #[test]
    fn interfaces_with_wildcards_are_compared() {
        let (eth, eth0) = (Interfaces::one(true, "eth+"), Interfaces::one(true, "eth0"));
        let (not_eth, br0) = (Interfaces::one(false, "eth+"), Interfaces::one(true, "br0"));
        assert!(eth.covers(&eth0) && !eth0.covers(&eth));
        assert!(not_eth.covers(&br0) && !not_eth.covers(&eth0));
        for (a, b) in [(&eth, &br0), (&not_eth, &eth0)] {
            let both = a.and(b);
            assert!(!a.meets(b) && !both.meets(&both));
        }
        assert!(eth.matches("eth7") && !eth.matches("br0") && not_eth.matches("br0"));
        assert!(Interfaces::one(true, "+").is_any());
    }

    #[test]
    fn ports_of_an_earlier_rule_are_excluded() {
        let all = Condition::default();
        let docker = by(Interfaces::one(true, "docker0"));
        assert_eq!(docker.without(&all), Rest::Nothing);
        let rest = by(Interfaces::one(false, "docker0"));
        assert_eq!(all.without(&docker), Rest::Some(Box::new(rest.clone())));
        assert_eq!(rest.without(&docker), Rest::All);
        let mut two = docker.clone();
        two.ports = Ports::one(80);
        assert_eq!(all.without(&two), Rest::Unclear);
    }

    #[test]
    fn contradictory_conditions_match_nothing() {
        let local = |is| Condition {
            is_local: Some(is),
            ..Condition::default()
        };
        assert!(local(true).and(&local(false)).is_nothing());
        assert!(!local(true).and(&Condition::default()).is_nothing());
    }
}
