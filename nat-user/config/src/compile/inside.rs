//! External addresses, and addresses of guests.

use std::collections::BTreeMap;

use nat_common::tables::{
    addresses::ExternalAddress,
    inside::{INSIDE_FIXED_BITS, Inside, InsideFlags, InsideKey},
};

use super::{compiler::Compiler, family::WireFamily, ruleset::Prefix};
use crate::model::{GuestAddress, Prefix as _, SnatSource, UplinkId};

impl<A: WireFamily> Compiler<'_, A> {
    /// The uplinks' addresses, and all others that rules name.
    pub(super) fn addresses(&mut self) {
        let mut seen = BTreeMap::new();
        for (id, _) in self.config.uplinks.iter().enumerate() {
            for address in self.uplink_addresses(UplinkId(id)) {
                seen.entry(*address).or_insert(id);
            }
        }
        let named = self.config.named::<A>();
        for one in named.filter(|one| one.guest.is_none_or(|guest| guest.now().is_some())) {
            for address in one.addresses() {
                seen.entry(address).or_insert(one.uplink.0);
            }
        }
        for (address, uplink) in seen {
            let is_host = self.environment.host_addresses.contains(&address);
            let external = ExternalAddress {
                uplink: self.uplinks[uplink],
                is_host: is_host.into(),
                is_silent: self.environment.silent.contains(&address).into(),
            };
            self.ruleset.addresses.push((address.wire(), external));
        }
    }

    /// The networks' prefixes, single guests, and prefixes that only a rule names. A prefix that
    /// holds an external address of the host's (`0.0.0.0/0`, say) does not make its addresses
    /// inside addresses.
    pub(super) fn inside(&mut self) {
        let mut prefixes = BTreeMap::new();
        let sources = A::snat(self.config).iter();
        let sources = sources.filter_map(|rule| match rule.source {
            SnatSource::Prefix(prefix) => Some(prefix),
            SnatSource::Network(_) => None,
        });
        for prefix in sources {
            if !self.holds_external_address(prefix) {
                prefixes.insert(prefix.trunc(), self.place_of(prefix));
            }
        }
        for (prefix, route) in self.routed() {
            prefixes.insert(prefix, self.place_of_network(route.network));
        }
        for (prefix, _) in A::internal_prefixes(self.config) {
            prefixes.insert(prefix, self.place_of(prefix));
        }
        for to in A::nats(self.config).iter().filter_map(|rule| rule.to.now()) {
            let guest = to.into();
            prefixes.insert(guest, self.place_of(guest));
        }
        for prefix in self.config.networks.iter().flat_map(A::of_network) {
            let prefix = prefix.trunc();
            prefixes.insert(prefix, self.place_of(prefix));
        }
        let forwards = A::forwards(self.config).iter();
        for to in forwards.filter_map(|rule| rule.to.now()) {
            // Behind another interface than that of its prefix.
            if self.environment.places.contains_key(&to) {
                prefixes.insert(to.into(), self.place_of(to.into()));
            }
        }
        let guests = self.config.guests.iter().flat_map(|guest| {
            let addresses = A::of_guest(guest).iter();
            let addresses = addresses.filter_map(GuestAddress::now);
            addresses.map(|address| (A::Prefix::from(address), guest.mac))
        });
        let guests: Vec<(A::Prefix, [u8; 6])> = guests.collect();
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

    fn push_inside(&mut self, prefix: A::Prefix, network: u16, gateway: A, mac: Option<[u8; 6]>) {
        let key = InsideKey {
            generation: 0,
            reserved: [0; 2],
            address: prefix.addr().wire(),
        };
        let bits = INSIDE_FIXED_BITS + u32::from(prefix.prefix_len());
        let inside = Inside {
            network,
            flags: match mac {
                Some(_) => InsideFlags::HAS_MAC,
                None if self.is_on_link(prefix) => InsideFlags::ON_LINK,
                None => InsideFlags::empty(),
            },
            gateway: gateway.wire(),
            mac: mac.unwrap_or_default(),
            reserved: [0; 2],
        };
        self.ruleset.inside.push((Prefix { bits, key }, inside));
    }

    /// Whether a prefix is of a network that keeps guests to their addresses.
    fn is_on_link(&self, prefix: A::Prefix) -> bool {
        let mut networks = self.config.networks.iter();
        networks.any(|network| {
            let mut own = A::of_network(network).iter();
            network.anti_spoof && own.any(|own| own.covers(&prefix))
        })
    }

    fn holds_external_address(&self, prefix: A::Prefix) -> bool {
        let mut ids = (0..self.config.uplinks.len()).map(UplinkId);
        ids.any(|id| {
            self.uplink_addresses(id)
                .iter()
                .any(|address| prefix.holds(*address))
        })
    }
}
