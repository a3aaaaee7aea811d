//! Fragments in any order: F1 to F8.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::Ipv4Header;
use kit::craft::{Ip, fragment, fragments};
use lab::topology::{Options, Proxmox};
use lab::{Host, Natbpf};
use tests::following::soon;
use tests::{at, exchange, hears};

/// Payload of a fragment in bytes.
const SIZE: usize = 1000;

/// A payload whose bytes encode their positions.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index / 7) as u8).collect()
}

/// Where a datagram in fragments goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// From outside through a forward.
    Forward,
    /// From a guest to the outside.
    Masquerade,
    /// From a guest to a guest by the public address.
    Hairpin,
}

const WAYS: [Way; 3] = [Way::Forward, Way::Masquerade, Way::Hairpin];

impl Way {
    /// A socket at the datagram's receiver.
    fn receiver(self, net: &Proxmox) -> Result<UdpSocket> {
        match self {
            Self::Forward | Self::Hairpin => net.vm2.udp("0.0.0.0:10500"),
            Self::Masquerade => net.cli.udp("0.0.0.0:7000"),
        }
    }

    /// The whole packet at its sender, from this port.
    fn packet(self, from_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let (from, to, port) = match self {
            Self::Forward => (Proxmox::CLI, Proxmox::PUBLIC, 10500),
            Self::Masquerade => (Proxmox::VM1, Proxmox::CLI, 7000),
            Self::Hairpin => (Proxmox::VM1, Proxmox::PUBLIC, 10500),
        };
        Ip::new(from, to).udp(from_port, port, payload)
    }

    fn inject(self, net: &Proxmox, packet: &[u8]) -> Result<()> {
        match self {
            Self::Forward => net.inject_from_internet(packet),
            Self::Masquerade | Self::Hairpin => net.inject_from_guest(&net.vm1, packet),
        }
    }
}

/// Receives exactly this datagram.
fn receive(socket: &UdpSocket, expected: &[u8]) -> Result<()> {
    let mut buffer = vec![0; 65536];
    let (length, _) = socket.recv_from(&mut buffer).context("nothing arrived")?;
    ensure!(buffer[..length] == *expected, "{length} other bytes");
    Ok(())
}

/// Sends one datagram each way, its fragments in the order that `arrange` makes.
fn all_ways(net: &Proxmox, id: u16, len: usize, arrange: fn(&mut Vec<Vec<u8>>)) -> Result<()> {
    for (index, way) in WAYS.into_iter().enumerate() {
        let receiver = way.receiver(net)?;
        let payload = payload(len);
        let mut parts = fragments(&way.packet(5000 + id, &payload)?, id + index as u16, SIZE)?;
        arrange(&mut parts);
        for part in &parts {
            way.inject(net, part)?;
        }
        receive(&receiver, &payload).with_context(|| format!("{way:?}, id {id}"))?;
    }
    Ok(())
}

fn drops(natbpf: &Natbpf, reason: &str) -> Result<u64> {
    let stats = natbpf.stats()?;
    Ok(stats["drops"][reason].as_u64().unwrap_or(0))
}

#[test]
fn f1_fragments_in_order_arrive() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    all_ways(&net, 100, 2500, |_| ())
}

/// As the kernels at both ends cut it and put it together again.
#[test]
fn f1_the_longest_datagram_arrives_and_so_does_its_answer() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    let longest = payload(65_507);
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    let server = net.cli.udp("0.0.0.0:7000")?;
    guest.send_to(&longest, at(Proxmox::CLI, 7000))?;
    let mut buffer = vec![0; 65_536];
    let (length, from) = server.recv_from(&mut buffer).context("from the guest")?;
    ensure!(buffer[..length] == longest, "{length} other bytes");
    server.send_to(&longest, from)?;
    receive(&guest, &longest).context("the answer")?;
    let forwarded = net.vm2.udp("0.0.0.0:10500")?;
    server.send_to(&longest, at(Proxmox::PUBLIC, 10500))?;
    receive(&forwarded, &longest).context("by a forward")
}

#[test]
fn f2_reversed_fragments_arrive() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    all_ways(&net, 100, 2500, |parts| parts.reverse())?;
    // As many as a packet may have at this size.
    all_ways(&net, 200, 60_000, |parts| parts.reverse())?;
    // The first in the middle.
    all_ways(&net, 300, 9500, |parts| parts.rotate_left(4))?;
    let lost = drops(&nat, "fragments_full")? + drops(&nat, "fragment_expired")?;
    ensure!(lost == 0, "{lost} fragments were lost");
    Ok(())
}

