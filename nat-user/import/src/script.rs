//! The file, line by line: what `iptables-save`, `iptables-nft-save` and `iptables -S` print, and
//! files that call iptables: scripts and hooks, `/etc/network/interfaces`, wg-quick, units of
//! systemd.
//!
//! natbpf runs nothing. It assumes that a command that decides about another one succeeds, and
//! marks the dependent rule as doubtful.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{
    blocks::{Blocks, Off},
    dump::{Call, Dump, Edit, Place, Status},
    options,
    shell::{self, Command, Join, LONGEST_LINE, Variables},
};

/// Reads a file.
///
/// # Errors
/// The number of an invalid line inside a table of iptables-save, and what is wrong with it.
pub(super) fn read(text: &str, file: &str) -> Result<Dump, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_interfaces = text
        .lines()
        .any(|line| matches!(first_word(line), "iface" | "auto" | "allow-hotplug"));
    let mut reader = Reader {
        is_interfaces,
        own_name: wg_name(file),
        ..Reader::default()
    };
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let mut whole = line.trim().to_owned();
        while reader.table.is_none() && continues(&whole) {
            whole.pop();
            let Some((_, next)) = lines.next().filter(|_| whole.len() <= LONGEST_LINE) else {
                break;
            };
            whole.push_str(next.trim());
        }
        let result = reader.bounded(number, &whole);
        result.map_err(|problem| (number, problem))?;
    }
    reader.end_of_list();
    Ok(reader.dump)
}

/// Whether a line continues in the next one.
fn continues(line: &str) -> bool {
    let backslashes = line.chars().rev().take_while(|c| *c == '\\').count();
    backslashes % 2 == 1 && !line.starts_with('#')
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

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// The interface of a wg-quick file.
fn wg_name(file: &str) -> Option<String> {
    let name = file.rsplit('/').next()?.strip_suffix(".conf")?;
    (!name.is_empty() && name.len() <= 15).then(|| name.to_owned())
}

/// Why a rule with a variable is not read.
pub(super) fn unset(variable: &str) -> String {
    format!(
        "{variable} gets its value only when the script runs: write the value, or give the output \
         of iptables-save"
    )
}

const NO_TABLE: &str = "is in no table: a line like *nat is missing before it";
const NO_RULE: &str = "is not an iptables rule";
const UNDOES: &str = "runs only when the interface goes down or the script stops";
pub(super) const NO_LINE: &str = "is not a line of iptables-save";
const ELSEWHERE: &str = "applies to another host or network namespace";
const ENDED: &str = "comes after the end of the script";
const OTHERWISE: &str = "runs only if the command before it has the other outcome";
const LOADS: &str = "loads rules from elsewhere: import these as well";
const INCLUDES: &str = "runs another file: import it as well if it adds rules";
const WRITTEN: &str = "seems to contain rules of the nat table for a file or another program: give \
                       the output of iptables-save once they are loaded";
const ALTERNATIVE: &str = "runs only if a condition has another outcome than natbpf assumes: give \
                           the output of iptables-save";
const SEEMS_UNDONE: &str = "adds a rule in a part of the script that seems to undo something: give \
                            the output of iptables-save";

/// No real script nests blocks that deep.
const DEEPEST_BLOCK: usize = 256;

/// What happens to the lines that a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// iptables-restore loads them.
    Loaded,
    /// They are for another host, or for a command that does not run.
    Elsewhere,
    /// Another program takes them, or a file.
    Others,
}

/// Between `*nat` and `COMMIT`, or after the chains of `iptables -S`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InTable {
    name: String,
    /// Whether `COMMIT` ends it.
    is_saved: bool,
}

