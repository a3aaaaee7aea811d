//! The ICMPv6 error that tells a guest that its packet was refused: address unreachable (RFC 4443
//! section 3.1).

use crate::wire::{
    address::{Addr6, Address as _},
    checksum::{Diff, fold},
    protocol::{ICMPV6, TCP},
    unreachable::Recipient,
};

/// The longest refusal in bytes, from its IPv6 header on: all links carry it, and it quotes as much
/// as fits (RFC 4443 section 2.4 c).
pub const MAX_LEN: usize = 1280;

const HEADER_LEN: usize = 40;

const ICMP_LEN: usize = 8;

/// Length of the destination options that move a refusal's message: one option that only pads.
const OPTIONS_LEN: usize = 24;

/// Where a TCP header has its checksum in bytes, and so the options have padding.
const TCP_CHECKSUM: usize = 16;

/// Where a UDP header has its checksum in bytes, and an ICMPv6 error an unused word.
const UDP_CHECKSUM: usize = 6;

const HOP_LIMIT: u8 = 64;

/// Number of destination options (RFC 8200 section 4.6), and the option that pads.
const DESTINATION_OPTIONS: u8 = 60;
const PADDING: u8 = 1;

const DESTINATION_UNREACHABLE: u8 = 1;

const ADDRESS_UNREACHABLE: u8 = 3;

/// Where the refusal of a packet of `protocol` quotes the packet, in bytes.
#[inline(always)]
#[must_use]
pub const fn quote_at(protocol: u8) -> usize {
    message_at(protocol) + ICMP_LEN
}

/// How much of a packet of `protocol` its refusal can quote in bytes.
#[inline(always)]
#[must_use]
pub const fn max_quote(protocol: u8) -> usize {
    MAX_LEN - quote_at(protocol)
}

#[inline(always)]
const fn message_at(protocol: u8) -> usize {
    match protocol {
        TCP => HEADER_LEN + OPTIONS_LEN,
        _ => HEADER_LEN,
    }
}

/// Writes all but the quotation, which is in `bytes` already, and gives the refusal's length.
/// `quote_sum` is the sum of the quotation's words.
///
/// The skb that becomes the refusal may still be marked for a device to write a TCP or UDP
/// checksum, which no program can see or undo. The device sums from the place of the former
/// transport header on, and writes the complement. At the place where it writes, the refusal has
/// what it will compute. For UDP, that is in the unused word of the message, and is the sum of the
/// pseudo-header: the rest is the complement of it, if the message's own checksum is right. For
/// TCP, it is in options before the message.
#[inline(always)]
pub fn write(
    bytes: &mut [u8; MAX_LEN],
    protocol: u8,
    to: &Recipient<Addr6>,
    quote_len: usize,
    quote_sum: u16,
) -> usize {
    let message = message_at(protocol);
    let len = message + ICMP_LEN + quote_len;
    write_header(bytes, to, len - HEADER_LEN);
    let message_len = (ICMP_LEN + quote_len) as u16;
    let pseudo =
        to.gateway.sum() + to.guest.sum() + word(message_len.to_be_bytes()) + word([0, ICMPV6]);
    let pseudo = fold(pseudo);
    let kind = [DESTINATION_UNREACHABLE, ADDRESS_UNREACHABLE];
    let message_sum = u32::from(quote_sum) + u32::from(pseudo) + word(kind);
    match protocol {
        TCP => {
            bytes[6] = DESTINATION_OPTIONS;
            write_options(bytes, pseudo);
            write_message::<{ HEADER_LEN + OPTIONS_LEN }>(bytes, kind, message_sum);
        }
        _ => {
            bytes[6] = ICMPV6;
            let filled_in = HEADER_LEN + UDP_CHECKSUM;
            bytes[filled_in..filled_in + 2].copy_from_slice(&pseudo.to_ne_bytes());
            let message_sum = message_sum + u32::from(pseudo);
            write_message::<HEADER_LEN>(bytes, kind, message_sum);
        }
    }
    len
}

#[inline(always)]
fn write_header(bytes: &mut [u8; MAX_LEN], to: &Recipient<Addr6>, payload_len: usize) {
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&(payload_len as u16).to_be_bytes());
    bytes[7] = HOP_LIMIT;
    bytes[8..24].copy_from_slice(&to.gateway.bytes());
    bytes[24..40].copy_from_slice(&to.guest.bytes());
}

