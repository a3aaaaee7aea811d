//! Which IPv6 packets a guest may send, at its port of a bridge.
//!
//! IPv4's guard ([`super::guard`]) sees every frame and checks its Ethernet source. This one checks
//! the IPv6 source, and that no guest acts as the router or DHCPv6 server of the others. Guests
//! choose addresses in their network's prefix themselves (RFC 8981), so an address belongs to one
//! guest only if the configuration says so.

use crate::{
    family::{Family as _, Header},
    pipeline::guard::{FORGED, PASSES, PASSES_SLOWLY},
    tables::{
        Tables,
        inside::InsideFlags,
        interfaces::{Interface, InterfaceFlags},
    },
    wire::{
        address::{Addr6, Address as _},
        packet::Packet,
        protocol::{ICMPV6, TCP, UDP},
    },
};

/// A guest acts as a router or DHCPv6 server, or hides what it sends from the guard
/// ([`crate::drop_reason::DropReason::RogueRa`]).
pub const ROGUE: u32 = 3;

const ETHERNET: usize = 14;

/// Where a frame has its sender's Ethernet address.
const SENDER: usize = 6;

/// Where an IPv6 header says what follows it.
const NEXT_HEADER: usize = 6;

/// Bytes of the header, and of as much of what follows it as is read.
const HEADERS: usize = ETHERNET + Addr6::HEADER_LEN + 8;

/// All headers of a packet with extension headers are in so many bytes: all links carry them.
const ALL_HEADERS: usize = ETHERNET + 1280;

/// Types of what only routers send (RFC 4861 sections 4.2 and 4.5).
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// The ports of DHCPv6's clients and servers, in wire order (RFC 8415 section 7.2).
const DHCP_CLIENT: [u8; 2] = 546_u16.to_be_bytes();
const DHCP_SERVER: [u8; 2] = 547_u16.to_be_bytes();

/// Judges an IPv6 frame at a port whose network has `anti_spoof`. `vlan` is the number in its tag,
/// 0 without one. Returns [`PASSES`], [`PASSES_SLOWLY`], [`FORGED`] or [`ROGUE`] in one register.
#[inline(never)]
pub fn check<P: Packet, T: Tables<Addr6>>(
    packet: &mut P,
    tables: &T,
    index: u32,
    vlan: u32,
) -> u32 {
    let Some(port) = tables.interface(index) else {
        return PASSES_SLOWLY;
    };
    // A frame with the tag of another VLAN belongs to another network.
    let is_judged =
        port.flags.contains(InterfaceFlags::GUARDED) && (vlan == 0 || vlan == u32::from(port.vlan));
    if is_judged {
        let verdict = judge(packet, tables, port);
        if verdict != PASSES {
            return verdict;
        }
    }
    match port.flags.contains(InterfaceFlags::SLOW) {
        false => PASSES,
        true => PASSES_SLOWLY,
    }
}

#[inline(always)]
fn judge<P: Packet, T: Tables<Addr6>>(packet: &mut P, tables: &T, port: &Interface) -> u32 {
    packet.make_readable(HEADERS);
    let next = packet
        .read::<2>(ETHERNET + NEXT_HEADER)
        .map(|[next, _]| next);
    if next.is_some_and(Addr6::is_extension) {
        packet.make_readable(ALL_HEADERS);
    }
    let Some(header) = Addr6::read_header(packet, ETHERNET, &mut { Header::EMPTY }) else {
        return ROGUE;
    };
    if !is_source_own(packet, tables, &header, port) {
        return FORGED;
    }
    match is_of_router(packet, &header) {
        true => ROGUE,
        false => PASSES,
    }
}

/// Whether a packet's source belongs to its sender.
#[inline(always)]
fn is_source_own<P: Packet, T: Tables<Addr6>>(
    packet: &P,
    tables: &T,
    header: &Header<Addr6>,
    port: &Interface,
) -> bool {
    let source = header.source;
    // A guest that is about to take an address asks the link whether another has it.
    if source == Addr6::UNSPECIFIED {
        return header.destination.is_group();
    }
    if source.is_link_local() {
        return true;
    }
    let Some(settings) = tables.settings() else {
        return false;
    };
    let Some(owner) = tables.inside(settings.generation as u16, source) else {
        return false;
    };
    if owner.network != port.number || { owner.gateway } == source {
        return false;
    }
    !owner.flags.contains(InsideFlags::HAS_MAC)
        || packet.read::<6>(SENDER).is_some_and(|mac| mac == owner.mac)
}

/// Whether a packet is one that only a router or server sends, or one of which that cannot be seen:
/// a first fragment must have all headers (RFC 7113 section 3). Later fragments pass: without the
/// first one they are nothing.
#[inline(always)]
fn is_of_router<P: Packet>(packet: &P, header: &Header<Addr6>) -> bool {
    if header.fragment_offset != 0 || header.protocol == TCP {
        return false;
    }
    let l4 = ETHERNET + header.header_len;
    // Its transport header was not reached.
    if Addr6::is_extension(header.protocol) {
        return true;
    }
    let has_ports = header.total_len == 0 || header.header_len + 4 <= header.total_len;
    match header.protocol {
        ICMPV6 => match packet.read::<4>(l4) {
            Some([kind, ..]) => !has_ports || matches!(kind, ROUTER_ADVERTISEMENT | REDIRECT),
            None => true,
        },
        UDP => match packet.read::<4>(l4) {
            Some([a, b, c, d]) => !has_ports || [a, b] == DHCP_SERVER || [c, d] == DHCP_CLIENT,
            None => true,
        },
        _ => false,
    }
}
