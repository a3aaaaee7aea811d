//! From IPv6 to IPv4 (RFC 7915 section 5).

use super::{
    counterparts::Counterparts,
    fields::{Fields, addresses_sum, pseudo_sum},
    icmp::{self, Error, ICMP_LEN},
    plan::{Checksum, Computation, Plan, Version},
    quoted,
    transport::{self, Covered},
};
use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    wire::{
        address::{Addr4, Addr6, Address as _},
        checksum::{Diff, fold},
        icmp::IcmpClass,
        packet::Packet,
        protocol::{ICMP_CHECKSUM, ICMPV6},
    },
};

/// Types of errors whose fifth byte says how much they quote, in units of 8 bytes (RFC 4884).
const UNREACHABLE: u8 = 1;
const TIME_EXCEEDED: u8 = 3;
const QUOTED_UNIT: usize = 8;

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
    plan: &mut Plan,
) -> Result<(), DropReason> {
    plan.begin(Version::V4);
    let header = Addr6::parse_header(packet, l3).ok_or(DropReason::Malformed)?;
    let mut fields = Fields::of(packet, l3, &header)?;
    if l3 + header.total_len > packet.len() || Addr6::route_ahead(packet, l3).is_some() {
        return Err(DropReason::Malformed);
    }
    let destination = reachable(counterparts, header.destination)?;
    let is_forged = counterparts.prefix().ipv4_in(header.source).is_some();
    if !header.source.is_valid_source() || header.source.is_link_local() || is_forged {
        return Err(DropReason::MartianSource);
    }
    // The kernel decrements it twice: before this device, and behind it.
    fields.ttl = fields.ttl.saturating_add(1);
    let l4 = l3 + header.header_len;
    let is_error = header.protocol == ICMPV6 && is_error(packet, l4);
    // The checksum of ICMPv6 covers the length of the whole message, which no fragment says.
    if header.protocol == ICMPV6 && fields.fragment.is_some() {
        return Err(DropReason::Untranslatable);
    }
    let message = Message { l3, header, fields };
    if is_error {
        message.error(packet, destination, counterparts, plan)
    } else {
        message.whole(packet, destination, counterparts, plan)
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

#[inline(always)]
fn is_error<P: Packet>(packet: &P, l4: usize) -> bool {
    packet
        .read::<2>(l4)
        .is_some_and(|[kind, _]| Addr6::classify(kind) == IcmpClass::Error)
}

/// A packet with its headers.
struct Message {
    l3: usize,
    header: Header<Addr6>,
    fields: Fields,
}

impl Message {
    /// All but errors.
    #[inline(always)]
    fn whole<P: Packet, C: Counterparts>(
        &self,
        packet: &P,
        destination: Addr4,
        counterparts: &C,
        plan: &mut Plan,
    ) -> Result<(), DropReason> {
        let Self { l3, header, fields } = self;
        let source = counterparts.ipv4_of(header.source);
        let to = [source.ok_or(DropReason::TableFull)?, destination];
        (plan.kept_len, plan.replaced_len) = (header.total_len, header.header_len);
        if !fields.is_later_fragment() {
            let covered = covered(header, fields, to);
            let l4 = l3 + header.header_len;
            transport::changes(packet, l4, fields.protocol, covered)?.plan(plan);
        }
        fields.write_ipv4(plan, to, counterparts.random())
    }

    #[inline(always)]
    fn error<P: Packet, C: Counterparts>(
        &self,
        packet: &P,
        destination: Addr4,
        counterparts: &C,
        plan: &mut Plan,
    ) -> Result<(), DropReason> {
        let Self { l3, header, fields } = self;
        let icmp = l3 + header.header_len;
        let message = packet.read::<ICMP_LEN>(icmp);
        let [kind, code, _, _, rest @ ..] = message.ok_or(DropReason::Malformed)?;
        self.verify(packet)?;
        let error = icmp::error_to_ipv4(Error { kind, code, rest });
        let error = error.ok_or(DropReason::Untranslatable)?;
        let end = match (kind, usize::from(rest[0]) * QUOTED_UNIT) {
            (UNREACHABLE | TIME_EXCEEDED, len @ 1..) => (icmp + ICMP_LEN + len).min(self.end()),
            _ => self.end(),
        };
        let quoted = quoted::read::<Addr6, _>(packet, icmp, end)?;
        let to = [
            counterpart(counterparts, quoted.header.source)?,
            counterpart(counterparts, quoted.header.destination)?,
        ];
        if !quoted.fields.is_later_fragment() {
            let covered = covered(&quoted.header, &quoted.fields, to);
            let changes = transport::changes(packet, quoted.l4, quoted.fields.protocol, covered)?;
            plan.words = changes.words(packet, quoted.l4, end);
        }
        let source = counterparts.known_ipv4_of(header.source);
        let source = source.unwrap_or_else(|| counterparts.ipv4_of_strangers());
        let mut fields = *fields;
        fields.payload_len = ICMP_LEN + Addr4::HEADER_LEN + (end - quoted.l4);
        fields.write_ipv4(plan, [source, destination], counterparts.random())?;
        plan.checksum = Checksum::Computed(Computation {
            message: plan.start_len,
            field: ICMP_CHECKSUM,
            pseudo: 0,
        });
        plan.push([error.kind, error.code, 0, 0]);
        plan.push(error.rest);
        quoted.fields.write_ipv4(plan, to, 0)?;
        (plan.kept_len, plan.replaced_len) = (end - l3, quoted.l4 - l3);
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
        let addresses = [self.header.source, self.header.destination];
        let pseudo = pseudo_sum(addresses, self.fields.payload_len);
        let icmp = self.l3 + self.header.header_len;
        match packet.sum(icmp, self.end()) {
            Some(sum) if fold(u32::from(fold(sum)) + u32::from(fold(pseudo))) == 0xffff => Ok(()),
            _ => Err(DropReason::BadChecksum),
        }
    }
}

/// What a transport's checksum covers of the header, before and after.
#[inline(always)]
fn covered(header: &Header<Addr6>, fields: &Fields, to: [Addr4; 2]) -> Covered {
    let from = [header.source, header.destination];
    Covered {
        addresses: Diff::NONE.replace(addresses_sum(from), addresses_sum(to)),
        icmp: Diff::NONE.replace(pseudo_sum(from, fields.payload_len), 0),
    }
}

/// The address that stands for one of a quoted packet.
#[inline(always)]
fn counterpart<C: Counterparts>(counterparts: &C, address: Addr6) -> Result<Addr4, DropReason> {
    let ipv4 = counterparts.prefix().ipv4_in(address);
    ipv4.or_else(|| counterparts.known_ipv4_of(address))
        .ok_or(DropReason::Untranslatable)
}
