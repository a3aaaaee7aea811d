//! The packet that an ICMP error quotes.

use super::{fields::Fields, icmp::ICMP_LEN};
use crate::{
    drop_reason::DropReason,
    family::{Family, Header},
    wire::packet::Packet,
};

/// The packet that an ICMP error quotes.
pub(super) struct Quotation<A> {
    pub(super) header: Header<A>,
    pub(super) fields: Fields,
    /// Where its transport header is, or would be.
    pub(super) l4: usize,
    /// Where the quotation ends.
    pub(super) end: usize,
}

/// Reads the packet that is quoted behind an error's header at `icmp`; the error ends at `end`.
///
/// # Errors
///
/// [`DropReason::Malformed`] if the quotation has no whole network header.
#[inline(always)]
pub(super) fn read<A: Family, P: Packet>(
    packet: &P,
    icmp: usize,
    end: usize,
) -> Result<Quotation<A>, DropReason> {
    let at = icmp + ICMP_LEN;
    let header = A::parse_header(packet, at).ok_or(DropReason::Malformed)?;
    let fields = Fields::of(packet, at, &header)?;
    let l4 = at + header.header_len;
    if l4 > end {
        return Err(DropReason::Malformed);
    }
    Ok(Quotation {
        header,
        fields,
        l4,
        end,
    })
}