#[derive(Default)]
struct Reader {
    dump: Dump,
    table: Option<InTable>,
    /// Lines, chains and policies since the last other line of `iptables -S`.
    list: Vec<(usize, String, String)>,
    is_interfaces: bool,
    /// Of `/etc/network/interfaces` the interface at hand, with its address until the netmask
    /// comes.
    interface: Option<String>,
    address: Option<Ipv4Addr>,
    /// The section of wg-quick's file, or of a unit.
    section: Option<String>,
    own_name: Option<String>,
    variables: Variables,
    blocks: Blocks,
    /// The word that ends the lines which a command reads, and what happens to them.
    here: Option<(String, Input)>,
    /// Whether the script has ended.
    has_ended: bool,
}

impl Reader {
    /// A line, as long as there are not too many.
    fn bounded(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.len() > LONGEST_LINE {
            return Err(format!("is longer than {} KiB", LONGEST_LINE >> 10));
        }
        self.line(number, line)?;
        if self.blocks.depth() > DEEPEST_BLOCK {
            return Err(format!("is inside more than {DEEPEST_BLOCK} blocks"));
        }
        self.dump.spent.excess().map_or(Ok(()), Err)
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let Some((end, input)) = &self.here else {
            return self.saved(number, line);
        };
        if line == end {
            self.here = None;
            self.table = None;
            return Ok(());
        }
        match input {
            Input::Loaded => return self.saved(number, line),
            Input::Others if line == "*nat" || is_of_nat(line) => {
                let place = Place {
                    line: number,
                    text: line,
                    unknown: None,
                };
                self.dump.left(place, WRITTEN);
            }
            Input::Others | Input::Elsewhere => {}
        }
        Ok(())
    }

