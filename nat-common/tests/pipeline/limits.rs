//! Full tables, used-up ports and what is left when everything has ended: X1, X2.

use nat_common::{
    drop_reason::DropReason,
    tables::{
        ports::{PortKey, PortRecord, Ports as _},
        sessions::OPENING,
        snats::{filtering, mapping},
    },
    wire::{
        address::{Endpoint, Port},
        protocol::{TCP, UDP},
    },
    work::port_search::MAX_ATTEMPTS,
};

use crate::family::{C1, C2, ICMP, Ip, PUBLIC, S1A, World, addr, ends, host};
use kit::{
    packets::{At, request, udp},
    world::Fate,
};

fn remote(number: usize) -> At<Ip> {
    At(host([198, 51, (number >> 8) as u8, number as u8]), 7000)
}

/// A full table refuses new sessions with that reason, serves existing ones, keeps no trace of
/// refused ones, and accepts new ones when old ones have ended.
#[test]
fn x1_a_full_table_refuses_the_new_and_keeps_the_old() {
    for table in 0..4 {
        let mut world = World::new();
        let tables = &mut world.tables;
        match table {
            0 => tables.sessions.capacity = 2 * 8 + 1,
            1 => tables.mappings.capacity = 8,
            2 => tables.ports.capacity = 8,
            _ => tables.permits.capacity = 8,
        }
        let send = |world: &World, n: usize| {
            world.guest_sends(&udp(At(C1, 5000 + n as u16), remote(n)).bytes())
        };
        for n in 0..8 {
            send(&world, n).uplink();
        }
        let before = world.entries();
        for n in 8..12 {
            assert_eq!(
                send(&world, n).reason(),
                DropReason::TableFull,
                "table {table}"
            );
        }
        assert_eq!(world.entries(), before);
        world.check();
        world.advance(200);
        for n in 0..4 {
            send(&world, n).uplink();
            let back = udp(remote(n), At(PUBLIC, 5000 + n as u16)).bytes();
            world.outside_sends(&back).guest();
        }
        assert_eq!(world.wait(100), 4);
        for n in 8..12 {
            send(&world, n).uplink();
        }
        world.check();
    }
}

/// The same for sessions from outside, and for hairpinned ones, which need four entries.
#[test]
fn x1_a_full_table_refuses_forwards_and_hairpins_whole() {
    let mut world = World::new();
    world.forward(UDP, 10_000..=10_009, At(C2, 80));
    world
        .guest_sends(&udp(At(C1, 5000), remote(0)).bytes())
        .uplink();
    let mut before = world.entries();
    for room in 0..4 {
        world.tables.sessions.capacity = before[0] + room;
        let hairpin = world.guest_sends(&udp(At(C1, 6000), At(PUBLIC, 10_000)).bytes());
        assert_eq!(hairpin.reason(), DropReason::TableFull);
        assert_eq!(world.entries(), before);
        world.check();
    }
    world.tables.sessions.capacity = before[0] + 1;
    let asked = udp(At(S1A, 1), At(PUBLIC, 10_000)).bytes();
    assert_eq!(world.outside_sends(&asked).reason(), DropReason::TableFull);
    let known = udp(At(remote(0).0, 2), At(PUBLIC, 5000)).bytes();
    assert_eq!(world.outside_sends(&known).reason(), DropReason::TableFull);
    assert_eq!(world.entries(), before);
    world.check();
    world.tables.sessions.capacity += 1;
    world.outside_sends(&known).guest();
    before[0] += 2;
    assert_eq!(world.entries(), before);
    world.check();
}

/// A range of 64 ports serves exactly 64 internal endpoints, then refuses, and serves others when
/// those have ended.
#[test]
fn x2_every_port_of_a_range_is_used_and_then_none() {
    for protocol in [UDP, TCP] {
        let mut world = World::new();
        world.snat(|snat| (snat.first_port, snat.last_port) = (2000, 2063));
        let send = |world: &World, n: u16| {
            world.guest_sends(&request(protocol, At(C1, 4000 + n), remote(0)).bytes())
        };
        let mut ports: Vec<u16> = (0..64)
            .map(|n| ends(&send(&world, n).uplink()).0.1)
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, (2000..=2063).collect::<Vec<_>>());
        for n in 64..100 {
            assert_eq!(send(&world, n).reason(), DropReason::PortsExhausted);
        }
        assert_eq!(world.entries(), [128, 64, 64, 64]);
        for n in 0..64 {
            send(&world, n).uplink();
        }
        assert_eq!(world.wait(300), 64);
        send(&world, 64).uplink();
        world.check();
    }
}

