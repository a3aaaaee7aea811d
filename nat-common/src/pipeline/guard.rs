//! Which addresses a guest may use, at its port of a bridge.
//!
//! A *name* is an Ethernet address, or an IPv4 address of the network's own prefix. The
//! configuration binds it to a port, or the first port that uses it does. The guard checks the
//! Ethernet source of every frame, the IPv4 source, both sender addresses of ARP, and the client of
//! DHCP.

use crate::{
    tables::{
        Tables,
        bindings::{BindingRecord, Bindings, FIXED, Name},
        inside::InsideFlags,
        interfaces::{Interface, InterfaceFlags},
    },
    wire::{address::Addr4, packet::Packet, protocol::UDP},
};

/// How many names a port may have. A router or another bridge may be behind a port, but one port
/// must not fill the table.
pub const MOST_NAMES: u32 = 1024;

/// How many names a port may have where natbpf serves DHCP: each may get a lease, and the other
/// ports need leases too.
pub const MOST_SERVED_NAMES: u32 = 32;

/// For how many seconds an IPv4 address that the configuration does not assign stays with a port
/// that does not use it.
pub const KEPT_S: u32 = 60;

const ETHERNET: usize = 14;

/// The group of bridges that build a spanning tree (IEEE 802.1D).
const BRIDGES: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];

/// The protocols of VLAN tags that the kernel takes off (`eth_type_vlan()`).
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];

const IPV4: [u8; 2] = [0x08, 0x00];

const ARP: [u8; 2] = [0x08, 0x06];

/// Ethernet and IPv4 addresses of six and four bytes (RFC 826).
const ARP_KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Length of an ARP packet for these.
const ARP_LEN: usize = 28;

/// Length of an IPv4 header without options.
const IPV4_LEN: usize = 20;

/// The port of DHCP servers, in wire order.
const DHCP_SERVER: [u8; 2] = [0, 67];

/// The port of DHCP clients.
const DHCP_GUEST: [u8; 2] = [0, 68];

/// Offset of the client's hardware address in a UDP packet (RFC 2131 section 2).
const DHCP_CLIENT: usize = 8 + 28;

/// Judges a frame at a port whose network has `anti_spoof`. `vlan` is the number in its tag, 0
/// without one. Returns [`PASSES`], [`PASSES_SLOWLY`] or [`FORGED`] in one register.
#[inline(never)]
pub fn check<P: Packet, T: Tables<Addr4> + Bindings>(
    packet: &mut P,
    tables: &T,
    index: u32,
    vlan: u32,
) -> u32 {
    let Some(port) = tables.interface(index) else {
        return PASSES_SLOWLY;
    };
    let is_guarded = port.flags.contains(InterfaceFlags::GUARDED);
    if is_guarded && judge(packet, tables, index, port, vlan).is_none() {
        return FORGED;
    }
    match port.flags.contains(InterfaceFlags::SLOW) {
        false => PASSES,
        true => PASSES_SLOWLY,
    }
}

/// The frame passes.
pub const PASSES: u32 = 0;

/// The frame passes, but not by the fast path.
pub const PASSES_SLOWLY: u32 = 1;

/// The frame has an address that is not the sender's ([`crate::drop_reason::DropReason::Spoofed`]).
pub const FORGED: u32 = 2;

#[inline(always)]
fn judge<P: Packet, T: Tables<Addr4> + Bindings>(
    packet: &mut P,
    tables: &T,
    index: u32,
    port: &Interface,
    vlan: u32,
) -> Option<()> {
    packet.make_readable(ETHERNET + ARP_LEN);
    let [a, b, c, d, e, f, kind @ ..] = packet.read::<8>(6)?;
    let mac = [a, b, c, d, e, f];
    // A guest must not act as a bridge: it would decide which ports carry frames.
    if mac == port.mac || mac[0] & 1 != 0 || packet.read::<6>(0)? == BRIDGES {
        return None;
    }
    bind(tables, &Name::of_mac(mac, port.number), index, port)?;
    // A frame with the tag of another VLAN belongs to another network.
    if vlan != 0 && vlan != u32::from(port.vlan) {
        return Some(());
    }
    match kind {
        // Receivers remove the tags one by one, and then see a packet that was not judged.
        kind if TAGS.contains(&kind) => None,
        ARP => {
            let arp = packet.read::<18>(ETHERNET)?;
            let [
                k0,
                k1,
                k2,
                k3,
                k4,
                k5,
                _,
                _,
                h0,
                h1,
                h2,
                h3,
                h4,
                h5,
                sender @ ..,
            ] = arp;
            let is_own = [k0, k1, k2, k3, k4, k5] == ARP_KINDS && [h0, h1, h2, h3, h4, h5] == mac;
            if !is_own {
                return None;
            }
            is_address_own(tables, Addr4(sender), mac, index, port)
        }
        IPV4 => {
            let header = packet.read::<IPV4_LEN>(ETHERNET)?;
            let source = Addr4([header[12], header[13], header[14], header[15]]);
            is_address_own(tables, source, mac, index, port)?;
            is_dhcp_own(packet, &header, mac, port)
        }
        _ => Some(()),
    }
}

