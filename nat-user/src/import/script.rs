//! The file, line by line: what `iptables-save`, `iptables-nft-save` and `iptables -S` print, and
//! whatever else calls iptables: scripts and hooks, `/etc/network/interfaces`, wg-quick, units of
//! systemd.
//!
//! Nothing is run. A command that decides whether another one runs is taken to succeed, and the
//! rule that depends on it is marked as doubtful.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::dump::{Dump, Edit, Place, Status};
use super::options;
use super::shell::{self, Command, Join, LONGEST_LINE, Variables};

/// Reads a file.
///
/// # Errors
/// The number of a line inside a table of iptables-save that is none, and what is wrong with it.
pub(super) fn read(text: &str, file: &str) -> Result<Dump, (usize, String)> {
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

/// Whether a line goes on in the next one.
fn continues(line: &str) -> bool {
    let backslashes = line.chars().rev().take_while(|c| *c == '\\').count();
    backslashes % 2 == 1 && !line.starts_with('#')
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// The interface that a file of wg-quick is for.
fn wg_name(file: &str) -> Option<String> {
    let name = file.rsplit('/').next()?.strip_suffix(".conf")?;
    (!name.is_empty() && name.len() <= 15).then(|| name.to_owned())
}

/// Why a rule with a variable is not read.
pub(super) fn unset(variable: &str) -> String {
    format!(
        "{variable} has its value only when the script runs: write the value, or give what \
         iptables-save prints"
    )
}

const NO_TABLE: &str = "stands in no table: a line like *nat is missing before it";
const NO_RULE: &str = "is no rule of iptables";
const UNDOES: &str = "undoes something when the interface goes, or the script is told to stop";
pub(super) const NO_LINE: &str = "is no line of iptables-save";
const ELSEWHERE: &str = "is about another host or network namespace";

/// Nobody writes blocks that deep.
const DEEPEST_BLOCK: usize = 256;

/// What encloses a line of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    /// The word that opened it.
    opened_by: &'static str,
    /// Whether its lines run: as far as is known, or not at all.
    runs: bool,
    /// Whether that is no more than likely.
    is_doubtful: bool,
}

/// Between `*nat` and `COMMIT`, or behind the chains of `iptables -S`.
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
    blocks: Vec<Block>,
    /// The word that ends the lines which a command reads, and whether that is iptables-restore.
    here: Option<(String, bool)>,
    /// Whether the script has come to its end.
    has_ended: bool,
}

