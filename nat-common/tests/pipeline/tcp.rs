//! TCP: the state parts of T2 to T6.

use nat_common::{drop_reason::DropReason, wire::protocol::TCP};

use crate::family::{C1, C2, Ip, PUBLIC, S1A, S1B, World, ends};
use kit::packets::{ACK, At, FIN, RST, SYN, tcp};

const GUEST: At<Ip> = At(C1, 5000);
const EXTERNAL: At<Ip> = At(PUBLIC, 5000);
const REMOTE: At<Ip> = At(S1A, 80);

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

/// The remote sends a segment with these numbers.
fn back_at(world: &World, flags: u8, payload: &[u8], numbers: (u32, u32)) {
    let packet = tcp(REMOTE, EXTERNAL, flags).payload(payload);
    let packet = packet.numbers(numbers.0, numbers.1).bytes();
    let packet = world.outside_sends(&packet).guest();
    assert_eq!(ends(&packet), (REMOTE, GUEST));
}

/// The guest sends a segment with these numbers.
fn out_at(world: &World, flags: u8, payload: &[u8], numbers: (u32, u32)) {
    let packet = tcp(GUEST, REMOTE, flags).payload(payload);
    let packet = packet.numbers(numbers.0, numbers.1).bytes();
    assert_eq!(
        ends(&world.guest_sends(&packet).uplink()),
        (EXTERNAL, REMOTE)
    );
}

/// A connection in which the guest has received up to `remote_s` and the remote up to `guest_s`.
fn connect_at(world: &World, guest_s: u32, remote_s: u32) {
    out_at(world, SYN, b"", (guest_s.wrapping_sub(1), 0));
    back_at(world, SYN | ACK, b"", (remote_s.wrapping_sub(1), guest_s));
    out_at(world, ACK, b"", (guest_s, remote_s));
}

fn connect(world: &World) {
    out(world, SYN, b"");
    back(world, SYN | ACK, b"");
    out(world, ACK, b"");
}

