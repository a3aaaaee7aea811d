//! Describes what a new configuration changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv6Addr,
};

use nat_config::model::{
    Config, ForwardRule, Guest, Ipv6Rules, Limits, NatRule, Network, PolicyRule, PrefixRule, Route,
    SnatRule, Uplink,
};

/// What a reload has changed, line by line.
pub(super) fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    compare(
        &mut lines,
        "uplink",
        [old, new].map(|one| named(&one.uplinks)),
    );
    compare(
        &mut lines,
        "network",
        [old, new].map(|one| named(&one.networks)),
    );
    compare(
        &mut lines,
        "guest",
        [old, new].map(|one| named(&one.guests)),
    );
    compare(
        &mut lines,
        "route",
        [old, new].map(|one| named(&one.routes)),
    );
    // A rule may be about both families.
    let snat = |one| families(one, |one| &one.snat, |ipv6| &ipv6.snat);
    compare(&mut lines, "snat", [old, new].map(snat));
    let forwards = |one| families(one, |one| &one.forwards, |ipv6| &ipv6.forwards);
    compare(&mut lines, "forward", [old, new].map(forwards));
    let nats = |one| families(one, |one| &one.nats, |ipv6| &ipv6.prefixes);
    compare(&mut lines, "nat", [old, new].map(nats));
    let policies = |one| families(one, |one| &one.policies, |ipv6| &ipv6.policies);
    compare(&mut lines, "policy", [old, new].map(policies));
    if old.timeouts != new.timeouts {
        lines.push("timeouts: changed".to_owned());
    }
    if old.limits.sessions != new.limits.sessions {
        lines.push("limits.sessions: changed".to_owned());
    }
    if old.limits.sessions_ipv6 != new.limits.sessions_ipv6 {
        lines.push("limits.sessions_ipv6: changed".to_owned());
    }
    let per_guest = |limits: &Limits| (limits.sessions_per_guest, limits.ports_per_guest);
    if per_guest(&old.limits) != per_guest(&new.limits) {
        lines.push("limits per guest: changed".to_owned());
    }
    lines
}

/// Tables by name, each with the text of what it says without its name.
type Tables<'c> = BTreeMap<&'c str, String>;

fn named<R: Named>(rules: &[R]) -> Tables<'_> {
    let rules = rules.iter();
    rules.map(|rule| (rule.name(), rule.says())).collect()
}

/// The same for rules that each family has in a list of its own.
fn families<'c, R: Named + 'c, S: Named + 'c>(
    config: &'c Config,
    ipv4: impl Fn(&'c Config) -> &'c Vec<R>,
    ipv6: impl Fn(&'c Ipv6Rules) -> &'c Vec<S>,
) -> Tables<'c> {
    let mut rules = named(ipv4(config));
    for rule in config.ipv6.iter().flat_map(ipv6) {
        *rules.entry(rule.name()).or_default() += &rule.says();
    }
    rules
}

fn compare(lines: &mut Vec<String>, kind: &str, [old, new]: [Tables<'_>; 2]) {
    // Those that differ from what was under their name: one may have a new name.
    let is_other = |name: &str, says: &String, all: &Tables<'_>| all.get(name) != Some(says);
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    let mut by_words: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, says) in old
        .iter()
        .rev()
        .filter(|(name, says)| is_other(name, says, &new))
    {
        gone.insert(name);
        by_words.entry(says).or_default().push(name);
    }
    let mut others = Vec::new();
    for (name, says) in new.iter().filter(|(name, says)| is_other(name, says, &old)) {
        match by_words.get_mut(says.as_str()).and_then(Vec::pop) {
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
    fn name(&self) -> &str;
    /// The rest, in words.
    fn says(&self) -> String;
}

macro_rules! named {
    ($($table:ty),*) => {
        $(impl Named for $table {
            fn name(&self) -> &str {
                &self.name
            }

            fn says(&self) -> String {
                let nameless = Self {
                    name: String::new(),
                    ..self.clone()
                };
                format!("{nameless:?}")
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
    SnatRule<Ipv6Addr>,
    ForwardRule,
    ForwardRule<Ipv6Addr>,
    NatRule,
    PrefixRule,
    PolicyRule,
    PolicyRule<Ipv6Addr>
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

    #[test]
    fn a_change_of_ipv6_alone_is_seen() {
        let text = format!(
            "{BEFORE}[[snat]]\nname = \"out\"\nsource = \"fd00:18::/64\"\nuplink = \"wan\"\n\
             to = \"masquerade\"\n[[nat]]\nname = \"six\"\nuplink = \"wan\"\n\
             address = \"2001:db8:5::/64\"\nto = \"fd00:19::/64\"\n[[policy]]\n\
             name = \"office\"\nfrom = \"2001:db8:9::/48\"\naction = \"accept\"\n\
             [limits]\nsessions_ipv6 = 1000\n"
        )
        .replace(
            "\"172.22.161.254/24\"",
            "[\"172.22.161.254/24\", \"fd00:18::1/64\"]",
        );
        let config = |text: &str| {
            let loaded = nat_config::parse(text, Path::new("n.toml"));
            loaded.unwrap_or_else(|error| panic!("{error}")).config
        };
        let old = config(&text);
        for (from, to, line) in [
            ("fd00:18::1/64", "fd00:18::2/64", "network lan: changed"),
            ("\"fd00:18::/64\"", "\"fd00:18::/56\"", "snat out: changed"),
            ("2001:db8:5::/64", "2001:db8:6::/64", "nat six: changed"),
            (
                "2001:db8:9::/48",
                "2001:db8:8::/48",
                "policy office: changed",
            ),
            ("= 1000", "= 2000", "limits.sessions_ipv6: changed"),
            ("172.22.161.170", "fd00:18::10", "forward web: changed"),
        ] {
            let new = config(&text.replace(from, to));
            assert_eq!(differences(&old, &new), [line], "{from}");
        }
        assert_eq!(differences(&old, &old), [""; 0]);
    }
}
