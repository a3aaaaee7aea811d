//! From IPv6 to IPv4 (RFC 7915 section 5).

use super::{
    counterparts::Counterparts,
    fields::{addresses_sum, pseudo_sum},
    icmp::{self, Error, ICMP_LEN},
    job::{Job, Read},
    plan::{Checksum, Computation, Plan, Version, sum_of},
    transport::{self, Covered},
};
use crate::{
    drop_reason::DropReason,
    family::Family,
    verifier::read_here,
    wire::{
        address::{Addr4, Addr6, Address as _},
        checksum::{Diff, fold},
        packet::Packet,
        protocol::ICMP_CHECKSUM,
    },
};

/// Types of errors whose fifth byte says how much they quote, in units of 8 bytes (RFC 4884).
const UNREACHABLE: u8 = 1;
const TIME_EXCEEDED: u8 = 3;
const QUOTED_UNIT: usize = 8;

/// Where an error and the packet that it quotes stand, in bytes from the network header.
const ERROR: usize = Addr4::HEADER_LEN;
const QUOTED: usize = ERROR + ICMP_LEN;
const START_LEN: usize = QUOTED + Addr4::HEADER_LEN;

/// Plans how a guest's packet at `l3` becomes one of IPv4.
///
/// # Errors
///
/// Why it is dropped: [`DropReason::Untranslatable`] if IPv4 has nothing like it, or it is for an
/// address that no guest may reach this way.
#[inline(always)]
pub fn to_ipv4<P: Packet, C: Counterparts>(
    packet: &P,
    l3: usize,
    counterparts: &C,
    job: &mut Job,
) -> Result<(), DropReason> {
    let Job { plan, ipv6, .. } = job;
    plan.begin(Version::V4);
    ipv6.read_own(packet, l3)?;
    let source = ipv6.header.source;
    let is_forged = source.is_link_local() || counterparts.prefix().ipv4_in(source).is_some();
    if !source.is_valid_source() || is_forged {
        return Err(DropReason::MartianSource);
    }
    match ipv6.is_error(packet)? {
        true => error(packet, l3, counterparts, job),
        false => whole(packet, counterparts, plan, ipv6),
    }
}

/// The IPv4 address that a guest sends to.
#[inline(always)]
fn reachable<C: Counterparts>(counterparts: &C, destination: Addr6) -> Result<Addr4, DropReason> {
    let prefix = counterparts.prefix();
    match prefix.ipv4_in(destination) {
        Some(address) if prefix.reaches(address) => Ok(address),
        _ => Err(DropReason::Untranslatable),
    }
}

/// All but errors.
#[inline(never)]
fn whole<P: Packet, C: Counterparts>(
    packet: &P,
    counterparts: &C,
    plan: &mut Plan,
    from: &Read<Addr6>,
) -> Result<(), DropReason> {
    let packet = read_here(packet);
    let destination = reachable(counterparts, from.header.destination)?;
    let source = counterparts.ipv4_of(from.header.source);
    let to = [source.ok_or(DropReason::TableFull)?, destination];
    (plan.kept_len, plan.replaced_len) = (from.header.total_len, from.header.header_len);
    plan.start_len = Addr4::HEADER_LEN;
    if !from.fields.is_later_fragment() {
        let covered = covered(from, to);
        transport::changes(packet, from.l4, from.fields.protocol, covered)?.plan(plan);
    }
    from.fields.write_ipv4(plan, 0, to, counterparts.random())
}

#[inline(never)]
fn error<P: Packet, C: Counterparts>(
    packet: &P,
    l3: usize,
    counterparts: &C,
    job: &mut Job,
) -> Result<(), DropReason> {
    let packet = read_here(packet);
    let Job { plan, ipv6, .. } = job;
    let icmp = ipv6.l4;
    let mut end = l3 + ipv6.header.total_len;
    let message = packet.read::<ICMP_LEN>(icmp);
    let [kind, code, _, _, rest @ ..] = message.ok_or(DropReason::Malformed)?;
    let addresses = [ipv6.header.source, ipv6.header.destination];
    let pseudo = pseudo_sum(addresses, ipv6.fields.payload_len);
    let sum = sum_of(packet, icmp, end).ok_or(DropReason::Malformed)?;
    if fold(sum + u32::from(fold(pseudo))) != u16::MAX {
        return Err(DropReason::BadChecksum);
    }
    let destination = reachable(counterparts, ipv6.header.destination)?;
    let source = counterparts.known_ipv4_of(ipv6.header.source);
    let outer = [
        source.unwrap_or_else(|| counterparts.ipv4_of_strangers()),
        destination,
    ];
    let error = icmp::error_to_ipv4(Error { kind, code, rest });
    let error = error.ok_or(DropReason::Untranslatable)?;
    plan.put(ERROR, [error.kind, error.code, 0, 0]);
    plan.put(ERROR + 4, error.rest);
    plan.checksum = Checksum::Computed(Computation {
        message: ERROR,
        field: ICMP_CHECKSUM,
        pseudo: 0,
    });
    if let (UNREACHABLE | TIME_EXCEEDED, len @ 1..) = (kind, usize::from(rest[0]) * QUOTED_UNIT) {
        end = end.min(icmp + ICMP_LEN + len);
    }
    let mut fields = ipv6.fields;
    // The quoted packet takes the place of the error's own header.
    ipv6.read(packet, icmp + ICMP_LEN)?;
    if ipv6.l4 > end {
        return Err(DropReason::Malformed);
    }
    fields.payload_len = START_LEN - ERROR + (end - ipv6.l4);
    fields.write_ipv4(plan, 0, outer, counterparts.random())?;
    plan.start_len = START_LEN;
    (plan.kept_len, plan.replaced_len) = (end - l3, ipv6.l4 - l3);
    quote(packet, end, counterparts, plan, ipv6)
}

/// Translates the packet that an error quotes up to `end`.
#[inline(never)]
fn quote<P: Packet, C: Counterparts>(
    packet: &P,
    end: usize,
    counterparts: &C,
    plan: &mut Plan,
    quoted: &Read<Addr6>,
) -> Result<(), DropReason> {
    let packet = read_here(packet);
    let to = [
        counterpart(counterparts, quoted.header.source)?,
        counterpart(counterparts, quoted.header.destination)?,
    ];
    if !quoted.fields.is_later_fragment() {
        let covered = covered(quoted, to);
        let changes = transport::changes(packet, quoted.l4, quoted.fields.protocol, covered)?;
        plan.words = changes.words(packet, quoted.l4, end);
    }
    quoted.fields.write_ipv4(plan, QUOTED, to, 0)
}

/// What a transport's checksum covers of the header, before and after.
#[inline(always)]
fn covered(from: &Read<Addr6>, to: [Addr4; 2]) -> Covered {
    let addresses = [from.header.source, from.header.destination];
    Covered {
        addresses: Diff::NONE.replace(addresses_sum(addresses), addresses_sum(to)),
        icmp: Diff::NONE.replace(pseudo_sum(addresses, from.fields.payload_len), 0),
    }
}

/// The address that stands for one of a quoted packet.
#[inline(always)]
fn counterpart<C: Counterparts>(counterparts: &C, address: Addr6) -> Result<Addr4, DropReason> {
    let ipv4 = counterparts.prefix().ipv4_in(address);
    ipv4.or_else(|| counterparts.known_ipv4_of(address))
        .ok_or(DropReason::Untranslatable)
}
