//! UDP: U1 to U7, and fragments: F1.

use nat_common::{
    drop_reason::DropReason,
    tables::snats::{filtering, mapping},
};

use crate::family::{
    C1, C2, HEADER, PUBLIC, S1A, S1B, S2, UDP_CHECKSUM, World, assert_hidden, ends, fragments,
    read, reassemble,
};
use kit::{
    octets::Octets as _,
    packets::{At, udp},
    world::{Fate, MAPPINGS, SNAT_RULE},
};

/// A datagram goes out with the external address and the port kept, and the answer comes back to
/// the guest, both with their payload.
#[test]
fn u1_masquerade_translates_out_and_back() {
    let world = World::new();
    let (guest, remote) = (At(C1, 5000), At(S1A, 7000));
    let out = world.guest_sends(&udp(guest, remote).payload(b"question").bytes());
    let out = read(&out.uplink());
    assert_eq!(out.ends(), (At(PUBLIC, 5000), remote));
    assert_eq!(out.payload, b"question");
    let back = udp(remote, out.source).payload(b"an odd answer").bytes();
    let back = read(&world.outside_sends(&back).guest());
    assert_eq!(back.ends(), (remote, guest));
    assert_eq!(back.payload, b"an odd answer");
    world.check();
}

/// One internal endpoint has one external one towards all remotes.
#[test]
fn u2_the_mapping_does_not_depend_on_the_remote() {
    let world = World::new();
    // The port is taken, so that the one chosen by chance must be found again.
    world.guest_sends(&udp(At(C2, 5000), At(S2, 9)).bytes());
    let remotes = [At(S1A, 1), At(S1A, 2), At(S1B, 1)];
    let sources = remotes.map(|remote| {
        let out = world.guest_sends(&udp(At(C1, 5000), remote).bytes());
        ends(&out.uplink()).0
    });
    assert_ne!(sources[0], At(PUBLIC, 5000));
    assert_eq!(sources, [sources[0]; 3]);
    world.check();
}

/// Whom the mapping lets in: every remote, addresses or endpoints that the guest has sent to.
#[test]
fn u3_each_filter_admits_its_remotes() {
    let probes = [At(S1A, 2), At(S1B, 1), At(S2, 1)];
    let modes = [
        (filtering::ENDPOINT_INDEPENDENT, [true, true, true]),
        (filtering::ADDRESS_DEPENDENT, [true, false, false]),
        (filtering::ADDRESS_AND_PORT_DEPENDENT, [false, false, false]),
    ];
    for (mode, let_in) in modes {
        let mut world = World::new();
        world.snat(|snat| snat.filtering = mode);
        let guest = At(C1, 5000);
        world.guest_sends(&udp(guest, At(S1A, 1)).bytes()).uplink();
        for (probe, is_let_in) in probes.into_iter().zip(let_in) {
            let fate = world.outside_sends(&udp(probe, At(PUBLIC, 5000)).bytes());
            if is_let_in {
                assert_eq!(ends(&fate.guest()), (probe, guest), "mode {mode}");
                let answer = world.guest_sends(&udp(guest, probe).bytes());
                assert_eq!(ends(&answer.uplink()), (At(PUBLIC, 5000), probe));
            } else {
                assert_eq!(
                    fate.reason(),
                    DropReason::Filtered,
                    "mode {mode}: {probe:?}"
                );
            }
        }
        world.check();
    }
}

/// Sessions keep their references, whatever the rule says then.
#[test]
fn u3_a_permit_stays_when_a_session_ends_that_needed_none() {
    let mut world = World::new();
    let guest = At(C1, 5000);
    world.guest_sends(&udp(guest, At(S1A, 1)).bytes()).uplink();
    world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT);
    world.guest_sends(&udp(guest, At(S1A, 2)).bytes()).uplink();
    world.advance(200);
    world.guest_sends(&udp(guest, At(S1A, 1)).bytes()).uplink();
    assert_eq!(world.wait(100), 1);
    world.check();
    let back = udp(At(S1A, 3), At(PUBLIC, 5000)).bytes();
    assert_eq!(ends(&world.outside_sends(&back).guest()).1, guest);
}

