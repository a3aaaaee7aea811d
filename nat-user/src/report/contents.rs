//! A summary of a configuration.

use nat_config::model::Config;

/// The number of each kind that exists: `1 uplink, 3 forward rules`.
#[must_use]
pub fn contents(config: &Config) -> String {
    let counts = [
        (config.uplinks.len(), "uplink", "uplinks"),
        (config.networks.len(), "network", "networks"),
        (config.guests.len(), "guest", "guests"),
        (config.routes.len(), "route", "routes"),
        (config.snat_count(), "snat rule", "snat rules"),
        (config.forward_count(), "forward rule", "forward rules"),
        (config.nat_count(), "nat rule", "nat rules"),
        (config.policies.len(), "policy", "policies"),
    ];
    let present = counts.into_iter().filter(|(count, ..)| *count > 0);
    let words = present.map(|(count, one, several)| {
        let word = if count == 1 { one } else { several };
        format!("{count} {word}")
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn absent_objects_are_not_counted() {
        let text = "[uplink.wan]\ninterface = \"eth0\"\n\
                    [network.lan]\ninterface = \"br0\"\naddress = \"10.0.0.1/24\"\n\
                    [[policy]]\nname = \"a\"\nfrom = \"lan\"\nto = \"wan\"\naction = \"accept\"\n\
                    [[policy]]\nname = \"b\"\nfrom = \"wan\"\nto = \"lan\"\naction = \"drop\"\n";
        let loaded = nat_config::parse(text, Path::new("a.toml")).unwrap();
        assert_eq!(contents(&loaded.config), "1 uplink, 1 network, 2 policies");
    }
}
