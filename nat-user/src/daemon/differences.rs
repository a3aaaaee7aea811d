//! Describes what a new configuration changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
};

use nat_config::model::{
    Config, ForwardRule, Guest, Limits, NatRule, Network, PolicyRule, Route, SnatRule, Uplink,
};

/// What a reload has changed, line by line.
pub(super) fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    fn named<'a, R>(rules: &'a [R], name: impl Fn(&'a R) -> &'a str) -> BTreeMap<&'a str, &'a R> {
        rules.iter().map(|rule| (name(rule), rule)).collect()
    }
    compare(
        &mut lines,
        "uplink",
        &named(&old.uplinks, |r| &r.name),
        &named(&new.uplinks, |r| &r.name),
    );
    compare(
        &mut lines,
        "network",
        &named(&old.networks, |r| &r.name),
        &named(&new.networks, |r| &r.name),
    );
    compare(
        &mut lines,
        "guest",
        &named(&old.guests, |r| &r.name),
        &named(&new.guests, |r| &r.name),
    );
    compare(
        &mut lines,
        "route",
        &named(&old.routes, |r| &r.name),
        &named(&new.routes, |r| &r.name),
    );
    compare(
        &mut lines,
        "snat",
        &named(&old.snat, |r| &r.name),
        &named(&new.snat, |r| &r.name),
    );
    compare(
        &mut lines,
        "forward",
        &named(&old.forwards, |r| &r.name),
        &named(&new.forwards, |r| &r.name),
    );
    compare(
        &mut lines,
        "nat",
        &named(&old.nats, |r| &r.name),
        &named(&new.nats, |r| &r.name),
    );
    compare(
        &mut lines,
        "policy",
        &named(&old.policies, |r| &r.name),
        &named(&new.policies, |r| &r.name),
    );
    if old.timeouts != new.timeouts {
        lines.push("timeouts: changed".to_owned());
    }
    if old.limits.sessions != new.limits.sessions {
        lines.push("limits.sessions: changed".to_owned());
    }
    let per_guest = |limits: &Limits| (limits.sessions_per_guest, limits.ports_per_guest);
    if per_guest(&old.limits) != per_guest(&new.limits) {
        lines.push("limits per guest: changed".to_owned());
    }
    lines
}

fn compare<R: Clone + Debug + PartialEq + Named>(
    lines: &mut Vec<String>,
    kind: &str,
    old: &BTreeMap<&str, &R>,
    new: &BTreeMap<&str, &R>,
) {
    // Those that differ from what was under their name: one may have a new name.
    let is_other = |name: &str, rule: &R, all: &BTreeMap<&str, &R>| {
        all.get(name).is_none_or(|other| *other != rule)
    };
    let words = |rule: &R| format!("{:?}", rule.nameless());
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    let mut by_words: HashMap<String, Vec<&str>> = HashMap::new();
    for (name, rule) in old
        .iter()
        .rev()
        .filter(|(name, rule)| is_other(name, rule, new))
    {
        gone.insert(name);
        by_words.entry(words(rule)).or_default().push(name);
    }
    let mut others = Vec::new();
    for (name, rule) in new.iter().filter(|(name, rule)| is_other(name, rule, old)) {
        match by_words.get_mut(&words(rule)).and_then(Vec::pop) {
            Some(former) => {
                gone.remove(former);
                lines.push(format!("{kind} {name}: was {former}"));
            }
            None => others.push(*name),
        }
    }
    for name in others {
        match gone.remove(name) {
            true => lines.push(format!("{kind} {name}: changed")),
            false => lines.push(format!("{kind} {name}: added")),
        }
    }
    let removed = gone.iter().map(|name| format!("{kind} {name}: removed"));
    lines.extend(removed);
}

/// What has a name in a configuration.
trait Named {
    /// The same without its name.
    fn nameless(&self) -> Self;
}

macro_rules! named {
    ($($table:ty),*) => {
        $(impl Named for $table {
            fn nameless(&self) -> Self {
                Self {
                    name: String::new(),
                    ..self.clone()
                }
            }
        })*
    };
}

named!(
    Uplink,
    Network,
    Guest,
    Route,
    SnatRule,
    ForwardRule,
    NatRule,
    PolicyRule
);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BEFORE: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"
[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
ports = 80
to = "172.22.161.170"
"#;

    fn config(text: &str) -> Config {
        let loaded = nat_config::parse(text, Path::new("n.toml"));
        loaded.unwrap_or_else(|error| panic!("{error}")).config
    }

    fn to(after: &str) -> Vec<String> {
        differences(&config(BEFORE), &config(after))
    }

    #[test]
    fn rules_are_added_changed_and_removed() {
        assert!(to(BEFORE).is_empty());
        assert_eq!(to(&BEFORE.replace("80", "81")), ["forward web: changed"]);
        assert_eq!(
            to(&BEFORE.replace("\"web\"", "\"www\"")),
            ["forward www: was web"]
        );
    }

    #[test]
    fn an_address_of_a_guests_own_is_known_by_its_kind() {
        let nat = "[[nat]]\nname = \"web\"\nuplink = \"wan\"\naddress = \"19.19.8.11\"\n\
                   to = \"172.22.161.171\"\n";
        assert_eq!(to(&format!("{BEFORE}{nat}")), ["nat web: added"]);
    }

    #[test]
    fn routes_are_known_by_their_kind() {
        let route = "[[route]]\nname = \"web\"\nnetwork = \"lan\"\naddresses = \"192.0.2.1\"\n";
        assert_eq!(to(&format!("{BEFORE}{route}")), ["route web: added"]);
    }

    #[test]
    fn rules_without_name_are_recognised_by_content() {
        let [first, second] = [1, 2].map(|port| {
            format!(
                "[[forward]]\nuplink = \"wan\"\nprotocol = \"udp\"\nports = {port}\nto = \
                \"172.22.161.171\"\n"
            )
        });
        let (old, new) = (
            format!("{BEFORE}{first}"),
            format!("{BEFORE}{second}{first}"),
        );
        assert_eq!(
            differences(&config(&old), &config(&new)),
            [
                "forward forward-3: was forward-2",
                "forward forward-2: added"
            ]
        );
    }

    #[test]
    fn limits_are_changed() {
        let with = |line: &str| to(&format!("{BEFORE}[limits]\n{line}\n"));
        assert_eq!(with("sessions = 1000"), ["limits.sessions: changed"]);
        for line in ["sessions_per_guest = 100", "ports_per_guest = 100"] {
            assert_eq!(with(line), ["limits per guest: changed"]);
        }
    }
}
