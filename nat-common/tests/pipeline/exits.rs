//! While an uplink is away, guests' packets leave only by interfaces that the daemon has looked at.

use nat_common::{
    drop_reason::DropReason,
    pipeline::Verdict,
    tables::{
        snats::{self, SNAT_FIXED_BITS, Snat, SnatKey},
        uplinks::{UPLINKS, Uplink},
    },
    wire::protocol::UDP,
};

use crate::family::{ADDRESS_BITS, C1, C3, Ip, PUBLIC, S1A, World, addr, fragments, host};
use kit::{
    packets::{ACK, At, SYN, answer, request, tcp, udp},
    world::{DMZ, ELSEWHERE, Hook, LAN, UPLINK},
};

const GUEST: At<Ip> = At(C1, 5000);
const REMOTE: At<Ip> = At(S1A, 7000);
const NEIGHBOUR: At<Ip> = At(host([192, 168, 7, 7]), 7000);
const GROUP: At<Ip> = At(host([224, 0, 0, 251]), 7000);
/// The uplink's index before it was recreated.
const FORMER: u32 = 77;

const AWAY: DropReason = DropReason::UplinkAway;
/// What becomes of a packet, or why it is dropped.
type Outcome = Result<Verdict, DropReason>;

const PASSES: Outcome = Ok(Verdict::Untouched);

fn uplink(index: u32, number: u16) -> Uplink {
    Uplink {
        index,
        number,
        reserved: [0; 2],
    }
}

/// A host whose uplink was just recreated: packets leave by it, and the daemon has not checked it
/// yet.
fn world() -> World {
    let mut world = World::new();
    world.tables.uplinks = vec![uplink(FORMER, 1)];
    world.tables.gone = [FORMER].into();
    world.tables.exits = [FORMER, LAN, DMZ, ELSEWHERE].into();
    world
}

fn outcome(world: &World, packet: &[u8]) -> Outcome {
    world
        .run(Hook::FromGuest, packet, LAN, LAN)
        .map(|(verdict, _)| verdict)
}

#[test]
fn l12_guests_packets_stay_inside_while_the_uplink_is_recreated() {
    let world = world();
    let datagrams = [udp(GUEST, REMOTE).bytes(), tcp(GUEST, REMOTE, SYN).bytes()];
    let middle = [
        tcp(GUEST, REMOTE, ACK).bytes(),
        request(47, GUEST, REMOTE).bytes(),
    ];
    let pieces = fragments(&udp(GUEST, REMOTE).payload(&[7; 3000]).bytes(), 1400);
    for packet in datagrams.iter().chain(&middle).chain(&pieces) {
        assert_eq!(outcome(&world, packet), Err(AWAY));
    }
    assert_eq!(world.entries(), [0; 4]);
}

#[test]
fn l12_an_established_flow_stays_too_and_goes_on_afterwards() {
    let mut world = world();
    world.tables.gone.clear();
    let packet = udp(GUEST, REMOTE).bytes();
    world.guest_sends(&packet).uplink();
    world.tables.gone = [FORMER].into();
    assert_eq!(outcome(&world, &packet), Err(AWAY));
    // The daemon has attached the programs, and the programs know the interface.
    world.tables.uplinks = vec![uplink(UPLINK, 1)];
    world.tables.exits.insert(UPLINK);
    world.guest_sends(&packet).uplink();
    world.check();
}

#[test]
fn l12_answers_of_a_forwards_target_stay_without_a_source_rule() {
    let mut world = world();
    world.tables.gone.clear();
    world.forward(UDP, 10_000..=10_000, GUEST);
    let asked = request(UDP, REMOTE, At(PUBLIC, 10_000)).bytes();
    world.outside_sends(&asked).guest();
    world.tables.gone = [FORMER].into();
    world.tables.snats = Default::default();
    let back = answer(UDP, GUEST, REMOTE).bytes();
    assert_eq!(outcome(&world, &back), Err(AWAY));
}

#[test]
fn l12_an_uplink_that_has_never_been_there_is_away() {
    let mut world = world();
    world.tables.uplinks = vec![uplink(UPLINK, 1), uplink(0, 2)];
    assert_eq!(outcome(&world, &udp(GUEST, REMOTE).bytes()), Err(AWAY));
    world.tables.exits.insert(UPLINK);
    assert_eq!(outcome(&world, &udp(GUEST, REMOTE).bytes()), PASSES);
}

#[test]
fn l12_the_last_of_many_uplinks_counts() {
    let mut world = world();
    world.tables.uplinks = (1..).map(|number| uplink(LAN, number)).take(16).collect();
    assert_eq!(world.tables.uplinks.len(), UPLINKS as usize);
    assert_eq!(outcome(&world, &udp(GUEST, REMOTE).bytes()), PASSES);
    world.tables.uplinks[15] = uplink(FORMER, 16);
    assert_eq!(outcome(&world, &udp(GUEST, REMOTE).bytes()), Err(AWAY));
    // Behind the last one there is none.
    world.tables.uplinks[14] = uplink(LAN, 0);
    assert_eq!(outcome(&world, &udp(GUEST, REMOTE).bytes()), PASSES);
}

#[test]
fn l12_while_an_uplink_is_away_guests_reach_all_that_is_known() {
    let world = world();
    for to in [NEIGHBOUR, At(C3, 7000), At(PUBLIC, 22), GROUP] {
        assert_eq!(outcome(&world, &udp(GUEST, to).bytes()), PASSES, "{to:?}");
    }
}

#[test]
fn l12_routed_guests_have_nothing_to_hide() {
    let mut world = world();
    let key = SnatKey {
        generation: 1,
        uplink: 1,
        network: 1,
        reserved: [0; 2],
        source: addr(C1),
    };
    let routed = Snat {
        first: addr(host([0; 4])),
        last: addr(host([0; 4])),
        rule: 7,
        first_port: 1024,
        last_port: u16::MAX,
        mapping: snats::mapping::NONE,
        filtering: 0,
        has_excludes: 0,
        by_destination: 0,
    };
    world
        .tables
        .snats
        .insert(SNAT_FIXED_BITS + ADDRESS_BITS, &key, routed);
    assert_eq!(outcome(&world, &udp(GUEST, REMOTE).bytes()), PASSES);
    let other: Ip = host([172, 22, 161, 171]);
    let hidden = udp(At(other, 5000), REMOTE).bytes();
    assert_eq!(outcome(&world, &hidden), Err(AWAY));
}
