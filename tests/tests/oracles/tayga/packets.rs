//! The packets that both translations get, field by field.

use kit::octets::Octets;
use kit::packets::{
    ACK, At, ETHERNET, GRE, Make, PSH, SYN, error_with_code, fragments, ping, pong, raw, tcp, udp,
    with_rest,
};

use super::{GUEST, GUEST_4, SERVER, V4, V6, of_ipv4};

/// A family of the packets.
pub(super) trait Family: Octets {
    /// The guest, or the server, as the family knows them.
    fn of(ipv4: V4) -> Self;
    /// Gives a packet a traffic class and hops; `whole` packets of IPv4 may not be fragmented.
    fn dress(packet: &mut [u8], class: u8, hops: u8, whole: bool);
    /// Types, codes and the words behind them of errors.
    fn errors() -> Vec<([u8; 2], u32)>;
    /// A router that sends errors.
    const ROUTER: Self;
    /// Who sends to whom.
    const ENDS: [V4; 2];
}

impl Family for V4 {
    const ROUTER: Self = [198, 51, 100, 1];
    const ENDS: [V4; 2] = [SERVER, GUEST_4];

    fn of(ipv4: V4) -> Self {
        ipv4
    }

    fn dress(packet: &mut [u8], class: u8, hops: u8, whole: bool) {
        (packet[1], packet[8]) = (class, hops);
        packet[6] |= u8::from(whole) << 6;
        if packet[0] == 0x45 {
            Self::correct_header(packet);
        }
    }

    fn errors() -> Vec<([u8; 2], u32)> {
        let mut all: Vec<_> = (0..=16).map(|code| ([3, code], 0)).collect();
        all.extend([0, 68, 576, 1259, 1260, 1280, 1400, 1480, 1500].map(|mtu| ([3, 4], mtu)));
        all.extend([
            ([11, 0], 0),
            ([11, 1], 0),
            ([4, 0], 0),
            ([5, 1], 0),
            ([12, 1], 0),
        ]);
        all.extend((0..=24).map(|pointer| ([12, 0], pointer << 24)));
        all
    }
}

impl Family for V6 {
    const ROUTER: Self = [0x20, 1, 0xd, 0xb8, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const ENDS: [V4; 2] = [GUEST_4, SERVER];

    fn of(ipv4: V4) -> Self {
        match ipv4 {
            GUEST_4 => GUEST,
            other => of_ipv4(other),
        }
    }

    fn dress(packet: &mut [u8], class: u8, hops: u8, _whole: bool) {
        (packet[0], packet[1]) = (0x60 | class >> 4, class << 4);
        packet[7] = hops;
    }

    fn errors() -> Vec<([u8; 2], u32)> {
        let mut all: Vec<_> = (0..=7).map(|code| ([1, code], 0)).collect();
        all.extend([0, 68, 1279, 1280, 1300, 1420, 1500, 70_000].map(|mtu| ([2, 0], mtu)));
        all.extend([
            ([3, 0], 0),
            ([3, 1], 0),
            ([4, 1], 6),
            ([4, 2], 0),
            ([100, 0], 0),
        ]);
        all.extend((0..=41).map(|pointer| ([4, 0], pointer)));
        all
    }
}

/// The packets of a family, each with what it is.
pub(super) fn packets<I: Family>() -> Vec<(String, Vec<u8>)> {
    let [source, destination] = I::ENDS.map(I::of);
    let (from, to) = (At(source, 40000), At(destination, 443));
    let mut all = Vec::new();
    for len in [0, 1, 8, 37, 1200, 1231, 1232, 1233, 1400] {
        let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let makes = [
            ("datagram", udp(from, to)),
            ("SYN", tcp(from, to, SYN)),
            ("segment", tcp(from, to, PSH | ACK)),
            ("echo request", ping(At(source, 7), destination)),
            ("echo reply", pong(source, At(destination, 7))),
            ("GRE", raw(GRE, source, destination)),
        ];
        for (name, make) in makes {
            let mut dressed = dressed::<I>(&make.payload(&data));
            all.append(
                &mut dressed
                    .drain(..)
                    .map(|(how, bytes)| (format!("{name} of {len} bytes, {how}"), bytes))
                    .collect(),
            );
        }
    }
    let unsummed = udp(from, to).unsummed().bytes();
    all.push((
        "datagram without a checksum".into(),
        unsummed[ETHERNET..].to_vec(),
    ));
    let options = udp(from, to).options(&[1; 4]).bytes();
    all.push(("datagram with options".into(), options[ETHERNET..].to_vec()));
    let whole = udp(from, to).payload(&[0x5a; 2000]).bytes();
    for (number, piece) in fragments::<I>(&whole, 800).into_iter().enumerate() {
        all.push((format!("fragment {number}"), piece[ETHERNET..].to_vec()));
    }
    all.extend(errors::<I>());
    all
}

/// A packet with each of some classes and hops.
fn dressed<I: Family>(make: &Make<I>) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (class, hops, whole) in [
        (0, 64, false),
        (0xb8, 3, true),
        (0xff, 254, false),
        (1, 1, true),
    ] {
        let mut bytes = make.bytes()[ETHERNET..].to_vec();
        I::dress(&mut bytes, class, hops, whole);
        all.push((
            format!("class {class:#x}, {hops} hops, whole {whole}"),
            bytes,
        ));
    }
    all
}

/// Errors about packets that went the other way.
fn errors<I: Family>() -> Vec<(String, Vec<u8>)> {
    let [source, destination] = I::ENDS.map(I::of);
    let sent: [(&str, Make<I>); 4] = [
        ("datagram", udp(At(destination, 443), At(source, 40000))),
        ("segment", tcp(At(destination, 443), At(source, 40000), ACK)),
        ("echo", ping(At(destination, 7), source)),
        ("GRE", raw(GRE, destination, source)),
    ];
    let mut all = Vec::new();
    let by = [("the receiver", source), ("a router", I::ROUTER)];
    for (name, make) in sent {
        let about = make.payload(&[0x5a; 40]).bytes();
        for ([kind, code], rest) in I::errors() {
            let error = error_with_code(source, &about, [kind, code], about.len());
            let error = with_rest(error, rest.to_be_bytes()).bytes();
            let what = format!("error {kind}/{code} {rest} about a {name}");
            all.push((what, error[ETHERNET..].to_vec()));
        }
        for len in 0..about.len() - ETHERNET {
            let error = error_with_code(source, &about, [I::UNREACHABLE, 1], len).bytes();
            all.push((
                format!("error with {len} bytes of a {name}"),
                error[ETHERNET..].to_vec(),
            ));
        }
        for (who, address) in by {
            let error = error_with_code(address, &about, [I::TIME_EXCEEDED, 0], 64).bytes();
            all.push((
                format!("error by {who} about a {name}"),
                error[ETHERNET..].to_vec(),
            ));
        }
    }
    all
}