/// A handshake that is not complete is kept for the opening time, a complete one for that of
/// established connections.
#[test]
fn t7_an_idle_connection_is_kept_for_its_time() {
    let mut world = World::new();
    out(&world, SYN, b"");
    world.assert_ends_after(240);
    out(&world, SYN, b"");
    back(&world, SYN | ACK, b"");
    world.assert_ends_after(240);
    connect(&world);
    world.assert_ends_after(7440);
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
    world.assert_ends_after(7440);
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
        world.assert_ends_after(240);
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

/// A reset that the ends did not accept does not affect a continuing flow.
#[test]
fn t5_data_after_a_reset_revives_the_session() {
    let mut world = World::new();
    connect(&world);
    back(&world, RST, b"");
    world.wait(100);
    out(&world, ACK, b"data");
    world.assert_ends_after(7440);
}

/// A reset out of sequence, such as a forged one, neither shortens the session of an idle
/// connection nor makes it last longer.
#[test]
fn t5_a_reset_out_of_sequence_changes_nothing_on_an_idle_connection() {
    for ahead in [1 << 16, 1 << 20, 1 << 31, u32::MAX] {
        for from_remote in [true, false] {
            let mut world = World::new();
            connect_at(&world, 1_000, 4_294_967_290);
            assert_eq!(world.wait(7000), 0);
            for flags in [RST, RST | ACK] {
                match from_remote {
                    true => back_at(
                        &world,
                        flags,
                        b"",
                        (4_294_967_290_u32.wrapping_add(ahead), 7),
                    ),
                    false => out_at(&world, flags, b"", (1_000_u32.wrapping_add(ahead), 7)),
                }
            }
            world.assert_ends_after(440);
        }
    }
}

/// A segment without an acknowledgement does not revert earlier ones: a reset in sequence is still
/// recognised.
#[test]
fn t5_a_segment_without_an_acknowledgement_forgets_none() {
    for (from_remote, meaningless) in [(true, 0), (false, 0), (true, 1 << 30), (false, 1 << 30)] {
        let mut world = World::new();
        connect_at(&world, 1_000, 5_000);
        world.wait(1000);
        match from_remote {
            true => {
                out_at(&world, 0, b"", (1_000, meaningless));
                back_at(&world, RST, b"", (5_000, 0));
            }
            false => {
                back_at(&world, 0, b"", (5_000, meaningless));
                out_at(&world, RST, b"", (1_000, 0));
            }
        }
        world.assert_ends_after(240);
    }
}

/// A reset in sequence with what the other side has acknowledged last, across the end of the
/// numbers.
#[test]
fn t5_a_reset_in_sequence_shortens_the_session() {
    for ahead in [0, (1 << 16) - 1] {
        for from_remote in [true, false] {
            let mut world = World::new();
            connect_at(&world, 1_000, 4_294_967_290);
            back_at(&world, ACK, &[1; 10], (4_294_967_290, 1_000));
            out_at(&world, ACK, &[2; 20], (1_000, 4));
            back_at(&world, ACK, b"", (4, 1_020));
            world.wait(1000);
            match from_remote {
                true => back_at(&world, RST, b"", (4 + ahead, 0)),
                false => out_at(&world, RST, b"", (1_020 + ahead, 0)),
            }
            world.assert_ends_after(240);
        }
    }
}

/// A later segment of the side that is reset, even without data, shows that it is alive. Segments
/// from the source of the reset may be forged too.
#[test]
fn t5_the_answer_of_the_side_that_is_reset_revives_the_session() {
    let mut world = World::new();
    connect(&world);
    back(&world, RST, b"");
    out(&world, ACK, b"");
    world.assert_ends_after(7440);
    let mut world = World::new();
    connect(&world);
    back(&world, RST, b"");
    back(&world, ACK, b"more");
    world.assert_ends_after(240);
}

/// Resets that answer what comes late do not keep a session alive.
#[test]
fn t4_resets_after_the_first_do_not_refresh_the_session() {
    let mut world = World::new();
    connect(&world);
    out(&world, RST, b"");
    for _ in 0..2 {
        assert_eq!(world.wait(100), 0);
        out(&world, RST, b"");
    }
    world.assert_ends_after(40);
}

/// A refusal acknowledges the SYN and has no sequence number.
#[test]
fn t4_a_refusal_by_reset_passes_and_the_port_may_be_asked_again() {
    let mut world = World::new();
    out_at(&world, SYN, b"", (77_777, 0));
    back_at(&world, RST | ACK, b"", (0, 77_778));
    assert_eq!(world.wait(239), 0);
    connect_at(&world, 88_888, 99_999);
    world.assert_ends_after(7440);
}

/// The last segment with FIN is sent again, because its acknowledgement was still on its way.
#[test]
fn t6_a_fin_that_is_sent_again_after_both_does_not_revive_the_session() {
    for lost in [false, true] {
        let mut world = World::new();
        connect_at(&world, 101, 501);
        out_at(&world, ACK, b"GET", (101, 501));
        back_at(&world, ACK, b"ans", (501, 104));
        back_at(&world, FIN | ACK, b"wer", (504, 104));
        let seen = if lost { 504 } else { 508 };
        out_at(&world, FIN | ACK, b"", (104, seen));
        // Without FIN, too, where the data was in two segments.
        back_at(&world, ACK, b"ans", (501, 104));
        back_at(&world, FIN | ACK, b"wer", (504, 104));
        out_at(&world, ACK, b"", (105, 508));
        back_at(&world, ACK, b"", (508, 105));
        world.assert_ends_after(240);
    }
}

/// A reset of a forwarded connection, and of one between guests, counts in the same way.
#[test]
fn t5_resets_of_forwarded_and_hairpinned_connections_count_in_sequence_alone() {
    for client in [At(S1A, 40_000), At(C2, 40_000)] {
        for (sequence, expected) in [(1, 240), (1 << 30, 7440)] {
            let mut world = World::new();
            world.forward(TCP, 10_000..=10_000, At(C1, 80));
            let public = At(PUBLIC, 10_000);
            let asks = |flags, sequence| {
                let packet = tcp(client, public, flags).numbers(sequence, 1).bytes();
                match client.0 {
                    C2 => world.guest_sends(&packet).guest(),
                    _ => world.outside_sends(&packet).guest(),
                }
            };
            let (shown, server) = ends(&asks(SYN, 0));
            let answer = tcp(server, shown, SYN | ACK).numbers(0, 1).bytes();
            world.guest_sends(&answer);
            asks(ACK, 1);
            world.guest_sends(&tcp(server, shown, ACK).bytes());
            asks(RST, sequence);
            world.assert_ends_after(expected);
        }
    }
}

/// After FIN in both directions the session stays for the closing time, and a SYN from the same
/// port opens the connection again.
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
    world.assert_ends_after(7440);
    connect(&world);
    out(&world, FIN | ACK, b"");
    back(&world, FIN | ACK, b"");
    world.assert_ends_after(240);
}

/// After FIN in one direction alone the other may go on for as long as it likes.
#[test]
fn t6_a_half_closed_connection_stays_established() {
    let mut world = World::new();
    connect(&world);
    out(&world, FIN | ACK, b"");
    back(&world, ACK, b"the rest");
    world.assert_ends_after(7440);
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
    world.assert_ends_after(7440);
}
