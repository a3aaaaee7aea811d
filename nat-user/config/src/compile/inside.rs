//! External addresses, and addresses of guests.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use nat_common::tables::{
    addresses::ExternalAddress,
    inside::{INSIDE_FIXED_BITS, Inside4, InsideFlags, InsideKey4},
};

use super::{
    compiler::Compiler,
    ruleset::{Prefix, wire},
};
use crate::model::{SnatSource, UplinkId};

impl Compiler<'_> {
    /// The uplinks' addresses, and all others that rules name.
    pub(super) fn addresses(&mut self) {
        let mut seen = BTreeMap::new();
        for (id, _) in self.config.uplinks.iter().enumerate() {
            for address in self.uplink_addresses(UplinkId(id)) {
                seen.entry(*address).or_insert(id);
            }
        }
        // (A guest without a lease has no entry yet.)
        let named = self.config.named_addresses();
        for named in named.filter(|named| named.guest.is_none_or(|guest| guest.now().is_some())) {
            for address in named.addresses() {
                seen.entry(address).or_insert(named.uplink.0);
            }
        }
        for (address, uplink) in seen {
            let is_host = self.environment.host_addresses.contains(&address);
            let external = ExternalAddress {
                uplink: self.uplinks[uplink],
                is_host: is_host.into(),
                is_silent: self.environment.silent.contains(&address).into(),
            };
            self.ruleset.addresses.push((wire(address), external));
        }
    }

    /// The networks' prefixes, single guests, and prefixes that only a rule names. A prefix that
    /// holds an external address of the host's (`0.0.0.0/0`, say) does not make its addresses
    /// inside addresses.
    pub(super) fn inside(&mut self) {
        let mut prefixes = BTreeMap::new();
        for rule in &self.config.snat {
            if let SnatSource::Prefix(prefix) = rule.source
                && !self.holds_external_address(prefix)
            {
                prefixes.insert(prefix.trunc(), self.place_of(prefix));
            }
        }
        for (prefix, route) in self.routed() {
            prefixes.insert(prefix, self.place_of_network(route.network));
        }
        for to in self.config.nats.iter().filter_map(|rule| rule.to.now()) {
            let guest = to.into();
            prefixes.insert(guest, self.place_of(guest));
        }
        for network in &self.config.networks {
            let prefix = network.address.trunc();
            prefixes.insert(prefix, self.place_of(prefix));
        }
        for to in self.config.forwards.iter().filter_map(|rule| rule.to.now()) {
            // Behind another interface than that of its prefix.
            if self.environment.places.contains_key(&to) {
                prefixes.insert(to.into(), self.place_of(to.into()));
            }
        }
        let guests = self.config.guests.iter();
        let guests =
            guests.filter_map(|guest| Some((Ipv4Net::from(guest.address.now()?), guest.mac)));
        let guests: Vec<(Ipv4Net, [u8; 6])> = guests.collect();
        for (prefix, _) in &guests {
            prefixes.remove(prefix);
        }
        for (prefix, (network, gateway)) in prefixes {
            self.push_inside(prefix, network, gateway, None);
        }
        for (prefix, mac) in guests {
            let (network, gateway) = self.place_of(prefix);
            self.push_inside(prefix, network, gateway, Some(mac));
        }
    }

    fn push_inside(
        &mut self,
        prefix: Ipv4Net,
        network: u16,
        gateway: Ipv4Addr,
        mac: Option<[u8; 6]>,
    ) {
        let key = InsideKey4 {
            generation: 0,
            reserved: [0; 2],
            address: wire(prefix.addr()),
        };
        let bits = INSIDE_FIXED_BITS + u32::from(prefix.prefix_len());
        let inside = Inside4 {
            network,
            flags: match mac {
                Some(_) => InsideFlags::HAS_MAC,
                None if self.is_on_link(prefix) => InsideFlags::ON_LINK,
                None => InsideFlags::empty(),
            },
            gateway: wire(gateway),
            mac: mac.unwrap_or_default(),
            reserved: [0; 2],
        };
        self.ruleset.inside.push((Prefix { bits, key }, inside));
    }

    /// Whether a prefix is of a network that keeps guests to their addresses.
    fn is_on_link(&self, prefix: Ipv4Net) -> bool {
        let mut networks = self.config.networks.iter();
        networks.any(|network| network.anti_spoof && network.address.contains(&prefix))
    }

    fn holds_external_address(&self, prefix: Ipv4Net) -> bool {
        let mut ids = (0..self.config.uplinks.len()).map(UplinkId);
        ids.any(|id| {
            self.uplink_addresses(id)
                .iter()
                .any(|address| prefix.contains(address))
        })
    }
}
