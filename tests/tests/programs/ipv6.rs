//! IPv6's programs on packets, with rules written into its tables.

use std::{collections::BTreeMap, net::Ipv6Addr};

use anyhow::{Result, ensure};
use aya::maps::{HashMap, Map};
use kit::octets::DESTINATION_OPTIONS;
use kit::packets::{At, SYN, error, icmp, ping, pong, read, tcp, udp};
use nat_common::{
    tables::{
        addresses::{AddressKey, ExternalAddress},
        forwards::{Forward, ForwardFlags, ForwardKey},
        inside::{Inside, InsideFlags, InsideKey},
        interfaces::{Interface, InterfaceFlags, role},
        snats::{Snat, SnatKey, filtering, mapping},
    },
    wire::{
        address::{Addr6, Port},
        checksum::{fold, sum},
        protocol::{TCP, UDP},
    },
};
use nat_user::dataplane::{Plain, TestRunOutput};

use super::{
    harness::{HOOK, LAN, NETWORK_NUMBER, Plane},
    vectors::{DROP, GO_ON, REDIRECT},
};

pub(super) type Octets = [u8; 16];

pub(super) const GUEST: Octets = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 0x10).octets();
const GATEWAY: Octets = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, 1).octets();
pub(super) const PUBLIC: Octets = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 2).octets();
pub(super) const REMOTE: Octets = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x99).octets();
const ROUTER: Octets = Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 1).octets();

/// Bits of the guests' prefix.
const PREFIX: u32 = 64;

/// Bits of a port's prefix and behind it that are only padding.
const PADDING: u32 = 16;

/// The types of messages of neighbour discovery and multicast listeners (RFC 4861, RFC 3810).
const OF_THE_LINK: [u8; 6] = [133, 134, 135, 136, 137, 143];

/// The type of "packet too big" (RFC 4443).
const TOO_BIG: u8 = 2;

/// Where a frame has the hop limit.
pub(super) const HOP_LIMIT: usize = 14 + 7;

impl Plane {
    /// With a masquerade of the guests' prefix, and port 8080 forwarded to a guest's port 80.
    pub(super) fn with_rules_of_ipv6() -> Result<Self> {
        let plane = Self::with_ipv6()?;
        let generation = plane.generation()?;
        let (guests, public) = (Addr6::new(GUEST), Addr6::new(PUBLIC));
        let inside = InsideKey {
            generation,
            reserved: [0; 2],
            address: guests,
        };
        let network = Inside {
            network: NETWORK_NUMBER,
            flags: InsideFlags::empty(),
            gateway: Addr6::new(GATEWAY),
            mac: [0; 6],
            reserved: [0; 2],
        };
        plane.put("INSIDE6", 32 + PREFIX, inside, network)?;
        let from = SnatKey {
            generation,
            uplink: NETWORK_NUMBER,
            network: NETWORK_NUMBER,
            reserved: [0; 2],
            source: guests,
        };
        let masquerade = Snat {
            first: public,
            last: public,
            rule: 1,
            first_port: 1024,
            last_port: u16::MAX,
            mapping: mapping::ENDPOINT_INDEPENDENT,
            filtering: filtering::ADDRESS_AND_PORT_DEPENDENT,
            has_excludes: 0,
            by_destination: 0,
        };
        plane.put("SNATS6", 64 + PREFIX, from, masquerade)?;
        plane.put_forward(generation)?;
        plane.put_address_of_host(generation)?;
        Ok(plane)
    }

    fn put_forward(&self, generation: u16) -> Result<()> {
        let forwarded = ForwardKey {
            generation,
            protocol: TCP,
            reserved: 0,
            address: Addr6::new(PUBLIC),
            port: Port::new(8080),
            padding: [0; 2],
        };
        let forward = Forward {
            to: Addr6::new(GUEST),
            rule: 2,
            network: NETWORK_NUMBER,
            first_external: 8080,
            first_internal: 80,
            flags: ForwardFlags::empty(),
            reserved: 0,
        };
        let bits = 8 * size_of_val(&forwarded) as u32 - PADDING;
        self.put("FORWARDS6", bits, forwarded, forward)
    }

