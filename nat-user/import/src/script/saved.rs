//! Lines as `iptables-save`, `iptables-nft-save` and `iptables -S` print them.

use super::reader::{InTable, Reader};
use crate::{
    dump::{Edit, Place},
    options,
    shell::{self, first_word},
};

const NO_TABLE: &str = "is in no table: a line like *nat is missing before it";
pub(super) const NO_LINE: &str = "is not a line of iptables-save";

impl Reader {
    /// A line as iptables-save prints it, or else one of a script.
    pub(super) fn saved(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if line.starts_with('#') {
            self.comment(number, line);
            return Ok(());
        }
        if let Some(table) = line.strip_prefix('*').map(str::trim)
            && !table.is_empty()
            && table.chars().all(|c| c.is_ascii_alphanumeric())
        {
            let name = table.to_owned();
            self.dump.tables.entry(name.clone()).or_default();
            self.table = Some(InTable {
                name,
                is_saved: true,
            });
            return Ok(());
        }
        if line == "COMMIT" {
            self.table = None;
            return Ok(());
        }
        let is_saved = self.table.as_ref().is_some_and(|table| table.is_saved);
        let first = first_word(line);
        let is_listed = ["-P", "-N", "-A", "--append"].contains(&first);
        let is_chain = first.starts_with(':') && first != ":";
        if is_saved || is_listed || is_chain || is_counter(first) {
            return self.in_table(number, line);
        }
        self.end_of_list();
        self.other(number, line);
        Ok(())
    }

    /// Without this, rules that iptables-save cannot print would be lost.
    fn comment(&mut self, number: usize, line: &str) {
        let reason = if line.contains("incompatible") && line.contains("able") {
            "the table contains rules of nft, which iptables-save cannot print: import them from \
             `nft list ruleset` by hand"
        } else if line.contains("legacy tables present") {
            "there are more rules, which only `iptables-legacy-save` prints: import its output too"
        } else {
            return;
        };
        let place = Place::at(number, line);
        self.dump.left(place, reason);
    }

    fn in_table(&mut self, number: usize, line: &str) -> Result<(), String> {
        let words = shell::words(line)?;
        let mut words = &words[..];
        let mut text = line;
        if let [first, rest @ ..] = words
            && first.starts_with('[')
            && first.ends_with(']')
        {
            words = rest;
            text = line.split_once("] ").map_or(line, |(_, rest)| rest);
        }
        let first = words.first().map(String::as_str).unwrap_or_default();
        if let Some(chain) = first.strip_prefix(':') {
            let policy = words.get(1).map_or("-", String::as_str);
            let table = self.table_name()?;
            self.dump.chain(number, &table, chain, policy);
            return Ok(());
        }
        let is_saved = self.table.as_ref().is_some_and(|table| table.is_saved);
        if let ("-P", [_, chain, policy, ..], false) = (first, words, is_saved) {
            self.policy(number, chain, policy);
            return Ok(());
        }
        self.end_of_list();
        let words = options::spelled_out(words);
        let [option, chain, rest @ ..] = &words[..] else {
            return Err(NO_LINE.to_owned());
        };
        let edit = Edit::of(option).ok_or(NO_LINE)?;
        let table = self.table_name()?;
        let place = Place::at(number, text);
        if is_saved {
            self.dump.makes(&table, chain);
        }
        self.dump.edit(place, &table, (edit, chain), rest.to_vec());
        Ok(())
    }

    fn table_name(&self) -> Result<String, String> {
        let table = self.table.as_ref().map(|table| table.name.clone());
        table.ok_or_else(|| NO_TABLE.to_owned())
    }

    /// `iptables -S` does not name its table, but each has other built-in chains. They come first.
    pub(super) fn end_of_list(&mut self) {
        if self.list.is_empty() {
            return;
        }
        let has = |chain: &str| self.list.iter().any(|(_, known, _)| known == chain);
        let table = match (has("PREROUTING"), has("FORWARD"), has("POSTROUTING")) {
            (true, true, _) | (_, true, true) => "mangle",
            (_, true, _) => "filter",
            (_, _, true) => "nat",
            (true, ..) if has("INPUT") => "nat",
            _ => "raw",
        };
        self.table = Some(InTable {
            name: table.to_owned(),
            is_saved: false,
        });
        for (number, chain, policy) in std::mem::take(&mut self.list) {
            self.dump.chain(number, table, &chain, &policy);
        }
    }

    fn policy(&mut self, number: usize, chain: &str, policy: &str) {
        self.dump.spent.steps(self.list.len());
        let is_known = self.list.iter().any(|(_, known, _)| known == chain);
        if is_known || chain == "PREROUTING" {
            self.end_of_list();
        }
        self.list
            .push((number, chain.to_owned(), policy.to_owned()));
    }
}

/// `[12:3456]`, which iptables-save prints before rules.
fn is_counter(word: &str) -> bool {
    let numbers = word
        .strip_prefix('[')
        .and_then(|word| word.strip_suffix(']'));
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    numbers
        .and_then(|numbers| numbers.split_once(':'))
        .is_some_and(|(packets, bytes)| is_number(packets) && is_number(bytes))
}
