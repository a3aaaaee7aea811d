//! One guest, or one sender from outside, cannot use everything.

use nat_common::{
    drop_reason::DropReason,
    session::ending::OUTSIDE_UNANSWERED_S,
    wire::protocol::{TCP, UDP},
};

use crate::family::{C1, C2, Ip, PUBLIC, S1A, World};
use kit::packets::{ACK, At, RST, SYN, answer, request, tcp, udp};

const REMOTE: At<Ip> = At(S1A, 7000);

/// So many sessions in all.
fn world(sessions: u32) -> World {
    let mut world = World::new();
    world.tables.host_sessions = sessions / 4;
    world.forward(UDP, 10_000..=10_000, At(C1, 80));
    world.forward(TCP, 10_000..=10_000, At(C1, 80));
    world
}

#[test]
fn x4_sessions_from_outside_leave_a_quarter_to_the_guests() {
    let world = world(8);
    for number in 0..6 {
        let asked = udp(At(S1A, 1000 + number), At(PUBLIC, 10_000));
        world.outside_sends(&asked.bytes()).guest();
    }
    let asked = udp(At(S1A, 2000), At(PUBLIC, 10_000)).bytes();
    let fate = world.outside_sends(&asked);
    assert_eq!(fate.reason(), DropReason::OutsideSessions);
    // Those that there are go on, and guests open others.
    let asked = udp(At(S1A, 1000), At(PUBLIC, 10_000)).bytes();
    world.outside_sends(&asked).guest();
    for guest in [C1, C2] {
        world
            .guest_sends(&udp(At(guest, 5000), REMOTE).bytes())
            .uplink();
    }
    world.check();
}

#[test]
fn x4_a_refusal_by_the_guests_own_share_counts_nothing() {
    let mut world = world(8);
    world.caps(1, 0);
    let asked = |port| udp(At(S1A, port), At(PUBLIC, 10_000)).bytes();
    world.outside_sends(&asked(1)).guest();
    for port in 2..20 {
        let fate = world.outside_sends(&asked(port));
        assert_eq!(fate.reason(), DropReason::GuestSessions);
    }
    world.check();
    assert_eq!(world.wait(OUTSIDE_UNANSWERED_S), 1);
    world.outside_sends(&asked(2)).guest();
    world.check();
}

#[test]
fn x4_a_session_from_outside_is_short_until_the_guest_answers() {
    for protocol in [UDP, TCP] {
        let (remote, public) = (REMOTE, At(PUBLIC, 10_000));
        let mut unanswered = world(8);
        unanswered
            .outside_sends(&request(protocol, remote, public).bytes())
            .guest();
        assert_eq!(unanswered.wait(OUTSIDE_UNANSWERED_S - 1), 0, "{protocol}");
        assert_eq!(unanswered.wait(1), 1, "{protocol}");
        unanswered.check();
        // It opens again.
        unanswered
            .outside_sends(&request(protocol, remote, public).bytes())
            .guest();

        let mut answered = world(8);
        answered
            .outside_sends(&request(protocol, remote, public).bytes())
            .guest();
        answered
            .guest_sends(&answer(protocol, At(C1, 80), remote).bytes())
            .uplink();
        assert_eq!(answered.wait(239), 0, "{protocol}");
    }
}

#[test]
fn x4_a_guests_session_keeps_its_timeout_without_an_answer() {
    for protocol in [UDP, TCP] {
        let mut world = world(8);
        world
            .guest_sends(&request(protocol, At(C2, 5000), REMOTE).bytes())
            .uplink();
        assert_eq!(world.wait(239), 0, "{protocol}");
    }
}

#[test]
fn x4_a_connection_that_the_guest_refuses_is_short_as_well() {
    let mut world = world(8);
    let public = At(PUBLIC, 10_000);
    world
        .outside_sends(&tcp(REMOTE, public, SYN).bytes())
        .guest();
    let refused = tcp(At(C1, 80), REMOTE, RST | ACK).bytes();
    world.guest_sends(&refused).uplink();
    assert_eq!(world.wait(OUTSIDE_UNANSWERED_S), 1);
}