    fn put_address_of_host(&self, generation: u16) -> Result<()> {
        let external = AddressKey {
            address: Addr6::new(PUBLIC),
            generation,
            reserved: [0; 2],
        };
        let of_host = ExternalAddress {
            uplink: NETWORK_NUMBER,
            is_host: 1,
            is_silent: 0,
        };
        let mut addresses: HashMap<_, Plain<AddressKey<Addr6>>, Plain<ExternalAddress>> =
            HashMap::try_from(Map::HashMap(self.map("ADDRESSES6")?))?;
        addresses.insert(Plain(external), Plain(of_host), 0)?;
        Ok(())
    }

    pub(super) fn out(&mut self, packet: &[u8]) -> Result<TestRunOutput> {
        self.run("nat6_outbound", role::UPLINK, packet, LAN)
    }

    fn back(&mut self, packet: &[u8]) -> Result<TestRunOutput> {
        self.run("nat6_inbound", role::UPLINK, packet, HOOK)
    }
}

/// The ends of a packet that passes, once its checksums were found right.
fn ends(output: &TestRunOutput) -> Result<(At<Octets>, At<Octets>)> {
    ensure!(output.verdict == GO_ON, "verdict {}", output.verdict);
    Ok(read::<Octets>(&output.packet).ends())
}

#[test]
fn a_unique_local_guest_reaches_a_remote_and_gets_its_answer() -> Result<()> {
    let mut plane = Plane::with_rules_of_ipv6()?;
    let (guest, public, remote) = (At(GUEST, 5000), At(PUBLIC, 5000), At(REMOTE, 7000));
    for (asked, answered) in [
        (udp(guest, remote), udp(remote, public)),
        (
            udp(guest, remote).unsummed(),
            udp(remote, public).unsummed(),
        ),
        (tcp(guest, remote, SYN), tcp(remote, public, SYN)),
    ] {
        let out = plane.out(&asked.payload(b"question").bytes())?;
        ensure!(ends(&out)? == (public, remote));
        let back = plane.back(&answered.payload(b"answer").bytes())?;
        ensure!(ends(&back)? == (remote, guest));
    }
    let out = plane.out(&ping(At(GUEST, 77), REMOTE).bytes())?;
    ensure!(read::<Octets>(&out.packet).source.0 == PUBLIC);
    let back = plane.back(&pong(REMOTE, At(PUBLIC, 77)).bytes())?;
    ensure!(read::<Octets>(&back.packet).destination.0 == GUEST);
    Ok(())
}

#[test]
fn a_forward_leads_to_a_guest_over_ipv6() -> Result<()> {
    let mut plane = Plane::with_rules_of_ipv6()?;
    let (client, guest) = (At(REMOTE, 40_000), At(GUEST, 80));
    let request = plane.back(&tcp(client, At(PUBLIC, 8080), SYN).bytes())?;
    ensure!(ends(&request)? == (client, guest));
    let answer = plane.out(&tcp(guest, client, SYN).bytes())?;
    ensure!(ends(&answer)? == (At(PUBLIC, 8080), client));
    Ok(())
}

#[test]
fn a_router_says_too_big_and_the_guest_sees_its_own_packet() -> Result<()> {
    let mut plane = Plane::with_rules_of_ipv6()?;
    for protocol in [UDP, TCP] {
        let (guest, remote) = (At(GUEST, 5001), At(REMOTE, 7001));
        let sent = match protocol {
            UDP => udp(guest, remote),
            _ => tcp(guest, remote, SYN),
        };
        let sent = sent.payload(&[0x5a; 900]).bytes();
        let out = plane.out(&sent)?;
        let error = error(ROUTER, &out.packet, TOO_BIG, 1232).bytes();
        let seen = plane.back(&error)?;
        ensure!(seen.verdict == GO_ON, "verdict {}", seen.verdict);
        let seen = read::<Octets>(&seen.packet);
        ensure!((seen.source.0, seen.destination.0) == (ROUTER, GUEST));
        ensure!(
            seen.payload == sent[14..],
            "protocol {protocol}: {:02x?}",
            seen.payload
        );
    }
    Ok(())
}