/// Jumbo frames: a first fragment is set aside while the others are sent, if it fits into 15 KiB.
/// Those of a larger one are freed after their time, and such a packet arrives in order.
#[test]
fn f2_reversed_fragments_arrive_if_the_first_one_fits_into_15_kib() -> Result<()> {
    const ROOM: usize = 15_360;
    const HEADERS: usize = 14 + 20;
    let net = Proxmox::with(&Options {
        uplink_mtu: Some(32_000),
        ..Options::default()
    })?;
    let nat = net.natbpf(&format!("{}\n[timeouts]\nfragment = 2\n", net.config()))?;
    let receiver = Way::Forward.receiver(&net)?;
    let fitting = (ROOM - HEADERS) / 8 * 8;
    for (id, first, is_reversed) in [
        (1, fitting, false),
        (2, fitting, true),
        (3, fitting + 8, true),
        (4, fitting + 8, false),
    ] {
        let payload = payload(first + 1000);
        let mut parts = fragments(&Way::Forward.packet(5000 + id, &payload)?, id, first)?;
        ensure!(parts.len() == 2, "{} parts", parts.len());
        if is_reversed {
            parts.reverse();
        }
        for part in &parts {
            Way::Forward.inject(&net, part)?;
        }
        if is_reversed && first > fitting {
            ensure!(hears(&receiver)?.is_none(), "id {id} arrived");
            soon("what was kept is freed", || {
                Ok(drops(&nat, "fragment_expired")? == 1)
            })?;
        } else {
            receive(&receiver, &payload).with_context(|| format!("id {id}"))?;
        }
    }
    ensure!(drops(&nat, "fragment_expired")? == 1, "more was lost");
    Ok(())
}

#[test]
fn f3_a_first_fragment_two_seconds_late_arrives() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    let payload = payload(2500);
    let mut late = Vec::new();
    for way in WAYS {
        let parts = fragments(&way.packet(5000, &payload)?, 7, SIZE)?;
        for part in &parts[1..] {
            way.inject(&net, part)?;
        }
        late.push((way, way.receiver(&net)?, parts[0].clone()));
        if matches!(way, Way::Forward) {
            // Both forwards end at the same socket.
            sleep(Duration::from_secs(2));
            let (way, receiver, first) = late.remove(0);
            way.inject(&net, &first)?;
            receive(&receiver, &payload).context("forward")?;
        }
    }
    sleep(Duration::from_secs(2));
    for (way, receiver, first) in late {
        way.inject(&net, &first)?;
        receive(&receiver, &payload).with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

#[test]
fn f4_without_a_first_fragment_nothing_is_forwarded_and_the_state_is_freed() -> Result<()> {
    let net = Proxmox::new()?;
    let config = format!("{}\n[timeouts]\nfragment = 2\n", net.config());
    let nat = net.natbpf(&config)?;
    let inside = net.vm2.capture("eth0")?;
    let outside = net.cli.capture("eth0")?;
    let mut sent = 0;
    for way in WAYS {
        let parts = fragments(&way.packet(5000, &payload(3500))?, 7, SIZE)?;
        for part in &parts[1..] {
            way.inject(&net, part)?;
            sent += 1;
        }
    }
    soon("kept fragments are freed", || {
        Ok(drops(&nat, "fragment_expired")? >= sent)
    })?;
    let expired = drops(&nat, "fragment_expired")?;
    ensure!(expired == sent, "{expired} of {sent} kept fragments freed");
    for frame in inside.stop().iter().chain(&outside.stop()) {
        let is_fragment = frame
            .ipv4()
            .is_some_and(|ip| ip[6] & 0x1f != 0 || ip[7] != 0);
        ensure!(!is_fragment, "forwarded: {frame:?}");
    }
    Ok(())
}

#[test]
fn f5_an_atomic_fragment_passes() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    // The whole packet in its only part: identified, and allowed to be cut.
    all_ways(&net, 100, 100, |parts| assert_eq!(parts.len(), 1))
}

#[test]
fn f12_a_datagram_with_duplicate_fragments_arrives() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    all_ways(&net, 100, 3500, |parts| parts.insert(1, parts[0].clone()))?;
    all_ways(&net, 110, 3500, |parts| parts.insert(2, parts[1].clone()))?;
    all_ways(&net, 120, 3500, |parts| {
        parts.insert(0, parts[1].clone());
        parts.insert(1, parts[1 + 1].clone());
    })?;
    all_ways(&net, 130, 3500, |parts| {
        parts.reverse();
        parts.insert(1, parts[0].clone());
    })?;
    ensure!(drops(&nat, "fragment_duplicate")? > 0, "none counted");
    ensure!(drops(&nat, "fragment_overlap")? == 0, "taken for overlaps");
    Ok(())
}

#[test]
fn f6_overlapping_fragments_are_dropped() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    for (id, way) in WAYS.into_iter().enumerate() {
        let receiver = way.receiver(&net)?;
        let packet = way.packet(5000, &payload(2992))?;
        let (header, inside) = Ipv4Header::from_slice(&packet)?;
        let (id, before) = (id as u16, drops(&nat, "fragment_overlap")?);
        for (offset, end) in [(0, 1000), (992, 2000), (2000, 3000)] {
            let part = &inside[offset..end];
            let more = end < inside.len();
            let fragment = fragment(&header, id, offset as u16, more, part)?;
            way.inject(&net, &fragment)?;
        }
        let heard = hears(&receiver)?;
        ensure!(heard.is_none(), "{way:?}: delivered");
        let dropped = drops(&nat, "fragment_overlap")? - before;
        ensure!(dropped == 2, "{way:?}: {dropped} counted instead of 2");
    }
    Ok(())
}

