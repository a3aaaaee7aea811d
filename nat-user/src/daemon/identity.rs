//! The content of a rule without its name, by which it is recognised when the configuration
//! changes.
//!
//! A rule without a name is named by its position, which changes when another rule is inserted
//! before it. Sessions and counters must stay with the content of the rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug},
};

use nat_config::model::{Address, Config, ForwardRule, Forwarding, Ipv6Rules, SnatRule};

use crate::state::{Numbers, RuleKind, Said};

/// What each rule of a configuration says about packets. The path that they take is not part of a
/// rule's identity, and neither is local access.
pub(super) fn said(config: &Config) -> Vec<Said> {
    let mut said = Vec::new();
    let mut add = |kind, name: &str, rule: &dyn Debug| {
        said.push(Said {
            kind,
            name: name.to_owned(),
            says: hash(&in_words(config, rule)),
        });
    };
    let none = Ipv6Rules::default();
    let ipv6 = config.ipv6.as_ref().unwrap_or(&none);
    let snat = by_name(
        config
            .snat
            .iter()
            .map(|rule| (&rule.name, level_snat(rule))),
        (ipv6.snat.iter()).map(|rule| (&rule.name, rule.names_address(), level_snat(rule))),
    );
    for (name, rule) in &snat {
        add(RuleKind::Snat, name, rule);
    }
    let forwards = by_name(
        (config.forwards.iter()).map(|rule| (&rule.name, level_forward(rule))),
        (ipv6.forwards.iter()).map(|rule| (&rule.name, true, level_forward(rule))),
    );
    for (name, rule) in &forwards {
        add(RuleKind::Forward, name, rule);
    }
    for rule in &config.nats {
        let mut level = rule.clone();
        (level.name, level.forwarding) = (String::new(), Forwarding::Fast);
        add(RuleKind::Nat, &rule.name, &level);
    }
    for rule in config.ipv6.iter().flat_map(|ipv6| &ipv6.prefixes) {
        let mut level = rule.clone();
        level.name = String::new();
        add(RuleKind::Nat, &rule.name, &level);
    }
    for (index, rule) in config.policies.iter().enumerate() {
        let mut level = rule.clone();
        level.name = String::new();
        match config.ipv6_policy(index).cloned() {
            None => add(RuleKind::Policy, &rule.name, &level),
            Some(mut ipv6) => {
                ipv6.name = String::new();
                add(RuleKind::Policy, &rule.name, &(level, ipv6));
            }
        }
    }
    said
}

/// A rule of one family or of both, in words. What says nothing of its own about IPv6 is left out:
/// the rule stays the same when its network gets an IPv6 prefix.
enum Level<T, U> {
    Ipv4(T),
    Ipv6(U),
    Both(T, U),
}

impl<T: Debug, U: Debug> Debug for Level<T, U> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(rule) => rule.fmt(formatter),
            Self::Ipv6(rule) => rule.fmt(formatter),
            Self::Both(ipv4, ipv6) => (ipv4, ipv6).fmt(formatter),
        }
    }
}

