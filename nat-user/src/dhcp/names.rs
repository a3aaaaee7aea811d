//! Addresses of guests: rules that name a guest by its lease get its address.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use nat_config::model::{
    Config, ForwardRule, GuestAddress, Identity, Network, NetworkId, PolicyEnd, Tenant,
};

use super::{
    conf,
    files::Files,
    followed::Followed,
    lease::{self, Lease, Lease6},
};

/// The leases of all networks of a configuration.
#[derive(Debug, Default)]
pub struct Leases {
    networks: usize,
    addresses: HashMap<(NetworkId, Identity), Ipv4Addr>,
    /// A guest has one in each prefix.
    addresses6: HashMap<(NetworkId, Identity), Vec<Ipv6Addr>>,
    /// The IPv6 prefixes that other software has put on networks.
    followed: Followed,
}

impl Leases {
    /// Reads those that have not ended.
    pub(super) fn read(folder: &Path, config: &Config) -> Self {
        let now_s = lease::now_s();
        let mut leases = Self {
            networks: config.networks.len(),
            followed: Followed::read(config),
            ..Self::default()
        };
        for network in conf::served(config) {
            let files = Files::of(folder, &network.interface);
            leases.add(config, network, lease::read(&files.leases, now_s));
            leases.add6(config, network, lease::read6(&files.leases, now_s));
        }
        leases
    }

    /// Of several leases of one guest, the one that ends last counts.
    fn add(&mut self, config: &Config, network: &Network, mut leases: Vec<Lease>) {
        let Some(id) = config.networks.iter().position(|other| other == network) else {
            return;
        };
        leases.sort_by_key(|lease| lease.ends_s.unwrap_or(u64::MAX));
        let host = network.address.map(|own| own.addr());
        let is_guest = |lease: &Lease| network.holds(lease.address) && Some(lease.address) != host;
        for lease in leases.into_iter().filter(is_guest) {
            let name = lease
                .name
                .map(|name| Identity::Name(name.to_ascii_lowercase()));
            let identities = [Some(Identity::Mac(lease.mac)), name];
            for identity in identities.into_iter().flatten() {
                self.addresses
                    .insert((NetworkId(id), identity), lease.address);
            }
        }
    }

    /// The same for IPv6. Its leases name no link-layer address, but only a `[[guest]]` has a name
    /// there, which dnsmasq gives it by its link-layer address.
    fn add6(&mut self, config: &Config, network: &Network, leases: Vec<Lease6>) {
        let Some(id) = config.networks.iter().position(|other| other == network) else {
            return;
        };
        let id = NetworkId(id);
        let own = &network.addresses6;
        let is_guest = |lease: &Lease6| {
            let mut prefixes = own.iter();
            prefixes.any(|own| own.contains(&lease.address) && own.addr() != lease.address)
        };
        for lease in leases.into_iter().filter(is_guest) {
            let mut guests = config.guests.iter().filter(|guest| guest.network == id);
            let guest = lease
                .name
                .and_then(|name| guests.find(|guest| guest.name.eq_ignore_ascii_case(&name)));
            if let Some(guest) = guest {
                let identity = Identity::Mac(guest.mac);
                let addresses = self.addresses6.entry((id, identity)).or_default();
                addresses.push(lease.address);
            }
        }
    }

    fn fill(&self, address: &mut GuestAddress) {
        if let GuestAddress::Leased { tenant, now } = address {
            *now = first_network(tenant, self.networks)
                .find_map(|id| self.addresses.get(&(id, tenant.identity.clone())).copied());
        }
    }

    /// The IPv6 addresses of a guest.
    fn find6(&self, tenant: &Tenant, config: &Config) -> Vec<Ipv6Addr> {
        if let (Some(network), Identity::Suffix(suffix)) = (tenant.network, &tenant.identity) {
            return config.networks[network.0].followed_addresses(*suffix);
        }
        first_network(tenant, self.networks)
            .find_map(|id| self.addresses6.get(&(id, tenant.identity.clone())).cloned())
            .unwrap_or_default()
    }
}

/// The networks in which a guest may have a lease. The first that has one counts.
fn first_network(tenant: &Tenant, networks: usize) -> impl Iterator<Item = NetworkId> {
    let networks = match tenant.network {
        Some(id) => id.0..id.0 + 1,
        None => 0..networks,
    };
    networks.map(NetworkId)
}

