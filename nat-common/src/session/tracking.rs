//! What a NAT needs to know of a TCP connection (RFC 5382, RFC 7857).
//!
//! Of the sequence numbers, only the last acknowledgement of each side is known. A segment that
//! would end the connection, or revert its end, is compared with that of the other side: a sender
//! may forge the source, and the ends ignore segments that are out of sequence (RFC 5961). A reset
//! that could be valid shortens the timeout. Any later segment from the side that it resets reverts
//! that: the end that ignores a reset answers it (RFC 5961 section 3.2, RFC 6146 section 3.5.2.2).

use crate::wire::tcp::{FIN, RST, SYN};

/// The session's initiator has sent a segment other than SYN.
pub const INITIATOR_SENT: u32 = 1 << 0;

/// The other end has answered. For every protocol.
pub const REPLIED: u32 = 1 << 1;

/// The initiator has sent FIN.
pub const INITIATOR_FIN: u32 = 1 << 2;

/// The other end has sent FIN.
pub const RESPONDER_FIN: u32 = 1 << 3;

/// The initiator has sent RST, and the other end has sent nothing since.
pub const INITIATOR_RST: u32 = 1 << 4;

/// The other end has sent RST, and the initiator has sent nothing since.
pub const RESPONDER_RST: u32 = 1 << 5;

/// UDP: a guest has queried port 53 and has sent nothing since the answer, see
/// [`crate::tables::settings::DNS_S`].
pub const QUESTION: u32 = 1 << 6;

const BOTH_FIN: u32 = INITIATOR_FIN | RESPONDER_FIN;

/// How far a reset may be ahead of the other side's last acknowledgement, in bytes. This covers
/// data in flight, and is less than the window of the side that is reset: that side silently
/// ignores a reset beyond its window.
pub const RST_WINDOW: u32 = 1 << 16;

/// The same for FIN and data. Accepting a forged one costs less than rejecting a valid one.
pub const FLIGHT: u32 = 1 << 26;

/// The phase of a connection, which decides how long it may be idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The handshake is not complete.
    Opening,
    /// Data may flow.
    Established,
    /// FIN has passed both ways, or RST.
    Closing,
}

/// What one segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Byte 13 of the header.
    pub flags: u8,
    /// Whether it carries data.
    pub has_data: bool,
    /// Whether the session's initiator sent it.
    pub from_initiator: bool,
}

/// The connection's phase.
#[inline(always)]
#[must_use]
pub const fn phase(state: u32) -> Phase {
    if state & (INITIATOR_RST | RESPONDER_RST) != 0 || state & BOTH_FIN == BOTH_FIN {
        Phase::Closing
    } else if state & (INITIATOR_SENT | REPLIED) == INITIATOR_SENT | REPLIED {
        Phase::Established
    } else {
        Phase::Opening
    }
}