/// The rules of both families, one for each name, in the order of the file within each family.
/// `ipv6` also says whether a rule names an IPv6 address.
fn by_name<'c, T, U>(
    ipv4: impl Iterator<Item = (&'c String, T)>,
    ipv6: impl Iterator<Item = (&'c String, bool, U)>,
) -> Vec<(&'c String, Level<T, U>)> {
    let mut rules: Vec<_> = ipv4
        .map(|(name, rule)| (name, Some(Level::Ipv4(rule))))
        .collect();
    let places = rules.iter().map(|(name, _)| *name).zip(0..);
    let places: BTreeMap<&String, usize> = places.collect();
    for (name, names_address, rule) in ipv6 {
        match places.get(name) {
            None => rules.push((name, Some(Level::Ipv6(rule)))),
            Some(_) if !names_address => {}
            Some(place) => {
                let both = &mut rules[*place].1;
                if let Some(Level::Ipv4(ipv4)) = both.take() {
                    *both = Some(Level::Both(ipv4, rule));
                }
            }
        }
    }
    let rules = rules.into_iter();
    rules
        .filter_map(|(name, rule)| Some((name, rule?)))
        .collect()
}

fn level_snat<A: Address>(rule: &SnatRule<A>) -> SnatRule<A> {
    SnatRule {
        name: String::new(),
        forwarding: Forwarding::Fast,
        ..rule.clone()
    }
}

fn level_forward<A: Address>(rule: &ForwardRule<A>) -> ForwardRule<A> {
    ForwardRule {
        name: String::new(),
        forwarding: Forwarding::Fast,
        local: false,
        ..rule.clone()
    }
}

/// Numbers of the rules that are gone or have another content now, whatever their names were and
/// are.
pub(super) fn changed(
    (old, old_numbers): (&Config, &Numbers),
    (new, new_numbers): (&Config, &Numbers),
) -> BTreeSet<u32> {
    let by_number = |config: &Config, numbers: &Numbers| -> BTreeMap<u32, u64> {
        let said = said(config).into_iter();
        said.filter_map(|one| Some((numbers.find_rule(one.kind, &one.name)?, one.says)))
            .collect()
    };
    let now = by_number(new, new_numbers);
    let before = by_number(old, old_numbers).into_iter();
    before
        .filter(|(number, says)| now.get(number) != Some(says))
        .map(|(number, _)| number)
        .collect()
}

/// A rule as text, with uplinks and networks by name, not by their places in the file.
fn in_words(config: &Config, rule: &dyn Debug) -> String {
    let text = format!("{rule:?}");
    let mut words = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("Id(") {
        let (before, from) = rest.split_at(at + 3);
        let (number, after) = from.split_once(')').unwrap_or((from, ""));
        let name = number.parse::<usize>().ok().and_then(|number| {
            let uplink = config.uplinks.get(number).map(|uplink| &uplink.name);
            let network = config.networks.get(number).map(|network| &network.name);
            match before.ends_with("UplinkId(") {
                true => uplink,
                false if before.ends_with("NetworkId(") => network,
                false => None,
            }
        });
        words.push_str(before);
        words.push_str(name.map_or(number, String::as_str));
        words.push(')');
        rest = after;
    }
    words + rest
}

/// FNV-1a of 64 bits (draft-eastlake-fnv). A file contains it, so it must not change.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HEAD: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"
"#;

    fn forward(port: u16, more: &str) -> String {
        format!(
            "[[forward]]\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = {port}\n\
             to = \"172.22.161.170\"\n{more}\n"
        )
    }

    fn config(text: &str) -> Config {
        let loaded = nat_config::parse(text, Path::new("n.toml"));
        loaded.unwrap_or_else(|error| panic!("{error}")).config
    }

    /// The numbers after each text was activated in turn.
    fn number_all(numbers: &mut Numbers, config: &Config) {
        let said = said(config);
        numbers.recognise(&said);
        for one in &said {
            numbers.rule(one.kind, &one.name);
        }
        numbers.describe(&said);
        let is_there = |kind, name: &str| {
            said.iter()
                .any(|one| (one.kind, &*one.name) == (kind, name))
        };
        numbers.set_active(is_there);
    }

    fn find(numbers: &Numbers, name: &str) -> Option<u32> {
        numbers.find_rule(RuleKind::Forward, name)
    }

    /// Activates two texts, and returns the resulting numbers and the changed rules.
    fn follow(before: &str, after: &str) -> (Numbers, BTreeSet<u32>) {
        let (old, new) = (config(before), config(after));
        let mut numbers = Numbers::default();
        number_all(&mut numbers, &old);
        let old_numbers = numbers.clone();
        number_all(&mut numbers, &new);
        // As the file has them.
        let stored = serde_json::to_string(&numbers).unwrap();
        assert_eq!(serde_json::from_str::<Numbers>(&stored).unwrap(), numbers);
        let changed = changed((&old, &old_numbers), (&new, &numbers));
        (numbers, changed)
    }

    #[test]
    fn a_rule_without_name_keeps_its_number_at_any_position() {
        let [a, b, c] = [80, 81, 82].map(|port| forward(port, ""));
        let (numbers, changed) = follow(&format!("{HEAD}{a}{b}"), &format!("{HEAD}{c}{a}{b}"));
        assert_eq!(find(&numbers, "forward-2"), Some(1));
        assert_eq!(find(&numbers, "forward-3"), Some(2));
        assert_eq!(find(&numbers, "forward-1"), Some(3), "a new one");
        assert!(changed.is_empty(), "{changed:?}");
        let (numbers, changed) = follow(&format!("{HEAD}{a}{b}"), &format!("{HEAD}{b}{a}"));
        assert_eq!(find(&numbers, "forward-1"), Some(2));
        assert_eq!(find(&numbers, "forward-2"), Some(1));
        assert!(changed.is_empty(), "{changed:?}");
    }

    #[test]
    fn a_rule_that_moves_up_does_not_become_the_one_that_is_gone() {
        let [a, b] = [80, 81].map(|port| forward(port, ""));
        let (numbers, changed) = follow(&format!("{HEAD}{a}{b}"), &format!("{HEAD}{b}"));
        assert_eq!(find(&numbers, "forward-1"), Some(2));
        assert_eq!(changed, BTreeSet::from([1]));
        assert_eq!(numbers.rule_name(1), "forward-1 (removed)");
    }

    #[test]
    fn a_new_name_ends_nothing_and_new_words_do() {
        let (before, named) = (forward(80, ""), forward(80, "name = \"web\""));
        let (numbers, changed) = follow(&format!("{HEAD}{before}"), &format!("{HEAD}{named}"));
        assert_eq!(find(&numbers, "web"), Some(1));
        assert!(changed.is_empty(), "{changed:?}");
        let other = forward(81, "name = \"web\"");
        let (numbers, changed) = follow(&format!("{HEAD}{named}"), &format!("{HEAD}{other}"));
        assert_eq!(find(&numbers, "web"), Some(1), "its counters go on");
        assert_eq!(changed, BTreeSet::from([1]));
    }

    #[test]
    fn an_uplink_that_is_put_before_changes_no_rule() {
        let rule = forward(80, "");
        let other = "[uplink.first]\ninterface = \"eth9\"\n";
        let (_, changed) = follow(&format!("{HEAD}{rule}"), &format!("{other}{HEAD}{rule}"));
        assert!(changed.is_empty(), "{changed:?}");
    }

    #[test]
    fn an_ipv6_address_of_a_policy_is_part_of_what_it_says() {
        let with = |to: &str| {
            let policy = format!("[[policy]]\nto = [\"lan\"{to}]\naction = \"accept\"\n");
            let text = format!("{HEAD}{policy}");
            let loaded = nat_config::parse(&text, Path::new("n.toml"));
            let said = said(&loaded.unwrap_or_else(|error| panic!("{error}")).config);
            said[0].says
        };
        let (one, other) = (", \"2001:db8::1\"", ", \"2001:db8::2\"");
        assert_ne!(with(one), with(other));
        assert_eq!(with(one), with(one));
        // Policies of files without IPv6 keep their numbers.
        let plain = config(&format!(
            "{HEAD}[[policy]]\nto = \"lan\"\naction = \"accept\"\n"
        ));
        assert_eq!(with(""), said(&plain)[0].says);
    }

    #[test]
    fn how_packets_go_is_no_matter_of_identity() {
        let (before, after) = (forward(80, ""), forward(80, "forwarding = \"kernel\""));
        let (_, changed) = follow(&format!("{HEAD}{before}"), &format!("{HEAD}{after}"));
        assert!(changed.is_empty(), "{changed:?}");
    }
}
