//! Parses the output of `iptables-save` into a [`Ruleset`].

use std::net::IpAddr;

use ipnet::IpNet;

use crate::rules::{
    Base, Chain, Family, Hook, Match, Name, Rule, Ruleset, Source, State, Test, Verdict, number,
    range,
};

/// Reads the tables of `iptables-save`, or of `ip6tables-save`. An unknown expression is a
/// condition that cannot be judged.
pub(super) fn parse(text: &str, source: Source, family: Family) -> Ruleset {
    let mut rules = Ruleset::new(family);
    let mut table = "";
    let mut incompatible = Vec::new();
    for line in text.lines() {
        match line.as_bytes().first() {
            Some(b'*') => table = line[1..].trim(),
            Some(b':') => rules.extend(chain(&line[1..], table, source)),
            Some(b'#') => incompatible.extend(incompatible_table(line)),
            Some(b'-') => {
                if let Some((chain, rule)) = rule(line) {
                    rules.push_rule(source, table, &chain, rule);
                }
            }
            _ => {}
        }
    }
    rules.forget_tables(&incompatible);
    rules
}

/// The table of a line ``# Table `nat' contains incompatible base-chains, use 'nft' tool …` : nft
/// shows the whole table.
fn incompatible_table(line: &str) -> Option<&str> {
    let (table, rest) = line.strip_prefix("# Table `")?.split_once('\'')?;
    rest.contains("incompatible").then_some(table)
}

/// `FORWARD DROP [0:0]`; a user-defined chain has `-` as its policy.
fn chain(line: &str, table: &str, source: Source) -> Ruleset {
    let mut words = line.split_whitespace();
    let (name, policy) = (words.next(), words.next());
    let mut rules = Ruleset::default();
    let (Some(name), Some(policy)) = (name, policy) else {
        return rules;
    };
    let hook = match name {
        "PREROUTING" => Hook::Prerouting,
        "FORWARD" => Hook::Forward,
        "POSTROUTING" => Hook::Postrouting,
        _ => Hook::Other,
    };
    let base = (policy != "-").then(|| Base {
        hook,
        translates: table == "nat",
        drops: policy == "DROP",
    });
    rules.push(Chain {
        source,
        table: table.to_owned(),
        name: name.to_owned(),
        base,
        rules: Vec::new(),
    });
    rules
}

/// A line `-A CHAIN …`.
fn rule(line: &str) -> Option<(String, Rule)> {
    let words = words(line);
    let mut words = words.iter().map(String::as_str).peekable();
    if words.next() != Some("-A") {
        return None;
    }
    let chain = words.next()?.to_owned();
    let mut rule = Rule {
        matches: Vec::new(),
        verdict: Verdict::Continue,
        text: line.to_owned(),
    };
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let mut values = Vec::new();
        while let Some(value) = words.next_if(|next| !is_option(next)) {
            values.push(value);
        }
        match word {
            "-j" => {
                // The rest are the target's own options.
                rule.verdict = verdict(values.first().copied().unwrap_or_default());
                break;
            }
            "-g" => rule.verdict = Verdict::Goto(values.join(" ")),
            "-m" => rule.matches.extend(module(&values)),
            // Of `-m rpfilter`, which stands before it.
            "--invert" => match rule.matches.last_mut() {
                Some(Match::WayBack(wanted)) => *wanted = !*wanted,
                _ => rule.matches.push(Match::Unknown),
            },
            option => rule.matches.extend(condition(option, &values, negated)),
        }
        negated = false;
    }
    Some((chain, rule))
}

fn is_option(word: &str) -> bool {
    word == "!" || (word.starts_with('-') && word.len() > 1 && !word.as_bytes()[1].is_ascii_digit())
}

/// Splits a line as a shell would: `--comment "a \"b\""` has two words.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if is_quoted => word.get_or_insert_default().extend(letters.next()),
            ' ' if !is_quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Modules whose presence alone is a condition. For all others, the options are the condition.
fn module(values: &[&str]) -> Option<Match> {
    match values {
        ["rpfilter"] => Some(Match::WayBack(true)),
        ["socket" | "quota" | "u32" | "bpf"] => Some(Match::Unknown),
        _ => None,
    }
}

/// The verdict of a target; any name unknown to iptables is a chain.
pub(super) fn verdict(target: &str) -> Verdict {
    match target {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "MASQUERADE" | "SNAT" | "NETMAP" => Verdict::SourceNat,
        "DNAT" | "REDIRECT" => Verdict::DestinationNat,
        "NFQUEUE" | "QUEUE" | "SYNPROXY" | "TPROXY" => Verdict::Elsewhere,
        "LOG" | "NFLOG" | "ULOG" | "MARK" | "CONNMARK" | "CONNSECMARK" | "SECMARK" | "TCPMSS"
        | "TCPOPTSTRIP" | "TOS" | "DSCP" | "ECN" | "TTL" | "CT" | "NOTRACK" | "SET" | "TRACE"
        | "TEE" | "CHECKSUM" | "CLASSIFY" | "IDLETIMER" | "AUDIT" | "RATEEST" | "LED" => {
            Verdict::Continue
        }
        chain => Verdict::Jump(chain.to_owned()),
    }
}

