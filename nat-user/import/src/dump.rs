//! Tables, chains and rules, as a file creates them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{
    HOOKS,
    family::Family,
    options,
    rule::{self, Action, Rule},
    spent::Spent,
};

/// The content of a file.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// The family of its addresses.
    pub(super) family: Family,
    pub(super) rules: Vec<Rule>,
    pub(super) tables: BTreeMap<String, Table>,
    /// Lines without a rule, and what they are instead.
    pub(super) aside: Vec<(usize, String, String)>,
    /// Unreadable lines that contain, or may contain, rules of the nat table.
    pub(super) unread: Vec<(usize, String, String)>,
    /// Rules that the file adds only under an unknown condition.
    pub(super) doubtful: Vec<(usize, String)>,
    /// Addresses in the file itself (`/etc/network/interfaces`, wg-quick).
    pub(super) addresses: Vec<(String, IpNet)>,
    /// The interface that the file gives a gateway.
    pub(super) default_route: Option<String>,
    /// The cost of reading it so far.
    pub(super) spent: Spent,
}

/// A table's chains by name, each with its rules in order, as positions in [`Dump::rules`].
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) chains: BTreeMap<String, Vec<usize>>,
    /// The chains that the file creates, or whose policy it sets.
    pub(super) made: BTreeSet<String>,
    /// Chains whose policy is not ACCEPT, with the line that sets it.
    pub(super) policies: Vec<(usize, String)>,
}

/// The place of a command or a rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'l> {
    /// The line's number, from 1.
    pub(super) line: usize,
    /// As it is written.
    pub(super) text: &'l str,
    /// A part of it whose value only a running shell knows, if any.
    pub(super) unknown: Option<&'l str>,
}

/// The exit status of an iptables command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It succeeds.
    Success,
    /// It fails.
    Failure,
    /// It is unknown here.
    Unknown,
}

impl<'l> Place<'l> {
    /// A line of which every value is known.
    pub(super) fn at(line: usize, text: &'l str) -> Self {
        Self {
            line,
            text,
            unknown: None,
        }
    }
}

/// Why a rule with a variable is not read.
fn unset(variable: &str) -> String {
    format!(
        "{variable} gets its value only when the script runs: write the value, or give the output \
         of iptables-save"
    )
}

impl Dump {
    /// The positions of all rules of a table, in the order of the file.
    pub(super) fn rules_of(&self, table: &str) -> Vec<usize> {
        let chains = self.tables.get(table).map(|table| &table.chains);
        let mut rules: Vec<usize> = chains
            .into_iter()
            .flat_map(BTreeMap::values)
            .flatten()
            .copied()
            .collect();
        rules.sort_unstable();
        rules
    }

    /// The rules of the nat table in chains that the file does not create, each with its chain.
    pub(super) fn in_foreign_chains(&self) -> BTreeMap<usize, &str> {
        let is_foreign = |table: &Table, chain: &String| {
            !table.made.contains(chain) && !HOOKS.contains(&chain.as_str())
        };
        let Some(table) = self.tables.get("nat") else {
            return BTreeMap::new();
        };
        let chains = table.chains.iter();
        let chains = chains.filter(|(chain, _)| is_foreign(table, chain));
        chains
            .flat_map(|(chain, rules)| rules.iter().map(move |rule| (*rule, chain.as_str())))
            .collect()
    }

    /// A chain must be the file's own: iptables-restore accepts no other chains.
    pub(super) fn makes(&mut self, table: &str, chain: &str) {
        let table = self.tables.entry(table.to_owned()).or_default();
        if !table.made.contains(chain) {
            table.made.insert(chain.to_owned());
        }
    }

    /// Adds a chain, with its policy if it is a built-in one.
    pub(super) fn chain(&mut self, line: usize, table: &str, chain: &str, policy: &str) {
        self.spent.entry(chain);
        let table = self.tables.entry(table.to_owned()).or_default();
        table.chains.entry(chain.to_owned()).or_default();
        table.made.insert(chain.to_owned());
        let of_chain = format!(":{chain} ");
        self.spent.steps(table.policies.len());
        table
            .policies
            .retain(|(_, text)| !text.starts_with(&of_chain));
        if !["ACCEPT", "-"].contains(&policy) {
            table.policies.push((line, format!(":{chain} {policy}")));
        }
    }

    /// Executes a call of iptables.
    pub(super) fn command(&mut self, place: Place<'_>, call: Call) -> Status {
        match call.command {
            Some((edit, chain)) => self.edit(place, &call.table, (edit, &chain), call.rest),
            None => {
                self.put_aside(place, "adds no rule");
                Status::Success
            }
        }
    }

