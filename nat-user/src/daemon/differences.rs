//! What a new configuration changes, in words.

use std::collections::BTreeMap;

use crate::config::model::{Config, Limits};

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

fn compare<R: PartialEq>(
    lines: &mut Vec<String>,
    kind: &str,
    old: &BTreeMap<&str, &R>,
    new: &BTreeMap<&str, &R>,
) {
    for (name, rule) in new {
        match old.get(name) {
            None => lines.push(format!("{kind} {name}: added")),
            Some(before) if before != rule => lines.push(format!("{kind} {name}: changed")),
            Some(_) => {}
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        lines.push(format!("{kind} {name}: removed"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

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
        let loaded = config::parse(text, Path::new("n.toml"));
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
            ["forward www: added", "forward web: removed"]
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
    fn limits_are_changed() {
        let with = |line: &str| to(&format!("{BEFORE}[limits]\n{line}\n"));
        assert_eq!(with("sessions = 1000"), ["limits.sessions: changed"]);
        for line in ["sessions_per_guest = 100", "ports_per_guest = 100"] {
            assert_eq!(with(line), ["limits per guest: changed"]);
        }
    }
}
