//! From IPv4 to IPv6 (RFC 7915 section 4).

use super::{
    counterparts::Counterparts,
    fields::{Fields, addresses_sum, pseudo_sum},
    icmp::{self, Error, ICMP_LEN, MIN_MTU_6},
    plan::{Checksum, Computation, Plan, Version},
    quoted::{self, Quotation},
    transport::{self, Covered},
};
use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    wire::{
        address::{Addr4, Addr6},
        checksum::{Diff, fold},
        icmp::IcmpClass,
        packet::Packet,
        protocol::{ICMP, ICMP_CHECKSUM, UDP, UDP_CHECKSUM},
    },
};

/// Errors say in their sixth byte how much they quote, in units of 4 bytes (RFC 4884).
const QUOTED_UNIT: usize = 4;

/// The longest error in bytes (RFC 4443 section 2.4 (c)).
const MAX_ERROR: usize = MIN_MTU_6 as usize;

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
    plan: &mut Plan,
) -> Result<(), DropReason> {
    plan.begin(Version::V6);
    let header = Addr4::parse_header(packet, l3).ok_or(DropReason::Malformed)?;
    let mut fields = Fields::of(packet, l3, &header)?;
    if l3 + header.total_len > packet.len() {
        return Err(DropReason::Malformed);
    }
    let guest = counterparts.ipv6_of(header.destination);
    let guest = guest.ok_or(DropReason::Unsolicited)?;
    let prefix = counterparts.prefix();
    if !prefix.reaches(header.source) {
        return Err(DropReason::Untranslatable);
    }
    let to = [prefix.address_of(header.source), guest];
    // The kernel decrements it twice: before this device, and behind it.
    fields.ttl = fields.ttl.saturating_add(1);
    // The length of a whole message, which the checksum of ICMPv6 covers, is in no fragment.
    if header.protocol == ICMP && fields.fragment.is_some() {
        return Err(DropReason::Untranslatable);
    }
    let is_error = header.protocol == ICMP && is_error(packet, l3 + header.header_len);
    let message = Message { l3, header, fields };
    if is_error {
        message.error(packet, to, counterparts, plan)
    } else {
        message.whole(packet, to, plan)
    }
}

#[inline(always)]
fn is_error<P: Packet>(packet: &P, l4: usize) -> bool {
    packet
        .read::<2>(l4)
        .is_some_and(|[kind, _]| Addr4::classify(kind) == IcmpClass::Error)
}

/// A packet with its headers.
struct Message {
    l3: usize,
    header: Header<Addr4>,
    fields: Fields,
}

impl Message {
    /// All but errors.
    #[inline(always)]
    fn whole<P: Packet>(
        &self,
        packet: &P,
        to: [Addr6; 2],
        plan: &mut Plan,
    ) -> Result<(), DropReason> {
        let Self { l3, header, fields } = self;
        (plan.kept_len, plan.replaced_len) = (header.total_len, header.header_len);
        fields.write_ipv6(plan, to)?;
        if fields.is_later_fragment() {
            return Ok(());
        }
        let l4 = l3 + header.header_len;
        if fields.protocol == UDP && is_unsummed(packet, l4)? {
            return self.sum_up(to, plan);
        }
        let covered = covered(header, fields, to);
        transport::changes(packet, l4, fields.protocol, covered)?.plan(plan);
        Ok(())
    }

    /// A datagram without a checksum gets one, as IPv6 wants it (RFC 7915 section 4.5). A fragment
    /// cannot.
    #[inline(always)]
    fn sum_up(&self, to: [Addr6; 2], plan: &mut Plan) -> Result<(), DropReason> {
        if self.fields.fragment.is_some() {
            return Err(DropReason::Untranslatable);
        }
        let word = |number: usize| u32::from((number as u16).to_be());
        let rest = word(self.fields.payload_len) + word(UDP.into());
        plan.checksum = Checksum::Computed(Computation {
            message: plan.start_len,
            field: UDP_CHECKSUM,
            pseudo: addresses_sum(to) + rest,
        });
        Ok(())
    }