impl Reader {
    /// A line, as long as there are not too many.
    fn bounded(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.len() > LONGEST_LINE {
            return Err(format!("is longer than {} KiB", LONGEST_LINE >> 10));
        }
        self.line(number, line)?;
        if self.blocks.len() > DEEPEST_BLOCK {
            return Err(format!("is inside more than {DEEPEST_BLOCK} blocks"));
        }
        self.dump.spent.excess().map_or(Ok(()), Err)
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if let Some((end, is_restore)) = self.here.clone() {
            if line == end {
                self.here = None;
                self.table = None;
                return Ok(());
            }
            return match is_restore {
                true => self.saved(number, line),
                false => Ok(()),
            };
        }
        self.saved(number, line)
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
        if let Some(table) = line.strip_prefix('*') {
            let name = table.trim().to_owned();
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
        if is_saved || is_listed || first.starts_with([':', '[']) && !self.opens_section(line) {
            return self.in_table(number, line);
        }
        self.end_of_list();
        self.other(number, line);
        Ok(())
    }

    /// What iptables-save says that it cannot print is lost without it.
    fn comment(&mut self, number: usize, line: &str) {
        let reason = if line.contains("incompatible") && line.contains("able") {
            "the table holds rules of nft's own, which iptables-save cannot print: import them \
             from `nft list ruleset` by hand"
        } else if line.contains("legacy tables present") {
            "there are rules besides that only `iptables-legacy-save` prints: import its output too"
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

    /// A key of wg-quick's file or of a unit; false if it is none.
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
            let reason = "runs only where the command before it turns out otherwise";
            self.dump.put_aside(place, reason);
        }
    }

    /// One command, behind the words that enclose others.
    fn command(&mut self, place: Place<'_>, command: &Command, is_doubtful: bool) -> Status {
        let mut words = &command.words[..];
        let mut is_negated = false;
        while let Some((first, rest)) = words.split_first() {
            match first.as_str() {
                "!" => is_negated = !is_negated,
                word if self.opens_block(word) => {}
                _ => break,
            }
            words = rest;
        }
        let status = self.simple(place, command, words, is_doubtful);
        if let Some(condition) = self.blocks.last_mut().filter(|b| b.opened_by == "if") {
            // What stands behind `if` decides; see `then`.
            condition.runs = status != Status::Failure || is_negated;
            condition.is_doubtful = status == Status::Unknown;
            if is_negated {
                condition.runs = status != Status::Success;
            }
        }
        match (is_negated, status) {
            (true, Status::Success) => Status::Failure,
            (true, Status::Failure) => Status::Success,
            (_, status) => status,
        }
    }

    /// Takes a word that encloses commands in; false if it is none.
    fn opens_block(&mut self, word: &str) -> bool {
        let block = |opened_by, runs, is_doubtful| Block {
            opened_by,
            runs,
            is_doubtful,
        };
        match word {
            "if" => self.blocks.push(block("if", true, false)),
            "for" | "while" | "until" => self.blocks.push(block("loop", true, true)),
            "case" => self.blocks.push(block("case", true, true)),
            "{" | "(" => self.blocks.push(block("{", true, false)),
            "then" | "do" => {
                if let Some(last) = self.blocks.last_mut() {
                    last.opened_by = if word == "then" { "then" } else { "do" };
                }
            }
            "elif" => {
                if let Some(last) = self.blocks.last_mut() {
                    *last = block("if", true, false);
                }
            }
            "else" => {
                if let Some(last) = self.blocks.last_mut() {
                    last.runs = !last.runs && !last.is_doubtful;
                    last.opened_by = "else";
                }
            }
            "fi" | "done" | "esac" | "}" | ")" => drop(self.blocks.pop()),
            word if word.ends_with("()") => {
                let name = word.trim_end_matches("()");
                self.blocks
                    .push(block("function", !is_undoing(name), false));
            }
            _ => return false,
        }
        true
    }

    fn simple(
        &mut self,
        place: Place<'_>,
        command: &Command,
        words: &[String],
        is_doubtful: bool,
    ) -> Status {
        if self.assigns(place, words) {
            return Status::Success;
        }
        self.pattern(words);
        let Some((name, rest)) = program(words) else {
            return Status::Success;
        };
        let runs = self.blocks.iter().all(|block| block.runs) && !self.has_ended;
        if let Some(end) = &command.here {
            self.here = Some((end.clone(), name == "iptables-restore" && runs));
            return Status::Success;
        }
        if !is_iptables(name) {
            return self.of_others(place, name, words);
        }
        if !runs {
            self.dump.put_aside(place, UNDOES);
            return Status::Unknown;
        }
        let before = self.dump.rules.len();
        let status = self.dump.command(place, rest);
        let in_doubt = self.blocks.iter().any(|block| block.is_doubtful) || is_doubtful;
        if in_doubt && self.dump.rules.len() > before {
            let warning = "the script adds it only under a condition, which is taken to be true";
            self.dump.doubtful.push((before, warning.to_owned()));
        }
        status
    }

    /// `NAME=value`, by itself or behind `export` and the like.
    fn assigns(&mut self, place: Place<'_>, words: &[String]) -> bool {
        let words = match words {
            [first, rest @ ..]
                if ["export", "local", "readonly", "declare", "typeset"]
                    .contains(&first.as_str()) =>
            {
                rest
            }
            words => words,
        };
        let assignments: Vec<_> = words
            .iter()
            .map_while(|word| shell::assignment(word))
            .collect();
        if assignments.is_empty() || assignments.len() < words.len() {
            return false;
        }
        for (name, value) in assignments {
            let is_known = place.unknown.is_none_or(|unknown| !value.contains(unknown));
            self.variables.set(name, Some(value).filter(|_| is_known));
        }
        true
    }

    /// `start)`, `stop)`: which lines of a `case` run.
    fn pattern(&mut self, words: &[String]) {
        let Some(case) = self.blocks.last_mut().filter(|b| b.opened_by == "case") else {
            return;
        };
        if let Some(pattern) = words.iter().find_map(|word| word.strip_suffix(')')) {
            case.runs = !is_undoing(pattern);
        }
    }

    /// A command of another program.
    fn of_others(&mut self, place: Place<'_>, name: &str, words: &[String]) -> Status {
        let all = words.join(" ");
        match name {
            "true" | ":" | "echo" | "printf" | "set" | "modprobe" => return Status::Success,
            "false" => return Status::Failure,
            "exit" | "return" => {
                let is_plain = self.blocks.iter().all(|block| block.opened_by == "{");
                self.has_ended |= is_plain && name == "exit";
                return Status::Success;
            }
            "ip6tables" | "ip6tables-restore" => {
                self.dump.put_aside(place, "IPv6 passes natbpf untouched");
                return Status::Success;
            }
            "iptables-restore" | "iptables-apply" | "iptables-legacy-restore" => {
                let reason = "loads rules from elsewhere: import these as well";
                self.dump.left(place, reason);
                return Status::Success;
            }
            _ if holds_nat(&all) => self.not_understood(place, &all, "calls another program"),
            _ if is_condition(name) => {}
            _ => self.dump.put_aside(place, NO_RULE),
        }
        Status::Unknown
    }

    /// A line that could not be read.
    fn not_understood(&mut self, place: Place<'_>, source: &str, problem: &str) {
        let is_elsewhere = [
            "ip netns exec",
            "nsenter",
            "ssh ",
            "docker exec",
            "lxc exec",
        ];
        if is_elsewhere.iter().any(|other| source.contains(other)) {
            self.dump.put_aside(place, ELSEWHERE);
        } else if holds_nat(source) {
            let reason = format!(
                "{problem}, and seems to hold rules of the nat table: give what iptables-save \
                 prints"
            );
            self.dump.left(place, &reason);
        } else {
            self.dump.put_aside(place, NO_RULE);
        }
    }
}

/// What the last command came to.
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

/// Names of functions and branches that take rules away.
fn is_undoing(name: &str) -> bool {
    let name = name.to_lowercase();
    [
        "stop", "down", "clear", "remove", "delete", "release", "unload", "off",
    ]
    .iter()
    .any(|word| name.contains(word))
}

/// Whether a text may add rules of the nat table.
fn holds_nat(text: &str) -> bool {
    let text = text.to_lowercase();
    let is_call = text.contains("iptables") || text.contains("nft ");
    let of_nat = [
        "masquerade",
        "dnat",
        "snat",
        "netmap",
        "redirect",
        "prerouting",
        "postrouting",
        "nat",
    ];
    is_call && of_nat.iter().any(|word| text.contains(word))
}

/// The program that a command runs and the words behind it: not the one that runs another.
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

