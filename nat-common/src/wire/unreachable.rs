//! The ICMP error that tells a guest that its packet was refused: host unreachable (RFC 792; RFC
//! 1812 section 5.2.7.1).

use crate::wire::{
    address::Addr4,
    checksum::{Diff, fold, sum},
    protocol::{ICMP, TCP},
};

/// Bytes that are quoted behind the refused packet's header (RFC 792).
pub(crate) const QUOTED_PAYLOAD: usize = 8;

/// Bytes of the refused packet that are quoted.
pub const QUOTE_LEN: usize = HEADER_LEN + QUOTED_PAYLOAD;

/// The longest refusal in bytes, from its IP header on.
pub const MAX_LEN: usize = HEADER_LEN + OPTIONS_LEN + ICMP_LEN + QUOTE_LEN;

const HEADER_LEN: usize = 20;

const ICMP_LEN: usize = 8;

/// Length of the options that move a refusal's message: four times "end", with sum 0.
const OPTIONS_LEN: usize = 4;

const TTL: u8 = 64;

/// Internetwork control (RFC 1812 section 4.3.2.5), as of the kernel's own errors.
const TOS: u8 = 0xc0;

const DESTINATION_UNREACHABLE: u8 = 3;

const HOST_UNREACHABLE: u8 = 1;

/// The bytes where a device may write a checksum.
const FILLED_IN: [u8; 2] = [0xff; 2];

/// To whom a refusal goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipient<A> {
    /// The host's address in the guest's network.
    pub gateway: A,
    /// The guest.
    pub guest: A,
    /// Index of its network's interface.
    pub interface: u32,
}

/// Writes a refusal and gives its length in bytes.
///
/// The skb that becomes the refusal may still be marked for a device to write a TCP or UDP
/// checksum, which no program can see or undo. At that place the refusal has 0xffff: over a message
/// whose own checksum is right, the device computes the same value. For UDP it is the unused word
/// of the ICMP header; for TCP, with four bytes of options before the message, the identification
/// of the quoted packet.
#[inline(always)]
pub fn write(
    bytes: &mut [u8; MAX_LEN],
    protocol: u8,
    to: &Recipient<Addr4>,
    quote: &[u8; QUOTE_LEN],
) -> usize {
    let options_len = if protocol == TCP { OPTIONS_LEN } else { 0 };
    let l4 = HEADER_LEN + options_len;
    let len = l4 + ICMP_LEN + QUOTE_LEN;
    *bytes = [0; MAX_LEN];
    bytes[0] = 0x40 | (l4 / 4) as u8;
    bytes[1] = TOS;
    bytes[3] = len as u8;
    bytes[8] = TTL;
    bytes[9] = ICMP;
    bytes[12..16].copy_from_slice(&to.gateway.0);
    bytes[16..20].copy_from_slice(&to.guest.0);
    if protocol == TCP {
        write_message::<{ HEADER_LEN + OPTIONS_LEN }>(bytes, quote);
    } else {
        write_message::<HEADER_LEN>(bytes, quote);
    }
    len
}

/// Writes the ICMP message at `L4`, and both checksums.
#[inline(always)]
fn write_message<const L4: usize>(bytes: &mut [u8; MAX_LEN], quote: &[u8; QUOTE_LEN]) {
    let header_sum = !fold(sum(&bytes[..L4]));
    bytes[10..12].copy_from_slice(&header_sum.to_ne_bytes());
    bytes[L4] = DESTINATION_UNREACHABLE;
    bytes[L4 + 1] = HOST_UNREACHABLE;
    bytes[L4 + ICMP_LEN..L4 + ICMP_LEN + QUOTE_LEN].copy_from_slice(quote);
    if L4 == HEADER_LEN {
        bytes[L4 + 6..L4 + 8].copy_from_slice(&FILLED_IN);
    } else {
        let id = L4 + ICMP_LEN + 4;
        let word = |bytes| u32::from(u16::from_ne_bytes(bytes));
        let change = Diff::NONE.replace(word([quote[4], quote[5]]), word(FILLED_IN));
        bytes[id..id + 2].copy_from_slice(&FILLED_IN);
        bytes[id + 6..id + 8].copy_from_slice(&change.apply([quote[10], quote[11]]));
    }
    let message_sum = !fold(sum(&bytes[L4..L4 + ICMP_LEN + QUOTE_LEN]));
    bytes[L4 + 2..L4 + 4].copy_from_slice(&message_sum.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol::UDP;

    const TO: Recipient<Addr4> = Recipient {
        gateway: Addr4([172, 22, 161, 254]),
        guest: Addr4([172, 22, 161, 170]),
        interface: 1,
    };

    /// A device that writes a TCP or UDP checksum into a message: the sum from the old transport
    /// header on, 0 sent as 0xffff.
    fn fill_in(bytes: &mut [u8], checksum: usize) {
        let filled = !fold(sum(&bytes[HEADER_LEN..]));
        let filled = if filled == 0 { 0xffff } else { filled };
        let at = HEADER_LEN + checksum;
        bytes[at..at + 2].copy_from_slice(&filled.to_ne_bytes());
    }

    #[test]
    fn x1_a_refusal_is_right_whether_or_not_a_device_fills_a_checksum_in() {
        let mut quote = [0x5a; QUOTE_LEN];
        quote[..2].copy_from_slice(&[0x45, 0]);
        for (protocol, checksum) in [(TCP, 16), (UDP, 6), (ICMP, 6)] {
            let mut bytes = [0; MAX_LEN];
            let len = write(&mut bytes, protocol, &TO, &quote);
            let l4 = usize::from(bytes[0] & 0xf) * 4;
            assert_eq!(usize::from(bytes[3]), len);
            assert_eq!(fold(sum(&bytes[..l4])), 0xffff);
            assert_eq!(fold(sum(&bytes[l4..len])), 0xffff);
            assert_eq!(bytes[l4..l4 + 2], [3, 1]);
            let before = bytes;
            if protocol != ICMP {
                fill_in(&mut bytes[..len], checksum);
                let is_only_that = (0..len).all(|at| {
                    bytes[at] == before[at]
                        || (HEADER_LEN + checksum..HEADER_LEN + checksum + 2).contains(&at)
                });
                assert!(is_only_that);
                assert_eq!(fold(sum(&bytes[l4..len])), 0xffff, "protocol {protocol}");
            }
        }
    }
}