/// A port that is shared between remotes serves each only what it was sent.
#[test]
fn u3_a_shared_port_lets_in_no_stranger() {
    let world = World::with_mapping(mapping::ADDRESS_AND_PORT_DEPENDENT);
    for (guest, remote) in [(C1, S1A), (C2, S1B)] {
        let out = world.guest_sends(&udp(At(guest, 5000), At(remote, 1)).bytes());
        assert_eq!(ends(&out.uplink()).0, At(PUBLIC, 5000));
        let back = world.outside_sends(&udp(At(remote, 1), At(PUBLIC, 5000)).bytes());
        assert_eq!(ends(&back.guest()).1, At(guest, 5000));
    }
    let stranger = world.outside_sends(&udp(At(S1A, 2), At(PUBLIC, 5000)).bytes());
    assert_eq!(stranger.reason(), DropReason::Filtered);
    world.check();
}

/// Two guests with the same port to the same remote get two external ports, both answered.
#[test]
fn u4_guests_with_the_same_port_stay_apart() {
    for mode in MAPPINGS {
        let world = World::with_mapping(mode);
        let remote = At(S1A, 7000);
        let externals = [C1, C2].map(|guest| {
            let out = world.guest_sends(&udp(At(guest, 5000), remote).bytes());
            ends(&out.uplink()).0
        });
        assert_ne!(externals[0], externals[1]);
        for (external, guest) in externals.into_iter().zip([C1, C2]) {
            let back = world.outside_sends(&udp(remote, external).bytes());
            assert_eq!(ends(&back.guest()), (remote, At(guest, 5000)));
        }
        world.check();
    }
}

/// A checksum of 0 means none, and stays so in both directions.
#[test]
fn u6_no_checksum_stays_none() {
    let world = World::new();
    let (guest, remote) = (At(C1, 5000), At(S1A, 7000));
    let out = world.guest_sends(&udp(guest, remote).unsummed().bytes());
    let out = out.uplink();
    assert_eq!(out[UDP_CHECKSUM], [0, 0]);
    assert_hidden(&out);
    let back = world.outside_sends(&udp(remote, At(PUBLIC, 5000)).unsummed().bytes());
    let back = back.guest();
    assert_eq!(back[UDP_CHECKSUM], [0, 0]);
    assert_eq!(ends(&back), (remote, guest));
}

/// Among all payloads of two bytes is one for every sum: one that computes to 0 is sent as 0xffff.
#[test]
fn u7_a_sum_of_zero_is_sent_as_ffff() {
    let world = World::new();
    let mut seen = 0;
    for word in 0..=u16::MAX {
        let packet = udp(At(C1, 5000), At(S1A, 7000)).payload(&word.to_be_bytes());
        let out = world.guest_sends(&packet.bytes()).uplink();
        read(&out);
        assert_ne!(out[UDP_CHECKSUM], [0, 0]);
        seen += u32::from(out[UDP_CHECKSUM] == [0xff, 0xff]);
    }
    assert!(seen > 0);
}

/// Fragments in order are translated by what the first one says, out and back.
#[test]
fn f1_fragments_in_order_arrive_whole() {
    let world = World::new();
    let payload: Vec<u8> = (0..2000u16).map(|n| n as u8).collect();
    let (guest, remote) = (At(C1, 5000), At(S1A, 7000));
    let whole = udp(guest, remote).payload(&payload).bytes();
    let out: Vec<_> = fragments(&whole, 800)
        .iter()
        .map(|fragment| world.guest_sends(fragment).uplink())
        .collect();
    assert_eq!(out.len(), 3);
    let seen = read(&reassemble(&out));
    assert_eq!(
        (seen.ends(), seen.payload),
        ((At(PUBLIC, 5000), remote), payload.clone())
    );
    let answer = udp(remote, At(PUBLIC, 5000))
        .id(77)
        .payload(&payload)
        .bytes();
    let back: Vec<_> = fragments(&answer, 8)
        .iter()
        .map(|fragment| world.outside_sends(fragment).guest())
        .collect();
    let seen = read(&reassemble(&back));
    assert_eq!((seen.ends(), seen.payload), ((remote, guest), payload));
    world.check();
}

