//! Lookups that several hooks share.

use crate::{
    family::Family,
    headers::parsed::{Parsed, Transport},
    tables::{
        Tables,
        interfaces::role,
        sessions::{Session, Touch, View},
    },
    wire::tcp,
};

/// The number of the network that a packet came from, 0 if from none.
#[inline(always)]
pub(crate) fn network_of<A: Family, T: Tables<A>>(tables: &T, interface: u32) -> u16 {
    match tables.interface(interface) {
        Some(interface) if interface.role == role::NETWORK => interface.number,
        _ => 0,
    }
}

/// The generation of the rule set in use.
#[inline(always)]
pub(crate) fn generation<A: Family, T: Tables<A>>(tables: &T) -> u16 {
    tables
        .settings()
        .map_or(0, |settings| settings.generation as u16)
}

/// Looks up the live session of a packet and records that it passes. A reset is not recorded here:
/// [`follow`](super::follow::follow) records it if it is valid.
#[inline(always)]
pub(crate) fn find<'t, A: Family, T: Tables<A>>(
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
pub(crate) fn is_reset<A: Family>(parsed: &Parsed<A>) -> bool {
    matches!(parsed.transport, Transport::Tcp { flags } if flags & tcp::RST != 0)
}

/// Looks up the session of a packet that came in by a network, and returns the number of the
/// network of its key: that network, or the one behind which the routes place the guest now or
/// placed it before. A guest may send by another network than the one by which it is reached.
#[inline(always)]
pub(crate) fn find_of_guest<'t, A: Family, T: Tables<A>>(
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
        // Until recently, the routes may have placed it behind no network. The daemon ends sessions
        // from that time shortly after it activates the new routes.
        home if home == network => 0,
        home => home,
    };
    find(tables, parsed, View::Inside, home).map(|session| (session, home))
}

/// The number of the network behind which the routes place an address, 0 if behind none.
#[inline(never)]
pub(crate) fn home_of<A: Family, T: Tables<A>>(tables: &T, address: &A) -> u16 {
    tables
        .inside(generation(tables), *address)
        .map_or(0, |inside| inside.network)
}
