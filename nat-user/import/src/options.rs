//! Options of iptables in full: getopt accepts abbreviations and values without a blank.

/// Long options by their full names, for all known commands, matches and targets.
const LONG: &[&str] = &[
    "append",
    "check",
    "delete",
    "delete-chain",
    "flush",
    "insert",
    "list",
    "list-rules",
    "new-chain",
    "policy",
    "rename-chain",
    "replace",
    "zero",
    "table",
    "source",
    "src",
    "destination",
    "dst",
    "in-interface",
    "out-interface",
    "protocol",
    "proto",
    "jump",
    "goto",
    "match",
    "fragment",
    "wait",
    "wait-interval",
    "verbose",
    "numeric",
    "exact",
    "line-numbers",
    "modprobe",
    "set-counters",
    "ipv4",
    "ipv6",
    "destination-port",
    "dport",
    "destination-ports",
    "dports",
    "source-port",
    "sport",
    "source-ports",
    "sports",
    "ports",
    "src-range",
    "dst-range",
    "src-type",
    "dst-type",
    "limit-iface-in",
    "limit-iface-out",
    "ctstate",
    "ctproto",
    "ctorigsrc",
    "ctorigdst",
    "ctorigsrcport",
    "ctorigdstport",
    "ctreplsrc",
    "ctrepldst",
    "ctdir",
    "ctstatus",
    "ctexpire",
    "state",
    "icmp-type",
    "comment",
    "mark",
    "uid-owner",
    "gid-owner",
    "socket-exists",
    "physdev-in",
    "physdev-out",
    "physdev-is-in",
    "physdev-is-out",
    "physdev-is-bridged",
    "match-set",
    "pol",
    "dir",
    "strict",
    "reqid",
    "spi",
    "mode",
    "tunnel-src",
    "tunnel-dst",
    "next",
    "limit",
    "limit-burst",
    "every",
    "packet",
    "probability",
    "connlimit-above",
    "connlimit-upto",
    "connlimit-mask",
    "connlimit-saddr",
    "connlimit-daddr",
    "hashlimit",
    "hashlimit-above",
    "hashlimit-upto",
    "hashlimit-name",
    "hashlimit-mode",
    "hashlimit-burst",
    "tcp-flags",
    "syn",
    "tcp-option",
    "to-destination",
    "to-source",
    "to-ports",
    "to",
    "random",
    "random-fully",
    "persistent",
    "set-mss",
    "clamp-mss-to-pmtu",
    "reject-with",
    "log-prefix",
    "log-level",
    "log-uid",
    "log-tcp-options",
    "log-ip-options",
    "set-mark",
    "set-xmark",
    "save-mark",
    "restore-mark",
    "nflog-group",
    "nflog-prefix",
    "nflog-threshold",
    "mac-source",
    "timestart",
    "timestop",
    "weekdays",
    "monthdays",
    "datestart",
    "datestop",
    "kerneltz",
    "recent",
    "name",
    "rcheck",
    "update",
    "set",
    "seconds",
    "hitcount",
    "rsource",
    "rdest",
    "string",
    "algo",
    "from",
    "quota",
    "length",
    "ttl-eq",
    "ttl-lt",
    "ttl-gt",
    "tos",
    "dscp",
    "dscp-class",
    "pkt-type",
    "checksum-fill",
    "helper",
    "notrack",
    "zone",
    "queue-num",
    "queue-bypass",
    "queue-balance",
];

/// Short options that take a value.
const WITH_VALUE: &str = "AIDRCNXFPELSZtsdpiojgmcM";
/// Short options without one that change nothing about a rule.
const FLAGS: &str = "vnx46";
/// Long options of all rules; an abbreviation of one of them is never one of another.
const COMMON: [&str; 9] = [
    "source",
    "destination",
    "in-interface",
    "out-interface",
    "protocol",
    "jump",
    "goto",
    "match",
    "table",
];
/// Options whose value may begin like an option.
const FREE_TEXT: [&str; 3] = ["--comment", "--log-prefix", "--nflog-prefix"];

