//! What changes behind the network header: a checksum, and the type of an ICMP query.

use super::{
    icmp,
    plan::{Checksum, Correction, Plan, Word},
};
use crate::{
    drop_reason::DropReason,
    wire::{
        checksum::{Diff, sum},
        packet::{ChecksumKind, Packet},
        protocol::{
            DCCP, ICMP, ICMP_CHECKSUM, ICMPV6, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, UDP_LITE,
        },
    },
};

/// What a transport's checksum covers of the network header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Covered {
    /// The addresses.
    pub(super) addresses: Diff,
    /// The whole pseudo-header, which ICMP has for IPv6 alone.
    pub(super) icmp: Diff,
}

/// What changes at a transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Changes {
    /// The first word, if it changes.
    pub(super) first: Option<[u8; 2]>,
    /// The checksum, if the protocol is known to have one.
    pub(super) checksum: Option<Correction>,
}

/// What changes at the transport header at `l4`.
///
/// # Errors
///
/// [`DropReason::Untranslatable`] if it is one of ICMP, but no echo.
#[inline(always)]
pub(super) fn changes<P: Packet>(
    packet: &P,
    l4: usize,
    protocol: u8,
    covered: Covered,
) -> Result<Changes, DropReason> {
    let (at, kind) = match protocol {
        ICMP | ICMPV6 => return echo(packet, l4, protocol, covered),
        TCP => (TCP_CHECKSUM, ChecksumKind::Tcp),
        UDP => (UDP_CHECKSUM, ChecksumKind::Udp),
        UDP_LITE | DCCP => (UDP_CHECKSUM, ChecksumKind::Tcp),
        _ => {
            return Ok(Changes {
                first: None,
                checksum: None,
            });
        }
    };
    Ok(Changes {
        first: None,
        checksum: Some(Correction {
            at,
            kind,
            pseudo: covered.addresses,
            payload: Diff::NONE,
        }),
    })
}

#[inline(always)]
fn echo<P: Packet>(
    packet: &P,
    l4: usize,
    protocol: u8,
    covered: Covered,
) -> Result<Changes, DropReason> {
    let old = packet.read::<2>(l4).ok_or(DropReason::Malformed)?;
    let kind = icmp::echo(protocol, old[0]).ok_or(DropReason::Untranslatable)?;
    let new = [kind, old[1]];
    let first = Diff::NONE.replace(sum(&old), sum(&new));
    Ok(Changes {
        first: Some(new),
        checksum: Some(Correction {
            at: ICMP_CHECKSUM,
            kind: ChecksumKind::Icmp,
            pseudo: Diff::NONE,
            payload: first.and(covered.icmp),
        }),
    })
}

impl Changes {
    /// Plans them for the transport header behind the start.
    #[inline(always)]
    pub(super) fn plan(&self, plan: &mut Plan) {
        plan.words[0] = self.first.map_or(Word::NONE, |value| Word::new(0, value));
        if let Some(correction) = self.checksum {
            plan.checksum = Checksum::Corrected(correction);
        }
    }

    /// The words of a quoted transport header at `l4`, of a quotation that ends at `end`.
    #[inline(always)]
    pub(super) fn words<P: Packet>(&self, packet: &P, l4: usize, end: usize) -> [Word; 2] {
        let is_quoted = |at: usize| l4 + at + 2 <= end;
        let first = self.first.filter(|_| is_quoted(0));
        let checksum = self.checksum.filter(|field| is_quoted(field.at));
        let corrected = checksum.and_then(
            |Correction {
                 at,
                 kind,
                 pseudo,
                 payload,
             }| {
                let value = packet.read::<2>(l4 + at)?;
                let value = match kind {
                    ChecksumKind::Udp => pseudo.apply_udp(value),
                    ChecksumKind::Tcp | ChecksumKind::Icmp => pseudo.and(payload).apply(value),
                };
                Some(Word::new(at, value))
            },
        );
        [
            first.map_or(Word::NONE, |value| Word::new(0, value)),
            corrected.unwrap_or(Word::NONE),
        ]
    }
}
