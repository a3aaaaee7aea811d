//! How many packets of a flow fulfil the conditions of a rule.
//!
//! A [`Flow`] stands for many packets at once, so a rule may concern all of them, none, or some.
//! Conditions that cannot be judged from outside (sets, limits, owners) are [`Fit::Unknown`].

use ipnet::IpNet;

use crate::rules::{Match, Name, Rule, State, Test, range};

const ALL_PORTS: (u16, u16) = (0, u16::MAX);
/// ICMP and ICMPv6.
const ICMP: [u8; 2] = [1, 58];

/// A set of packets: equal in the fields given here, arbitrary in all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow<'a> {
    pub(super) input: &'a str,
    /// Empty before the packet is routed.
    pub(super) output: &'a str,
    pub(super) source: IpNet,
    pub(super) destination: IpNet,
    /// The network's addresses, which "anywhere" excludes.
    pub(super) inside: IpNet,
    pub(super) protocol: u8,
    /// All if it is `None`.
    pub(super) from_ports: Option<(u16, u16)>,
    pub(super) to_ports: Option<(u16, u16)>,
    pub(super) icmp_type: u8,
    pub(super) state: State,
    pub(super) is_to_host: bool,
    /// The kernel's routes answer by another interface.
    pub(super) has_no_way_back: bool,
}

/// How many packets of a flow fulfil a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    All,
    Some,
    Unknown,
    None,
}

impl Flow<'_> {
    /// How much of one of its ends is in a range.
    fn holds(&self, end: IpNet, one: &(u128, u128)) -> Fit {
        let is_inside = within(*one, &range(self.inside)) == Fit::All;
        if end.prefix_len() == 0 && is_inside {
            return Fit::None;
        }
        within(range(end), one)
    }
}

impl<T> Test<T> {
    fn fit(&self, fit: impl Fn(&T) -> Fit) -> Fit {
        let best = self.any_of.iter().map(fit).min().unwrap_or(Fit::None);
        match (self.negated, best) {
            (true, Fit::All) => Fit::None,
            (true, Fit::None) => Fit::All,
            (_, fit) => fit,
        }
    }
}

impl Name {
    fn fits(&self, name: &str) -> Fit {
        let fits = match self {
            Self::Is(own) => own == name,
            Self::BeginsWith(start) => name.starts_with(start.as_str()),
        };
        all_or_none(fits)
    }
}

impl Match {
    fn fit(&self, flow: &Flow) -> Fit {
        match self {
            Self::In(test) => test.fit(|name| name.fits(flow.input)),
            Self::Out(test) => test.fit(|name| name.fits(flow.output)),
            Self::From(test) => test.fit(|one| flow.holds(flow.source, one)),
            Self::To(test) => test.fit(|one| flow.holds(flow.destination, one)),
            Self::Protocol(test) => test.fit(|one| all_or_none(*one == flow.protocol)),
            Self::FromPort(test) => ports(flow, flow.from_ports, test),
            Self::ToPort(test) => ports(flow, flow.to_ports, test),
            Self::IcmpType(test) if ICMP.contains(&flow.protocol) => {
                test.fit(|one| all_or_none(*one == flow.icmp_type))
            }
            Self::IcmpType(_) => Fit::None,
            Self::State(test) => test.fit(|one| all_or_none(*one == flow.state)),
            Self::ToHost(wanted) => all_or_none(*wanted == flow.is_to_host),
            Self::Bridged(wanted) => all_or_none(!*wanted),
            Self::WayBack(wanted) => all_or_none(*wanted != flow.has_no_way_back),
            Self::Usual => Fit::All,
            Self::Never => Fit::None,
            Self::Unknown => Fit::Unknown,
        }
    }
}

impl Rule {
    /// How much of a flow it concerns.
    pub(super) fn fit(&self, flow: &Flow) -> Fit {
        let fits = self.matches.iter().map(|one| one.fit(flow));
        fits.max().unwrap_or(Fit::All)
    }
}

fn all_or_none(fits: bool) -> Fit {
    if fits { Fit::All } else { Fit::None }
}

/// How much of `own` is in `range`, both with their ends.
fn within<N: PartialOrd>(own: (N, N), range: &(N, N)) -> Fit {
    if range.0 <= own.0 && own.1 <= range.1 {
        Fit::All
    } else if range.1 < own.0 || own.1 < range.0 {
        Fit::None
    } else {
        Fit::Some
    }
}

fn ports(flow: &Flow, own: Option<(u16, u16)>, test: &Test<(u16, u16)>) -> Fit {
    if ICMP.contains(&flow.protocol) {
        return Fit::None;
    }
    test.fit(|one| within(own.unwrap_or(ALL_PORTS), one))
}