/// With ports shared between remotes the same 64 serve as many sessions to each of them.
#[test]
fn x2_shared_ports_are_used_up_by_remote() {
    let mut world = World::new();
    world.snat(|snat| {
        (snat.first_port, snat.last_port) = (2000, 2063);
        snat.mapping = mapping::ADDRESS_AND_PORT_DEPENDENT;
    });
    for to in [remote(0), remote(1), At(remote(0).0, 7001)] {
        for n in 0..64 {
            world
                .guest_sends(&udp(At(C1, 4000 + n), to).bytes())
                .uplink();
        }
        let refused = world.guest_sends(&udp(At(C1, 4064), to).bytes());
        assert_eq!(refused.reason(), DropReason::PortsExhausted);
    }
    assert_eq!(world.entries(), [2 * 3 * 64, 0, 64, 0]);
    world.check();
    world.wait(300);
    assert_eq!(world.entries(), [0; 4]);
}

/// Where the internal port is free it is kept, and where it is not another of the same band is
/// taken.
#[test]
fn x2_the_internal_port_or_one_of_its_band_is_taken() {
    let mut world = World::new();
    world.snat(|snat| snat.first_port = 1);
    for port in [1, 53, 1023, 1024, 5000, 65_535] {
        let externals = [C1, C2].map(|guest| {
            let out = world.guest_sends(&udp(At(guest, port), remote(0)).bytes());
            ends(&out.uplink()).0.1
        });
        assert_eq!(externals[0], port);
        assert_ne!(externals[1], port);
        assert_eq!(externals[1] < 1024, port < 1024);
    }
}

/// Sessions of every kind, one on top of the other, leave nothing when they have ended, be it by
/// themselves or by order.
#[test]
fn x1_nothing_is_left_of_sessions_that_have_ended() {
    const GUESTS: [Ip; 2] = [C1, C2];
    for by_order in [true, false] {
        for filter in 0..=filtering::ADDRESS_AND_PORT_DEPENDENT {
            let mut world = World::new();
            world.snat(|snat| snat.filtering = filter);
            for protocol in [UDP, TCP, ICMP] {
                world.forward(protocol, 10_000..=10_003, At(C2, 80));
                for (n, guest) in GUESTS.into_iter().cycle().take(8).enumerate() {
                    let guest = At(guest, 5000 + n as u16 % 3);
                    world.guest_sends(&request(protocol, guest, remote(n)).bytes());
                    world.outside_sends(&request(protocol, remote(n), At(PUBLIC, 10_001)).bytes());
                    world
                        .outside_sends(&request(protocol, remote(n + 1), At(PUBLIC, 5000)).bytes());
                    world.guest_sends(&request(protocol, guest, At(PUBLIC, 10_002)).bytes());
                    world.guest_sends(&request(protocol, guest, At(PUBLIC, 5001)).bytes());
                    world.host_sends(&request(protocol, At(PUBLIC, 5000), remote(n)).bytes());
                    world.check();
                }
            }
            assert!(world.entries()[0] > 50);
            match by_order {
                true => world.end_all(),
                false => drop(world.wait(10_000)),
            }
            assert_eq!(world.entries(), [0; 4]);
            let counters = world.tables.counters.borrow();
            assert!(
                counters
                    .values()
                    .all(|counted| counted.opened == counted.closed)
            );
        }
    }
}

/// Whatever is free behind them.
#[test]
fn x2_as_many_ports_are_tried_as_a_packet_may_try_and_no_more() {
    let ports = 6000..=6000 + MAX_ATTEMPTS as u16;
    let is_refused = |free: &u16| {
        let mut world = World::new();
        world.snat(|snat| (snat.first_port, snat.last_port) = (*ports.start(), *ports.end()));
        for port in ports.clone().filter(|port| port != free) {
            let key = PortKey::new(Endpoint::new(addr(PUBLIC), Port::new(port)), UDP);
            let record = PortRecord {
                address: addr(C2),
                port: Port::new(port),
                network: 1,
                uplink: 1,
                filtering: filtering::ENDPOINT_INDEPENDENT,
                flags: 0,
                rule: 0,
                references: 1,
            };
            world.tables.add_port(&key, &record).unwrap();
        }
        match world.guest_sends(&udp(At(C1, 5000), remote(1)).bytes()) {
            Fate::Dropped(reason) => reason == DropReason::PortsExhausted,
            _ => false,
        }
    };
    assert_eq!(ports.clone().filter(is_refused).count(), 1);
}

/// As another CPU has them that opens the session: neither entry may be used before both are there.
#[test]
fn x1_a_session_that_is_not_complete_is_not_used() {
    let world = World::new();
    let packet = udp(At(C1, 5000), remote(1)).bytes();
    world.guest_sends(&packet).uplink();
    for (_, session) in world.tables.sessions.entries() {
        session.seen_s.store(OPENING);
    }
    let fate = world.guest_sends(&packet);
    assert_eq!(fate.reason(), DropReason::Ending);
}
