//! Short questions to DNS servers: many, each from its own port, and soon over (RFC 4787 REQ-5c).

use nat_common::{
    drop_reason::DropReason,
    tables::{policies::side, snats::filtering},
    wire::protocol::{TCP, UDP},
    work::port_search::MAX_ATTEMPTS,
};

use super::policy::accept;
use crate::family::{C1, C2, C3, Ip, PUBLIC, S1A, S2, World, ends, host};
use kit::{
    packets::{At, request, udp},
    world::Fate,
};

const SERVER: At<Ip> = At(S1A, 53);
const GUEST: At<Ip> = At(C1, 5000);
const EXTERNAL: At<Ip> = At(PUBLIC, 5000);

fn server(number: u16) -> At<Ip> {
    At(host([203, 0, 113, number as u8]), 53)
}

fn ask(world: &World, guest: At<Ip>, server: At<Ip>) -> At<Ip> {
    let seen = ends(&world.guest_sends(&udp(guest, server).bytes()).uplink());
    assert_eq!(seen.1, server);
    seen.0
}

fn answer(world: &World, server: At<Ip>, external: At<Ip>, guest: At<Ip>) {
    let packet = udp(server, external).bytes();
    assert_eq!(ends(&world.outside_sends(&packet).guest()), (server, guest));
}

fn few_ports() -> World {
    let mut world = World::new();
    world.snat(|snat| (snat.first_port, snat.last_port) = (6000, 6009));
    world
}

#[test]
fn more_questions_than_ports_are_answered_and_leave_ports_to_others() {
    let world = few_ports();
    for number in 0..100 {
        let (guest, server) = (At(C1, 20_000 + number), server(number % 13));
        let external = ask(&world, guest, server);
        assert!((6000..=6009).contains(&external.1));
        answer(&world, server, external, guest);
    }
    for number in 0..10 {
        let packet = udp(At(C2, 30_000 + number), At(S1A, 4000)).bytes();
        world.guest_sends(&packet).uplink();
    }
    world.check();
    let packet = udp(At(C2, 31_000), At(S1A, 4000)).bytes();
    assert_eq!(
        world.guest_sends(&packet).reason(),
        DropReason::PortsExhausted
    );
}

/// One server gets each port once: the answers could not be told apart.
#[test]
fn questions_to_one_server_have_separate_ports() {
    let world = few_ports();
    let mut seen: Vec<_> = (0..10)
        .map(|n| ask(&world, At(C1, 20_000 + n), SERVER))
        .collect();
    seen.sort_by_key(|at| at.1);
    seen.dedup();
    assert_eq!(seen.len(), 10);
    let packet = udp(At(C2, 5000), SERVER).bytes();
    assert_eq!(
        world.guest_sends(&packet).reason(),
        DropReason::PortsExhausted
    );
}

#[test]
fn a_question_keeps_the_port_of_the_guest() {
    let world = World::new();
    assert_eq!(ask(&world, GUEST, SERVER), EXTERNAL);
    // Another guest's has to do with another one, and so has one towards the same server.
    assert_ne!(ask(&world, At(C2, 5000), SERVER), EXTERNAL);
    // What the guest sends elsewhere from there has the same.
    assert_eq!(
        ends(&world.guest_sends(&udp(GUEST, At(S2, 9)).bytes()).uplink()).0,
        EXTERNAL
    );
    world.check();
}

#[test]
fn a_question_from_a_mapped_port_leaves_by_the_mapping() {
    let world = World::new();
    world
        .guest_sends(&udp(At(C2, 5000), At(S2, 9)).bytes())
        .uplink();
    let mapped = ends(&world.guest_sends(&udp(GUEST, At(S2, 9)).bytes()).uplink()).0;
    assert_ne!(mapped, EXTERNAL);
    assert_eq!(ask(&world, GUEST, SERVER), mapped);
    assert_eq!(world.entries(), [6, 2, 2, 3]);
    world.check();
}

/// The question of another guest has the port of the mapping towards this server.
#[test]
fn a_question_whose_mapping_is_anothers_towards_its_server_has_another_port() {
    let world = World::new();
    assert_eq!(ask(&world, At(C2, 5000), SERVER), EXTERNAL);
    assert_eq!(
        ends(&world.guest_sends(&udp(GUEST, At(S2, 9)).bytes()).uplink()).0,
        EXTERNAL
    );
    let external = ask(&world, GUEST, SERVER);
    assert_ne!(external, EXTERNAL);
    answer(&world, SERVER, external, GUEST);
    answer(&world, SERVER, EXTERNAL, At(C2, 5000));
    world.check();
}

/// As long as there are others.
#[test]
fn a_question_leaves_anothers_port_alone() {
    let world = World::new();
    world
        .guest_sends(&udp(At(C2, GUEST.1), At(S2, 4000)).bytes())
        .uplink();
    assert_ne!(ask(&world, GUEST, SERVER), EXTERNAL);
}