#[test]
fn messages_of_a_link_pass_untouched_at_every_hook() -> Result<()> {
    let mut plane = Plane::with_rules_of_ipv6()?;
    let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).octets();
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    for kind in OF_THE_LINK {
        for (source, destination) in [(own, all), ([0; 16], all)] {
            let message = icmp(source, destination, [kind, 0, 0, 0, 0, 0]);
            let mut packet = message.payload(&[0; 16]).bytes();
            packet[HOP_LIMIT] = 255;
            for (program, role) in [
                ("nat6_inbound", role::UPLINK),
                ("nat6_outbound", role::UPLINK),
                ("nat6_from_guest", role::NETWORK),
                ("nat6_to_guest", role::NETWORK),
            ] {
                for ingress in [0, LAN] {
                    let output = plane.run(program, role, &packet, ingress)?;
                    let is_same = output.verdict == GO_ON && output.packet == packet;
                    ensure!(
                        is_same,
                        "{program}: type {kind}, from {ingress}: {output:02x?}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn f6_8_the_program_at_a_guarded_port_drops_a_guests_router_advertisement() -> Result<()> {
    let mut plane = Plane::with_rules_of_ipv6()?;
    let port = Interface {
        role: role::PORT,
        number: NETWORK_NUMBER,
        flags: InterfaceFlags::GUARDED,
        ..Interface::default()
    };
    plane
        .dataplane
        .set_interfaces(&BTreeMap::from([(HOOK, port)]))?;
    let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10).octets();
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    let message = |kind| icmp(own, all, [kind, 0, 0, 0, 0, 0]).payload(&[0; 16]);
    let options = [1, 4, 0, 0, 0, 0];
    for (packet, verdict) in [
        (message(135), GO_ON),
        (message(134), DROP),
        (message(134).extension(DESTINATION_OPTIONS, &options), DROP),
        (message(135).extension(DESTINATION_OPTIONS, &options), GO_ON),
        (udp(At(GUEST, 5000), At(REMOTE, 7000)), GO_ON),
        (udp(At(REMOTE, 5000), At(REMOTE, 7000)), DROP),
    ] {
        let packet = packet.bytes();
        let output = plane
            .programs
            .test_run("nat6_from_guarded_port", &packet, HOOK, HOOK)?;
        ensure!(output.verdict == verdict, "{output:02x?}");
    }
    ensure!(plane.dropped("rogue_ra")? == 2);
    ensure!(plane.dropped("spoofed")? == 1);
    Ok(())
}

#[test]
fn m6_6_a_refused_guest_hears_that_the_address_is_unreachable() -> Result<()> {
    let mut plane = Plane::with_rules_of_ipv6()?;
    let guest = At(GUEST, 5000);
    let long = [0x5a; 1400];
    let mut number = 0;
    let refused = loop {
        number += 1;
        ensure!(number < 5000, "no table is full");
        let mut remote = REMOTE;
        remote[14..].copy_from_slice(&u16::to_be_bytes(number));
        let sent = udp(guest, At(remote, 7000)).bytes();
        let output = plane.out(&sent)?;
        if output.verdict == REDIRECT {
            break At(remote, 7000);
        }
    };
    for payload in [&long[..], b"short"] {
        for sent in [
            udp(guest, refused).payload(payload).bytes(),
            tcp(guest, refused, SYN).payload(payload).bytes(),
        ] {
            let output = plane.out(&sent)?;
            ensure!(output.verdict == REDIRECT, "verdict {}", output.verdict);
            let error = output.packet;
            ensure!(error.len() <= 14 + 1280, "{} bytes", error.len());
            ensure!(error[22..38] == GATEWAY && error[38..54] == GUEST);
            let message = match error[20] {
                DESTINATION_OPTIONS => 14 + 40 + 24,
                _ => 14 + 40,
            };
            ensure!(error[message..message + 2] == [1, 3]);
            let quoted = &error[message + 8..];
            ensure!(quoted == &sent[14..14 + quoted.len()]);
            ensure!(quoted.len() == sent.len() - 14 || error.len() == 14 + 1280);
            let len = u32::try_from(error.len() - message)?.to_be_bytes();
            let pseudo = sum(&error[22..54]) + sum(&len) + sum(&[0, 58]);
            let whole = u32::from(fold(sum(&error[message..]))) + pseudo;
            ensure!(fold(whole) == 0xffff, "checksum");
        }
    }
    Ok(())
}