    /// A line as iptables-save prints it, or else one of a script.
    fn saved(&mut self, number: usize, line: &str) -> Result<(), String> {
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
        let place = Place {
            line: number,
            text: line,
            unknown: None,
        };
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
        let place = Place {
            line: number,
            text,
            unknown: None,
        };
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
    fn end_of_list(&mut self) {
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

    fn opens_section(&self, line: &str) -> bool {
        line.starts_with('[') && line.ends_with(']') && !line.contains([':', ' '])
    }

    /// A line of another file than one of iptables-save.
    fn other(&mut self, number: usize, line: &str) {
        if self.opens_section(line) {
            self.section = Some(line.trim_matches(['[', ']']).to_owned());
            return;
        }
        if let Some((key, value)) = line.split_once('=')
            && self.key(number, line, key.trim(), value.trim())
        {
            return;
        }
        if self.is_interfaces && self.stanza(number, line) {
            return;
        }
        self.script(number, line, line);
    }

    /// A key of a wg-quick file or of a unit; false if it is neither.
    fn key(&mut self, number: usize, line: &str, key: &str, value: &str) -> bool {
        match key {
            "PreUp" | "PostUp" | "ExecStartPre" | "ExecStart" | "ExecStartPost" => {
                let value = value.trim_start_matches(['-', '+', '!', '@', ':']);
                let value = match &self.own_name {
                    Some(name) => value.replace("%i", name),
                    None => value.replace("%i", "${%i}"),
                };
                self.script(number, line, &value);
            }
            "PreDown" | "PostDown" | "ExecStop" | "ExecStopPost" => {
                self.undone(number, line);
            }
            "Address" if self.section.as_deref() == Some("Interface") => {
                let name = self.own_name.clone().unwrap_or_else(|| "wg0".to_owned());
                let nets = value.split(',').filter_map(|net| net.trim().parse().ok());
                let nets = nets.map(|net| (name.clone(), net));
                self.dump.addresses.extend(nets);
                self.dump.spent.entry(line);
            }
            _ => return self.section.is_some() && !key.contains(char::is_whitespace),
        }
        true
    }

    fn undone(&mut self, number: usize, line: &str) {
        let place = Place {
            line: number,
            text: line,
            unknown: None,
        };
        self.dump.put_aside(place, UNDOES);
    }

    /// A line of `/etc/network/interfaces`; false if it may be one of a script.
    fn stanza(&mut self, number: usize, line: &str) -> bool {
        let (word, rest) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(word, rest)| (word, rest.trim()));
        match word {
            "iface" => {
                let name = first_word(rest).to_owned();
                self.variables.set("IFACE", Some(&name));
                self.interface = Some(name);
                self.address = None;
            }
            "up" | "post-up" | "pre-up" => self.script(number, line, rest),
            "down" | "post-down" | "pre-down" => self.undone(number, line),
            "address" | "netmask" => self.address(rest),
            "gateway" => {
                let interface = self.interface.clone();
                self.dump.default_route = self.dump.default_route.take().or(interface);
            }
            "source" | "source-directory" => {
                let place = Place {
                    line: number,
                    text: line,
                    unknown: None,
                };
                self.dump.put_aside(place, INCLUDES);
            }
            "iptables" | "sudo" => return false,
            word => return !word.contains('/'),
        }
        true
    }

    fn address(&mut self, text: &str) {
        let net = match (text.parse::<Ipv4Net>(), self.address) {
            (Ok(net), _) => Some(net),
            (Err(_), None) => {
                self.address = text.parse().ok();
                None
            }
            (Err(_), Some(address)) => match (text.parse(), text.parse()) {
                (Ok(length), _) => Ipv4Net::new(address, length).ok(),
                (_, Ok(mask)) => Ipv4Net::with_netmask(address, mask).ok(),
                _ => None,
            },
        };
        if let (Some(net), Some(interface)) = (net, &self.interface) {
            self.dump.addresses.push((interface.clone(), net));
            self.dump.spent.entry(text);
            self.address = None;
        }
    }

    /// A line of a script: `source` of `line`, which is shown.
    fn script(&mut self, number: usize, line: &str, source: &str) {
        let place = Place {
            line: number,
            text: line,
            unknown: None,
        };
        let commands = match shell::commands(source, &self.variables) {
            Ok(commands) => commands,
            Err(problem) => {
                self.dump.spent.expanded(LONGEST_LINE);
                return self.not_understood(place, source, &problem);
            }
        };
        let words = commands.iter().flat_map(|command| &command.words);
        self.dump.spent.expanded(words.map(String::len).sum());
        let mut last = Run {
            status: Status::Success,
            is_doubtful: false,
        };
        for command in &commands {
            if self.dump.spent.excess().is_some() {
                break;
            }
            let place = Place {
                unknown: command.unknown.as_deref(),
                ..place
            };
            let doubt = last.is_doubtful || last.status == Status::Unknown;
            let runs = match (command.join, last.status) {
                (Join::Always | Join::Pipe, _) => true,
                (Join::And, status) => status != Status::Failure,
                (Join::Or, status) => status != Status::Success,
            };
            let is_joined = matches!(command.join, Join::And | Join::Or);
            if !runs {
                self.skipped(place, command);
                continue;
            }
            last = Run {
                is_doubtful: is_joined && doubt,
                ..last
            };
            last.status = self.command(place, command, last.is_doubtful);
        }
    }

    fn skipped(&mut self, place: Place<'_>, command: &Command) {
        if program(&command.words).is_some_and(|(name, _)| is_iptables(name)) {
            self.dump.put_aside(place, OTHERWISE);
        }
    }

    /// One command, after the words that open blocks.
    fn command(&mut self, place: Place<'_>, command: &Command, is_doubtful: bool) -> Status {
        let mut words = &command.words[..];
        let mut is_negated = false;
        while let Some(first) = words.first() {
            let is_loop = ["for", "select"].contains(&first.as_str());
            let count = match first.as_str() {
                "!" => {
                    is_negated = !is_negated;
                    1
                }
                _ => self.blocks.take(words),
            };
            words = &words[count..];
            if is_loop {
                self.forget(words.first());
                words = &[];
            }
            if count == 0 {
                break;
            }
        }
        let status = match (is_negated, self.simple(place, command, words, is_doubtful)) {
            (true, Status::Success) => Status::Failure,
            (true, Status::Failure) => Status::Success,
            (_, status) => status,
        };
        self.blocks.decide(status);
        status
    }

    fn simple(
        &mut self,
        place: Place<'_>,
        command: &Command,
        words: &[String],
        is_doubtful: bool,
    ) -> Status {
        let is_doubtful = is_doubtful || self.blocks.is_doubtful();
        if self.assigns(place, words, is_doubtful) {
            return Status::Success;
        }
        self.blocks.pattern(words);
        let Some((name, rest)) = program(words) else {
            return Status::Success;
        };
        let runs = self.blocks.off().is_none() && !self.has_ended;
        if let Some(end) = &command.here {
            let is_elsewhere = !runs || is_elsewhere(place.text);
            let input = match name {
                _ if is_elsewhere => Input::Elsewhere,
                name if name.starts_with("iptables") && name.ends_with("-restore") => Input::Loaded,
                name if loads(name, words) => {
                    self.dump.left(place, LOADS);
                    Input::Elsewhere
                }
                _ => Input::Others,
            };
            self.here = Some((end.clone(), input));
            return Status::Success;
        }
        if !is_iptables(name) {
            return self.of_others(place, name, words, is_doubtful);
        }
        let call = Call::of(rest);
        if !runs {
            self.left_out(place, &call);
            return Status::Unknown;
        }
        let before = self.dump.rules.len();
        let may_run_later = is_doubtful || self.blocks.is_in_function();
        if may_run_later && self.dump.would_lose(&call) {
            let reason = "removes rules under a condition or in a function, which natbpf assumes \
                          not to run";
            self.dump.put_aside(place, reason);
            return Status::Unknown;
        }
        let status = self.dump.command(place, call);
        if is_doubtful && self.dump.rules.len() > before {
            let warning = "the script adds it only under a condition, which natbpf assumes to be \
                true";
            self.dump.doubtful.push((before, warning.to_owned()));
        }
        status
    }

    /// A call of iptables that does not run.
    fn left_out(&mut self, place: Place<'_>, call: &Call) {
        let adds = call.adds_to("nat") && !self.dump.holds(call);
        match self.blocks.off() {
            Some(Off::Otherwise { is_doubtful: true }) if adds => {
                self.dump.left(place, ALTERNATIVE);
            }
            Some(Off::Undoes) if adds => self.dump.left(place, SEEMS_UNDONE),
            Some(Off::Otherwise { .. }) => self.dump.put_aside(place, OTHERWISE),
            Some(Off::Undoes) => self.dump.put_aside(place, UNDOES),
            None => self.dump.put_aside(place, ENDED),
        }
    }

    /// `NAME=value`, by itself or behind `export` and the like.
    fn assigns(&mut self, place: Place<'_>, words: &[String], is_doubtful: bool) -> bool {
        let words = match words {
            [first, rest @ ..]
                if ["export", "local", "readonly", "declare", "typeset"]
                    .contains(&first.as_str()) =>
            {
                let options = rest.iter().take_while(|word| word.starts_with('-'));
                &rest[options.count()..]
            }
            words => words,
        };
        let assignments: Vec<_> = words
            .iter()
            .map_while(|word| shell::assignment(word))
            .collect();
        if assignments.is_empty() || assignments.len() < words.len() {
            // A list, or a value for one command only.
            for (name, value) in assignments {
                if value.starts_with('(') {
                    self.variables.set(name, None);
                }
            }
            return false;
        }
        let off = self.blocks.off();
        if self.has_ended
            || matches!(
                off,
                Some(Off::Undoes | Off::Otherwise { is_doubtful: false })
            )
        {
            return true;
        }
        for (name, value) in assignments {
            let is_known = place.unknown.is_none_or(|unknown| !value.contains(unknown));
            let value = Some(value).filter(|value| is_known && !value.starts_with('('));
            match is_doubtful {
                true => self.variables.set_perhaps(name, value, off.is_none()),
                false => self.variables.set(name, value),
            }
        }
        true
    }

    /// A variable gets unknown values.
    fn forget(&mut self, name: Option<&String>) {
        if let Some(name) = name {
            self.variables.set(name, None);
        }
    }

    /// A command that sets variables to unknown values.
    fn sets_unknown(&mut self, name: &str, words: &[String]) {
        let is_append = |word: &&String| word.contains("+=");
        for word in words.iter().take_while(is_append) {
            let (name, _) = word.split_once("+=").unwrap_or_default();
            self.variables.set(name, None);
        }
        let is_setter = [
            "read",
            "getopts",
            "unset",
            "mapfile",
            "readarray",
            "let",
            "eval",
            "local",
        ]
        .contains(&name);
        if is_setter || name == "printf" && words.iter().any(|word| word == "-v") {
            for word in words {
                let end = word.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
                self.variables.set(&word[..end.unwrap_or(word.len())], None);
            }
        }
    }

    /// A command of another program.
    fn of_others(
        &mut self,
        place: Place<'_>,
        name: &str,
        words: &[String],
        is_doubtful: bool,
    ) -> Status {
        let all = words.join(" ");
        self.sets_unknown(name, words);
        match name {
            "echo" | "printf" if is_of_nat(&all) => {
                self.dump.left(place, WRITTEN);
                return Status::Success;
            }
            "true" | ":" | "echo" | "printf" | "set" | "modprobe" => return Status::Success,
            "false" => return Status::Failure,
            "exit" | "return" => {
                let is_sure = self.blocks.is_plain() && !is_doubtful;
                self.has_ended |= is_sure && name == "exit";
                return Status::Success;
            }
            "ip6tables" | "ip6tables-restore" => {
                self.dump.put_aside(place, "IPv6 passes natbpf untouched");
                return Status::Success;
            }
            _ if loads(name, words) => {
                let runs = self.blocks.off().is_none() && !self.has_ended;
                match is_elsewhere(place.text) || !runs {
                    true => self.dump.put_aside(place, NO_RULE),
                    false => self.dump.left(place, LOADS),
                }
                return Status::Success;
            }
            "." | "source" | "run-parts" => {
                self.dump.put_aside(place, INCLUDES);
                return Status::Success;
            }
            _ if holds_nat(&all) => self.not_understood(place, &all, "calls another program"),
            _ if is_condition(name) => {}
            _ if all.ends_with(".sh") || all.contains(".sh ") => {
                self.dump.put_aside(place, INCLUDES);
            }
            _ => self.dump.put_aside(place, NO_RULE),
        }
        Status::Unknown
    }

    /// A line that could not be read.
    fn not_understood(&mut self, place: Place<'_>, source: &str, problem: &str) {
        if is_elsewhere(source) {
            self.dump.put_aside(place, ELSEWHERE);
        } else if holds_nat(source) {
            let reason = format!(
                "{problem}, and seems to contain rules of the nat table: give the output of \
                 iptables-save"
            );
            self.dump.left(place, &reason);
        } else {
            self.dump.put_aside(place, NO_RULE);
        }
    }
}

/// The result of the last command.
#[derive(Clone, Copy)]
struct Run {
    status: Status,
    is_doubtful: bool,
}

/// Programs that only decide what runs next.
fn is_condition(name: &str) -> bool {
    [
        "[", "[[", "test", "grep", "command", "which", "type", "sleep", "shift",
    ]
    .contains(&name)
}

fn is_iptables(name: &str) -> bool {
    ["iptables", "iptables-nft", "iptables-legacy"].contains(&name)
}

/// Whether a command is for another host or network namespace.
fn is_elsewhere(text: &str) -> bool {
    let others = [
        "ip netns exec",
        "nsenter",
        "ssh ",
        "docker exec",
        "lxc exec",
    ];
    others.iter().any(|other| text.contains(other))
}

/// Whether a command loads rules from other files.
fn loads(name: &str, words: &[String]) -> bool {
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
    match name {
        "iptables-restore"
        | "iptables-apply"
        | "iptables-legacy-restore"
        | "iptables-nft-restore" => true,
        "nft" => has(&["-f", "--file"]),
        "netfilter-persistent" | "shorewall" | "firehol" | "ferm" => {
            !has(&["save", "stop", "clear", "flush"])
        }
        _ => false,
    }
}

/// Whether a text may add rules of the nat table.
fn holds_nat(text: &str) -> bool {
    let text = text.to_lowercase();
    let is_call = ["iptables", "nft ", "firewall-cmd"]
        .iter()
        .any(|call| text.contains(call));
    let of_nat = [
        "masquerade",
        "dnat",
        "snat",
        "netmap",
        "redirect",
        "prerouting",
        "postrouting",
        "forward-port",
        "nat",
    ];
    is_call && of_nat.iter().any(|word| text.contains(word)) || is_of_nat(&text)
}

/// Whether the options suggest it, for any program.
fn is_of_nat(text: &str) -> bool {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).any(|pair| match pair {
        ["-t" | "--table", value] => value.trim_matches(['"', '\'']) == "nat",
        ["-j" | "--jump" | "-g", value] => {
            let targets = ["masquerade", "dnat", "snat", "netmap", "redirect"];
            targets.contains(&value.trim_matches(['"', '\'']))
        }
        _ => false,
    })
}