/// The same words with each option by its full name and each value as a separate word.
pub(super) fn spelled_out(words: &[String]) -> Vec<String> {
    let target = target(words);
    let mut all: Vec<String> = Vec::with_capacity(words.len());
    for word in words {
        if all
            .last()
            .is_some_and(|last| FREE_TEXT.contains(&last.as_str()))
        {
            all.push(word.clone());
        } else if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            all.push(format!("--{}", full(name, target)));
            all.extend(value.map(str::to_owned));
        } else {
            short(word, &mut all);
        }
    }
    all
}

/// Where a rule jumps to.
fn target(words: &[String]) -> &str {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if matches!(word.as_str(), "-j" | "--jump" | "--jum") {
            return words.next().map_or("", String::as_str);
        }
        if let Some(target) = word.strip_prefix("-j").or(word.strip_prefix("--jump=")) {
            return target;
        }
    }
    ""
}

/// The full name of a long option.
fn full<'a>(name: &'a str, target: &str) -> &'a str {
    if name == "to" || (name.len() > 2 && "to-destination".starts_with(name)) {
        match target {
            "DNAT" => return "to-destination",
            "SNAT" => return "to-source",
            "MASQUERADE" | "REDIRECT" => return "to-ports",
            _ => {}
        }
    }
    if LONG.contains(&name) {
        return name;
    }
    let begins = |long: &&&str| long.starts_with(name);
    if let Some(common) = COMMON.iter().find(begins) {
        return common;
    }
    let mut fitting = LONG.iter().filter(begins);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => one,
        _ => name,
    }
}

/// `-s10.0.0.0/8` is `-s 10.0.0.0/8`, and `-vnL` is `-L` with flags.
fn short(word: &str, all: &mut Vec<String>) {
    let mut letters = word.chars();
    let (first, letter) = (letters.next(), letters.next());
    let rest = letters.as_str();
    match letter {
        Some(letter) if first == Some('-') && !rest.is_empty() => {
            if WITH_VALUE.contains(letter) {
                all.push(format!("-{letter}"));
                all.push(rest.strip_prefix('=').unwrap_or(rest).to_owned());
            } else if FLAGS.contains(letter) {
                short(&format!("-{rest}"), all);
            } else if letter == 'w' || letter == 'W' {
                all.push(format!("-{letter}"));
            } else {
                all.push(word.to_owned());
            }
        }
        Some(letter) if first == Some('-') && FLAGS.contains(letter) => {}
        _ => all.push(word.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(text: &str) -> String {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        spelled_out(&words).join(" ")
    }

    #[test]
    fn to_abbreviates_the_option_of_its_target() {
        for (target, long) in [
            ("DNAT", "--to-destination"),
            ("SNAT", "--to-source"),
            ("MASQUERADE", "--to-ports"),
            ("REDIRECT", "--to-ports"),
            ("NETMAP", "--to"),
        ] {
            let expected = format!("-j {target} {long} X");
            assert_eq!(spelled(&format!("-j {target} --to X")), expected);
            assert_eq!(
                spelled(&format!("--jump={target} --to X")),
                format!("--jump {target} {long} X")
            );
        }
        assert_eq!(spelled("-j DNAT --to-dest X"), "-j DNAT --to-destination X");
    }

    #[test]
    fn abbreviations_and_joined_values_are_spelled_out() {
        for (short, long) in [
            ("--dest=10.0.0.1", "--destination 10.0.0.1"),
            ("--proto tcp", "--proto tcp"),
            ("--in-inter eth0", "--in-interface eth0"),
            ("--out eth0", "--out-interface eth0"),
            ("-s10.0.0.0/8 -oeth0 -ptcp", "-s 10.0.0.0/8 -o eth0 -p tcp"),
            ("-jMASQUERADE", "-j MASQUERADE"),
            ("-vnL", "-L"),
            ("-n -A INPUT", "-A INPUT"),
            ("-w5 -A INPUT", "-w -A INPUT"),
            ("! -s 10.0.0.0/8", "! -s 10.0.0.0/8"),
            ("--comment --to", "--comment --to"),
            ("--unheard-of 1", "--unheard-of 1"),
        ] {
            assert_eq!(spelled(short), long, "{short}");
        }
    }

    #[test]
    fn an_ambiguous_abbreviation_stays_as_it_is() {
        assert_eq!(spelled("--log x"), "--log x");
    }
}
