//! The host's own access to forwarded services.
//!
//! A program of the host names its peer in a system call. There, once per connection, the guest's
//! address replaces the external address, so no packet needs translation. The original destination
//! is remembered and shown to the program as its peer. This module decides, and defines the layout
//! of the remembered destination.

use crate::{
    family::Family,
    tables::{
        Tables,
        destinations::OwnAddresses,
        forwards::{Forward, ForwardFlags},
        host::HostSocket,
    },
    wire::{
        address::Endpoint,
        protocol::{TCP, UDP},
    },
};

/// A socket of the host that names a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller<A> {
    /// Where it is bound to; the unspecified address, or port 0, if the kernel chooses.
    pub bound: Endpoint<A>,
    /// Index of the interface that it is bound to, 0 if it is bound to none.
    pub interface: u32,
}

/// The peer that replaces the named one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redirect<A> {
    /// The guest.
    pub guest: Endpoint<A>,
    /// Number of the forward rule.
    pub rule: u32,
}

/// The peer of a socket that has asked for `asked`; `None` if that stays.
///
/// A socket of the host on that endpoint has precedence. A socket that is bound to the loopback
/// address or to an interface keeps its destination: a guest could not answer it.
#[inline(always)]
pub fn redirect<A: Family, T: Tables<A>>(
    tables: &T,
    own: &OwnAddresses<A>,
    caller: &Caller<A>,
    protocol: u8,
    asked: Endpoint<A>,
) -> Option<Redirect<A>> {
    if !matches!(protocol, TCP | UDP) || caller.interface != 0 || caller.bound.address.is_loopback()
    {
        return None;
    }
    let generation = tables.settings()?.generation as u16;
    if asked.address != A::LOOPBACK {
        let redirect = by_rule(tables, generation, protocol, asked)?;
        return is_free(tables, caller, protocol, asked).then_some(redirect);
    }
    // Most destinations there are services of the host: check for these first.
    if !is_free(tables, caller, protocol, asked) {
        return None;
    }
    let mut found = None;
    tables.repeat(own.count, |index| {
        let Some(address) = own.addresses.get(index as usize) else {
            return false;
        };
        let by_address = Endpoint::new(*address, asked.port);
        // (Written only if there is one: the verifier would see uninitialised memory.)
        if let Some(redirect) = by_rule(tables, generation, protocol, by_address) {
            found = Some(redirect);
        }
        found.is_none()
    });
    found
}

/// The guest of a rule that also serves the host.
#[inline(always)]
fn by_rule<A: Family, T: Tables<A>>(
    tables: &T,
    generation: u16,
    protocol: u8,
    asked: Endpoint<A>,
) -> Option<Redirect<A>> {
    let forward: &Forward<A> = tables.forward(generation, protocol, asked)?;
    (forward.flags.contains(ForwardFlags::LOCAL)).then(|| Redirect {
        guest: Endpoint::new(forward.to, forward.internal_port(asked.port)),
        rule: forward.rule,
    })
}

/// Whether no socket of the host receives the caller's packets there.
#[inline(always)]
fn is_free<A: Family, T: Tables<A>>(
    tables: &T,
    caller: &Caller<A>,
    protocol: u8,
    asked: Endpoint<A>,
) -> bool {
    // To one of its own addresses, the host sends from that address.
    let from = match caller.bound.address == A::UNSPECIFIED {
        true => asked.address,
        false => caller.bound.address,
    };
    let from = Endpoint::new(from, caller.bound.port);
    tables.host_socket(protocol, from, asked) == HostSocket::None
}
