//! External addresses: which of them natbpf has added to an interface, and who has the others.

use std::{
    collections::{BTreeSet, HashSet},
    hash::Hash,
    net::Ipv4Addr,
};

use nat_config::{
    compile::Environment,
    model::{Claim, Config, UplinkAddresses, UplinkId},
};

use nat_sys::netlink::Family;

use super::claims::Claims;
use crate::{
    host::change::Change,
    state::{External, Holder, State},
};

/// The addresses that natbpf has added to an interface, from the journal. They do not count as the
/// interface's own: a rule without an address does not apply to them.
pub(super) fn added_to<A>(interface: &str, changes: &[Change]) -> HashSet<A>
where
    A: Family + Hash,
{
    let added = changes.iter().filter_map(|change| match change {
        Change::Address {
            interface: name,
            address,
            ..
        } if name == interface => A::of(address.addr()),
        _ => None,
    });
    added.collect()
}

/// The external addresses for which a daemon with this state answered.
pub(super) fn answered_for(state: &State) -> impl Iterator<Item = Ipv4Addr> {
    let all = state.interfaces.iter().flat_map(|one| &one.external);
    let ours = all.filter(|these| matches!(these.holder, Holder::Arp | Holder::Added));
    ours.flat_map(|these| u32::from(these.first)..=u32::from(these.last))
        .map(Ipv4Addr::from)
}

/// The external addresses of an uplink, and who has each. Adjacent addresses of the same kind share
/// an entry.
pub(super) fn external(
    config: &Config,
    environment: &Environment,
    uplink: UplinkId,
    (added, has_arp): (&HashSet<Ipv4Addr>, bool),
    claims: &Claims,
) -> Vec<External> {
    let is_unclaimed = config.uplinks[uplink.0].claim == Claim::None;
    let holder = |address: &Ipv4Addr| match environment.host_addresses.contains(address) {
        true if added.contains(address) => Holder::Added,
        true => Holder::Host,
        false if is_unclaimed => Holder::Unclaimed,
        false if claims.taken_by(*address).is_some() => Holder::Elsewhere,
        false if environment.silent.contains(address) => Holder::Probed,
        false if has_arp => Holder::Arp,
        false => Holder::Routed,
    };
    let mut all: Vec<External> = Vec::new();
    for address in addresses(config, environment, uplink) {
        let holder = holder(&address);
        match all.last_mut() {
            Some(before)
                if before.holder == holder && u32::from(before.last) + 1 == u32::from(address) =>
            {
                before.last = address;
            }
            _ => all.push(External {
                first: address,
                last: address,
                holder,
            }),
        }
    }
    all
}

/// The addresses of an uplink, its own and those in the configuration, in order.
fn addresses(config: &Config, environment: &Environment, uplink: UplinkId) -> BTreeSet<Ipv4Addr> {
    let own = match config.uplinks[uplink.0].addresses {
        UplinkAddresses::Interface => environment.uplink_addresses.get(uplink.0),
        UplinkAddresses::Fixed(_) => None,
    };
    let named = config.named_addresses();
    let named = named.filter(|named| named.uplink == uplink);
    let named = named.filter(|named| named.guest.is_none_or(|guest| guest.now().is_some()));
    own.into_iter()
        .flatten()
        .copied()
        .chain(named.flat_map(|named| named.addresses()))
        .collect()
}