/// The state after `segment`. `ahead` is how far the segment's sequence number is ahead of what the
/// other side has acknowledged last, modulo 2^32; `None` if that is not known.
#[inline(always)]
#[must_use]
pub fn next(state: u32, segment: Segment, ahead: impl Fn() -> Option<u32>) -> u32 {
    let Segment {
        flags,
        has_data,
        from_initiator,
    } = segment;
    let (sent, fin, rst, others_rst) = match from_initiator {
        true => (INITIATOR_SENT, INITIATOR_FIN, INITIATOR_RST, RESPONDER_RST),
        false => (REPLIED, RESPONDER_FIN, RESPONDER_RST, INITIATOR_RST),
    };
    if flags & RST != 0 {
        // A refused connection has no sequence to compare with.
        let may_be_valid = matches!(phase(state), Phase::Opening)
            || ahead().is_some_and(|ahead| ahead < RST_WINDOW);
        return if may_be_valid { state | rst } else { state };
    }
    if flags & SYN != 0 {
        // A SYN on a closed connection opens a new one (RFC 7857 section 2.2 keeps the mapping).
        let state = if matches!(phase(state), Phase::Closing) {
            0
        } else {
            state
        };
        return if from_initiator {
            state
        } else {
            state | REPLIED
        };
    }
    let mut state = state & !others_rst | sent;
    if flags & FIN != 0 {
        // (Or behind, if it is a retransmission of acknowledged data.)
        if ahead().is_none_or(|ahead| ahead.wrapping_add(FLIGHT) < 2 * FLIGHT) {
            state |= fin;
        }
    } else if has_data && state & fin != 0 && ahead().is_some_and(|ahead| ahead < FLIGHT) {
        // The connection continues: the FIN was forged, or will be sent again after this data.
        state &= !fin;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp::ACK;

    /// Flags, whether it has data, whether the initiator sends it, how far ahead it is.
    type Sent = (u8, bool, bool, Option<u32>);

    fn run(segments: &[Sent]) -> u32 {
        segments
            .iter()
            .fold(0, |state, &segment| after(state, segment))
    }

    fn after(state: u32, (flags, has_data, from_initiator, ahead): Sent) -> u32 {
        let segment = Segment {
            flags,
            has_data,
            from_initiator,
        };
        next(state, segment, || ahead)
    }

    const NEXT: Option<u32> = Some(0);
    const HANDSHAKE: [Sent; 3] = [
        (SYN, false, true, None),
        (SYN | ACK, false, false, NEXT),
        (ACK, false, true, NEXT),
    ];

    fn open() -> u32 {
        run(&HANDSHAKE)
    }

    fn closed() -> u32 {
        let state = after(open(), (FIN | ACK, true, false, NEXT));
        after(state, (FIN | ACK, false, true, NEXT))
    }

    #[test]
    fn syn_and_its_answer_alone_do_not_establish() {
        assert_eq!(phase(run(&HANDSHAKE[..1])), Phase::Opening);
        assert_eq!(phase(run(&HANDSHAKE[..2])), Phase::Opening);
        assert_eq!(phase(open()), Phase::Established);
    }

    #[test]
    fn fin_one_way_keeps_it_established() {
        let state = after(open(), (FIN | ACK, false, true, NEXT));
        assert_eq!(phase(state), Phase::Established);
        let state = after(state, (FIN | ACK, false, false, NEXT));
        assert_eq!(phase(state), Phase::Closing);
        let state = after(state, (ACK, false, true, NEXT));
        assert_eq!(phase(state), Phase::Closing);
    }

    #[test]
    fn a_reset_counts_if_it_is_in_sequence_or_little_ahead() {
        let cases = [
            (Some(0), Phase::Closing),
            (Some(RST_WINDOW - 1), Phase::Closing),
            (Some(RST_WINDOW), Phase::Established),
            (Some(u32::MAX), Phase::Established),
            (None, Phase::Established),
        ];
        for (ahead, expected) in cases {
            for from_initiator in [true, false] {
                let state = after(open(), (RST, false, from_initiator, ahead));
                assert_eq!(phase(state), expected, "{ahead:?}");
                let state = after(open(), (RST | ACK, false, from_initiator, ahead));
                assert_eq!(phase(state), expected, "{ahead:?}");
            }
        }
    }

    #[test]
    fn a_refusal_counts_without_a_sequence() {
        let refused = [
            (SYN, false, true, None),
            (RST | ACK, false, false, Some(7 << 20)),
        ];
        assert_eq!(phase(run(&refused)), Phase::Closing);
    }

    #[test]
    fn whatever_the_side_sends_that_was_reset_takes_the_reset_back() {
        for resets in [true, false] {
            let reset = after(open(), (RST, false, resets, NEXT));
            for (flags, has_data) in [(ACK, false), (ACK, true), (FIN | ACK, false)] {
                let state = after(reset, (flags, has_data, !resets, NEXT));
                assert_eq!(phase(state), Phase::Established);
                let state = after(reset, (flags, has_data, resets, NEXT));
                assert_eq!(phase(state), Phase::Closing, "who resets is not believed");
            }
            let state = after(reset, (RST | ACK, false, !resets, NEXT));
            assert_eq!(phase(state), Phase::Closing);
        }
    }

    #[test]
    fn a_fin_that_comes_once_more_does_not_revive() {
        for ahead in [Some(0), Some(6_u32.wrapping_neg()), None] {
            let state = after(closed(), (FIN | ACK, true, false, ahead));
            assert_eq!(phase(state), Phase::Closing);
            assert_eq!(state, closed());
        }
    }

    #[test]
    fn data_that_was_acknowledged_does_not_revive() {
        for ahead in [Some(6_u32.wrapping_neg()), Some(FLIGHT), None] {
            assert_eq!(after(closed(), (ACK, true, false, ahead)), closed());
        }
    }

    #[test]
    fn new_data_takes_back_the_fin_of_its_own_side_alone() {
        let state = after(closed(), (ACK, true, false, NEXT));
        assert_eq!(phase(state), Phase::Established);
        // Data that was lost before the FIN is followed by the FIN again.
        let state = after(state, (FIN | ACK, false, false, Some(6)));
        assert_eq!(phase(state), Phase::Closing);
    }

    #[test]
    fn a_fin_that_is_far_out_of_sequence_does_not_count() {
        for (ahead, counts) in [
            (Some(FLIGHT - 1), true),
            (Some(FLIGHT), false),
            (Some(FLIGHT.wrapping_neg()), true),
            (Some(FLIGHT.wrapping_neg() - 1), false),
            (None, true),
        ] {
            let state = after(open(), (FIN | ACK, false, false, ahead));
            assert_eq!(state & RESPONDER_FIN != 0, counts, "{ahead:?}");
        }
    }

    #[test]
    fn syn_after_both_fins_or_a_reset_reopens() {
        for closed in [closed(), after(open(), (RST, false, true, NEXT))] {
            let state = after(closed, HANDSHAKE[0]);
            assert_eq!(phase(state), Phase::Opening);
            let state = HANDSHAKE[1..]
                .iter()
                .fold(state, |state, &sent| after(state, sent));
            assert_eq!(phase(state), Phase::Established);
        }
    }

    #[test]
    fn simultaneous_open_establishes() {
        let state = run(&[
            (SYN, false, true, None),
            (SYN, false, false, None),
            (SYN | ACK, false, true, NEXT),
            (SYN | ACK, false, false, NEXT),
            (ACK, false, true, NEXT),
        ]);
        assert_eq!(phase(state), Phase::Established);
    }
}
