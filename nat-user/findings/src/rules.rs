//! Rules of netfilter, from any tool, and the outcome for a kind of packets in them.
//!
//! A [`Flow`] stands for many packets at once, so a rule may concern all of them, none, or some.
//! Conditions that cannot be judged from outside (sets, limits, owners) are [`Fit::Unknown`].
//! [`filter`] and [`translation`] report only what is certain: a rule set is its owner's decision,
//! and false warnings teach people to ignore all of them.

use std::collections::HashMap;

use ipnet::Ipv4Net;

/// Where rules were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Source {
    /// `iptables-legacy`, with separate tables in the kernel.
    IptablesLegacy,
    /// `iptables` over nftables.
    IptablesNft,
    /// nftables itself.
    Nft,
}

/// Everything that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
    by_name: HashMap<(Source, String, String), usize>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) source: Source,
    /// The name that the tool shows: `filter`, or for nftables with its family, `inet firewalld`.
    pub(super) table: String,
    pub(super) name: String,
    /// Of a base chain.
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// How packets enter a chain, and the outcome at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) hook: Hook,
    /// Whether it translates: only the first packet of a connection enters it.
    pub(super) translates: bool,
    pub(super) drops: bool,
}

/// The hooks that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Forward,
    Postrouting,
    Other,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) verdict: Verdict,
    /// How its owner finds it: its line in `iptables-save`, or its handle in nftables.
    pub(super) text: String,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// The interface that the packet came by.
    In(Test<Name>),
    /// The interface that it leaves by.
    Out(Test<Name>),
    /// Addresses, as ranges of numbers.
    From(Test<(u32, u32)>),
    To(Test<(u32, u32)>),
    /// By number.
    Protocol(Test<u8>),
    FromPort(Test<(u16, u16)>),
    ToPort(Test<(u16, u16)>),
    /// Of an ICMP message.
    IcmpType(Test<u8>),
    /// The state in connection tracking.
    State(Test<State>),
    /// Whether the destination is an address of the host's own.
    ToHost(bool),
    /// Whether the frame only crosses a bridge.
    Bridged(bool),
    /// Whether the kernel's routes lead back to the sender by the interface that the packet came
    /// by.
    WayBack(bool),
    /// A condition that unmodified packets fulfil, such as one about marks.
    Usual,
    /// A condition that they never fulfil: translated by netfilter, or IPv6.
    Never,
    /// A condition that cannot be judged.
    Unknown,
}

/// Whether a value is in a list, or not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test<T> {
    pub(super) any_of: Vec<T>,
    pub(super) negated: bool,
}

/// An interface's name, or how names of interfaces begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Is(String),
    BeginsWith(String),
}

/// The state of a packet in connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
}

/// What a rule does with a matching packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// Another source address.
    SourceNat,
    /// Another destination address.
    DestinationNat,
    /// The packet continues with the next rule.
    Continue,
    /// The packet leaves the rules, for example to a queue of a program.
    Elsewhere,
}

/// A set of packets: equal in the fields given here, arbitrary in all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow<'a> {
    pub(super) input: &'a str,
    /// Empty before the packet is routed.
    pub(super) output: &'a str,
    pub(super) source: Ipv4Net,
    pub(super) destination: Ipv4Net,
    /// The network's addresses, which "anywhere" excludes.
    pub(super) inside: Ipv4Net,
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

/// A rule, or the policy of a chain, by the places in a [`Ruleset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) chain: usize,
    /// `None` is the policy.
    pub(super) rule: Option<usize>,
}

/// The outcome for a flow in a filtering chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of it passes.
    Passes,
    /// All of it is dropped, the last of it here.
    Dropped(Place),
    /// Uncertain.
    Mixed,
}

impl Ruleset {
    pub(super) fn push(&mut self, chain: Chain) {
        let key = (chain.source, chain.table.clone(), chain.name.clone());
        self.by_name.insert(key, self.chains.len());
        self.chains.push(chain);
    }

    /// Adds a rule to an existing chain.
    pub(super) fn push_rule(&mut self, source: Source, table: &str, chain: &str, rule: Rule) {
        if let Some(at) = self.find(source, table, chain) {
            self.chains[at].rules.push(rule);
        }
    }

    pub(super) fn find(&self, source: Source, table: &str, chain: &str) -> Option<usize> {
        let key = (source, table.to_owned(), chain.to_owned());
        self.by_name.get(&key).copied()
    }

    pub(super) fn has_table(&self, source: Source, table: &str) -> bool {
        let mut chains = self.chains.iter();
        chains.any(|chain| chain.source == source && chain.table == table)
    }