/// Fragments of two datagrams with one identification, by turns.
#[test]
fn f7_the_same_identification_from_two_guests_is_not_mixed() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = net.natbpf(&net.config())?;
    let server = net.cli.udp("0.0.0.0:7000")?;
    let (first, second) = (payload(2500), vec![0x5a; 2500]);
    let cut = |from, payload: &[u8]| -> Result<Vec<Vec<u8>>> {
        let packet = Ip::new(from, Proxmox::CLI).udp(5000, 7000, payload)?;
        fragments(&packet, 7, SIZE)
    };
    let firsts = cut(Proxmox::VM1, &first)?;
    let seconds = cut(Proxmox::VM2, &second)?;
    for (one, other) in firsts.iter().zip(&seconds) {
        net.inject_from_guest(&net.vm1, one)?;
        net.inject_from_guest(&net.vm2, other)?;
    }
    let mut buffer = vec![0; 65536];
    let mut received = Vec::new();
    for _ in 0..2 {
        let (length, _) = server.recv_from(&mut buffer).context("nothing arrived")?;
        received.push(buffer[..length].to_vec());
    }
    received.sort();
    let mut expected = vec![first, second];
    expected.sort();
    ensure!(received == expected, "mixed");
    Ok(())
}

/// Guests of two networks number their packets without knowing of each other, and leave by one
/// address.
#[test]
fn f7_the_same_identification_from_two_networks_is_not_mixed() -> Result<()> {
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 7);
    let net = Proxmox::new()?;
    let other = net.lab().host("other")?;
    net.lab().veth((&net.host, "dmz0"), (&other, "eth0"))?;
    other.ip("address add 10.50.0.7/24 dev eth0\nroute add default via 10.50.0.1")?;
    let dmz = "[network.dmz]\ninterface = \"dmz0\"\naddress = \"10.50.0.1/24\"\n\n\
               [[snat]]\nname = \"dmz-out\"\nnetwork = \"dmz\"\nuplink = \"wan\"\nto = \
               \"masquerade\"\n";
    let _nat = net.natbpf(&format!("{}\n{dmz}", net.config()))?;
    let server = net.cli.udp("0.0.0.0:7000")?;
    let cut = |from, payload: &[u8]| -> Result<Vec<Vec<u8>>> {
        let packet = Ip::new(from, Proxmox::CLI).udp(5000, 7000, payload)?;
        fragments(&packet, 7, SIZE)
    };
    let sent = [payload(2500), vec![0x5a; 2500]];
    let firsts = cut(Proxmox::VM1, &sent[0])?;
    let seconds = cut(OTHER, &sent[1])?;
    for (one, another) in firsts.iter().zip(&seconds) {
        net.inject_from_guest(&net.vm1, one)?;
        let frame = [
            &net.host.mac("dmz0")?[..],
            &other.mac("eth0")?,
            &[8, 0],
            another,
        ]
        .concat();
        other.inject("eth0", &frame)?;
    }
    let mut buffer = vec![0; 65_536];
    let mut received = Vec::new();
    for _ in &sent {
        let (length, _) = server.recv_from(&mut buffer).context("nothing arrived")?;
        received.push(buffer[..length].to_vec());
    }
    ensure!(sent.iter().all(|one| received.contains(one)), "mixed");
    Ok(())
}

/// Later fragments of many packets that never begin.
fn flood(net: &Proxmox, from: &Host, count: u16) -> Result<()> {
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, &payload(2500))?;
    for id in 1000..1000 + count {
        net.inject_from_guest(from, &fragments(&packet, id, SIZE)?[1])?;
    }
    Ok(())
}

#[test]
fn f8_in_a_flood_of_fragments_others_pass_and_memory_is_bounded() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    flood(&net, &net.vm1, 300)?;
    let refused = drops(&nat, "fragments_full")?;
    ensure!(refused == 300 - 64, "{refused} of 300 refused");
    // In order even from the flooding guest, in any order from the others.
    let server = net.cli.udp("0.0.0.0:7000")?;
    let payload = payload(2500);
    for (guest, address, is_reversed) in [
        (&net.vm1, Proxmox::VM1, false),
        (&net.vm2, Proxmox::VM2, true),
    ] {
        let packet = Ip::new(address, Proxmox::CLI).udp(5001, 7000, &payload)?;
        let mut parts = fragments(&packet, 9, SIZE)?;
        if is_reversed {
            parts.reverse();
        }
        for part in &parts {
            net.inject_from_guest(guest, part)?;
        }
        receive(&server, &payload).with_context(|| format!("{address}"))?;
    }
    let client = net.vm1.udp("0.0.0.0:5002")?;
    exchange(&client, at(Proxmox::CLI, 7000), &server, b"whole").map(drop)
}