/// Whether an IPv4 address belongs to the owner of this Ethernet address at this port.
#[inline(always)]
fn is_address_own<T: Tables<Addr4> + Bindings>(
    tables: &T,
    address: Addr4,
    mac: [u8; 6],
    index: u32,
    port: &Interface,
) -> Option<()> {
    // A guest without an address asks for one, or probes whether an address is in use.
    if address == Addr4([0; 4]) {
        return Some(());
    }
    let generation = tables.settings()?.generation as u16;
    let owner = tables.inside(generation, address)?;
    if owner.network != port.number || owner.gateway == address {
        return None;
    }
    if owner.flags.contains(InsideFlags::HAS_MAC) {
        return (owner.mac == mac).then_some(());
    }
    match owner.flags.contains(InsideFlags::ON_LINK) {
        false => Some(()),
        true => bind(tables, &Name::of_address(address, port.number), index, port),
    }
}

/// Whether a packet to a DHCP server names its sender as the client, and whether no packet goes to
/// clients that have natbpf's server. A first fragment that is too short to name the client is
/// refused.
#[inline(always)]
fn is_dhcp_own<P: Packet>(
    packet: &mut P,
    header: &[u8; IPV4_LEN],
    mac: [u8; 6],
    port: &Interface,
) -> Option<()> {
    let is_later_fragment = header[6] & 0x1f != 0 || header[7] != 0;
    if header[9] != UDP || is_later_fragment {
        return Some(());
    }
    let l4 = ETHERNET + usize::from(header[0] & 0x0f) * 4;
    packet.make_readable(l4 + DHCP_CLIENT + 6);
    // A packet that is cut off before the port is refused.
    match packet.read::<2>(l4 + 2)? {
        DHCP_SERVER => {}
        DHCP_GUEST if port.flags.contains(InterfaceFlags::SERVED) => return None,
        _ => return Some(()),
    }
    (packet.read::<6>(l4 + DHCP_CLIENT)? == mac).then_some(())
}

/// Whether a port may use a name; if so, it owns the name from now on.
#[inline(never)]
fn bind<T: Tables<Addr4> + Bindings>(
    tables: &T,
    name: &Name,
    port: u32,
    interface: &Interface,
) -> Option<()> {
    let most = match interface.flags.contains(InterfaceFlags::SERVED) {
        false => MOST_NAMES,
        true => MOST_SERVED_NAMES,
    };
    let now_s = tables.now_s();
    let Some(binding) = tables.binding(name) else {
        let names = tables.names(port)?;
        if names.fetch_add(1) < most {
            let record = BindingRecord {
                port,
                seen_s: now_s,
            };
            if tables.add_binding(name, &record).is_ok() {
                return Some(());
            }
        }
        names.fetch_add(u32::MAX);
        return None;
    };
    let (owner, seen_s) = (binding.port.load(), binding.seen_s.load());
    if owner == port {
        if seen_s != now_s && seen_s != FIXED {
            binding.seen_s.store(now_s);
        }
        return Some(());
    }
    let is_silent = name.is_address() && now_s.saturating_sub(seen_s) > KEPT_S;
    if seen_s == FIXED || (is_up(tables, owner) && !is_silent) {
        return None;
    }
    binding.seen_s.store(now_s);
    (binding.port.exchange_if(owner, port) == owner).then_some(())
}

/// Whether a port exists and has a carrier.
#[inline(always)]
fn is_up<T: Tables<Addr4>>(tables: &T, port: u32) -> bool {
    tables
        .interface(port)
        .is_some_and(|port| port.flags.contains(InterfaceFlags::CARRIES))
}