    /// Removes tables of these names.
    pub(super) fn forget_tables(&mut self, tables: &[&str]) {
        let chains = std::mem::take(self).chains;
        let kept = chains.into_iter();
        kept.filter(|chain| !tables.contains(&chain.table.as_str()))
            .for_each(|chain| self.push(chain));
    }

    /// Adds the content of another one.
    pub(super) fn extend(&mut self, other: Self) {
        other.chains.into_iter().for_each(|chain| self.push(chain));
    }

    /// The chains that packets enter at a hook.
    pub(super) fn at(&self, hook: Hook, translates: bool) -> impl Iterator<Item = usize> {
        let is_there = move |chain: &Chain| {
            (chain.base).is_some_and(|base| base.hook == hook && base.translates == translates)
        };
        let chains = self.chains.iter().enumerate();
        chains.filter_map(move |(at, chain)| is_there(chain).then_some(at))
    }

    /// Whether the table of that chain has another chain with such a name.
    pub(super) fn has_beside(&self, chain: usize, name: &str) -> bool {
        let Chain { source, table, .. } = &self.chains[chain];
        self.find(*source, table, name).is_some()
    }

    fn target(&self, from: usize, name: &str) -> Option<usize> {
        let Chain { source, table, .. } = &self.chains[from];
        self.find(*source, table, name)
    }
}

