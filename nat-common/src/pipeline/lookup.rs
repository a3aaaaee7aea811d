//! Lookups that several hooks share.

use crate::{
    headers::parsed::{Parsed, Transport},
    tables::{
        Tables,
        interfaces::role,
        sessions::{Session, Touch, View},
    },
    wire::{address::Address, tcp},
};

/// The number of the network that a packet came from, 0 if from none.
#[inline(always)]
pub(crate) fn network_of<A: Address, T: Tables<A>>(tables: &T, interface: u32) -> u16 {
    match tables.interface(interface) {
        Some(interface) if interface.role == role::NETWORK => interface.number,
        _ => 0,
    }
}

/// The generation of the rule set in use.
#[inline(always)]
pub(crate) fn generation<A: Address, T: Tables<A>>(tables: &T) -> u16 {
    tables
        .settings()
        .map_or(0, |settings| settings.generation as u16)
}

/// Looks the live session of a packet up and notes that it passes. Of a reset it is not: if it has
/// a right to, [`follow`](super::follow::follow) does.
#[inline(always)]
pub(crate) fn find<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
) -> Option<&'t Session<A>> {
    let session = tables.session(&parsed.key(view, network))?;
    let is_usable = match is_reset(parsed) {
        true => session.is_usable(),
        false => session.touch(tables.now_s()) != Touch::Dead,
    };
    is_usable.then_some(session)
}

#[inline(always)]
pub(crate) fn is_reset<A: Address>(parsed: &Parsed<A>) -> bool {
    matches!(parsed.transport, Transport::Tcp { flags } if flags & tcp::RST != 0)
}

/// Looks the session of a packet up that came in by a network, and gives the number of the network
/// under which it is known: that one, or the one behind which the routes put the guest, or put it
/// before. A guest may send by another way than the one by which it is reached.
#[inline(always)]
pub(crate) fn find_of_guest<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    parsed: &Parsed<A>,
    network: u16,
) -> Option<(&'t Session<A>, u16)> {
    if let Some(session) = find(tables, parsed, View::Inside, network) {
        return Some((session, network));
    }
    if network == 0 {
        return None;
    }
    let home = match home_of(tables, &parsed.header.source) {
        // Until a moment ago the routes may have put it behind no network. The daemon ends what was
        // opened then, a little after it has taken the new routes into use.
        home if home == network => 0,
        home => home,
    };
    find(tables, parsed, View::Inside, home).map(|session| (session, home))
}

/// The number of the network behind which the routes put an address, 0 if behind none.
#[inline(never)]
pub(crate) fn home_of<A: Address, T: Tables<A>>(tables: &T, address: &A) -> u16 {
    tables
        .inside(generation(tables), *address)
        .map_or(0, |inside| inside.network)
}