    /// Whether a call would remove rules that the file has added.
    pub(super) fn would_lose(&mut self, call: &Call) -> bool {
        let Some((edit, chain)) = &call.command else {
            return false;
        };
        match (edit, &call.rest[..]) {
            (Edit::Replace, _) => return true,
            (Edit::Delete, [number]) if number.parse::<usize>().is_ok() => return true,
            (Edit::Delete, rest) => return self.find(&call.table, chain, rest).is_some(),
            (Edit::Flush | Edit::DeleteChain, _) => {}
            _ => return false,
        }
        let Some(table) = self.tables.get(&call.table) else {
            return false;
        };
        self.spent.steps(table.chains.len());
        let mut chains = table.chains.iter();
        chains.any(|(name, rules)| (chain.is_empty() || chain == name) && !rules.is_empty())
    }

    /// Whether the file has added the rule that a call adds.
    pub(super) fn holds(&mut self, call: &Call) -> bool {
        let Some((_, chain)) = &call.command else {
            return false;
        };
        let (_, rest) = number_first(&call.rest);
        self.find(&call.table, chain, rest).is_some()
    }

    /// Executes an iptables command on a table.
    pub(super) fn edit(
        &mut self,
        place: Place<'_>,
        table: &str,
        (edit, chain): (Edit, &str),
        rest: Vec<String>,
    ) -> Status {
        if table.contains(['$', '`', '%']) || chain.contains(['$', '`', '%']) {
            self.left(place, &unset(place.unknown.unwrap_or(chain)));
            return Status::Unknown;
        }
        match edit {
            Edit::Append => self.add(place, table, chain, None, &rest),
            Edit::Insert => {
                let (at, rest) = number_first(&rest);
                self.add(place, table, chain, Some(at.unwrap_or(1)), rest);
            }
            Edit::Policy => {
                let policy = rest.first().map_or("-", String::as_str);
                self.chain(place.line, table, chain, policy);
            }
            Edit::New => self.chain(place.line, table, chain, "-"),
            Edit::Check => return self.has(place, table, chain, &rest),
            Edit::Delete => return self.delete(place, table, chain, &rest),
            Edit::Replace => {
                let (at, rest) = number_first(&rest);
                let at = at.unwrap_or(0);
                if self.remove_at(table, chain, at) {
                    self.add(place, table, chain, Some(at), rest);
                } else {
                    self.left(place, "replaces a rule that the file does not contain");
                    return Status::Failure;
                }
            }
            Edit::Flush => self.flush(table, chain),
            Edit::DeleteChain => {
                let chains = self.tables.get_mut(table).map(|table| &mut table.chains);
                if let Some(chains) = chains {
                    chains.remove(chain);
                }
            }
            Edit::Rename => {
                let chains = self.tables.get_mut(table).map(|table| &mut table.chains);
                if let (Some(chains), Some(new)) = (chains, rest.first())
                    && let Some(rules) = chains.remove(chain)
                {
                    chains.insert(new.clone(), rules);
                }
            }
            Edit::Other => self.put_aside(place, "adds no rule"),
        }
        Status::Success
    }

    /// Adds a rule at a place, counted from 1, or at the end.
    fn add(
        &mut self,
        place: Place<'_>,
        table: &str,
        chain: &str,
        at: Option<usize>,
        words: &[String],
    ) {
        self.spent.entry(place.text);
        let position = self.rules.len();
        let mut rule = rule::read(self.family, place.line, place.text, words);
        if let Some(unknown) = place.unknown {
            rule.action = Action::Unknown(unset(unknown));
        }
        let chains = &mut self.tables.entry(table.to_owned()).or_default().chains;
        let rules = chains.entry(chain.to_owned()).or_default();
        let mut at = at.map_or(rules.len(), |at| at.saturating_sub(1));
        if at > rules.len() {
            at = rules.len();
            let reason = "inserts at a position that only the running host knows; give the output \
                          of iptables-save";
            rule.action = Action::Unknown(reason.to_owned());
        }
        self.spent.moved(rules.len() - at);
        rules.insert(at, position);
        self.rules.push(rule);
    }

    /// The position of an equal rule in a chain.
    fn find(&mut self, table: &str, chain: &str, words: &[String]) -> Option<usize> {
        let wanted = rule::read(self.family, 0, "", words);
        let rules = self.tables.get(table)?.chains.get(chain)?;
        self.spent.steps(rules.len() * wanted.condition.parts());
        let is_same = |rule: &usize| {
            let rule = &self.rules[*rule];
            (&rule.condition, &rule.action) == (&wanted.condition, &wanted.action)
        };
        rules.iter().position(is_same)
    }

    fn has(&mut self, place: Place<'_>, table: &str, chain: &str, words: &[String]) -> Status {
        match self.find(table, chain, words) {
            _ if place.unknown.is_some() => Status::Unknown,
            Some(_) => Status::Success,
            None => Status::Failure,
        }
    }

