//! NAT64's program on packets.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use aya::maps::{Array, Map};
use kit::packets::{At, SYN, error_with_code, fragments, ping, pong, read, tcp, udp};
use nat_common::{
    nat64::{Nat64Settings, Prefix},
    tables::interfaces::role,
    wire::address::Addr4,
};
use nat_user::dataplane::{Plain, TestRunOutput};

use super::harness::Plane;

type V4 = [u8; 4];
type V6 = [u8; 16];

const GUEST: V6 = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x10).octets();
const SERVER: V4 = [203, 0, 113, 2];
const ROUTER: V4 = [198, 51, 100, 1];
const STRANGERS: V4 = [100, 64, 46, 1];
const FIRST: V4 = [100, 64, 46, 2];

/// `TC_ACT_REDIRECT` and `TC_ACT_SHOT`.
const RECEIVED_ANEW: i32 = 7;
const DROPPED: i32 = 2;

/// Types and codes of "fragmentation needed" and "port unreachable" (RFC 792, RFC 4443).
const TOO_BIG_4: [u8; 2] = [3, 4];
const PORT_UNREACHABLE_4: [u8; 2] = [3, 3];
const PORT_UNREACHABLE_6: [u8; 2] = [1, 4];

/// Bytes of a frame before its ICMP header.
const ICMP_4: usize = 14 + 20;
const ICMP_6: usize = 14 + 40;

fn of_ipv4([a, b, c, d]: V4) -> V6 {
    let [prefix @ .., _, _, _, _] = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).octets();
    let mut address = [0; 16];
    address[..12].copy_from_slice(&prefix);
    address[12..].copy_from_slice(&[a, b, c, d]);
    address
}

impl Plane {
    /// With NAT64 for `count` guests.
    fn with_nat64(count: u32) -> Result<Self> {
        let plane = Self::with_ipv6()?;
        let settings = Nat64Settings {
            prefix: Prefix::WELL_KNOWN,
            strangers: Addr4(STRANGERS),
            first: Addr4(FIRST),
            count,
        };
        let mut table: Array<_, Plain<Nat64Settings>> =
            Array::try_from(Map::Array(plane.map("NAT64")?))?;
        table.set(0, Plain(settings), 0)?;
        Ok(plane)
    }

    fn translate(&mut self, packet: &[u8]) -> Result<TestRunOutput> {
        self.run("nat64_translate", role::NETWORK, packet, 0)
    }
}

fn received_anew(output: TestRunOutput) -> Result<Vec<u8>> {
    ensure!(
        output.verdict == RECEIVED_ANEW,
        "verdict {}",
        output.verdict
    );
    Ok(output.packet)
}

#[test]
fn x6_1_a_guest_reaches_a_server_of_ipv4_and_gets_its_answer() -> Result<()> {
    let mut plane = Plane::with_nat64(253)?;
    let (guest, server) = (At(GUEST, 5000), At(of_ipv4(SERVER), 7000));
    for data in [&b""[..], b"odd", &[0x5a; 1200]] {
        for (asked, is_tcp) in [(udp(guest, server), false), (tcp(guest, server, SYN), true)] {
            let out = received_anew(plane.translate(&asked.payload(data).bytes())?)?;
            let out = read::<V4>(&out);
            let (At(source, port), to) = out.ends();
            ensure!((port, to) == (5000, At(SERVER, 7000)) && out.payload == data);
            let answer = match is_tcp {
                true => tcp(At(SERVER, 7000), At(source, 5000), SYN),
                false => udp(At(SERVER, 7000), At(source, 5000)),
            };
            let back = received_anew(plane.translate(&answer.payload(data).bytes())?)?;
            let back = read::<V6>(&back);
            ensure!(back.ends() == (server, guest) && back.payload == data);
        }
    }
    Ok(())
}

#[test]
fn x6_1_an_echo_is_answered() -> Result<()> {
    let mut plane = Plane::with_nat64(253)?;
    let out = plane.translate(
        &ping(At(GUEST, 77), of_ipv4(SERVER))
            .payload(b"data")
            .bytes(),
    )?;
    let out = read::<V4>(&received_anew(out)?);
    ensure!(out.destination.0 == SERVER && out.payload == b"data");
    let back = plane.translate(&pong(SERVER, At(out.source.0, 77)).payload(b"data").bytes())?;
    let back = read::<V6>(&received_anew(back)?);
    ensure!(back.source.0 == of_ipv4(SERVER) && back.destination.0 == GUEST);
    ensure!(back.payload == b"data");
    Ok(())
}