/// Without its first fragment a later one has no ports: it is kept, and goes nowhere. What an old
/// first fragment said does not count.
#[test]
fn f4_a_later_fragment_alone_goes_nowhere() {
    let mut world = World::new();
    let whole = udp(At(C1, 5000), At(S1A, 7000)).payload(&[7; 100]).bytes();
    let parts = fragments(&whole, 48);
    world.guest_sends(&parts[0]).uplink();
    world.guest_sends(&parts[1]).uplink();
    world.advance(30);
    assert_eq!(world.guest_sends(&parts[2]), Fate::Queued);
    let answer = udp(At(S1A, 7000), At(PUBLIC, 5000)).payload(&[7; 100]);
    let parts = fragments(&answer.bytes(), 48);
    assert_eq!(world.outside_sends(&parts[1]), Fate::Queued);
}

/// The same identification from two guests to one remote belongs to two packets.
#[test]
fn f7_fragments_of_two_guests_are_not_mixed() {
    let world = World::new();
    let remote = At(S1A, 7000);
    let parts = [C1, C2].map(|guest| {
        let whole = udp(At(guest, 5000), remote).payload(&[guest.host()[3]; 64]);
        fragments(&whole.bytes(), 40)
    });
    let mut out = [Vec::new(), Vec::new()];
    for index in 0..parts[0].len() {
        for (parts, out) in parts.iter().zip(&mut out) {
            out.push(world.guest_sends(&parts[index]).uplink());
        }
    }
    let seen = out.map(|parts| read(&reassemble(&parts)));
    assert_eq!(seen[0].payload, [C1.host()[3]; 64]);
    assert_eq!(seen[1].payload, [C2.host()[3]; 64]);
    assert_ne!(seen[0].source, seen[1].source);
}

/// The mapping ends when its sessions have been idle for as long as the configuration says, and a
/// remote that sends without being answered does not keep it.
#[test]
fn u8_a_mapping_ends_when_the_guest_is_silent() {
    let mut world = World::new();
    world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT);
    world
        .guest_sends(&udp(At(C1, 5000), At(S1A, 1)).bytes())
        .uplink();
    assert_eq!(world.wait(299), 0);
    let probe = udp(At(S2, 1), At(PUBLIC, 5000)).bytes();
    world.outside_sends(&probe).guest();
    assert_eq!(world.wait(1), 1);
    for _ in 0..3 {
        world.advance(99);
        world.outside_sends(&probe).guest();
    }
    assert_eq!(world.wait(2), 1);
    assert_eq!(world.entries(), [0; 4]);
    assert_eq!(world.outside_sends(&probe).host(), probe);
}

/// Packets either way keep a session that the guest has opened.
#[test]
fn u8_answers_keep_the_session_of_a_guest() {
    let mut world = World::new();
    let (guest, remote) = (At(C1, 5000), At(S1A, 1));
    world.guest_sends(&udp(guest, remote).bytes()).uplink();
    for _ in 0..5 {
        assert_eq!(world.wait(200), 0);
        world
            .outside_sends(&udp(remote, At(PUBLIC, 5000)).bytes())
            .guest();
    }
    assert_eq!(world.wait(300), 1);
    let counters = world.counters(SNAT_RULE);
    assert_eq!((counters.opened, counters.closed), (1, 1));
    assert_eq!((counters.packets_out, counters.packets_in), (1, 5));
    assert_eq!(counters.bytes_out, HEADER as u64 + 8 + 8);
}