/// The configuration with the current addresses of leases.
pub(super) fn resolve(mut config: Config, leases: &Leases) -> Config {
    leases.followed.write(&mut config);
    let guests = config.guests.iter_mut();
    let guests = guests.filter_map(|guest| guest.address.as_mut());
    let forwards = config.forwards.iter_mut().map(|rule| &mut rule.to);
    let nats = config.nats.iter_mut().map(|rule| &mut rule.to);
    let policies = config.policies.iter_mut();
    let policies = policies.flat_map(|rule| rule.from.iter_mut().chain(&mut rule.to));
    let policies = policies.filter_map(PolicyEnd::guest_mut);
    guests
        .chain(forwards)
        .chain(nats)
        .chain(policies)
        .for_each(|address| leases.fill(address));
    resolve6(config, leases)
}

/// The same for IPv6, where a guest may have several addresses.
fn resolve6(mut config: Config, leases: &Leases) -> Config {
    let all = |to: &GuestAddress<Ipv6Addr>, config: &Config| match to {
        GuestAddress::Fixed(_) => vec![to.clone()],
        GuestAddress::Leased { tenant, .. } => {
            let leased = |now| GuestAddress::Leased {
                tenant: tenant.clone(),
                now,
            };
            match leases.find6(tenant, config)[..] {
                [] => vec![leased(None)],
                ref some => some.iter().map(|address| leased(Some(*address))).collect(),
            }
        }
    };
    let end = |end: &PolicyEnd<Ipv6Addr>, config: &Config| match end {
        PolicyEnd::Guest(to) => all(to, config).into_iter().map(PolicyEnd::Guest).collect(),
        _ => vec![end.clone()],
    };
    // What has been resolved before has an entry for each address.
    fn each<T: PartialEq>(old: &[T], all: impl Fn(&T) -> Vec<T>) -> Vec<T> {
        let mut new: Vec<T> = Vec::with_capacity(old.len());
        for one in old.iter().flat_map(all) {
            if !new.contains(&one) {
                new.push(one);
            }
        }
        new
    }
    let guests = config.guests.iter();
    let guests: Vec<_> = guests
        .map(|guest| each(&guest.addresses6, |to| all(to, &config)))
        .collect();
    let mut ipv6 = config.ipv6.take();
    for rule in ipv6.iter_mut().flat_map(|ipv6| &mut ipv6.forwards) {
        if let Some(first) = all(&rule.to, &config).into_iter().next() {
            rule.to = first;
        }
    }
    for rule in ipv6.iter_mut().flat_map(|ipv6| &mut ipv6.policies) {
        rule.from = each(&rule.from, |one| end(one, &config));
        rule.to = each(&rule.to, |one| end(one, &config));
    }
    config.ipv6 = ipv6;
    for (guest, addresses6) in config.guests.iter_mut().zip(guests) {
        guest.addresses6 = addresses6;
    }
    config
}

/// A line for each rule whose guest has no lease.
pub(super) fn inactive(config: &Config) -> impl Iterator<Item = String> {
    let forwards = config.forwards.iter();
    let forwards = forwards.map(|rule| ("forward", &rule.name, &rule.to));
    let nats = config.nats.iter().map(|rule| ("nat", &rule.name, &rule.to));
    forwards
        .chain(nats)
        .filter(|(_, _, to)| to.now().is_none())
        .map(|(kind, name, to)| {
            let guest = (config.guests.iter()).find(|guest| guest.address.as_ref() == Some(to));
            let who = guest.map_or_else(|| to.to_string(), |guest| guest.name.clone());
            format!("{kind} {name}: inactive, as {who} has no lease")
        })
        .chain(inactive6(config))
}

