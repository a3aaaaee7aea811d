//! Uplink, ingress: answers to neighbours that ask for an IPv6 address (RFC 4861).
//!
//! The kernel answers for the addresses of the interface itself. Behind a prefix of guests on the
//! uplink's link, and for external addresses that no interface holds, nobody else would answer.

use crate::{
    headers::neighbour::{FRAME_LEN, advertisement, solicitation},
    tables::{
        addresses::ExternalAddresses,
        interfaces::{Interface, Interfaces, role},
        neighbours::Neighbours,
        settings::CurrentSettings,
    },
    wire::{address::Addr6, packet::Packet},
};

/// The frame that answers a frame at an interface, `None` if natbpf does not answer it.
#[inline(always)]
pub fn answer<P: Packet, T>(packet: &mut P, tables: &T, interface: u32) -> Option<[u8; FRAME_LEN]>
where
    T: CurrentSettings + ExternalAddresses<Addr6> + Interfaces + Neighbours,
{
    let uplink = tables
        .interface(interface)
        .filter(|uplink| uplink.role == role::UPLINK && uplink.mac != [0; 6])?;
    let asked = solicitation(packet)?;
    is_answered(tables, uplink, asked.target).then(|| advertisement(&asked, uplink.mac))
}

/// Whether natbpf answers for an address at an uplink.
#[inline(always)]
fn is_answered<T>(tables: &T, uplink: &Interface, target: Addr6) -> bool
where
    T: CurrentSettings + ExternalAddresses<Addr6> + Neighbours,
{
    let Some(settings) = tables.settings() else {
        return false;
    };
    let generation = settings.generation as u16;
    if let Some(external) = tables.external_address(generation, target) {
        let is_claimed = external.is_host == 0 && external.is_silent == 0;
        return is_claimed && external.uplink == uplink.number;
    }
    tables
        .neighbour(generation, uplink.number, target)
        .is_some_and(|neighbour| neighbour.is_answered != 0)
}
