//! Parses the output of `nft --json list ruleset` into a [`Ruleset`] (libnftables-json(5)).

use std::{fmt, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::{
    iptables,
    rules::{
        Base, Chain, Family, Hook, Match, Name, Rule, Ruleset, Source, State, Test, Verdict,
        number, range,
    },
};

/// Reads the chains for packets of a family, except tables in `known`, which were read otherwise:
/// iptables has its rules in nftables, and shows more of them. An unknown expression is a condition
/// that cannot be judged.
///
/// # Errors
/// When the text is not output of nft.
pub(super) fn parse(text: &str, family: Family, known: impl Fn(&str) -> bool) -> Result<Ruleset> {
    let mut reader = Reader {
        known,
        asleep: Vec::new(),
        rules: Ruleset::new(family),
        has_list: false,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(&mut reader)
        .and_then(|()| json.end())
        .context("nft's output is not valid JSON")?;
    ensure!(reader.has_list, "nft's output has no list \"nftables\"");
    Ok(reader.rules)
}

/// Reads one item after another: together they would take thirty times as much memory as their
/// text.
struct Reader<K> {
    known: K,
    /// Tables whose chains see no packet. nft prints a table before what is in it.
    asleep: Vec<String>,
    rules: Ruleset,
    has_list: bool,
}

impl<K: Fn(&str) -> bool> Reader<K> {
    fn item(&mut self, item: &Value) {
        if let Some(table) = item.get("table") {
            if names(&table["flags"]).any(|flag| flag == "dormant") {
                self.asleep
                    .extend(table_of(table, "name", self.rules.family));
            }
        } else if let Some(chain) = item.get("chain") {
            if let Some(table) = self.table_of(chain) {
                self.rules.push(read_chain(chain, table));
            }
        } else if let Some(rule) = item.get("rule")
            && let Some(table) = self.table_of(rule)
        {
            let chain = rule["chain"].as_str().unwrap_or_default();
            for one in read_rule(rule, &table, chain, self.rules.family) {
                self.rules.push_rule(Source::Nft, &table, chain, one);
            }
        }
    }

    /// The table of a chain or a rule, if it counts.
    fn table_of(&self, item: &Value) -> Option<String> {
        let is_read = |table: &String| !(self.known)(table) && !self.asleep.contains(table);
        table_of(item, "table", self.rules.family).filter(is_read)
    }
}

impl<'de, K: Fn(&str) -> bool> Visitor<'de> for &mut Reader<K> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("parse nft's output")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "nftables" => map.next_value_seed(&mut *self)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        self.has_list = true;
        while let Some(item) = items.next_element::<Value>()? {
            self.item(&item);
        }
        Ok(())
    }
}

impl<'de, K: Fn(&str) -> bool> DeserializeSeed<'de> for &mut Reader<K> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> std::result::Result<(), D::Error> {
        list.deserialize_seq(self)
    }
}

/// `inet firewalld`, if it is about packets of this family.
fn table_of(item: &Value, key: &str, about: Family) -> Option<String> {
    let (family, name) = (item["family"].as_str()?, item[key].as_str()?);
    [about.of_nft(), "inet"]
        .contains(&family)
        .then(|| format!("{family} {name}"))
}

/// A string, or the strings of a list.
fn names(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten();
    list.chain(Some(value)).filter_map(Value::as_str)
}

fn read_chain(chain: &Value, table: String) -> Chain {
    let base = chain["hook"].as_str().map(|hook| Base {
        hook: match hook {
            "prerouting" => Hook::Prerouting,
            "forward" => Hook::Forward,
            "postrouting" => Hook::Postrouting,
            _ => Hook::Other,
        },
        translates: chain["type"] == "nat",
        drops: chain["policy"] == "drop",
    });
    Chain {
        source: Source::Nft,
        table,
        name: chain["name"].as_str().unwrap_or_default().to_owned(),
        base,
        rules: Vec::new(),
    }
}

