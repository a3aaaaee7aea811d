//! One rule: from its words to what it matches and what it does.
//!
//! Nothing is refused here: a condition that natbpf cannot express is stored as [`Foreign`], with
//! the reason.

mod reasons;
mod values;

use std::net::IpAddr;

use ipnet::IpNet;

pub(super) use self::reasons::COUNTS;
pub(super) use self::values::{ICMP, TCP, UDP, protocol_name};
use self::{
    reasons::reason_of,
    values::{address, matched, number, prefix},
};
use super::{
    condition::{Condition, Foreign},
    family::Family,
};

/// A rule of a chain, or a line about a chain.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Where it stands, from 1.
    pub(super) line: usize,
    /// As it is written, without counters.
    pub(super) text: String,
    pub(super) condition: Condition,
    pub(super) action: Action,
    pub(super) comment: Option<String>,
}

/// Addresses and ports to choose from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// The first and the last address, if any is named.
    pub(super) addresses: Option<(IpAddr, IpAddr)>,
    /// The first and the last port, if they are named.
    pub(super) ports: Option<(u16, u16)>,
    /// `A-B/BASE`: the port `BASE` becomes `A`, and so on.
    pub(super) base: Option<u16>,
}

impl Choice {
    /// The address, if it is a single one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let (first, last) = self.addresses?;
        (first == last).then_some(first)
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    Return,
    /// Runs a chain; packets that return continue after the rule, or with `goto` after the calling
    /// rule.
    Run {
        chain: String,
        is_goto: bool,
    },
    Dnat(Choice),
    Redirect,
    Netmap(IpNet),
    /// SNPT and DNPT of the mangle table.
    Npt {
        from: IpNet,
        to: IpNet,
    },
    Snat(Choice),
    Masquerade(Choice),
    /// `None` is what fits the path, otherwise a size in bytes.
    ClampMss(Option<u16>),
    /// Drops the packet; with an answer (REJECT) or without.
    Drop {
        is_answered: bool,
    },
    /// It only counts.
    Count,
    /// The packet continues, for example after a log entry or with a mark.
    Pass(String),
    /// Unknown to natbpf, and why.
    Unknown(String),
}

/// Targets after which the next rule is tried.
const PASSING: [&str; 13] = [
    "LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "MARK", "CONNMARK", "DSCP", "TOS", "CLASSIFY", "SET",
    "CHECKSUM", "CT",
];

/// Reads the words behind `-A CHAIN`.
pub(super) fn read(family: Family, line: usize, text: &str, words: &[String]) -> Rule {
    let mut reader = Reader {
        family,
        words,
        condition: Condition::default(),
        target: None,
        choice: Choice::default(),
        netmap: None,
        npt: (None, None),
        size: None,
        comment: None,
        problem: None,
    };
    while let Some(word) = reader.next() {
        reader.option(word);
    }
    let action = reader.action();
    Rule {
        line,
        text: text.to_owned(),
        condition: reader.condition,
        action,
        comment: reader.comment,
    }
}

const NO_MAC: &str = "natbpf's rules do not look at Ethernet addresses: for forged senders, write \
    anti_spoof = true";

const NO_FLAGS: &str = "natbpf's rules do not look at TCP flags";

struct Reader<'w> {
    family: Family,
    words: &'w [String],
    condition: Condition,
    target: Option<(&'w str, bool)>,
    choice: Choice,
    netmap: Option<IpNet>,
    /// What SNPT and DNPT turn into what.
    npt: (Option<IpNet>, Option<IpNet>),
    size: Option<u16>,
    comment: Option<String>,
    /// The part of the target that natbpf cannot express.
    problem: Option<String>,
}

