//! Rules of netfilter, from any tool.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

/// Whose packets rules are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Family {
    #[default]
    Ipv4,
    Ipv6,
}

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

/// Everything that was read about one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) family: Family,
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
    From(Test<(u128, u128)>),
    To(Test<(u128, u128)>),
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
    /// A condition that they never fulfil: translated by netfilter, or of the other family.
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

impl Family {
    /// Its value of `family` in nftables, but for `inet`.
    pub(super) fn of_nft(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }

    /// Its value of `meta nfproto` in nftables.
    pub(super) fn of_nfproto(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

impl Source {
    /// The tool that shows and changes the rules of a family.
    pub(super) fn tool(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::IptablesLegacy, Family::Ipv4) => "iptables-legacy",
            (Self::IptablesLegacy, Family::Ipv6) => "ip6tables-legacy",
            (Self::IptablesNft, Family::Ipv4) => "iptables-nft",
            (Self::IptablesNft, Family::Ipv6) => "ip6tables-nft",
            (Self::Nft, _) => "nft",
        }
    }
}

impl Ruleset {
    pub(super) fn new(family: Family) -> Self {
        Self {
            family,
            ..Self::default()
        }
    }

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
        let chains = std::mem::replace(self, Self::new(self.family)).chains;
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

    pub(super) fn target(&self, from: usize, name: &str) -> Option<usize> {
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
}

/// A prefix as a range of numbers.
pub(super) fn range(prefix: IpNet) -> (u128, u128) {
    (number(prefix.network()), number(prefix.broadcast()))
}

/// An address as a number. Those of the two families are never compared.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}