#[test]
fn x6_1_every_guest_has_an_address_of_its_own() -> Result<()> {
    let mut plane = Plane::with_nat64(8)?;
    let mut seen = std::collections::BTreeSet::new();
    for guest in 0..8 {
        let mut address = GUEST;
        address[15] = guest;
        let asked = udp(At(address, 1), At(of_ipv4(SERVER), 2)).bytes();
        for _ in 0..2 {
            let out = received_anew(plane.translate(&asked)?)?;
            seen.insert(read::<V4>(&out).source.0);
        }
    }
    ensure!(seen.len() == 8, "{seen:?}");
    let one_more = udp(At([0x20; 16], 1), At(of_ipv4(SERVER), 2)).bytes();
    ensure!(plane.translate(&one_more)?.verdict == DROPPED);
    ensure!(plane.dropped("table_full")? == 1);
    Ok(())
}

#[test]
fn x6_2_an_error_quotes_the_packet_of_its_receiver() -> Result<()> {
    let mut plane = Plane::with_nat64(253)?;
    for len in [0, 8, 1100, 1400] {
        let sent = udp(At(GUEST, 5000), At(of_ipv4(SERVER), 7000)).payload(&vec![0x5a; len]);
        let sent = sent.bytes();
        let out = received_anew(plane.translate(&sent)?)?;
        for (code, expected) in [
            (TOO_BIG_4, [2, 0]),
            (PORT_UNREACHABLE_4, PORT_UNREACHABLE_6),
        ] {
            let error = error_with_code(ROUTER, &out, code, out.len() - 14).bytes();
            let error = received_anew(plane.translate(&error)?)?;
            let seen = read::<V6>(&error);
            ensure!((seen.source.0, seen.destination.0) == (of_ipv4(ROUTER), GUEST));
            ensure!(error[ICMP_6..ICMP_6 + 2] == expected);
            let quoted = sent.len().min(14 + 1280 - 48);
            // IPv4 has no flow label, and no kernel decrements the hop limit here.
            let is_lost = |at: usize| matches!(at, 1..=3 | 7);
            let is_same = |at: usize| is_lost(at) || seen.payload[at] == sent[14 + at];
            ensure!(
                seen.payload.len() == quoted - 14 && (0..quoted - 14).all(is_same),
                "{len}"
            );
        }
        let answer = udp(At(SERVER, 7000), At(read::<V4>(&out).source.0, 5000)).bytes();
        let back = received_anew(plane.translate(&answer)?)?;
        let error = error_with_code(GUEST, &back, PORT_UNREACHABLE_6, back.len() - 14).bytes();
        let error = received_anew(plane.translate(&error)?)?;
        ensure!(read::<V4>(&error).destination.0 == SERVER);
        ensure!(error[ICMP_4..ICMP_4 + 2] == PORT_UNREACHABLE_4);
    }
    Ok(())
}

#[test]
fn x6_4_fragments_stay_fragments() -> Result<()> {
    let mut plane = Plane::with_nat64(253)?;
    let whole = udp(At(GUEST, 5000), At(of_ipv4(SERVER), 7000)).payload(&[0x5a; 3000]);
    let mut sent = Vec::new();
    for fragment in fragments::<V6>(&whole.bytes(), 1232) {
        sent.push(received_anew(plane.translate(&fragment)?)?);
    }
    let seen = read::<V4>(&kit::packets::reassemble::<V4>(&sent));
    ensure!(seen.destination == At(SERVER, 7000) && seen.payload == [0x5a; 3000]);
    let answer = udp(At(SERVER, 7000), At(seen.source.0, 5000)).payload(&[0xa5; 3000]);
    let mut back = Vec::new();
    for fragment in fragments::<V4>(&answer.bytes(), 1400) {
        back.push(received_anew(plane.translate(&fragment)?)?);
    }
    let seen = read::<V6>(&kit::packets::reassemble::<V6>(&back));
    ensure!(seen.ends() == (At(of_ipv4(SERVER), 7000), At(GUEST, 5000)));
    ensure!(seen.payload == [0xa5; 3000]);
    Ok(())
}

#[test]
fn x6_5_a_local_network_is_not_reached() -> Result<()> {
    let mut plane = Plane::with_nat64(253)?;
    let packet = tcp(At(GUEST, 5000), At(of_ipv4([192, 168, 1, 1]), 80), SYN).bytes();
    ensure!(plane.translate(&packet)?.verdict == DROPPED);
    ensure!(plane.dropped("untranslatable")? == 1);
    Ok(())
}
