//! The file: from text to tables, chains and rules.
//!
//! It takes what `iptables-save`, `iptables-nft-save` and `iptables -S` print, and lines that call
//! `iptables` as scripts and `/etc/network/interfaces` have them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::rule::{self, Rule};
use super::words;

/// Everything that a file says.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) rules: Vec<Rule>,
    pub(super) tables: BTreeMap<String, Table>,
    /// Lines that were understood to be about something else than IPv4 rules.
    pub(super) aside: Vec<(usize, String, &'static str)>,
    /// Addresses that the file itself says (`/etc/network/interfaces`).
    pub(super) addresses: Vec<(String, Ipv4Net)>,
}

/// A table's chains by name, each with its rules in order, as positions in [`Dump::rules`].
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) chains: BTreeMap<String, Vec<usize>>,
    /// Chains whose policy is not ACCEPT, with the line that says so.
    pub(super) policies: Vec<(usize, String)>,
}

impl Dump {
    /// Reads a file.
    ///
    /// # Errors
    /// The number of the line that is none of iptables-save, and what is wrong with it.
    pub(super) fn read(text: &str) -> Result<Self, (usize, String)> {
        let mut reader = Reader::default();
        for (number, line) in (1..).zip(text.lines()) {
            reader
                .line(number, line.trim())
                .map_err(|problem| (number, problem))?;
        }
        reader.end_of_policies();
        if reader.dump.tables.is_empty() {
            let problem = "holds no rules: give what iptables-save prints";
            return Err((0, problem.to_owned()));
        }
        Ok(reader.dump)
    }

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
}

const NO_TABLE: &str = "stands in no table: a line like *nat is missing before it";

