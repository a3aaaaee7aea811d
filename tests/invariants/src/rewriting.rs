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
        address::{Addr4, Endpoint, Port},
        packet::SlicePacket,
        protocol::{ICMP, TCP, UDP},
    },
};

use crate::{
    frame::{View, assert_translated, canonical, correct},
    input::Input,
};
use kit::packets::ETHERNET;

type End = Endpoint<Addr4>;

/// Gives any packet any ends, and then its own ones again.
///
/// # Panics
///
/// If anything else than ends and checksums changes, if a checksum is right before and wrong after,
/// if the packet does not get these ends, or if the reverse translation differs.
pub fn rewriting(data: &[u8]) {
    let mut input = Input::new(data);
    let ends = [end(&mut input), end(&mut input)];
    let outer = [Addr4(input.array()), Addr4(input.array())];
    let is_corrected = input.bit();
    let mut frame = [&[0; ETHERNET], input.rest()].concat();
    if is_corrected {
        correct(&mut frame);
    }
    let mut parsed = Parsed::EMPTY;
    if parse(&SlicePacket::new(&mut frame, 1), ETHERNET, &mut parsed).is_err() {
        return;
    }
    let there = match parsed.transport {
        Transport::IcmpError => write_error(&frame, &parsed, outer, ends),
        _ => Some(write(&frame, &parsed, ends)),
    };
    let Some((there, back)) = there else {
        return;
    };
    assert_translated(&frame, &there);
    assert_translated(&there, &back);
    assert_eq!(canonical(&back), canonical(&frame), "by {there:02x?}");
}

/// The packet with other ends, and with its own ones again.
fn write(frame: &[u8], parsed: &Parsed<Addr4>, ends: [End; 2]) -> (Vec<u8>, Vec<u8>) {
    let ends = possible(ends, [parsed.source(), parsed.destination()], parsed);
    let there = written(frame, parsed, ends);
    let view = View::of_frame(&there).expect("still a packet");
    let addresses = ends.map(|end| end.address.0);
    assert_eq!([view.source, view.destination], addresses);
    if matches!(parsed.transport, Transport::Tcp { .. } | Transport::Udp) {
        assert_eq!(view.ports(), ends.map(|end| end.port.number()));
    }
    let mut other = *parsed;
    (other.header.source, other.header.destination) = (ends[0].address, ends[1].address);
    (other.source_port, other.destination_port) = (ends[0].port, ends[1].port);
    let back = written(&there, &other, [parsed.source(), parsed.destination()]);
    (there, back)
}

/// Ports only where a session could have changed them.
fn possible(ends: [End; 2], own: [End; 2], parsed: &Parsed<Addr4>) -> [End; 2] {
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

fn written(frame: &[u8], parsed: &Parsed<Addr4>, [source, destination]: [End; 2]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut packet = SlicePacket::new(&mut frame, 1);
    let outcome = rewrite(&mut packet, parsed, source, destination);
    assert_eq!(outcome, Ok(()), "what was parsed can be written");
    frame
}

/// The same of an ICMP error, if it quotes a packet.
fn write_error(
    frame: &[u8],
    parsed: &Parsed<Addr4>,
    outer: [Addr4; 2],
    ends: [End; 2],
) -> Option<(Vec<u8>, Vec<u8>)> {
    let quoted = quoted(frame, parsed)?;
    let own = [quoted.source, quoted.destination];
    let mut to = translation(outer, ends);
    let quote = View::of_frame(frame).and_then(|error| error.quote());
    let is_reply = quote.is_some_and(|quote| quote.is_icmp_reply());
    if quoted.protocol != TCP && quoted.protocol != UDP {
        let is_query = quoted.protocol == ICMP;
        if !is_query || is_reply {
            to.quoted_source.port = own[0].port;
        }
        if !is_query || !is_reply {
            to.quoted_destination.port = own[1].port;
        }
    }
    let there = error_written(frame, parsed, &quoted, &to);
    let mut other = *parsed;
    (other.header.source, other.header.destination) = (to.source, to.destination);
    let now = self::quoted(&there, &other).expect("still a quotation");
    assert_eq!(
        [now.source, now.destination],
        [to.quoted_source, to.quoted_destination]
    );
    let own = translation([parsed.header.source, parsed.header.destination], own);
    let back = error_written(&there, &other, &now, &own);
    Some((there, back))
}

fn end(input: &mut Input<'_>) -> End {
    Endpoint::new(Addr4(input.array()), Port(input.array()))
}

fn translation(outer: [Addr4; 2], quoted: [End; 2]) -> ErrorTranslation<Addr4> {
    ErrorTranslation {
        source: outer[0],
        destination: outer[1],
        quoted_source: quoted[0],
        quoted_destination: quoted[1],
    }
}

fn quoted(frame: &[u8], error: &Parsed<Addr4>) -> Option<Quoted<Addr4>> {
    let mut quoted = Quoted::EMPTY;
    let mut frame = frame.to_vec();
    let packet = SlicePacket::new(&mut frame, 1);
    read_quoted(&packet, error, &mut quoted).then_some(quoted)
}

fn error_written(
    frame: &[u8],
    error: &Parsed<Addr4>,
    quoted: &Quoted<Addr4>,
    to: &ErrorTranslation<Addr4>,
) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut packet = SlicePacket::new(&mut frame, 1);
    let outcome = rewrite_error(&mut packet, error, quoted, to);
    assert_eq!(outcome, Ok(()), "what was parsed can be written");
    frame
}
