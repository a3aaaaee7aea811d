//! From IPv4 to IPv6 (RFC 7915 section 4).

use super::{
    counterparts::Counterparts,
    fields::{addresses_sum, pseudo_sum},
    icmp::{self, Error, ICMP_LEN, MIN_MTU_6},
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
        protocol::{ICMP_CHECKSUM, UDP, UDP_CHECKSUM},
    },
};

/// Errors say in their sixth byte how much they quote, in units of 4 bytes (RFC 4884).
const QUOTED_UNIT: usize = 4;

/// The longest error in bytes (RFC 4443 section 2.4 (c)).
const MAX_ERROR: usize = MIN_MTU_6 as usize;

/// Where an error and the packet that it quotes stand, in bytes from the network header.
const ERROR: usize = Addr6::HEADER_LEN;
const QUOTED: usize = ERROR + ICMP_LEN;

/// Plans how an IPv4 packet at `l3` becomes one for a guest.
///
/// # Errors
///
/// Why it is dropped: [`DropReason::Unsolicited`] if no guest has the address,
/// [`DropReason::Untranslatable`] if IPv6 has nothing like it.
#[inline(always)]
pub fn to_ipv6<P: Packet, C: Counterparts>(
    packet: &P,
    l3: usize,
    counterparts: &C,
    job: &mut Job,
) -> Result<(), DropReason> {
    let Job { plan, ipv4, .. } = job;
    plan.begin(Version::V6);
    ipv4.read_own(packet, l3)?;
    match ipv4.is_error(packet)? {
        true => error(packet, l3, counterparts, job),
        false => whole(packet, counterparts, plan, ipv4),
    }
}

/// The addresses of a packet to a guest. Routers may have addresses of local networks.
#[inline(always)]
fn ends<C: Counterparts>(
    counterparts: &C,
    from: &Read<Addr4>,
    is_error: bool,
) -> Result<[Addr6; 2], DropReason> {
    let guest = counterparts.ipv6_of(from.header.destination);
    let guest = guest.ok_or(DropReason::Unsolicited)?;
    let (prefix, source) = (counterparts.prefix(), from.header.source);
    let is_local = !is_error && !prefix.reaches(source);
    if is_local || !source.is_valid_source() {
        return Err(DropReason::Untranslatable);
    }
    Ok([prefix.address_of(source), guest])
}

/// All but errors.
#[inline(never)]
fn whole<P: Packet, C: Counterparts>(
    packet: &P,
    counterparts: &C,
    plan: &mut Plan,
    from: &Read<Addr4>,
) -> Result<(), DropReason> {
    let packet = read_here(packet);
    let to = ends(counterparts, from, false)?;
    (plan.kept_len, plan.replaced_len) = (from.header.total_len, from.header.header_len);
    plan.start_len = from.fields.write_ipv6(plan, 0, to)?;
    if from.fields.is_later_fragment() {
        return Ok(());
    }
    if from.fields.protocol == UDP && is_unsummed(packet, from.l4)? {
        return sum_up(from, to, plan);
    }
    let covered = covered(from, to);
    transport::changes(packet, from.l4, from.fields.protocol, covered)?.plan(plan);
    Ok(())
}

/// A datagram without a checksum gets one, as IPv6 wants it (RFC 7915 section 4.5). A fragment
/// cannot.
#[inline(always)]
fn sum_up(from: &Read<Addr4>, to: [Addr6; 2], plan: &mut Plan) -> Result<(), DropReason> {
    if from.fields.is_fragment() {
        return Err(DropReason::Untranslatable);
    }
    let word = |number: usize| u32::from((number as u16).to_be());
    let rest = word(from.fields.payload_len) + word(UDP.into());
    plan.checksum = Checksum::Computed(Computation {
        message: Addr6::HEADER_LEN,
        field: UDP_CHECKSUM,
        pseudo: addresses_sum(to) + rest,
    });
    Ok(())
}