/// The program that a command runs and its words, without wrappers such as sudo.
fn program(words: &[String]) -> Option<(&str, &[String])> {
    let mut rest = words;
    while let Some((first, behind)) = rest.split_first() {
        let name = first.rsplit('/').next().unwrap_or_default();
        let is_before = [
            "up",
            "post-up",
            "pre-up",
            "sudo",
            "exec",
            "nice",
            "env",
            "busybox",
            "builtin",
            "xtables-nft-multi",
            "xtables-legacy-multi",
            "time",
            "nohup",
            "doas",
            "-",
        ];
        let is_option = first.starts_with('-') && rest.len() < words.len();
        let is_pattern = first.ends_with(')') && !first.contains('(');
        if is_before.contains(&name)
            || is_option
            || is_pattern
            || shell::assignment(first).is_some()
        {
            rest = behind;
        } else {
            return Some((name, behind));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(text: &str) -> Dump {
        read(text, "rules").unwrap()
    }

    fn texts(dump: &Dump, table: &str, chain: &str) -> Vec<String> {
        let rules = dump
            .tables
            .get(table)
            .and_then(|table| table.chains.get(chain));
        let action = |rule: &usize| format!("{:?}", dump.rules[*rule].action);
        rules.into_iter().flatten().map(action).collect()
    }

    const RULE: &str = "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE";

    /// Files that expand to more than the time or memory: a count refuses each at a line.
    #[test]
    fn files_that_would_take_too_much_are_refused_with_a_line() {
        let long = "x".repeat(LONGEST_LINE / 2);
        let of_variable = |times: usize| format!("A={long}\n{}", "echo $A\n".repeat(times));
        for (text, problem) in [
            ("x".repeat(LONGEST_LINE + 1), "longer than 64 KiB"),
            ("a \\\n".repeat(100_000), "longer than 64 KiB"),
            (
                format!("*nat\n{}", ":a -\n".repeat(300_001)),
                "300000 rules",
            ),
            (of_variable(2000), "32 MiB of text once variables"),
            (
                format!("A={long}\n{}", "echo $A$A$A\n".repeat(2000)),
                "32 MiB of text once variables",
            ),
            (
                format!("{}\n", "ip6tables -L;".repeat(4000)).repeat(200),
                "lines with too many commands",
            ),
            ("if a\nthen\n".repeat(300), "inside more than 256 blocks"),
        ] {
            let refused = read(&text, "rules").err().map(|(_, problem)| problem);
            let refused = refused.unwrap_or_default();
            assert!(refused.contains(problem), "{problem}: {refused}");
        }
    }

    /// A word as long as a line may be is compared with each line, and copied for none.
    #[test]
    fn lines_before_a_long_word_take_no_longer() {
        let word = "x".repeat(LONGEST_LINE - 10);
        let text = format!(
            "{RULE}\ncat <<{word}\n{}{word}\n{RULE}\n",
            "a\n".repeat(300_000)
        );
        assert_eq!(texts(&dump(&text), "nat", "POSTROUTING").len(), 2);
    }

    /// `A=$A$A` doubles it: what it stands for gets no longer than a line may be.
    #[test]
    fn variables_that_double_stay_short() {
        let text = format!("A=0123456789\n{}{RULE}\n", "A=\"$A$A\"\n".repeat(60));
        let dump = dump(&text);
        assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 1);
        assert_eq!(dump.aside.len(), 60 - 12, "lines that got too long");
    }

    #[test]
    fn commands_of_one_line_are_rules_each() {
        for line in [
            format!("{RULE}; iptables -A FORWARD -j ACCEPT"),
            format!("post-up iptables -A FORWARD -j ACCEPT && {RULE}"),
            format!("PostUp = iptables -A FORWARD -j ACCEPT; {RULE} || true"),
            format!("ExecStart=-/bin/true; {RULE}; /sbin/iptables -w 5 -A FORWARD -j ACCEPT"),
        ] {
            let dump = dump(&line);
            assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 1, "{line}");
            assert_eq!(texts(&dump, "filter", "FORWARD"), ["Accept"], "{line}");
        }
    }

    #[test]
    fn check_or_append_adds_a_rule_once() {
        let line = format!("{} 2>/dev/null || {RULE}", RULE.replace("-A", "-C"));
        assert_eq!(texts(&dump(&line), "nat", "POSTROUTING").len(), 1);
        assert_eq!(
            texts(&dump(&format!("{line}\n{line}")), "nat", "POSTROUTING").len(),
            1
        );
        let check = RULE.replace("-A", "-C");
        let line = format!("if ! {check}; then\n  {RULE}\nfi");
        let twice = dump(&format!("{line}\n{line}"));
        assert_eq!(texts(&twice, "nat", "POSTROUTING").len(), 1);
        assert_eq!(twice.doubtful, []);
    }

    #[test]
    fn deleted_and_flushed_rules_are_gone() {
        for undo in [
            RULE.replace("-A", "-D"),
            "iptables -t nat -F".to_owned(),
            "iptables -t nat -F POSTROUTING".to_owned(),
            "iptables -t nat -D POSTROUTING 1".to_owned(),
        ] {
            let dump = dump(&format!("{RULE}\n{undo}"));
            assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 0, "{undo}");
        }
        let other = dump(&format!("{RULE}\niptables -F"));
        assert_eq!(texts(&other, "nat", "POSTROUTING").len(), 1);
    }

    #[test]
    fn variables_that_the_script_sets_are_read() {
        let text = format!(
            "IPT=/sbin/iptables\nexport WAN=\"eth0\"\n$IPT -t nat -A POSTROUTING -o $WAN -j \
             MASQUERADE\n{RULE}"
        );
        let dump = dump(&text);
        let [first, second] = &dump.tables["nat"].chains["POSTROUTING"][..] else {
            panic!("{dump:?}")
        };
        assert_eq!(dump.rules[*first].condition, dump.rules[*second].condition);
    }

    #[test]
    fn a_variable_that_nothing_sets_is_named() {
        for (line, variable) in [
            (RULE.replace("eth0", "$WAN"), "$WAN"),
            (
                format!("WAN=$(route)\n{}", RULE.replace("eth0", "${WAN}")),
                "${WAN}",
            ),
            (format!("PostUp = {}", RULE.replace("eth0", "%i")), "%i"),
        ] {
            let dump = dump(&line);
            let actions = texts(&dump, "nat", "POSTROUTING");
            assert!(actions[0].contains(variable), "{actions:?}");
        }
        let own = RULE.replace("eth0", "%i");
        let wg = read(
            &format!("[Interface]\nPostUp = {own}"),
            "/etc/wireguard/wg7.conf",
        )
        .unwrap();
        assert_eq!(wg.rules[0].condition.output.is, ["wg7"]);
    }

    #[test]
    fn conditions_are_assumed_true_with_a_warning() {
        let text = format!("if [ \"$1\" = start ]; then\n{RULE}\nelse\n{RULE}\nfi\n");
        let dump = dump(&text);
        assert_eq!(texts(&dump, "nat", "POSTROUTING").len(), 1);
        assert_eq!(dump.doubtful.len(), 1);
        assert_eq!(dump.aside.len(), 1);
    }

    #[test]
    fn branches_and_functions_that_stop_do_not_run() {
        let flush = "iptables -t nat -F";
        for text in [
            format!("case \"$1\" in\nstart)\n{RULE}\n;;\nstop)\n{flush}\n;;\nesac"),
            format!("start() {{\n{RULE}\n}}\nstop() {{\n{flush}\n}}\nstart"),
            format!("{RULE}\nexit 0\n{flush}"),
        ] {
            assert_eq!(texts(&dump(&text), "nat", "POSTROUTING").len(), 1, "{text}");
        }
    }

    #[test]
    fn lines_that_seem_to_hold_rules_and_are_not_read_are_left() {
        for line in [
            "xargs -n1 iptables -t nat -A PREROUTING -j DNAT --to-destination",
            "nft add rule ip nat postrouting masquerade",
            "iptables-restore < /etc/iptables/rules.v4",
            "iptables -t nat -A POSTROUTING -j MASQUERADE \"",
        ] {
            assert_eq!(dump(line).unread.len(), 1, "{line}");
        }
        for line in [
            "sysctl -w net.ipv4.ip_forward=1",
            "# iptables -t nat -A X",
            "it's",
        ] {
            assert_eq!(dump(line).unread.len(), 0, "{line}");
        }
    }

    #[test]
    fn rules_between_here_and_its_word_are_read() {
        let text = "iptables-restore <<EOF\n*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j \
            MASQUERADE\nCOMMIT\nEOF\ncat <<X\n*nat\nX\n";
        assert_eq!(texts(&dump(text), "nat", "POSTROUTING").len(), 1);
    }

    #[test]
    fn interfaces_files_say_addresses_and_the_gateway() {
        let text = "source /etc/network/interfaces.d/*\nallow-hotplug eth0\niface eth0 inet \
            static\n address 192.0.2.10\n netmask 24\n gateway 192.0.2.1\n description the host's \
            uplink\niface br0 inet static\n address 10.1.0.254\n netmask 255.255.255.0\n post-up \
            iptables -t nat -A POSTROUTING -s 10.1.0.0/24 -o eth0 -j MASQUERADE\n post-down \
            iptables -t nat -F\n";
        let dump = dump(text);
        let nets: Vec<String> = dump
            .addresses
            .iter()
            .map(|(name, net)| format!("{name} {net}"))
            .collect();
        assert_eq!(nets, ["eth0 192.0.2.10/24", "br0 10.1.0.254/24"]);
        assert_eq!(dump.default_route.as_deref(), Some("eth0"));
        assert_eq!(dump.aside.len(), 2, "another file, and what undoes");
    }

    #[test]
    fn rules_that_iptables_save_cannot_print_are_listed() {
        for line in [
            "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.",
            "# Table `nat' is incompatible, use 'nft' tool.",
            "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them",
        ] {
            assert_eq!(dump(line).unread.len(), 1, "{line}");
        }
    }
}