/// One rule, or as many as a map of verdicts in it has entries.
fn read_rule(rule: &Value, table: &str, chain: &str, family: Family) -> Vec<Rule> {
    let text = format!("{table} {chain} handle {}", rule["handle"]);
    let mut matches = Vec::new();
    let mut rules = Vec::new();
    let make = |matches: &[Match], verdict| Rule {
        matches: matches.to_vec(),
        verdict,
        text: text.clone(),
    };
    let statements = rule["expr"].as_array().into_iter().flatten();
    for (kind, value) in statements.filter_map(Value::as_object).flatten() {
        if kind == "vmap" {
            rules.extend(verdict_map(value, family).map(|(condition, verdict)| {
                let mut all = matches.clone();
                all.extend(condition);
                make(&all, verdict)
            }));
            continue;
        }
        matches.extend(condition(kind, value, family));
        if let Some(verdict) = verdict(kind, value) {
            rules.push(make(&matches, verdict));
        }
    }
    rules
}

/// The conditions of a statement.
fn condition(kind: &str, value: &Value, family: Family) -> Vec<Match> {
    match kind {
        "match" => comparison(value, family),
        "snat" | "dnat" => nat_condition(value, family),
        "accept" | "drop" | "reject" | "return" | "jump" | "goto" | "masquerade" | "redirect"
        | "queue" | "counter" | "log" | "mangle" | "notrack" | "set" | "flow" | "dup" | "last"
        | "secmark" | "ct helper" | "ct timeout" | "ct expectation" | "fwd" => Vec::new(),
        "xt" if value["type"] == "target" => Vec::new(),
        _ => vec![Match::Unknown],
    }
}

fn verdict(kind: &str, value: &Value) -> Option<Verdict> {
    let target = || value["target"].as_str().unwrap_or_default().to_owned();
    Some(match kind {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        "masquerade" | "snat" => Verdict::SourceNat,
        "redirect" | "dnat" => Verdict::DestinationNat,
        "queue" | "fwd" => Verdict::Elsewhere,
        "xt" if value["type"] == "target" => {
            iptables::verdict(value["name"].as_str().unwrap_or_default())
        }
        _ => return None,
    })
}

/// The entries of `iifname vmap { "eth0" : jump a, … }`.
fn verdict_map(value: &Value, family: Family) -> impl Iterator<Item = (Vec<Match>, Verdict)> {
    let entries = value["data"]["set"].as_array();
    let is_named = entries.is_none();
    let entries = entries.into_iter().flatten().filter_map(move |entry| {
        let (key, what) = (entry.get(0)?, entry.get(1)?.as_object()?);
        let (kind, target) = what.iter().next()?;
        let verdict = verdict(kind, target)?;
        Some((compare(&value["key"], "==", key, family), verdict))
    });
    // nft does not print the content of a named map: it may do anything.
    let unknown = is_named.then(|| (vec![Match::Unknown], Verdict::Elsewhere));
    entries.chain(unknown)
}

/// `dnat to tcp dport map { 8080 : 10.0.0.2 }` applies only to the map's keys.
fn nat_condition(value: &Value, family: Family) -> Vec<Match> {
    if value["family"]
        .as_str()
        .is_some_and(|named| named != family.of_nft())
    {
        return vec![Match::Never];
    }
    let Some(map) = value["addr"].get("map") else {
        return Vec::new();
    };
    let Some(entries) = map["data"]["set"].as_array() else {
        return vec![Match::Unknown];
    };
    let keys: Vec<Value> = (entries.iter())
        .filter_map(|entry| entry.get(0).cloned())
        .collect();
    compare(
        &map["key"],
        "==",
        &serde_json::json!({ "set": keys }),
        family,
    )
}

fn comparison(value: &Value, family: Family) -> Vec<Match> {
    let operator = value["op"].as_str().unwrap_or_default();
    compare(&value["left"], operator, &value["right"], family)
}