#[derive(Default)]
struct Reader {
    dump: Dump,
    table: Option<String>,
    /// Lines, chains and policies since the last other line of `iptables -S`.
    policies: Vec<(usize, String, String)>,
    interface: Option<String>,
    address: Option<Ipv4Addr>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(table) = line.strip_prefix('*') {
            self.table = Some(table.to_owned());
            self.dump.tables.entry(table.to_owned()).or_default();
            return Ok(());
        }
        if line == "COMMIT" {
            self.table = None;
            return Ok(());
        }
        let words = words::split(line)?;
        let mut words = &words[..];
        if let [first, rest @ ..] = words
            && first.starts_with('[')
            && first.ends_with(']')
        {
            words = rest;
        }
        let first = words.first().map(String::as_str).unwrap_or_default();
        if let Some(chain) = first.strip_prefix(':') {
            let policy = words.get(1).map_or("-", String::as_str);
            return self.chain_here(number, chain, policy);
        }
        if let ("-P", [_, chain, policy, ..]) = (first, words) {
            self.policy(number, chain, policy);
            return Ok(());
        }
        self.end_of_policies();
        match (first, words) {
            ("-N", [_, chain, ..]) => self.chain_here(number, chain, "-"),
            ("-A" | "--append", [_, chain, rest @ ..]) => {
                self.rule(number, line, chain, rest, false)
            }
            _ => self.other(number, line, words),
        }
    }

    /// `iptables -S` does not name its table, but each has other built-in chains. They come first.
    fn end_of_policies(&mut self) {
        if self.policies.is_empty() {
            return;
        }
        let has = |chain: &str| self.policies.iter().any(|(_, known, _)| known == chain);
        let table = match (has("PREROUTING"), has("FORWARD"), has("POSTROUTING")) {
            (true, true, _) | (_, true, true) => "mangle",
            (_, true, _) => "filter",
            (_, _, true) => "nat",
            (true, ..) if has("INPUT") => "nat",
            _ => "raw",
        };
        self.table = Some(table.to_owned());
        for (number, chain, policy) in std::mem::take(&mut self.policies) {
            self.chain(number, &chain, &policy, table);
        }
    }

    fn policy(&mut self, number: usize, chain: &str, policy: &str) {
        let is_known = self.policies.iter().any(|(_, known, _)| known == chain);
        if is_known || chain == "PREROUTING" {
            self.end_of_policies();
        }
        self.policies
            .push((number, chain.to_owned(), policy.to_owned()));
    }

    fn chain(&mut self, number: usize, chain: &str, policy: &str, table: &str) {
        let table = self.dump.tables.entry(table.to_owned()).or_default();
        table.chains.entry(chain.to_owned()).or_default();
        if !["ACCEPT", "-"].contains(&policy) {
            table.policies.push((number, format!(":{chain} {policy}")));
        }
    }

    fn chain_here(&mut self, number: usize, chain: &str, policy: &str) -> Result<(), String> {
        let table = self.table.clone().ok_or(NO_TABLE)?;
        self.chain(number, chain, policy, &table);
        Ok(())
    }

    fn current(&mut self) -> Result<&mut Table, String> {
        let table = self.table.clone().ok_or(NO_TABLE)?;
        Ok(self.dump.tables.entry(table).or_default())
    }

    fn rule(
        &mut self,
        number: usize,
        line: &str,
        chain: &str,
        words: &[String],
        is_first: bool,
    ) -> Result<(), String> {
        let position = self.dump.rules.len();
        let rules = self.current()?.chains.entry(chain.to_owned()).or_default();
        let at = if is_first { 0 } else { rules.len() };
        rules.insert(at, position);
        let text = match line.split_once("] ") {
            Some((counters, rest)) if counters.starts_with('[') => rest,
            _ => line,
        };
        self.dump.rules.push(rule::read(number, text, words));
        Ok(())
    }

    /// Lines of scripts and of `/etc/network/interfaces`.
    fn other(&mut self, number: usize, line: &str, words: &[String]) -> Result<(), String> {
        let up = ["post-up", "up", "pre-up", "sudo"];
        let command = words.iter().position(|word| !up.contains(&word.as_str()));
        let Some(command) = command else {
            return Err("is no line of iptables-save".to_owned());
        };
        let program = words[command].rsplit('/').next().unwrap_or_default();
        let aside = match (words[0].as_str(), program) {
            (_, "iptables" | "iptables-nft" | "iptables-legacy") => {
                return self.command(number, line, &words[command + 1..]);
            }
            ("post-down" | "down" | "pre-down", _) => "undoes something when the interface goes",
            (_, "ip6tables") => "IPv6 passes natbpf untouched",
            ("iface", _) => {
                self.interface = words.get(1).cloned();
                return Ok(());
            }
            ("address" | "netmask", _) if self.interface.is_some() => {
                self.address(words.get(1).map(String::as_str).unwrap_or_default());
                return Ok(());
            }
            _ if self.interface.is_some() || words[0] == "auto" || command > 0 => {
                "is no rule of iptables"
            }
            _ => return Err("is no line of iptables-save".to_owned()),
        };
        self.dump.aside.push((number, line.to_owned(), aside));
        Ok(())
    }

    fn address(&mut self, text: &str) {
        let net = match (text.parse::<Ipv4Net>(), self.address) {
            (Ok(net), _) => Some(net),
            (Err(_), None) => {
                self.address = text.parse().ok();
                None
            }
            (Err(_), Some(address)) => {
                let mask = text.parse().ok();
                mask.and_then(|mask| Ipv4Net::with_netmask(address, mask).ok())
            }
        };
        if let (Some(net), Some(interface)) = (net, &self.interface) {
            self.dump.addresses.push((interface.clone(), net));
            self.address = None;
        }
    }

    /// A call of `iptables`, with the words behind it.
    fn command(&mut self, number: usize, line: &str, words: &[String]) -> Result<(), String> {
        let mut table = "filter".to_owned();
        let mut kept = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-t" | "--table" => table = words.next().cloned().unwrap_or_default(),
                "-w" | "--wait" => {}
                _ => kept.push(word.clone()),
            }
        }
        let before = self.table.replace(table);
        let done = match &kept[..] {
            [option, chain, rest @ ..] if ["-A", "--append"].contains(&option.as_str()) => {
                self.rule(number, line, chain, rest, false)
            }
            [option, chain, rest @ ..] if ["-I", "--insert"].contains(&option.as_str()) => {
                match rest {
                    [place, rest @ ..] if place == "1" => {
                        self.rule(number, line, chain, rest, true)
                    }
                    [place, ..] if place.parse::<u32>().is_ok() => {
                        Err("inserts at a place that only the host knows; give what \
                             iptables-save prints"
                            .to_owned())
                    }
                    rest => self.rule(number, line, chain, rest, true),
                }
            }
            [option, chain, rest @ ..] if option == "-P" => {
                let policy = rest.first().map_or("-", String::as_str);
                self.chain_here(number, chain, policy)
            }
            [option, chain, ..] if option == "-N" => self.chain_here(number, chain, "-"),
            _ => {
                self.dump
                    .aside
                    .push((number, line.to_owned(), "adds no rule"));
                Ok(())
            }
        };
        self.table = before;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_comments_and_blank_lines_do_not_matter() {
        let text = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\n\
                    [1:60] -A PREROUTING -p tcp -j DOCKER\nCOMMIT\n*filter\n:FORWARD DROP [1:2]\n\
                    -A FORWARD -j ACCEPT -c 1 60\nCOMMIT\n";
        let dump = Dump::read(text).unwrap();
        assert_eq!(dump.tables["nat"].chains["PREROUTING"], [0]);
        assert_eq!(dump.tables["nat"].chains["DOCKER"], [0; 0]);
        assert_eq!(dump.rules[0].text, "-A PREROUTING -p tcp -j DOCKER");
        assert_eq!(dump.rules[0].line, 6);
        assert_eq!(
            dump.tables["filter"].policies,
            [(9, ":FORWARD DROP".to_owned())]
        );
        assert_eq!(dump.rules_of("filter"), [1]);
    }

    #[test]
    fn the_table_of_a_list_is_told_by_its_chains() {
        for (chains, table) in [
            ("PREROUTING INPUT OUTPUT POSTROUTING", "nat"),
            ("PREROUTING POSTROUTING OUTPUT", "nat"),
            ("INPUT FORWARD OUTPUT", "filter"),
            ("PREROUTING INPUT FORWARD OUTPUT POSTROUTING", "mangle"),
            ("PREROUTING OUTPUT", "raw"),
        ] {
            let mut text = String::new();
            for chain in chains.split(' ') {
                text += &format!("-P {chain} ACCEPT\n");
            }
            text += "-N mine\n-A OUTPUT -j mine\n";
            let dump = Dump::read(&text).unwrap();
            assert_eq!(dump.tables.keys().collect::<Vec<_>>(), [table], "{chains}");
            assert_eq!(dump.rules_of(table), [0]);
        }
    }

    #[test]
    fn calls_of_iptables_are_rules_too() {
        let text = "auto vmbr1\niface vmbr1 inet static\n  address 172.22.161.254/24\n\
                    post-up iptables -t nat -A POSTROUTING -s '172.22.161.0/24' -j MASQUERADE\n\
                    post-up iptables -t nat -I POSTROUTING -j ACCEPT\n\
                    post-down iptables -t nat -D POSTROUTING -j ACCEPT\n";
        let dump = Dump::read(text).unwrap();
        assert_eq!(dump.tables["nat"].chains["POSTROUTING"], [1, 0]);
        let expected = ("vmbr1".to_owned(), "172.22.161.254/24".parse().unwrap());
        assert_eq!(dump.addresses, [expected]);
        assert_eq!(dump.aside.len(), 2);
    }

    #[test]
    fn what_is_no_dump_is_refused_with_its_line() {
        assert_eq!(Dump::read("").unwrap_err().0, 0);
        assert_eq!(
            Dump::read("*nat\n-A PREROUTING -j ACCEPT\nhello\n")
                .unwrap_err()
                .0,
            3
        );
        assert_eq!(Dump::read("-A PREROUTING -j ACCEPT\n").unwrap_err().0, 1);
        assert_eq!(Dump::read("*nat\n-A X --comment \"a\n").unwrap_err().0, 2);
    }
}