    /// Files that stand for more than there is time or memory: each is refused at a line, by a
    /// count.
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
            "IPT=/sbin/iptables\nexport WAN=\"eth0\"\n$IPT -t nat -A POSTROUTING -o $WAN -j MASQUERADE\n{RULE}"
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
    fn conditions_are_taken_to_be_true_and_said() {
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
        let text = "iptables-restore <<EOF\n*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j MASQUERADE\nCOMMIT\nEOF\ncat <<X\n*nat\nX\n";
        assert_eq!(texts(&dump(text), "nat", "POSTROUTING").len(), 1);
    }

    #[test]
    fn interfaces_files_say_addresses_and_the_gateway() {
        let text = "source /etc/network/interfaces.d/*\nallow-hotplug eth0\niface eth0 inet static\n address 192.0.2.10\n netmask 24\n gateway 192.0.2.1\n description the host's uplink\niface br0 inet static\n address 10.1.0.254\n netmask 255.255.255.0\n post-up iptables -t nat -A POSTROUTING -s 10.1.0.0/24 -o eth0 -j MASQUERADE\n post-down iptables -t nat -F\n";
        let dump = dump(text);
        let nets: Vec<String> = dump
            .addresses
            .iter()
            .map(|(name, net)| format!("{name} {net}"))
            .collect();
        assert_eq!(nets, ["eth0 192.0.2.10/24", "br0 10.1.0.254/24"]);
        assert_eq!(dump.default_route.as_deref(), Some("eth0"));
        assert_eq!(dump.aside.len(), 1);
    }

    #[test]
    fn what_iptables_save_could_not_print_is_left() {
        for line in [
            "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.",
            "# Table `nat' is incompatible, use 'nft' tool.",
            "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them",
        ] {
            assert_eq!(dump(line).unread.len(), 1, "{line}");
        }
    }
}