impl<'w> Reader<'w> {
    fn next(&mut self) -> Option<&'w str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn option(&mut self, word: &'w str) {
        let mut is = true;
        let mut name = word;
        if word == "!" {
            is = false;
            name = self.next().unwrap_or_default();
        }
        if !is_option(name) {
            self.problem = Some(format!("`{name}` is not understood here"));
            return;
        }
        if self.is_plain(name, is) {
            return;
        }
        let mut value = match self.words.first() {
            Some(value) if !is_option(value) => self.next().unwrap_or_default(),
            _ => "",
        };
        // The old notation: `-d ! 10.0.0.0/8`.
        if value == "!" {
            is = false;
            value = self.next().unwrap_or_default();
        }
        let narrow = match name {
            // A match without options.
            "-m" | "--match" if value == "eui64" => {
                return self.foreign(name, value, is, NO_MAC);
            }
            "-m" | "--match" | "-w" | "--wait" => return,
            "-c" | "--set-counters" => {
                self.next();
                return;
            }
            "-j" | "--jump" => return self.jump(value, false),
            "-g" | "--goto" => return self.jump(value, true),
            "--comment" => return self.comment = Some(value.to_owned()),
            name => match matched(self.family, name, value, is) {
                Some(narrow) => narrow,
                None => return self.target_option(name, value, is),
            },
        };
        match narrow {
            Ok(narrow) => self.condition = self.condition.and(&narrow),
            Err(reason) => self.foreign(name, value, is, &reason),
        }
    }

    /// Options without a value, and one with two.
    fn is_plain(&mut self, name: &str, is: bool) -> bool {
        match name {
            "--syn" if !is => {
                self.foreign(name, "", is, NO_FLAGS);
                true
            }
            "--random" | "--random-fully" | "--persistent" | "--clamp-mss-to-pmtu" | "--syn" => {
                true
            }
            "-f" | "--fragment" => {
                self.foreign(
                    name,
                    "",
                    is,
                    "natbpf translates fragments like whole packets",
                );
                true
            }
            "--tcp-flags" => {
                let (of, set) = (self.next(), self.next());
                // What opens a connection: no other packet reaches the nat table.
                let opens = matches!(of, Some("SYN,RST" | "FIN,SYN,RST,ACK" | "SYN,ACK" | "SYN"));
                if !(is && opens && set == Some("SYN")) {
                    let flags = format!("{} {}", of.unwrap_or_default(), set.unwrap_or_default());
                    self.foreign(name, &flags, is, NO_FLAGS);
                }
                true
            }
            _ => false,
        }
    }

    fn foreign(&mut self, name: &str, value: &str, is: bool, reason: &str) {
        let not = if is { "" } else { "! " };
        let text = format!("{not}{name} {value}").trim_end().to_owned();
        let reason = reason.to_owned();
        self.condition.foreign.push(Foreign { text, reason });
    }

    fn jump(&mut self, target: &'w str, is_goto: bool) {
        if self.target.replace((target, is_goto)).is_some() {
            self.problem = Some("has two targets, but iptables accepts only one".to_owned());
        }
    }

    fn target_option(&mut self, name: &'w str, value: &'w str, is: bool) {
        let read = match name {
            "--to-destination" | "--to-source" | "--to-ports" => self.to(name, value),
            "--to" => prefix(self.family, value).map(|prefix| self.netmap = Some(prefix)),
            "--src-pfx" => prefix(self.family, value).map(|prefix| self.npt.0 = Some(prefix)),
            "--dst-pfx" => prefix(self.family, value).map(|prefix| self.npt.1 = Some(prefix)),
            "--set-mss" => number(value).map(|size| self.size = Some(size)),
            _ if self.target.is_some() => Ok(()),
            _ => {
                // More values, if there are.
                let mut text = value.to_owned();
                while self
                    .words
                    .first()
                    .is_some_and(|word| !word.starts_with('-') && word != "!")
                {
                    text = format!("{text} {}", self.next().unwrap_or_default());
                }
                return self.foreign(name, &text, is, &reason_of(name));
            }
        };
        if let Err(problem) = read {
            self.problem = Some(problem);
        }
    }

    fn to(&mut self, name: &str, value: &str) -> Result<(), String> {
        if self.choice != Choice::default() {
            return Err("natbpf forwards to one destination, not to several in turn".to_owned());
        }
        let (addresses, ports) = match name {
            "--to-ports" => ("", value),
            _ => destination(self.family, value),
        };
        if !addresses.is_empty() {
            let plain = addresses.replace(['[', ']'], "");
            let addresses = match self.family {
                Family::V4 => addresses,
                Family::V6 => &plain,
            };
            let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
            self.choice.addresses =
                Some((address(self.family, first)?, address(self.family, last)?));
        }
        let (ports, base) = match ports.split_once('/') {
            Some((ports, base)) => (ports, Some(number(base)?)),
            None => (ports, None),
        };
        self.choice.base = base;
        if !ports.is_empty() {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            self.choice.ports = Some((number(first)?, number(last)?));
        }
        Ok(())
    }

    fn action(&mut self) -> Action {
        if let Some(problem) = self.problem.take() {
            return Action::Unknown(problem);
        }
        let Some((target, is_goto)) = self.target else {
            return Action::Count;
        };
        let choice = std::mem::take(&mut self.choice);
        match target {
            "ACCEPT" => Action::Accept,
            "RETURN" => Action::Return,
            "DROP" => Action::Drop { is_answered: false },
            "REJECT" => Action::Drop { is_answered: true },
            "DNAT" => Action::Dnat(choice),
            "REDIRECT" => Action::Redirect,
            "SNAT" => Action::Snat(choice),
            "MASQUERADE" => Action::Masquerade(choice),
            "NETMAP" => match self.netmap {
                Some(prefix) => Action::Netmap(prefix),
                None => Action::Unknown("NETMAP without --to".to_owned()),
            },
            "SNPT" | "DNPT" => match self.npt {
                (Some(from), Some(to)) => Action::Npt { from, to },
                _ => Action::Unknown(format!("{target} without --src-pfx and --dst-pfx")),
            },
            "TCPMSS" => Action::ClampMss(self.size),
            passing if PASSING.contains(&passing) => Action::Pass(passing.to_owned()),
            chain => Action::Run {
                chain: chain.to_owned(),
                is_goto,
            },
        }
    }
}

