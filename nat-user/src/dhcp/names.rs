//! Addresses of guests: rules that name a guest by its lease get its address.

use std::{collections::HashMap, net::Ipv4Addr, path::Path};

use nat_config::model::{Config, GuestAddress, Identity, Network, NetworkId, PolicyEnd, Tenant};

use super::{
    conf,
    files::Files,
    lease::{self, Lease},
};

/// The leases of all networks of a configuration.
#[derive(Debug, Default)]
pub struct Leases {
    networks: usize,
    addresses: HashMap<(NetworkId, Identity), Ipv4Addr>,
}

impl Leases {
    /// Reads those that have not ended.
    pub(super) fn read(folder: &Path, config: &Config) -> Self {
        let now_s = lease::now_s();
        let mut leases = Self {
            networks: config.networks.len(),
            ..Self::default()
        };
        for network in conf::served(config) {
            let files = Files::of(folder, &network.interface);
            leases.add(config, network, lease::read(&files.leases, now_s));
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

    /// In the first network of the file that has one.
    fn find(&self, tenant: &Tenant) -> Option<Ipv4Addr> {
        let networks = match tenant.network {
            Some(id) => id.0..id.0 + 1,
            None => 0..self.networks,
        };
        networks
            .map(|id| (NetworkId(id), tenant.identity.clone()))
            .find_map(|key| self.addresses.get(&key).copied())
    }

    fn fill(&self, address: &mut GuestAddress) {
        if let GuestAddress::Leased { tenant, now } = address {
            *now = self.find(tenant);
        }
    }
}

/// The configuration with the current addresses of leases.
pub(super) fn resolve(mut config: Config, leases: &Leases) -> Config {
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
}