#[inline(never)]
fn error<P: Packet, C: Counterparts>(
    packet: &P,
    l3: usize,
    counterparts: &C,
    job: &mut Job,
) -> Result<(), DropReason> {
    let packet = read_here(packet);
    let Job { plan, ipv4, .. } = job;
    let icmp = ipv4.l4;
    let mut end = l3 + ipv4.header.total_len;
    let message = packet.read::<ICMP_LEN>(icmp);
    let [kind, code, _, _, rest @ ..] = message.ok_or(DropReason::Malformed)?;
    if fold(sum_of(packet, icmp, end).ok_or(DropReason::Malformed)?) != u16::MAX {
        return Err(DropReason::BadChecksum);
    }
    let outer = ends(counterparts, ipv4, true)?;
    if let len @ 1.. = usize::from(rest[1]) * QUOTED_UNIT {
        end = end.min(icmp + ICMP_LEN + len);
    }
    let mut fields = ipv4.fields;
    // The quoted packet takes the place of the error's own header.
    ipv4.read(packet, icmp + ICMP_LEN)?;
    if ipv4.l4 > end {
        return Err(DropReason::Malformed);
    }
    let error = Error { kind, code, rest };
    let error = icmp::error_to_ipv6(error, ipv4.header.total_len as u32);
    let error = error.ok_or(DropReason::Untranslatable)?;
    plan.put(ERROR, [error.kind, error.code, 0, 0]);
    plan.put(ERROR + 4, error.rest);
    plan.start_len = QUOTED + ipv4.fields.headers_len_ipv6();
    end = end.min(ipv4.l4 + MAX_ERROR - plan.start_len);
    fields.payload_len = plan.start_len - ERROR + (end - ipv4.l4);
    fields.write_ipv6(plan, 0, outer)?;
    plan.checksum = Checksum::Computed(Computation {
        message: ERROR,
        field: ICMP_CHECKSUM,
        pseudo: pseudo_sum(outer, fields.payload_len),
    });
    (plan.kept_len, plan.replaced_len) = (end - l3, ipv4.l4 - l3);
    quote(packet, end, counterparts, plan, ipv4)
}

/// Translates the packet that an error quotes up to `end`.
#[inline(never)]
fn quote<P: Packet, C: Counterparts>(
    packet: &P,
    end: usize,
    counterparts: &C,
    plan: &mut Plan,
    quoted: &Read<Addr4>,
) -> Result<(), DropReason> {
    let packet = read_here(packet);
    let to = [
        counterpart(counterparts, quoted.header.source),
        counterpart(counterparts, quoted.header.destination),
    ];
    if !quoted.fields.is_later_fragment() {
        let covered = covered(quoted, to);
        let changes = transport::changes(packet, quoted.l4, quoted.fields.protocol, covered)?;
        plan.words = changes.words(packet, quoted.l4, end);
    }
    quoted.fields.write_ipv6(plan, QUOTED, to).map(|_len| ())
}

/// Whether a datagram has no checksum.
#[inline(always)]
fn is_unsummed<P: Packet>(packet: &P, l4: usize) -> Result<bool, DropReason> {
    let field = packet.read::<2>(l4 + UDP_CHECKSUM);
    Ok(field.ok_or(DropReason::Malformed)? == [0, 0])
}

/// What a transport's checksum covers of the header, before and after.
#[inline(always)]
fn covered(from: &Read<Addr4>, to: [Addr6; 2]) -> Covered {
    let addresses = [from.header.source, from.header.destination];
    Covered {
        addresses: Diff::NONE.replace(addresses_sum(addresses), addresses_sum(to)),
        icmp: Diff::NONE.replace(0, pseudo_sum(to, from.fields.payload_len)),
    }
}

/// The address that stands for one of a quoted packet.
#[inline(always)]
fn counterpart<C: Counterparts>(counterparts: &C, address: Addr4) -> Addr6 {
    let guest = counterparts.ipv6_of(address);
    guest.unwrap_or_else(|| counterparts.prefix().address_of(address))
}