fn condition(option: &str, values: &[&str], negated: bool) -> Option<Match> {
    let value = values.first().copied().unwrap_or_default();
    let test = |fine: Option<Match>| fine.unwrap_or(Match::Unknown);
    Some(match option {
        "--comment" => return None,
        "-i" => Match::In(interfaces(value, negated)),
        "-o" => Match::Out(interfaces(value, negated)),
        "-s" => test(addresses(value, negated).map(Match::From)),
        "-d" => test(addresses(value, negated).map(Match::To)),
        "--src-range" => test(address_range(value, negated).map(Match::From)),
        "--dst-range" => test(address_range(value, negated).map(Match::To)),
        "-p" => test(protocols(value, negated).map(Match::Protocol)),
        "--sport" | "--sports" => test(ports(value, negated).map(Match::FromPort)),
        "--dport" | "--dports" => test(ports(value, negated).map(Match::ToPort)),
        "--icmp-type" | "--icmpv6-type" => test(icmp_type(value, negated)),
        "--ctstate" | "--state" => test(states(value, negated)),
        "--mark" => test(mark(value, negated)),
        "--dst-type" if value == "LOCAL" => Match::ToHost(!negated),
        "--physdev-is-bridged" => Match::Bridged(!negated),
        _ => Match::Unknown,
    })
}

fn interfaces(value: &str, negated: bool) -> Test<Name> {
    let name = match value.strip_suffix('+') {
        Some(start) => Name::BeginsWith(start.to_owned()),
        None => Name::Is(value.to_owned()),
    };
    Test {
        any_of: vec![name],
        negated,
    }
}

fn test<T>(values: Option<Vec<T>>, negated: bool) -> Option<Test<T>> {
    values.map(|any_of| Test { any_of, negated })
}

/// `10.0.0.0/8`, `10.0.0.1`, several of them; a mask with holes is not understood.
fn addresses(value: &str, negated: bool) -> Option<Test<(u128, u128)>> {
    let one = |text: &str| {
        let Some((address, mask)) = text.split_once('/') else {
            return text
                .parse()
                .ok()
                .map(|address: IpAddr| range(address.into()));
        };
        let address: IpAddr = address.parse().ok()?;
        let prefix = match mask.parse() {
            Ok(length) => IpNet::new(address, length),
            Err(_) => IpNet::with_netmask(address, mask.parse().ok()?),
        };
        prefix.ok().map(range)
    };
    test(value.split(',').map(one).collect(), negated)
}

fn address_range(value: &str, negated: bool) -> Option<Test<(u128, u128)>> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let number = |text: &str| text.parse().ok().map(number);
    test(Some(vec![(number(first)?, number(last)?)]), negated)
}

/// A protocol's number, by its name in `/etc/protocols` or itself.
pub(super) fn protocol(name: &str) -> Option<u8> {
    Some(match name {
        "icmp" => 1,
        "igmp" => 2,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipv6-icmp" | "icmpv6" => 58,
        "sctp" => 132,
        "udplite" => 136,
        other => other.parse().ok()?,
    })
}

fn protocols(value: &str, negated: bool) -> Option<Test<u8>> {
    match value {
        "all" | "0" => test(Some((0..=u8::MAX).collect()), negated),
        name => test(protocol(name).map(|number| vec![number]), negated),
    }
}

/// `80`, `80:90`, `80,443:445`; `:90` and `80:` as well.
fn ports(value: &str, negated: bool) -> Option<Test<(u16, u16)>> {
    let number = |text: &str, open: u16| match text {
        "" => Some(open),
        digits => digits.parse().ok(),
    };
    let one = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some((number(first, 0)?, number(last, u16::MAX)?))
    };
    test(value.split(',').map(one).collect(), negated)
}

/// `8`, `8/0`, `any`.
fn icmp_type(value: &str, negated: bool) -> Option<Match> {
    if value == "any" {
        return Some(Match::Protocol(Test::is(vec![1])));
    }
    let kind = value.split('/').next().unwrap_or(value).parse().ok()?;
    test(Some(vec![kind]), negated).map(Match::IcmpType)
}

/// `RELATED,ESTABLISHED`; also whether netfilter has translated the packet, which is never true for
/// natbpf's packets.
fn states(value: &str, negated: bool) -> Option<Match> {
    if matches!(value, "DNAT" | "SNAT" | "SNAT,DNAT" | "DNAT,SNAT") {
        return Some(if negated { Match::Usual } else { Match::Never });
    }
    let one = |name: &str| {
        Some(match name {
            "NEW" => State::New,
            "ESTABLISHED" => State::Established,
            "RELATED" => State::Related,
            "INVALID" => State::Invalid,
            "UNTRACKED" => State::Untracked,
            _ => return None,
        })
    };
    test(value.split(',').map(one).collect(), negated).map(Match::State)
}

/// Packets have the mark 0 unless a rule has set another.
fn mark(value: &str, negated: bool) -> Option<Match> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let wanted = number(value.split('/').next().unwrap_or(value))?;
    ((wanted == 0) != negated).then_some(Match::Usual)
}