    #[inline(always)]
    fn error<P: Packet, C: Counterparts>(
        &self,
        packet: &P,
        outer: [Addr6; 2],
        counterparts: &C,
        plan: &mut Plan,
    ) -> Result<(), DropReason> {
        let Self { l3, header, .. } = self;
        let icmp = l3 + header.header_len;
        let message = packet.read::<ICMP_LEN>(icmp);
        let [kind, code, _, _, rest @ ..] = message.ok_or(DropReason::Malformed)?;
        self.verify(packet)?;
        let end = match usize::from(rest[1]) * QUOTED_UNIT {
            0 => self.end(),
            len => (icmp + ICMP_LEN + len).min(self.end()),
        };
        let mut quoted = quoted::read::<Addr4, _>(packet, icmp, end)?;
        let error = Error { kind, code, rest };
        let error = icmp::error_to_ipv6(error, quoted.header.total_len as u32);
        let error = error.ok_or(DropReason::Untranslatable)?;
        quoted.end = end.min(quoted.l4 + MAX_ERROR - quoted.start_len_ipv6());
        let to = [
            counterpart(counterparts, quoted.header.source),
            counterpart(counterparts, quoted.header.destination),
        ];
        if !quoted.fields.is_later_fragment() {
            let covered = covered(&quoted.header, &quoted.fields, to);
            let changes = transport::changes(packet, quoted.l4, quoted.fields.protocol, covered)?;
            plan.words = changes.words(packet, quoted.l4, quoted.end);
        }
        self.write_error(error, outer, &quoted, to, plan)
    }

    /// Writes the headers of an error, its own and those of the packet that it quotes.
    #[inline(always)]
    fn write_error(
        &self,
        error: Error,
        outer: [Addr6; 2],
        quoted: &Quotation<Addr4>,
        to: [Addr6; 2],
        plan: &mut Plan,
    ) -> Result<(), DropReason> {
        let mut fields = self.fields;
        fields.payload_len = quoted.start_len_ipv6() - Addr6::HEADER_LEN + (quoted.end - quoted.l4);
        fields.write_ipv6(plan, outer)?;
        plan.checksum = Checksum::Computed(Computation {
            message: plan.start_len,
            field: ICMP_CHECKSUM,
            pseudo: pseudo_sum(outer, fields.payload_len),
        });
        plan.push([error.kind, error.code, 0, 0]);
        plan.push(error.rest);
        quoted.fields.write_ipv6(plan, to)?;
        (plan.kept_len, plan.replaced_len) = (quoted.end - self.l3, quoted.l4 - self.l3);
        Ok(())
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.l3 + self.header.total_len
    }

    /// # Errors
    ///
    /// [`DropReason::BadChecksum`] of an error whose checksum is wrong (RFC 5508 REQ-3).
    #[inline(always)]
    fn verify<P: Packet>(&self, packet: &P) -> Result<(), DropReason> {
        match packet.sum(self.l3 + self.header.header_len, self.end()) {
            Some(sum) if fold(sum) == 0xffff => Ok(()),
            _ => Err(DropReason::BadChecksum),
        }
    }
}

impl Quotation<Addr4> {
    /// Length of an error's headers and of the quoted ones as IPv6 has them, in bytes.
    #[inline(always)]
    fn start_len_ipv6(&self) -> usize {
        Addr6::HEADER_LEN + ICMP_LEN + self.fields.headers_len_ipv6()
    }
}

/// Whether a datagram has no checksum.
#[inline(always)]
fn is_unsummed<P: Packet>(packet: &P, l4: usize) -> Result<bool, DropReason> {
    let field = packet.read::<2>(l4 + UDP_CHECKSUM);
    Ok(field.ok_or(DropReason::Malformed)? == [0, 0])
}

/// What a transport's checksum covers of the header, before and after.
#[inline(always)]
fn covered(header: &Header<Addr4>, fields: &Fields, to: [Addr6; 2]) -> Covered {
    let from = [header.source, header.destination];
    Covered {
        addresses: Diff::NONE.replace(addresses_sum(from), addresses_sum(to)),
        icmp: Diff::NONE.replace(0, pseudo_sum(to, fields.payload_len)),
    }
}

/// The address that stands for one of a quoted packet.
#[inline(always)]
fn counterpart<C: Counterparts>(counterparts: &C, address: Addr4) -> Addr6 {
    let guest = counterparts.ipv6_of(address);
    guest.unwrap_or_else(|| counterparts.prefix().address_of(address))
}
