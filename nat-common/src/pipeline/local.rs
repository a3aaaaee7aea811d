//! Access of the host itself to what it forwards to guests.
//!
//! A program of the host names whom it wants to talk to in a system call. There, once for a
//! connection, the guest is put in the place of an external address, so that no packet needs to be
//! translated; what the program asked for is remembered, to be shown to it as the other end. This
//! module decides, and holds the layout of what is remembered.

use crate::{
    tables::{
        Tables,
        asked::OwnAddresses,
        forwards::{Forward, forward_flags},
        host::HostSocket,
    },
    wire::{
        address::{Address, Endpoint},
        protocol::{TCP, UDP},
    },
};

/// A socket of the host that wants to talk to somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller<A> {
    /// Where it is bound to; the unspecified address, or port 0, where the kernel is to choose.
    pub bound: Endpoint<A>,
    /// Index of the interface that it is bound to, 0 if it is bound to none.
    pub interface: u32,
}

/// Whom a socket is to talk to instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redirect<A> {
    /// The guest.
    pub guest: Endpoint<A>,
    /// Number of the rule that says so.
    pub rule: u32,
}

/// Whom a socket is to talk to that has asked for `asked`; `None` for whom it has asked for.
///
/// A socket of the host that would get what is sent there comes first. A socket that is bound to
/// the loopback address or to an interface stays with what it asked for: a guest could not answer
/// it.
#[inline(always)]
pub fn redirect<A: Address, T: Tables<A>>(
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
    // Most that is asked for there is served by the host: look for that first.
    if !is_free(tables, caller, protocol, asked) {
        return None;
    }
    let mut found = None;
    tables.repeat(own.count, |index| {
        let Some(address) = own.addresses.get(index as usize) else {
            return false;
        };
        let by_address = Endpoint::new(*address, asked.port);
        // (Nothing is written where there is nothing: the verifier would see what was never set.)
        if let Some(redirect) = by_rule(tables, generation, protocol, by_address) {
            found = Some(redirect);
        }
        found.is_none()
    });
    found
}

/// The guest that a rule gives to the host as well.
#[inline(always)]
fn by_rule<A: Address, T: Tables<A>>(
    tables: &T,
    generation: u16,
    protocol: u8,
    asked: Endpoint<A>,
) -> Option<Redirect<A>> {
    let forward: &Forward<A> = tables.forward(generation, protocol, asked)?;
    (forward.flags & forward_flags::LOCAL != 0).then(|| Redirect {
        guest: Endpoint::new(forward.to, forward.internal_port(asked.port)),
        rule: forward.rule,
    })
}

/// Whether no socket of the host gets what the caller sends there.
#[inline(always)]
fn is_free<A: Address, T: Tables<A>>(
    tables: &T,
    caller: &Caller<A>,
    protocol: u8,
    asked: Endpoint<A>,
) -> bool {
    // To an address of its own the host sends from the same one.
    let from = match caller.bound.address == A::UNSPECIFIED {
        true => asked.address,
        false => caller.bound.address,
    };
    let from = Endpoint::new(from, caller.bound.port);
    tables.host_socket(protocol, from, asked) == HostSocket::None
}