/// The same for IPv6, unless the rule is inactive for IPv4 too.
fn inactive6(config: &Config) -> impl Iterator<Item = String> {
    let forwards = config.ipv6.iter().flat_map(|ipv6| &ipv6.forwards);
    let forwards = forwards.filter(|rule| rule.to.now().is_none());
    let is_told = |rule: &&ForwardRule<Ipv6Addr>| {
        let mut ipv4 = config.forwards.iter();
        !ipv4.any(|other| other.name == rule.name && other.to.now().is_none())
    };
    forwards.filter(is_told).map(|rule| {
        let mut guests = config.guests.iter();
        let guest = guests.find(|guest| guest.addresses6.contains(&rule.to));
        let who = guest.map_or_else(|| rule.to.to_string(), |guest| guest.name.clone());
        format!(
            "forward {}: inactive for IPv6, as {who} has no IPv6 lease",
            rule.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[uplink.wan]
interface = "eth0"
[network.a]
interface = "vmbr1"
address = "10.1.0.1/24"
dhcp.range = "10.1.0.10-10.1.0.20"
[network.b]
interface = "vmbr2"
address = "10.2.0.1/24"
dhcp.range = "10.2.0.10-10.2.0.20"
[[guest]]
name = "db"
network = "b"
mac = "52:54:00:00:00:01"
[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
ports = 80
to = "web1"
[[forward]]
name = "db"
uplink = "wan"
protocol = "tcp"
ports = 5432
to = "db"
[[nat]]
uplink = "wan"
address = "192.0.2.1"
to = "52:54:00:00:00:02"
"#;

    fn lease(address: [u8; 4], mac: u8, name: &str, ends_s: u64) -> Lease {
        Lease {
            address: address.into(),
            mac: [0x52, 0x54, 0, 0, 0, mac],
            name: (name != "*").then(|| name.to_owned()),
            ends_s: Some(ends_s),
        }
    }

    fn resolved(leases: [Vec<Lease>; 2]) -> Config {
        let loaded = nat_config::parse(TEXT, Path::new("n.toml"));
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let mut all = Leases {
            networks: 2,
            ..Leases::default()
        };
        for (network, leases) in config.networks.iter().zip(leases) {
            all.add(&config, network, leases);
        }
        resolve(config, &all)
    }

    #[test]
    fn guests_are_found_by_name_and_by_mac() {
        let config = resolved([
            vec![
                lease([10, 1, 0, 11], 1, "other", 5),
                lease([10, 1, 0, 12], 2, "*", 5),
            ],
            vec![
                lease([10, 2, 0, 13], 1, "x", 5),
                lease([10, 2, 0, 14], 3, "WEB1", 5),
            ],
        ]);
        let at = |address: [u8; 4]| Some(Ipv4Addr::from(address));
        assert_eq!(config.forwards[0].to.now(), at([10, 2, 0, 14]));
        // The network counts too: the same address in another network is another guest.
        assert_eq!(config.forwards[1].to.now(), at([10, 2, 0, 13]));
        assert_eq!(
            config.guests[0]
                .address
                .as_ref()
                .and_then(GuestAddress::now),
            at([10, 2, 0, 13])
        );
        assert_eq!(config.nats[0].to.now(), at([10, 1, 0, 12]));
        assert_eq!(inactive(&config).count(), 0);
    }

    #[test]
    fn without_a_lease_a_rule_is_inactive() {
        let config = resolved([Vec::new(), Vec::new()]);
        let lines: Vec<String> = inactive(&config).collect();
        assert_eq!(
            lines,
            [
                "forward web: inactive, as web1 has no lease",
                "forward db: inactive, as db has no lease",
                "nat nat-1: inactive, as 52:54:00:00:00:02 has no lease",
            ]
        );
    }

    #[test]
    fn of_two_leases_the_one_counts_that_ends_last() {
        let two = vec![
            lease([10, 1, 0, 11], 9, "web1", 8),
            lease([10, 1, 0, 12], 9, "web1", 7),
        ];
        let config = resolved([two, Vec::new()]);
        assert_eq!(
            config.forwards[0].to.now(),
            Some(Ipv4Addr::new(10, 1, 0, 11))
        );
    }

    #[test]
    fn an_address_that_is_no_guests_is_not_followed() {
        let odd = vec![
            lease([10, 1, 0, 1], 9, "web1", 8),
            lease([10, 9, 0, 12], 9, "web1", 9),
        ];
        assert_eq!(resolved([odd, Vec::new()]).forwards[0].to.now(), None);
    }

    const SIX: &str = r#"
[uplink.wan]
interface = "eth0"
[network.a]
interface = "vmbr1"
address = ["10.1.0.1/24", "2001:db8:0:1::1/64", "fd01::1/64"]
dhcp.range6 = "::100-::1ff"
[network.b]
interface = "vmbr2"
follow = true
[[guest]]
name = "db"
network = "a"
mac = "52:54:00:00:00:01"
[[guest]]
name = "far"
network = "b"
mac = "52:54:00:00:00:02"
address = "::10"
[[forward]]
name = "db"
uplink = "wan"
protocol = "tcp"
ports = 5432
to = "db"
[[policy]]
to = ["db", "far"]
action = "accept"
"#;

    fn six() -> Config {
        let loaded = nat_config::parse(SIX, Path::new("n.toml"));
        loaded.unwrap_or_else(|error| panic!("{error}")).config
    }

    fn lease6(address: &str, name: &str) -> Lease6 {
        Lease6 {
            address: address.parse().unwrap(),
            duid: String::new(),
            name: Some(name.to_owned()),
            ends_s: None,
        }
    }

    fn now(ends: &[PolicyEnd<Ipv6Addr>]) -> Vec<String> {
        let guests = ends.iter().map(|end| match end {
            PolicyEnd::Guest(to) => to.now().map_or("-".to_owned(), |now| now.to_string()),
            other => panic!("{other:?}"),
        });
        guests.collect()
    }

    #[test]
    fn a_guest_has_a_lease_in_each_prefix() {
        let config = six();
        let mut all = Leases {
            networks: 2,
            ..Leases::default()
        };
        let leases = ["2001:db8:0:1::100", "fd01::100"].map(|address| lease6(address, "DB"));
        let odd = [
            lease6("2001:db8:9::1", "db"),
            lease6("fd01::1", "db"),
            lease6("fd01::101", "other"),
        ];
        all.add6(&config, &config.networks[0], [&leases[..], &odd].concat());
        let resolved = resolve(config.clone(), &all);
        let rules = resolved.ipv6.as_ref().unwrap();
        assert_eq!(
            now(&rules.policies[0].to),
            ["2001:db8:0:1::100", "fd01::100", "-"]
        );
        assert_eq!(
            rules.forwards[0].to.now(),
            Some("2001:db8:0:1::100".parse().unwrap())
        );
        assert_eq!(resolved.guests[0].addresses6.len(), 2);
        assert_eq!(inactive(&resolved).count(), 0);
        // What is resolved again stays, and what is gone goes.
        assert_eq!(resolve(resolved.clone(), &all), resolved);
        let gone = resolve(
            resolved,
            &Leases {
                networks: 2,
                ..Leases::default()
            },
        );
        assert_eq!(
            gone,
            resolve(
                config,
                &Leases {
                    networks: 2,
                    ..Leases::default()
                }
            )
        );
        assert_eq!(
            inactive(&gone).collect::<Vec<_>>(),
            ["forward db: inactive for IPv6, as db has no IPv6 lease"]
        );
    }

    #[test]
    fn a_network_follows_the_prefixes_of_its_interface() {
        let config = six();
        let with = |text: &str| {
            let all = Leases {
                networks: 2,
                followed: Followed::of(&config, text),
                ..Leases::default()
            };
            resolve(config.clone(), &all)
        };
        let line = |address: &str, flags: &str, interface: &str| {
            format!("{address} 07 40 00 {flags} {interface}\n")
        };
        let prefix = line("20010db8000700000000000000000001", "80", "vmbr2");
        let text = [
            prefix.clone(),
            // Deprecated, of another interface, and of another network.
            line("20010db8000800000000000000000001", "20", "vmbr2"),
            line("20010db8000900000000000000000001", "80", "vmbr1"),
            line("20010db8000000010000000000000007", "80", "vmbr2"),
            "fe800000000000000000000000000001 07 40 20 80 vmbr2\n".to_owned(),
        ];
        let followed = with(&text.concat());
        let network = &followed.networks[1];
        assert_eq!(network.addresses6, ["2001:db8:7::1/64".parse().unwrap()]);
        assert_eq!(network.written6(), []);
        let rules = followed.ipv6.as_ref().unwrap();
        assert_eq!(now(&rules.policies[0].to)[1], "2001:db8:7::10");
        let own = Followed::of(&config, &text.concat());
        assert!(own.has_changed(&config) && !own.has_changed(&followed));
        let all = Leases {
            networks: 2,
            ..Leases::default()
        };
        assert_eq!(
            resolve(followed.clone(), &all).networks,
            followed.networks,
            "no news"
        );
        assert_eq!(with("").networks[1].addresses6, []);
        assert_eq!(with(&prefix).networks[1].followed, 1);
    }
}