/// The addresses and the ports of a value such as `[fd00::10]:80`. Brackets may be around one
/// address, or a range of them.
fn destination(family: Family, value: &str) -> (&str, &str) {
    let parts = match family {
        Family::V4 => value.split_once(':'),
        Family::V6 if value.starts_with('[') => match value.rsplit_once(']') {
            Some((addresses, ports)) => Some((addresses, ports.strip_prefix(':').unwrap_or(ports))),
            None => None,
        },
        // One colon is before a port, several are an address.
        Family::V6 => value
            .strip_prefix(':')
            .map(|ports| ("", ports))
            .filter(|(_, ports)| !ports.contains(':')),
    };
    parts.unwrap_or((value, ""))
}

fn is_option(word: &str) -> bool {
    let mut letters = word.chars();
    let is_short = letters.next() == Some('-') && letters.next().is_some_and(char::is_alphabetic);
    word.starts_with("--") || (is_short && word.chars().count() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell;

    fn rule(text: &str) -> Rule {
        read(Family::V4, 1, text, &shell::words(text).unwrap())
    }

    #[test]
    fn negations_stand_before_or_behind_the_option() {
        let before = rule("-s 10.0.0.0/8 ! -d 10.0.0.0/255.0.0.0 -j MASQUERADE");
        let behind = rule("-s 10.0.0.0/8 -d ! 10.0.0.0/8 -j MASQUERADE");
        assert_eq!(before.condition, behind.condition);
        assert_eq!(before.condition.destinations.prefixes(Family::V4).len(), 8);
        assert_eq!(before.action, Action::Masquerade(Choice::default()));
    }

    #[test]
    fn two_targets_are_none() {
        for text in ["-j ACCEPT -j NETMAP --to 10.0.0.0/8", "-j ACCEPT -g docker"] {
            let Action::Unknown(reason) = rule(text).action else {
                panic!("{text}");
            };
            assert!(reason.contains("two targets"), "{reason}");
        }
    }

    #[test]
    fn targets_are_read_with_addresses_ports_and_base() {
        let to = |text: &str| match rule(&format!("-p tcp -j DNAT --to-destination {text}")).action
        {
            Action::Dnat(choice) => choice,
            other => panic!("{other:?}"),
        };
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(to("10.0.0.1").address(), Some(address));
        assert_eq!(to("10.0.0.1:80").ports, Some((80, 80)));
        assert_eq!(to("10.0.0.1:80-90/8000").base, Some(8000));
        assert_eq!(to("10.0.0.1-10.0.0.9").address(), None);
        assert_eq!(to(":8080").addresses, None);
    }

    #[test]
    fn ports_are_lists_of_ranges() {
        let rule = rule("-p tcp -m multiport --dports 80,443,8000:8010 --sport 1024: -j ACCEPT");
        assert_eq!(
            rule.condition.ports.ranges(),
            [(80, 80), (443, 443), (8000, 8010)]
        );
        assert_eq!(rule.condition.source_ports.ranges(), [(1024, 65535)]);
        assert_eq!(rule.condition.foreign, []);
    }

    #[test]
    fn inexpressible_conditions_keep_their_reason() {
        for (text, reason) in [
            ("-m mark --mark 0x1/0xff -j ACCEPT", "marks"),
            ("-m owner ! --uid-owner 0 -j ACCEPT", "process"),
            ("-m physdev --physdev-in tap0 -j ACCEPT", "bridge"),
            ("-m set ! --match-set lan src -j ACCEPT", "sets"),
            ("-m policy --dir out --pol ipsec -j ACCEPT", "IPsec"),
            (
                "-m statistic --mode nth --every 2 --packet 0 -j ACCEPT",
                "count",
            ),
            ("-d 2001:db8::1/128 -j ACCEPT", "IPv6"),
            ("-p tcp --dport http -j ACCEPT", "numbers"),
        ] {
            let rule = rule(text);
            let [first, ..] = &rule.condition.foreign[..] else {
                panic!("{text}")
            };
            assert!(first.reason.contains(reason), "{text}: {first:?}");
            assert_eq!(rule.action, Action::Accept, "{text}");
        }
    }

    #[test]
    fn states_of_first_packets_do_not_narrow() {
        assert_eq!(
            rule("-m conntrack --ctstate NEW,RELATED").condition,
            Condition::default()
        );
        assert_eq!(
            rule("-m state ! --state INVALID").condition,
            Condition::default()
        );
        let translated = rule("-m conntrack --ctstate DNAT").condition;
        assert_eq!(translated.is_translated, Some(true));
        assert_eq!(
            rule("-m state --state ESTABLISHED").condition.foreign.len(),
            1
        );
    }
}