/// A comparison as conditions, all of which must hold.
fn compare(left: &Value, operator: &str, right: &Value, family: Family) -> Vec<Match> {
    let negated = match operator {
        "==" | "in" => false,
        "!=" => true,
        _ => return vec![Match::Unknown],
    };
    let conditions = if let Some(key) = left["meta"]["key"].as_str() {
        meta(key, right, negated, family)
    } else if let Some(key) = left["ct"]["key"].as_str() {
        tracking(key, right, negated)
    } else if left.get("payload").is_some() {
        payload(&left["payload"], right, negated, family)
    } else if left.get("fib").is_some() {
        fib(&left["fib"], right, negated).map(|one| vec![one])
    } else if left["&"][0]["meta"]["key"] == "mark" {
        mark(right, negated).map(|one| vec![one])
    } else {
        None
    };
    conditions.unwrap_or_else(|| vec![Match::Unknown])
}

fn meta(key: &str, right: &Value, negated: bool, family: Family) -> Option<Vec<Match>> {
    let one = match key {
        "iif" | "iifname" => Match::In(test(right, negated, name)?),
        "oif" | "oifname" => Match::Out(test(right, negated, name)?),
        "l4proto" => Match::Protocol(test(right, negated, protocol)?),
        "nfproto" => constant(right == family.of_nfproto(), negated),
        "protocol" => constant(right == family.of_nft(), negated),
        "mark" => mark(right, negated)?,
        _ => return None,
    };
    Some(vec![one])
}

/// Conditions that are true for every packet, or for none.
fn constant(holds: bool, negated: bool) -> Match {
    if holds == negated {
        Match::Never
    } else {
        Match::Usual
    }
}

fn tracking(key: &str, right: &Value, negated: bool) -> Option<Vec<Match>> {
    let one = match key {
        "state" => Match::State(test(right, negated, state)?),
        // Netfilter has translated nothing of natbpf's.
        "status" if names(right).all(|one| matches!(one, "dnat" | "snat")) => {
            constant(false, negated)
        }
        "direction" => Match::State(test(right, negated, direction)?),
        "mark" => mark(right, negated)?,
        _ => return None,
    };
    Some(vec![one])
}

fn payload(left: &Value, right: &Value, negated: bool, family: Family) -> Option<Vec<Match>> {
    let (header, field) = (left["protocol"].as_str()?, left["field"].as_str()?);
    let of = |number, condition| Some(vec![Match::Protocol(Test::is(vec![number])), condition]);
    let others = match family {
        Family::Ipv4 => ["ip6", "icmpv6"],
        Family::Ipv6 => ["ip", "icmp"],
    };
    match (header, field) {
        (header, _) if others.contains(&header) => Some(vec![Match::Never]),
        ("ip" | "ip6", "saddr") => Some(vec![Match::From(test(right, negated, address)?)]),
        ("ip" | "ip6", "daddr") => Some(vec![Match::To(test(right, negated, address)?)]),
        ("ip", "protocol") | ("ip6", "nexthdr") => {
            Some(vec![Match::Protocol(test(right, negated, protocol)?)])
        }
        ("th", "sport") => Some(vec![Match::FromPort(test(right, negated, port)?)]),
        ("th", "dport") => Some(vec![Match::ToPort(test(right, negated, port)?)]),
        ("icmp", "type") => of(1, Match::IcmpType(test(right, negated, icmp_type)?)),
        ("icmpv6", "type") => of(58, Match::IcmpType(test(right, negated, icmpv6_type)?)),
        (name, "sport") => of(
            iptables::protocol(name)?,
            Match::FromPort(test(right, negated, port)?),
        ),
        (name, "dport") => of(
            iptables::protocol(name)?,
            Match::ToPort(test(right, negated, port)?),
        ),
        (name, _) => of(iptables::protocol(name)?, Match::Unknown),
    }
}

