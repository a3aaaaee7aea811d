//! The largest segment that a TCP connection announces (RFC 9293 section 3.7.1), lowered where the
//! path is narrower than the ends know.

use crate::{
    family::{Family, ipv4},
    headers::parsed::{Parsed, Transport},
    tables::Tables,
    wire::{
        checksum::Diff,
        offload::Offload,
        packet::{ChecksumKind, Packet},
        protocol::TCP_CHECKSUM,
        tcp,
    },
};

/// Length of a TCP header without options in bytes.
const HEADER_LEN: usize = 20;

/// The longest list of options in bytes, which also limits their number.
const OPTIONS_LEN: u32 = 40;

const END: u8 = 0;

const NO_OPERATION: u8 = 1;

const MSS: u8 = 2;

const MSS_LEN: u8 = 4;

/// The largest segment size that a packet through the uplink `interface` may announce. It is 0 if
/// there is no limit, or if the packet opens no connection. The interface has the size behind an
/// IPv4 header; behind a longer one there is less room.
#[inline(always)]
pub fn limit<A: Family, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, interface: u32) -> u16 {
    match parsed.transport {
        Transport::Tcp { flags } if flags & tcp::SYN != 0 => {
            let longer = (A::HEADER_LEN - ipv4::HEADER_LEN) as u16;
            tables
                .interface(interface)
                .map_or(0, |uplink| uplink.mss.saturating_sub(longer))
        }
        _ => 0,
    }
}

/// Lowers the segment size in a packet that opens a connection, if it announces more than `limit`.
/// `None` if the packet cannot be written to.
#[inline(never)]
pub(crate) fn lower<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    limit: u16,
) -> Option<()> {
    let (start, end) = (parsed.l4 + HEADER_LEN, parsed.l4 + parsed.transport_len);
    packet.make_readable(end);
    let mut at = start;
    let mut is_found = false;
    tables.repeat(OPTIONS_LEN, |_| {
        if at + 2 > end {
            return false;
        }
        let Some([kind, len]) = packet.read::<2>(at) else {
            return false;
        };
        match kind {
            END => return false,
            NO_OPERATION => at += 1,
            MSS if len == MSS_LEN => {
                is_found = at + usize::from(MSS_LEN) <= end;
                return false;
            }
            _ if len < 2 => return false,
            _ => at += usize::from(len),
        }
        true
    });
    if !is_found {
        return Some(());
    }
    let at = at + 2;
    match packet.read::<2>(at) {
        Some(old) if u16::from_be_bytes(old) > limit => {
            write(packet, parsed, at, old, limit.to_be_bytes())
        }
        _ => Some(()),
    }
}

#[inline(always)]
fn write<A: Family, P: Packet>(
    packet: &mut P,
    parsed: &Parsed<A>,
    at: usize,
    old: [u8; 2],
    new: [u8; 2],
) -> Option<()> {
    packet.write(at, new)?;
    let is_odd = (at - parsed.l4) & 1 != 0;
    let word = |bytes| {
        let word = u16::from_ne_bytes(bytes);
        // At an odd offset its halves belong to two words of the sum.
        u32::from(if is_odd { word.swap_bytes() } else { word })
    };
    let change = Diff::NONE.replace(word(old), word(new));
    let field = parsed.l4 + TCP_CHECKSUM;
    packet.update_checksum(
        field,
        ChecksumKind::Tcp,
        Offload::UNKNOWN,
        Diff::NONE,
        change,
    )
}
