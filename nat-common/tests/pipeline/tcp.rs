//! TCP: the state parts of T2 to T6.

use nat_common::{counter::DropReason, parse::TCP};

use super::{
    packets::{ACK, At, FIN, RST, SYN, ends, tcp},
    world::{C1, PUBLIC, S1A, S1B, World},
};

const GUEST: At = At(C1, 5000);
const EXTERNAL: At = At(PUBLIC, 5000);
const REMOTE: At = At(S1A, 80);

fn out(world: &World, flags: u8, payload: &[u8]) {
    let packet = tcp(GUEST, REMOTE, flags).payload(payload).bytes();
    let packet = world.guest_sends(&packet).uplink();
    assert_eq!(ends(&packet), (EXTERNAL, REMOTE));
}

fn back(world: &World, flags: u8, payload: &[u8]) {
    let packet = tcp(REMOTE, EXTERNAL, flags).payload(payload).bytes();
    let packet = world.outside_sends(&packet).guest();
    assert_eq!(ends(&packet), (REMOTE, GUEST));
}

fn connect(world: &World) {
    out(world, SYN, b"");
    back(world, SYN | ACK, b"");
    out(world, ACK, b"");
}

/// Asserts that the only session ends after being idle for exactly so long.
#[track_caller]
fn assert_ends_after(world: &mut World, seconds: u32) {
    assert_eq!(world.wait(seconds - 1), 0, "ended before {seconds} s");
    assert_eq!(world.wait(1), 1, "did not end after {seconds} s");
    assert_eq!(world.entries(), [0; 4]);
}

/// A handshake that is not complete is kept for the opening time, a complete one for that of
/// established connections.
#[test]
fn t7_an_idle_connection_is_kept_for_its_time() {
    let mut world = World::new();
    out(&world, SYN, b"");
    assert_ends_after(&mut world, 240);
    out(&world, SYN, b"");
    back(&world, SYN | ACK, b"");
    assert_ends_after(&mut world, 240);
    connect(&world);
    assert_ends_after(&mut world, 7440);
}

/// Both ends send SYN before they have seen the other's: one session, and established.
#[test]
fn t2_simultaneous_open_completes() {
    let mut world = World::new();
    out(&world, SYN, b"");
    back(&world, SYN, b"");
    out(&world, SYN | ACK, b"");
    back(&world, SYN | ACK, b"");
    out(&world, ACK, b"");
    assert_eq!(world.entries()[0], 2);
    assert_ends_after(&mut world, 7440);
}

/// A SYN to a guest's port from a remote that it has not sent to is dropped without an answer, and
/// when the guest then sends one to it the connection opens.
#[test]
fn t3_unsolicited_syn_to_a_guests_port_is_dropped_in_silence() {
    let world = World::new();
    out(&world, SYN, b"");
    let stranger = At(S1B, 80);
    let syn = tcp(stranger, EXTERNAL, SYN).bytes();
    assert_eq!(world.outside_sends(&syn).reason(), DropReason::Filtered);
    world
        .guest_sends(&tcp(GUEST, stranger, SYN).bytes())
        .uplink();
    assert_eq!(ends(&world.outside_sends(&syn).guest()), (stranger, GUEST));
    world.check();
}

/// Segments of a connection that is over open nothing from outside.
#[test]
fn t3_only_a_syn_opens_from_outside() {
    let world = World::new();
    out(&world, SYN, b"");
    for flags in [ACK, FIN | ACK, RST, RST | ACK] {
        let packet = tcp(At(S1A, 81), EXTERNAL, flags).bytes();
        assert_eq!(world.outside_sends(&packet).reason(), DropReason::Filtered);
    }
    assert_eq!(world.entries()[0], 2);
}

/// A reset is translated, and the session stays for the closing time.
#[test]
fn t4_a_reset_passes_and_keeps_the_session_for_the_closing_time() {
    for from_guest in [true, false] {
        let mut world = World::new();
        connect(&world);
        match from_guest {
            true => out(&world, RST, b""),
            false => back(&world, RST | ACK, b""),
        }
        assert_ends_after(&mut world, 240);
    }
}

/// A reset of a session that is gone does not leave with the guest's address.
#[test]
fn t4_a_reset_opens_no_session() {
    let world = World::new();
    let reset = tcp(GUEST, REMOTE, RST).bytes();
    assert_eq!(world.guest_sends(&reset).reason(), DropReason::NoSession);
    assert_eq!(world.entries(), [0; 4]);
}

/// A reset that the ends did not accept costs a flow that goes on nothing.
#[test]
fn t5_data_after_a_reset_revives_the_session() {
    let mut world = World::new();
    connect(&world);
    back(&world, RST, b"");
    world.wait(100);
    out(&world, ACK, b"data");
    assert_ends_after(&mut world, 7440);
}

/// After FIN in both directions the session stays for the closing time, and a SYN from the same
/// port opens the connection anew.
#[test]
fn t6_a_closed_connection_opens_again_on_the_same_ports() {
    let mut world = World::new();
    connect(&world);
    out(&world, FIN | ACK, b"");
    back(&world, FIN | ACK, b"");
    out(&world, ACK, b"");
    assert_eq!(world.wait(100), 0);
    out(&world, SYN, b"");
    assert_eq!(world.wait(239), 0);
    back(&world, SYN | ACK, b"");
    out(&world, ACK, b"");
    assert_ends_after(&mut world, 7440);
    connect(&world);
    out(&world, FIN | ACK, b"");
    back(&world, FIN | ACK, b"");
    assert_ends_after(&mut world, 240);
}

/// After FIN in one direction alone the other may go on for as long as it likes.
#[test]
fn t6_a_half_closed_connection_stays_established() {
    let mut world = World::new();
    connect(&world);
    out(&world, FIN | ACK, b"");
    back(&world, ACK, b"the rest");
    assert_ends_after(&mut world, 7440);
}

/// A forwarded connection has the same states, seen from the other side.
#[test]
fn t7_a_forwarded_connection_is_kept_for_its_time() {
    let mut world = World::new();
    world.forward(TCP, 10_000..=10_000, At(C1, 80));
    let (client, server, public) = (At(S1A, 40_000), At(C1, 80), At(PUBLIC, 10_000));
    let steps = [(SYN, true), (SYN | ACK, false), (ACK, true)];
    for (flags, is_request) in steps {
        let seen = match is_request {
            true => ends(
                &world
                    .outside_sends(&tcp(client, public, flags).bytes())
                    .guest(),
            ),
            false => ends(
                &world
                    .guest_sends(&tcp(server, client, flags).bytes())
                    .uplink(),
            ),
        };
        let expected = if is_request {
            (client, server)
        } else {
            (public, client)
        };
        assert_eq!(seen, expected);
    }
    assert_ends_after(&mut world, 7440);
}
