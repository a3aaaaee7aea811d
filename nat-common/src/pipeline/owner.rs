//! The owner of a packet's source address.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::parsed::Parsed,
    pipeline::lookup::generation,
    tables::{Tables, inside::InsideFlags, interfaces::Interface},
    wire::packet::Packet,
};

/// Whether a packet's source address belongs to the guest that sends it.
#[inline(always)]
pub(crate) fn check_owner<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    interface: &Interface,
) -> Result<(), DropReason> {
    let owner = tables.inside(generation(tables), parsed.header.source);
    let is_own = owner.is_some_and(|owner| {
        owner.network == interface.number
            && (!owner.flags.contains(InsideFlags::HAS_MAC)
                || source_mac(packet, parsed) == Some(owner.mac))
    });
    if is_own {
        Ok(())
    } else {
        Err(DropReason::Spoofed)
    }
}

/// The Ethernet source address of a packet, in front of the protocol's two bytes.
#[inline(always)]
fn source_mac<A, P: Packet>(packet: &P, parsed: &Parsed<A>) -> Option<[u8; 6]> {
    packet.read::<6>(parsed.l3.checked_sub(8)?)
}
