//! What a NAT needs to know of a TCP connection (RFC 5382, RFC 7857).
//!
//! Sequence numbers are not followed: a reset that the ends do not accept must not cost them their
//! session (RFC 7857 section 2.1), so a reset only shortens the timeout, and data after it undoes
//! that.

/// FIN flag of byte 13 of the header.
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// ACK flag.
pub const ACK: u8 = 0x10;

/// The session's initiator has sent a segment other than SYN.
pub const INITIATOR_SENT: u32 = 1 << 0;
/// The other end has answered. For every protocol.
pub const REPLIED: u32 = 1 << 1;
/// The initiator has sent FIN.
pub const INITIATOR_FIN: u32 = 1 << 2;
/// The other end has sent FIN.
pub const RESPONDER_FIN: u32 = 1 << 3;
/// Either has sent RST, and no data has come since.
pub const RESET: u32 = 1 << 4;

const BOTH_FIN: u32 = INITIATOR_FIN | RESPONDER_FIN;

/// Where a connection stands, which decides how long it may be idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The handshake is not complete.
    Opening,
    /// Data may flow.
    Established,
    /// FIN has passed both ways, or RST.
    Closing,
}

/// One segment's contribution.
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
    if state & RESET != 0 || state & BOTH_FIN == BOTH_FIN {
        Phase::Closing
    } else if state & (INITIATOR_SENT | REPLIED) == INITIATOR_SENT | REPLIED {
        Phase::Established
    } else {
        Phase::Opening
    }
}

/// The state after `segment`.
#[inline(always)]
#[must_use]
pub const fn next(state: u32, segment: Segment) -> u32 {
    let Segment {
        flags,
        has_data,
        from_initiator,
    } = segment;
    if flags & RST != 0 {
        return state | RESET;
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
    let mut state = state;
    if has_data {
        // The ends go on: the reset was not theirs (RFC 7857 section 2.1).
        state &= !RESET;
        if state & BOTH_FIN == BOTH_FIN {
            state &= !BOTH_FIN;
        }
    }
    if flags & FIN != 0 {
        state |= if from_initiator {
            INITIATOR_FIN
        } else {
            RESPONDER_FIN
        };
    }
    state
        | if from_initiator {
            INITIATOR_SENT
        } else {
            REPLIED
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(segments: &[(u8, bool, bool)]) -> u32 {
        segments
            .iter()
            .fold(0, |state, &(flags, has_data, from_initiator)| {
                next(
                    state,
                    Segment {
                        flags,
                        has_data,
                        from_initiator,
                    },
                )
            })
    }

    const HANDSHAKE: [(u8, bool, bool); 3] = [
        (SYN, false, true),
        (SYN | ACK, false, false),
        (ACK, false, true),
    ];

    #[test]
    fn syn_and_its_answer_alone_do_not_establish() {
        assert_eq!(phase(run(&HANDSHAKE[..1])), Phase::Opening);
        assert_eq!(phase(run(&HANDSHAKE[..2])), Phase::Opening);
        assert_eq!(phase(run(&HANDSHAKE)), Phase::Established);
    }

    #[test]
    fn fin_one_way_keeps_it_established() {
        let mut segments = HANDSHAKE.to_vec();
        segments.push((FIN | ACK, false, true));
        assert_eq!(phase(run(&segments)), Phase::Established);
        segments.push((FIN | ACK, false, false));
        assert_eq!(phase(run(&segments)), Phase::Closing);
        segments.push((ACK, false, true));
        assert_eq!(phase(run(&segments)), Phase::Closing);
    }

    #[test]
    fn data_after_a_reset_revives() {
        let mut segments = HANDSHAKE.to_vec();
        segments.push((RST, false, false));
        assert_eq!(phase(run(&segments)), Phase::Closing);
        segments.push((ACK, false, true));
        assert_eq!(phase(run(&segments)), Phase::Closing);
        segments.push((ACK, true, true));
        assert_eq!(phase(run(&segments)), Phase::Established);
    }

    #[test]
    fn syn_after_both_fins_reopens() {
        let mut segments = HANDSHAKE.to_vec();
        segments.extend([(FIN | ACK, false, true), (FIN | ACK, false, false)]);
        segments.push((SYN, false, true));
        assert_eq!(phase(run(&segments)), Phase::Opening);
        segments.extend(&HANDSHAKE[1..]);
        assert_eq!(phase(run(&segments)), Phase::Established);
    }

    #[test]
    fn simultaneous_open_establishes() {
        let state = run(&[
            (SYN, false, true),
            (SYN, false, false),
            (SYN | ACK, false, true),
            (SYN | ACK, false, false),
            (ACK, false, true),
        ]);
        assert_eq!(phase(state), Phase::Established);
    }
}
