//! Commands of a script: what each does to the rules, and whether it runs.

use super::{
    blocks::Off,
    programs::{holds_nat, is_condition, is_elsewhere, is_iptables, is_of_nat, loads, program},
    reader::{Input, Reader},
};
use crate::{
    dump::{Call, Place, Status},
    shell::{self, Command, Join, LONGEST_LINE},
};

const OF_IPV6: &str = "is about IPv6, and import reads a script's rules of IPv4 alone: give the \
    output of ip6tables-save too. It stays in force, and natbpf leaves IPv6 to the kernel until \
    the configuration has an IPv6 address";
const NO_RULE: &str = "is not an iptables rule";
pub(super) const UNDOES: &str = "runs only when the interface goes down or the script stops";
const ELSEWHERE: &str = "applies to another host or network namespace";
const ENDED: &str = "comes after the end of the script";
const OTHERWISE: &str = "runs only if the command before it has the other outcome";
const LOADS: &str = "loads rules from elsewhere: import these as well";
pub(super) const INCLUDES: &str = "runs another file: import it as well if it adds rules";
pub(super) const WRITTEN: &str = "seems to contain rules of the nat table for a file or another \
                                  program: give the output of iptables-save once they are loaded";
const ALTERNATIVE: &str = "runs only if a condition has another outcome than natbpf assumes: give \
                           the output of iptables-save";
const SEEMS_UNDONE: &str = "adds a rule in a part of the script that seems to undo something: give \
                            the output of iptables-save";

/// The result of the last command.
#[derive(Clone, Copy)]
struct Run {
    status: Status,
    is_doubtful: bool,
}

impl Reader {
    /// A line of a script: `source` of `line`, which is shown.
    pub(super) fn script(&mut self, number: usize, line: &str, source: &str) {
        let place = Place::at(number, line);
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
                self.dump.put_aside(place, OF_IPV6);
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
