//! Writing translations: of packets, and of packets that ICMP errors quote.

use nat_common::{
    headers::{
        parsed::{Parsed, Transport, parse},
        quoted::{Quoted, read_quoted},
    },
    translation::{
        icmp_error::{ErrorTranslation, rewrite_error},
        rewrite::rewrite,
    },
    wire::{
        address::{Endpoint, Port},
        packet::SlicePacket,
        protocol::{TCP, UDP},
    },
};

use crate::{
    frame::{View, assert_translated, canonical, correct},
    header::Read,
    input::Input,
};
use kit::{
    octets::{AddressOf, Octets},
    packets::ETHERNET,
};

type End<I> = Endpoint<AddressOf<I>>;

/// Gives any packet any ends, and then its own ones again.
///
/// # Panics
///
/// If anything else than ends and checksums changes, if a checksum is right before and wrong after,
/// if the packet does not get these ends, or if the reverse translation differs.
pub(crate) fn rewriting<I: Read>(data: &[u8]) {
    let mut input = Input::new(data);
    let ends = [end::<I>(&mut input), end::<I>(&mut input)];
    let outer = [address::<I>(&mut input), address::<I>(&mut input)];
    let is_corrected = input.bit();
    let mut frame = [&[0; ETHERNET], input.rest()].concat();
    if is_corrected {
        correct::<I>(&mut frame);
    }
    let mut parsed = Parsed::<AddressOf<I>>::EMPTY;
    if parse(&SlicePacket::new(&mut frame, 1), ETHERNET, &mut parsed).is_err() {
        return;
    }
    let there = match parsed.transport {
        // No session is about them, and their checksum covers addresses in IPv6.
        Transport::IcmpOther | Transport::Neighbours if I::CHECKSUM.is_none() => return,
        Transport::IcmpError => write_error::<I>(&frame, &parsed, outer, ends),
        _ => Some(write::<I>(&frame, &parsed, ends)),
    };
    let Some((there, back)) = there else {
        return;
    };
    assert_translated::<I>(&frame, &there);
    assert_translated::<I>(&there, &back);
    assert_eq!(
        canonical::<I>(&back),
        canonical::<I>(&frame),
        "by {there:02x?}"
    );
}

/// The packet with other ends, and with its own ones again.
fn write<I: Read>(
    frame: &[u8],
    parsed: &Parsed<AddressOf<I>>,
    ends: [End<I>; 2],
) -> (Vec<u8>, Vec<u8>) {
    let ends = possible::<I>(ends, [parsed.source(), parsed.destination()], parsed);
    let there = written::<I>(frame, parsed, ends);
    let view = View::<I>::of_frame(&there).expect("still a packet");
    let addresses = ends.map(|end| I::of_address(end.address));
    assert_eq!([view.source(), view.destination()], addresses);
    if matches!(parsed.transport, Transport::Tcp { .. } | Transport::Udp) {
        assert_eq!(view.ports(), ends.map(|end| end.port.number()));
    }
    let mut other = *parsed;
    (other.header.source, other.header.destination) = (ends[0].address, ends[1].address);
    (other.source_port, other.destination_port) = (ends[0].port, ends[1].port);
    let back = written::<I>(&there, &other, [parsed.source(), parsed.destination()]);
    (there, back)
}

/// Ports only where a session could have changed them.
fn possible<I: Octets>(
    ends: [End<I>; 2],
    own: [End<I>; 2],
    parsed: &Parsed<AddressOf<I>>,
) -> [End<I>; 2] {
    let [mut source, mut destination] = ends;
    let keeps = match parsed.transport {
        Transport::Tcp { .. } | Transport::Udp => [false, false],
        Transport::IcmpQuery { is_reply } => [is_reply, !is_reply],
        _ => [true, true],
    };
    if keeps[0] {
        source.port = own[0].port;
    }
    if keeps[1] {
        destination.port = own[1].port;
    }
    [source, destination]
}

fn written<I: Octets>(
    frame: &[u8],
    parsed: &Parsed<AddressOf<I>>,
    [source, destination]: [End<I>; 2],
) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut packet = SlicePacket::new(&mut frame, 1);
    let outcome = rewrite(&mut packet, parsed, source, destination);
    assert_eq!(outcome, Ok(()), "what was parsed can be written");
    frame
}

/// The same of an ICMP error, if it quotes a packet.
fn write_error<I: Read>(
    frame: &[u8],
    parsed: &Parsed<AddressOf<I>>,
    outer: [AddressOf<I>; 2],
    ends: [End<I>; 2],
) -> Option<(Vec<u8>, Vec<u8>)> {
    let quoted = quoted::<I>(frame, parsed)?;
    let own = [quoted.source, quoted.destination];
    let mut to = translation::<I>(outer, ends);
    let quote = View::<I>::of_frame(frame).and_then(|error| error.quote());
    let is_reply = quote.is_some_and(|quote| quote.is_icmp_reply());
    if quoted.protocol != TCP && quoted.protocol != UDP {
        let is_query = quoted.protocol == I::ICMP;
        if !is_query || is_reply {
            to.quoted_source.port = own[0].port;
        }
        if !is_query || !is_reply {
            to.quoted_destination.port = own[1].port;
        }
    }
    let there = error_written::<I>(frame, parsed, &quoted, &to);
    let mut other = *parsed;
    (other.header.source, other.header.destination) = (to.source, to.destination);
    let now = self::quoted::<I>(&there, &other).expect("still a quotation");
    assert_eq!(
        [now.source, now.destination],
        [to.quoted_source, to.quoted_destination]
    );
    let own = translation::<I>([parsed.header.source, parsed.header.destination], own);
    let back = error_written::<I>(&there, &other, &now, &own);
    Some((there, back))
}

fn end<I: Octets>(input: &mut Input<'_>) -> End<I> {
    Endpoint::new(address::<I>(input), Port(input.array()))
}

fn address<I: Octets>(input: &mut Input<'_>) -> AddressOf<I> {
    I::at(input.bytes(size_of::<I>()), 0).address()
}

fn translation<I: Octets>(
    outer: [AddressOf<I>; 2],
    quoted: [End<I>; 2],
) -> ErrorTranslation<AddressOf<I>> {
    ErrorTranslation {
        source: outer[0],
        destination: outer[1],
        quoted_source: quoted[0],
        quoted_destination: quoted[1],
    }
}

fn quoted<I: Octets>(frame: &[u8], error: &Parsed<AddressOf<I>>) -> Option<Quoted<AddressOf<I>>> {
    let mut quoted = Quoted::EMPTY;
    let mut frame = frame.to_vec();
    let packet = SlicePacket::new(&mut frame, 1);
    read_quoted(&packet, error, &mut quoted).then_some(quoted)
}

fn error_written<I: Octets>(
    frame: &[u8],
    error: &Parsed<AddressOf<I>>,
    quoted: &Quoted<AddressOf<I>>,
    to: &ErrorTranslation<AddressOf<I>>,
) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut packet = SlicePacket::new(&mut frame, 1);
    let outcome = rewrite_error(&mut packet, error, quoted, to);
    assert_eq!(outcome, Ok(()), "what was parsed can be written");
    frame
}