/// Writes the options with the number `x` that a device computes over them and the message: its
/// complement is the sum of the other options, of the message without its pseudo-header, and of `x`
/// itself. So twice `x` is the sum of the pseudo-header minus that of the other options.
#[inline(always)]
fn write_options(bytes: &mut [u8; MAX_LEN], pseudo: u16) {
    let options = [
        ICMPV6,
        (OPTIONS_LEN / 8 - 1) as u8,
        PADDING,
        OPTIONS_LEN as u8 - 4,
    ];
    bytes[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&options);
    let [a, b, c, d] = options;
    let others = word([a, b]) + word([c, d]);
    let twice = u32::from(fold(Diff::NONE.replace(others, pseudo.into()).0));
    // (Half of an odd number is half of the same number modulo 0xffff.)
    let half = match twice & 1 {
        0 => twice / 2,
        _ => (twice + 0xffff) / 2,
    };
    let filled_in = match half {
        0 => u16::MAX,
        half => half as u16,
    };
    let at = HEADER_LEN + TCP_CHECKSUM;
    bytes[at..at + 2].copy_from_slice(&filled_in.to_ne_bytes());
}

/// Writes the ICMPv6 message's own header at `AT`.
#[inline(always)]
fn write_message<const AT: usize>(bytes: &mut [u8; MAX_LEN], kind: [u8; 2], sum: u32) {
    bytes[AT..AT + 2].copy_from_slice(&kind);
    bytes[AT + 2..AT + 4].copy_from_slice(&(!fold(sum)).to_ne_bytes());
}

#[inline(always)]
fn word(bytes: [u8; 2]) -> u32 {
    u32::from(u16::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{checksum::sum, protocol::UDP};

    fn to(last: u8) -> Recipient<Addr6> {
        let mut guest = [0xfd, 0, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
        guest[15] = last;
        let mut gateway = guest;
        gateway[15] = 1;
        Recipient {
            gateway: Addr6::new(gateway),
            guest: Addr6::new(guest),
            interface: 1,
        }
    }

    /// The refusal of a packet of so many bytes.
    fn refusal(protocol: u8, to: &Recipient<Addr6>, quote: &[u8]) -> ([u8; MAX_LEN], usize) {
        let mut bytes = [0; MAX_LEN];
        let at = quote_at(protocol);
        let quote = &quote[..quote.len().min(max_quote(protocol))];
        bytes[at..at + quote.len()].copy_from_slice(quote);
        let quote_sum = fold(sum(quote));
        let len = write(&mut bytes, protocol, to, quote.len(), quote_sum);
        (bytes, len)
    }

    /// A device that writes a TCP or UDP checksum into a message: the sum from the old transport
    /// header on, 0 sent as 0xffff.
    fn fill_in(bytes: &mut [u8], checksum: usize) {
        let filled = !fold(sum(&bytes[HEADER_LEN..]));
        let filled = if filled == 0 { 0xffff } else { filled };
        let at = HEADER_LEN + checksum;
        bytes[at..at + 2].copy_from_slice(&filled.to_ne_bytes());
    }

    #[test]
    fn m6_6_a_refusal_is_right_whether_or_not_a_device_fills_a_checksum_in() {
        for (protocol, checksum) in [(TCP, 16), (UDP, 6), (ICMPV6, 0)] {
            for quoted in [48, 49, 90, 1500] {
                for last in 2..=255 {
                    let (to, quote) = (to(last), [last; 1500]);
                    let (mut bytes, len) = refusal(protocol, &to, &quote[..quoted]);
                    let message = message_at(protocol);
                    assert_eq!(len, (message + 8 + quoted).min(MAX_LEN));
                    assert_eq!(usize::from(bytes[4]) << 8 | usize::from(bytes[5]), len - 40);
                    assert_eq!(bytes[message..message + 2], [1, 3]);
                    let end = len - message - 8;
                    assert_eq!(bytes[message + 8..len], quote[..end]);
                    let pseudo = sum(&bytes[8..40])
                        + word(((len - message) as u16).to_be_bytes())
                        + word([0, ICMPV6]);
                    let whole = u32::from(fold(sum(&bytes[message..len]))) + pseudo;
                    assert_eq!(fold(whole), 0xffff, "{protocol}");
                    if protocol != ICMPV6 {
                        let before = bytes;
                        fill_in(&mut bytes[..len], checksum);
                        assert_eq!(bytes, before, "{protocol} {last}");
                    }
                }
            }
        }
    }

    #[test]
    fn m6_6_options_before_the_message_of_tcp_only_pad() {
        let (bytes, _) = refusal(TCP, &to(9), &[0; 60]);
        assert_eq!((bytes[6], &bytes[40..44]), (60, &[58, 2, 1, 20][..]));
        let (bytes, _) = refusal(UDP, &to(9), &[0; 60]);
        assert_eq!(bytes[6], 58);
    }
}