impl<T> Test<T> {
    pub(super) fn is(any_of: Vec<T>) -> Self {
        Self {
            any_of,
            negated: false,
        }
    }

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

/// A prefix as a range of numbers.
pub(super) fn range(prefix: Ipv4Net) -> (u32, u32) {
    (prefix.network().into(), prefix.broadcast().into())
}

const ALL_PORTS: (u16, u16) = (0, u16::MAX);
const ICMP: u8 = 1;

impl Flow<'_> {
    /// How much of one of its ends is in a range.
    fn holds(&self, end: Ipv4Net, one: &(u32, u32)) -> Fit {
        let is_inside = within(*one, &range(self.inside)) == Fit::All;
        if end.prefix_len() == 0 && is_inside {
            return Fit::None;
        }
        within(range(end), one)
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
            Self::IcmpType(test) if flow.protocol == ICMP => {
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

fn ports(flow: &Flow, own: Option<(u16, u16)>, test: &Test<(u16, u16)>) -> Fit {
    if flow.protocol == ICMP {
        return Fit::None;
    }
    test.fit(|one| within(own.unwrap_or(ALL_PORTS), one))
}

impl Rule {
    /// How much of a flow it concerns.
    pub(super) fn fit(&self, flow: &Flow) -> Fit {
        let fits = self.matches.iter().map(|one| one.fit(flow));
        fits.max().unwrap_or(Fit::All)
    }
}

/// How deep chains may call each other: the kernel takes 16 for nftables.
const DEPTH_MAX: u32 = 64;

/// How many rules may be checked, over all walks: a status must not take a second.
pub(super) struct Budget(u64);

impl Budget {
    const RULES: u64 = 2_000_000;

    pub(super) fn new() -> Self {
        Self(Self::RULES)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }

    fn spend(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

/// The outcome for a flow in a base chain.
pub(super) fn filter(rules: &Ruleset, chain: usize, flow: &Flow, budget: &mut Budget) -> Fate {
    let mut walk = Walk {
        rules,
        flow,
        budget,
        some_pass: false,
        some_drop: false,
    };
    let drops = rules.chains[chain].base.is_some_and(|base| base.drops);
    let end = match walk.chain(chain, 0) {
        End::Returned if drops => End::Dropped(Place { chain, rule: None }),
        End::Returned => End::Passed,
        end => end,
    };
    match end {
        // An incomplete walk has no result.
        _ if walk.budget.is_spent() => Fate::Mixed,
        End::Dropped(place) if !walk.some_pass => Fate::Dropped(place),
        End::Passed if !walk.some_drop => Fate::Passes,
        _ => Fate::Mixed,
    }
}

/// A walk of a flow through filtering chains.
struct Walk<'a> {
    rules: &'a Ruleset,
    flow: &'a Flow<'a>,
    budget: &'a mut Budget,
    some_pass: bool,
    some_drop: bool,
}

/// The outcome of one chain for the packets that reach its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Dropped(Place),
    Returned,
}

impl Walk<'_> {
    fn chain(&mut self, chain: usize, depth: u32) -> End {
        if depth > DEPTH_MAX {
            self.some_pass = true;
            return End::Returned;
        }
        let mut some_returned = false;
        for (number, rule) in self.rules.chains[chain].rules.iter().enumerate() {
            if !self.budget.spend() {
                return End::Returned;
            }
            let fit = rule.fit(self.flow);
            if fit == Fit::None {
                continue;
            }
            let place = Place {
                chain,
                rule: Some(number),
            };
            let Some(end) = self.follow(&rule.verdict, place, depth) else {
                continue;
            };
            if fit == Fit::All {
                return self.settle(end, some_returned);
            }
            match end {
                End::Passed => self.some_pass = true,
                End::Dropped(_) => self.some_drop = true,
                End::Returned => some_returned = true,
            }
        }
        End::Returned
    }

    /// The outcome of a verdict; `None` if the packet continues with the next rule.
    fn follow(&mut self, verdict: &Verdict, place: Place, depth: u32) -> Option<End> {
        let call = |walk: &mut Self, name: &str| match walk.rules.target(place.chain, name) {
            Some(target) => walk.chain(target, depth + 1),
            None => End::Returned,
        };
        match verdict {
            Verdict::Accept | Verdict::Elsewhere => Some(End::Passed),
            Verdict::Drop => Some(End::Dropped(place)),
            Verdict::Return => Some(End::Returned),
            Verdict::Goto(name) => Some(call(self, name)),
            Verdict::Jump(name) => match call(self, name) {
                End::Returned => None,
                end => Some(end),
            },
            // A translated packet counts as accepted: such rules are in separate tables.
            Verdict::SourceNat | Verdict::DestinationNat => Some(End::Passed),
            Verdict::Continue => None,
        }
    }

    /// The end of a chain from which some packets have returned before.
    fn settle(&mut self, end: End, some_returned: bool) -> End {
        if !some_returned {
            return end;
        }
        match end {
            End::Passed => self.some_pass = true,
            End::Dropped(_) => self.some_drop = true,
            End::Returned => {}
        }
        End::Returned
    }
}

/// The first rule that certainly translates some packets of a flow, in a base chain. A rule is
/// certain if no condition before it is unknown.
pub(super) fn translation(
    rules: &Ruleset,
    chain: usize,
    flow: &Flow,
    verdict: &Verdict,
    budget: &mut Budget,
) -> Option<Place> {
    let mut search = Search {
        rules,
        flow,
        verdict,
        budget,
    };
    match search.chain(chain, 0) {
        Found::At(place) => Some(place),
        Found::Ended | Found::Nothing => None,
    }
}

/// A search for a rule that translates.
struct Search<'a> {
    rules: &'a Ruleset,
    flow: &'a Flow<'a>,
    verdict: &'a Verdict,
    budget: &'a mut Budget,
}

enum Found {
    At(Place),
    /// All packets, or an unknown part of them, have left the chains before.
    Ended,
    /// Packets come to the chain's end, or have returned.
    Nothing,
}

impl Search<'_> {
    fn chain(&mut self, chain: usize, depth: u32) -> Found {
        if depth > DEPTH_MAX {
            return Found::Ended;
        }
        for (number, rule) in self.rules.chains[chain].rules.iter().enumerate() {
            if !self.budget.spend() {
                return Found::Ended;
            }
            let fit = rule.fit(self.flow);
            let is_sure = matches!(fit, Fit::All | Fit::Some);
            let (called, is_goto) = match &rule.verdict {
                _ if fit == Fit::None => continue,
                verdict if verdict == self.verdict && is_sure => {
                    let rule = Some(number);
                    return Found::At(Place { chain, rule });
                }
                Verdict::Jump(name) if is_sure => (name, false),
                Verdict::Goto(name) if is_sure => (name, true),
                Verdict::Return if fit == Fit::All => return Found::Nothing,
                Verdict::Accept | Verdict::Drop | Verdict::Elsewhere if fit == Fit::All => {
                    return Found::Ended;
                }
                // Some packets continue; if it is unknown which, nothing is certain any more.
                Verdict::Accept | Verdict::Return | Verdict::Goto(_) if fit == Fit::Unknown => {
                    return Found::Ended;
                }
                _ => continue,
            };
            let Some(target) = self.rules.target(chain, called) else {
                continue;
            };
            match self.chain(target, depth + 1) {
                Found::At(place) => return Found::At(place),
                Found::Ended if fit == Fit::All => return Found::Ended,
                Found::Nothing if fit == Fit::All && is_goto => return Found::Nothing,
                Found::Ended | Found::Nothing => {}
            }
        }
        Found::Nothing
    }
}