fn fib(left: &Value, right: &Value, negated: bool) -> Option<Match> {
    let has = |flag: &str| names(&left["flags"]).any(|one| one == flag);
    match left["result"].as_str()? {
        "type" if has("daddr") && right == "local" => Some(Match::ToHost(!negated)),
        "oif" if has("saddr") && has("iif") => {
            let exists = right.as_bool().or(right.as_u64().map(|index| index != 0))?;
            Some(Match::WayBack(exists != negated))
        }
        _ => None,
    }
}

/// Packets have the mark 0 unless a rule has set another.
fn mark(right: &Value, negated: bool) -> Option<Match> {
    let wanted = right.as_u64()?;
    ((wanted == 0) != negated).then_some(Match::Usual)
}

/// The right side's values; `None` if one of them is not understood, or is a set with a name.
fn test<T>(right: &Value, negated: bool, read: fn(&Value) -> Option<T>) -> Option<Test<T>> {
    let one = |value: &Value| match value.get("elem") {
        Some(element) => read(&element["val"]),
        None => read(value),
    };
    let list = right.get("set").unwrap_or(right);
    let any_of = match list.as_array() {
        Some(values) => values.iter().map(one).collect::<Option<Vec<T>>>()?,
        None => vec![one(list)?],
    };
    Some(Test { any_of, negated })
}

fn name(value: &Value) -> Option<Name> {
    let name = value.as_str().filter(|name| !name.starts_with('@'))?;
    Some(match name.strip_suffix('*') {
        Some(start) => Name::BeginsWith(start.to_owned()),
        None => Name::Is(name.to_owned()),
    })
}

fn protocol(value: &Value) -> Option<u8> {
    match value.as_u64() {
        Some(number) => number.try_into().ok(),
        None => iptables::protocol(value.as_str()?),
    }
}

fn address(value: &Value) -> Option<(u128, u128)> {
    let number = |value: &Value| value.as_str()?.parse().ok().map(number);
    if let Some(prefix) = value.get("prefix") {
        let address: IpAddr = prefix["addr"].as_str()?.parse().ok()?;
        let length = prefix["len"].as_u64()?.try_into().ok()?;
        return IpNet::new(address, length).ok().map(range);
    }
    if let Some(ends) = value.get("range") {
        return Some((number(ends.get(0)?)?, number(ends.get(1)?)?));
    }
    number(value).map(|one| (one, one))
}

fn port(value: &Value) -> Option<(u16, u16)> {
    let number = |value: &Value| value.as_u64()?.try_into().ok();
    match value.get("range") {
        Some(ends) => Some((number(ends.get(0)?)?, number(ends.get(1)?)?)),
        None => number(value).map(|one| (one, one)),
    }
}

fn icmp_type(value: &Value) -> Option<u8> {
    if let Some(number) = value.as_u64() {
        return number.try_into().ok();
    }
    Some(match value.as_str()? {
        "echo-reply" => 0,
        "destination-unreachable" => 3,
        "source-quench" => 4,
        "redirect" => 5,
        "echo-request" => 8,
        "time-exceeded" => 11,
        "parameter-problem" => 12,
        _ => return None,
    })
}

fn icmpv6_type(value: &Value) -> Option<u8> {
    if let Some(number) = value.as_u64() {
        return number.try_into().ok();
    }
    Some(match value.as_str()? {
        "destination-unreachable" => 1,
        "packet-too-big" => 2,
        "time-exceeded" => 3,
        "parameter-problem" => 4,
        "echo-request" => 128,
        "echo-reply" => 129,
        _ => return None,
    })
}

fn state(value: &Value) -> Option<State> {
    Some(match value.as_str()? {
        "new" => State::New,
        "established" => State::Established,
        "related" => State::Related,
        "invalid" => State::Invalid,
        "untracked" => State::Untracked,
        _ => return None,
    })
}

/// Of the packets of a flow, only answers belong to established connections.
fn direction(value: &Value) -> Option<State> {
    match value.as_str()? {
        "original" => Some(State::New),
        "reply" => Some(State::Established),
        _ => None,
    }
}