/// Ports of others are used as well once there are hardly any left.
#[test]
fn a_question_finds_a_port_where_all_are_others() {
    let mut world = World::new();
    world.snat(|snat| (snat.first_port, snat.last_port) = (6000, 6099));
    for number in 0..100 {
        world
            .guest_sends(&udp(At(C2, 20_000 + number), At(S2, 9)).bytes())
            .uplink();
    }
    let external = ask(&world, GUEST, SERVER);
    answer(&world, SERVER, external, GUEST);
}

/// Half of the candidates are looked at before another's port is used, and no more.
#[test]
fn a_question_uses_anothers_port_after_half_of_all_attempts() {
    let mut world = World::new();
    let ports = 6000..=6000 + (MAX_ATTEMPTS / 2) as u16;
    world.snat(|snat| (snat.first_port, snat.last_port) = (*ports.start(), *ports.end()));
    for (number, _) in ports.enumerate() {
        world
            .guest_sends(&udp(At(C2, 20_000 + number as u16), At(S2, 9)).bytes())
            .uplink();
    }
    let external = ask(&world, At(C1, 5000), SERVER);
    answer(&world, SERVER, external, At(C1, 5000));
}

#[test]
fn only_the_server_that_was_asked_may_answer() {
    let mut world = World::new();
    world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT);
    ask(&world, GUEST, SERVER);
    for other in [At(S1A, 5353), At(S2, 53)] {
        let fate = world.outside_sends(&udp(other, EXTERNAL).bytes());
        assert!(matches!(fate, Fate::Host(_)), "{fate:?}");
    }
}

#[test]
fn a_service_of_the_host_keeps_its_port() {
    let mut world = World::new();
    world.socket(UDP, EXTERNAL, None);
    world.forward(UDP, 5001..=5001, At(C2, 80));
    assert_ne!(ask(&world, GUEST, SERVER), EXTERNAL);
    assert_ne!(ask(&world, At(C1, 5001), SERVER), At(PUBLIC, 5001));
}

#[test]
fn an_answered_question_ends_after_ten_seconds() {
    let mut world = World::new();
    ask(&world, GUEST, SERVER);
    world.assert_ends_after(300);
    ask(&world, GUEST, SERVER);
    // A resolver asks for two kinds of addresses at once.
    ask(&world, GUEST, SERVER);
    answer(&world, SERVER, EXTERNAL, GUEST);
    answer(&world, SERVER, EXTERNAL, GUEST);
    world.assert_ends_after(10);
}

/// A tunnel to port 53, or a client that asks repeatedly from one port, is no short question.
#[test]
fn a_client_that_sends_again_has_the_datagram_timeout() {
    let mut world = World::new();
    ask(&world, GUEST, SERVER);
    answer(&world, SERVER, EXTERNAL, GUEST);
    assert_eq!(world.wait(9), 0);
    ask(&world, GUEST, SERVER);
    answer(&world, SERVER, EXTERNAL, GUEST);
    world.assert_ends_after(300);
}

#[test]
fn other_flows_have_their_own_timeout() {
    let mut world = World::new();
    // Questions to a guest's server, from port 53 or at it.
    world.forward(UDP, 53..=53, At(C1, 53));
    let client = At(S2, 53);
    world
        .outside_sends(&udp(client, At(PUBLIC, 53)).bytes())
        .guest();
    world.guest_sends(&udp(At(C1, 53), client).bytes()).uplink();
    world.assert_ends_after(300);
    let mut world = World::new();
    world
        .guest_sends(&request(TCP, GUEST, SERVER).bytes())
        .uplink();
    world.assert_ends_after(240);
}

#[test]
fn a_shorter_time_of_all_datagrams_is_that_of_questions_too() {
    let mut settings = *World::new().tables.settings.as_ref().unwrap();
    settings.udp_s = 4;
    let state = nat_common::session::tracking::QUESTION | nat_common::session::tracking::REPLIED;
    assert_eq!(
        nat_common::session::ending::timeout_s(&settings, UDP, state),
        4
    );
}

/// A guest asks another's server, by a forward and by a policy without translation.
#[test]
fn questions_between_guests_are_short_as_well() {
    let mut world = World::new();
    world.forward(UDP, 53..=53, At(C2, 53));
    let asked = world
        .guest_sends(&udp(GUEST, At(PUBLIC, 53)).bytes())
        .guest();
    let (shown, server) = ends(&asked);
    world.guest_sends(&udp(server, shown).bytes()).guest();
    world.assert_ends_after(10);
    world.chain(side::ANY, side::ANY, &[accept()]);
    let dns: Ip = C3;
    world.guest_sends(&udp(GUEST, At(dns, 53)).bytes()).guest();
    world.guest_sends(&udp(At(dns, 53), GUEST).bytes()).guest();
    world.assert_ends_after(10);
}