    fn delete(&mut self, place: Place<'_>, table: &str, chain: &str, words: &[String]) -> Status {
        let at = match words {
            [number] if number.parse::<usize>().is_ok() => number.parse().ok(),
            words => self.find(table, chain, words).map(|index| index + 1),
        };
        match at {
            _ if place.unknown.is_some() => {
                self.put_aside(place, "removes a rule that only a running shell can name");
                Status::Unknown
            }
            Some(at) if self.remove_at(table, chain, at) => Status::Success,
            _ => {
                self.put_aside(place, "removes a rule that the file has not added before");
                Status::Failure
            }
        }
    }

    /// Removes a rule by its place in the chain, counted from 1.
    fn remove_at(&mut self, table: &str, chain: &str, at: usize) -> bool {
        let chains = self.tables.get_mut(table).map(|table| &mut table.chains);
        let rules = chains.and_then(|chains| chains.get_mut(chain));
        match rules.filter(|rules| (1..=rules.len()).contains(&at)) {
            Some(rules) => {
                self.spent.moved(rules.len() - at);
                rules.remove(at - 1);
                true
            }
            None => false,
        }
    }

    /// Empties a chain, or all of a table.
    fn flush(&mut self, table: &str, chain: &str) {
        let Some(table) = self.tables.get_mut(table) else {
            return;
        };
        self.spent.steps(table.chains.len());
        for (name, rules) in &mut table.chains {
            if chain.is_empty() || chain == name {
                rules.clear();
            }
        }
    }

    /// The line needs no conversion.
    pub(super) fn put_aside(&mut self, place: Place<'_>, reason: &str) {
        self.spent.entry(place.text);
        self.aside
            .push((place.line, place.text.to_owned(), reason.to_owned()));
    }

    /// The line contains, or may contain, rules of the nat table and cannot be read.
    pub(super) fn left(&mut self, place: Place<'_>, reason: &str) {
        self.spent.entry(place.text);
        self.unread
            .push((place.line, place.text.to_owned(), reason.to_owned()));
    }
}

/// A call of iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    table: String,
    /// What it does, and to which chain.
    command: Option<(Edit, String)>,
    /// The other words.
    rest: Vec<String>,
}

impl Call {
    /// Reads the words after the program's name.
    pub(super) fn of(words: &[String]) -> Self {
        let words = options::spelled_out(words);
        let (mut table, mut command, mut rest) = ("filter", None, Vec::new());
        let mut words = words.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            match word {
                "-t" | "--table" => table = words.next().unwrap_or_default(),
                "-w" | "--wait" | "-W" | "--wait-interval" => {
                    words.next_if(|next| next.parse::<u32>().is_ok());
                }
                _ => match Edit::of(word).filter(|_| command.is_none()) {
                    Some(edit) => {
                        let chain = words.next_if(|next| !next.starts_with('-'));
                        command = Some((edit, chain.unwrap_or_default().to_owned()));
                    }
                    None => rest.push(word.to_owned()),
                },
            }
        }
        Self {
            table: table.to_owned(),
            command,
            rest,
        }
    }

    /// Whether it adds a rule to a table.
    pub(super) fn adds_to(&self, table: &str) -> bool {
        let edit = self.command.as_ref().map(|(edit, _)| edit);
        let adds = matches!(edit, Some(Edit::Append | Edit::Insert | Edit::Replace));
        adds && self.table == table
    }
}

/// The number before a rule, and the rule.
fn number_first(words: &[String]) -> (Option<usize>, &[String]) {
    match words {
        [first, rest @ ..] if first.parse::<usize>().is_ok() => (first.parse().ok(), rest),
        words => (None, words),
    }
}

/// What a command of iptables does to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    Append,
    Insert,
    Delete,
    Check,
    Replace,
    New,
    DeleteChain,
    Flush,
    Policy,
    Rename,
    /// It lists, or counts.
    Other,
}

impl Edit {
    /// By its option.
    pub(super) fn of(option: &str) -> Option<Self> {
        Some(match option {
            "-A" | "--append" => Self::Append,
            "-I" | "--insert" => Self::Insert,
            "-D" | "--delete" => Self::Delete,
            "-C" | "--check" => Self::Check,
            "-R" | "--replace" => Self::Replace,
            "-N" | "--new-chain" => Self::New,
            "-X" | "--delete-chain" => Self::DeleteChain,
            "-F" | "--flush" => Self::Flush,
            "-P" | "--policy" => Self::Policy,
            "-E" | "--rename-chain" => Self::Rename,
            "-L" | "--list" | "-S" | "--list-rules" | "-Z" | "--zero" => Self::Other,
            _ => return None,
        })
    }
}
