//! What a NAT must remember: sessions by the documented timeouts, with what is not known exactly of
//! the moment at which a packet passed.

use nix::time::{ClockId, clock_gettime};

/// How many times as fast time goes for sessions.
pub(super) const TIME_SCALE: u32 = 1000;

/// The kernel's coarse clock may be this late (`CONFIG_HZ=100`), in seconds of sessions.
const COARSE_S: f64 = 0.010 * TIME_SCALE as f64;
/// Idle sessions are looked for this often.
const TICK_S: f64 = 0.010 * TIME_SCALE as f64;
/// Clocks and timeouts are of whole seconds.
const WHOLE_S: f64 = 2.0;
/// The daemon may have to wait for a processor so long; see [`super::day`] for longer.
const LATENESS_S: f64 = 0.020 * TIME_SCALE as f64;
/// The longest timeout, that of established TCP connections.
const ESTABLISHED_S: f64 = 7440.0;
/// That of a session from outside before the guest answers.
const OUTSIDE_UNANSWERED_S: f64 = 10.0;

/// Seconds of the sessions' clock.
pub(super) fn now_s() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock exists");
    let seconds = time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9;
    seconds * f64::from(TIME_SCALE)
}

/// A time that is not known exactly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from_s: f64,
    pub(super) to_s: f64,
}

/// How a session comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A guest sends to a remote.
    Masquerade,
    /// A remote sends to a forwarded port.
    Forward,
    /// A remote to which a guest has sent sends to the same external port, from another port.
    Mapping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Udp,
    Tcp,
    Icmp,
}

/// What a packet is in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP: SYN, and from the other end SYN with ACK. Otherwise like data.
    Open,
    Data,
    Fin,
    Reset,
}

/// A session as it should be.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) way: Way,
    pub(super) protocol: Protocol,
    /// The last byte of the remote's address.
    pub(super) remote: u8,
    /// No other session has it: the internal port or identifier, or the remote's.
    pub(super) port: u16,
    /// The forwarded or mapped port.
    pub(super) public_port: u16,
    seen: Span,
    initiator_sent: bool,
    replied: bool,
    fins: [bool; 2],
    was_reset: bool,
    /// A packet came when it may have ended already.
    is_doubtful: bool,
}

/// Whether a session is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    There,
    Gone,
    /// It ends at about this time.
    Unknown,
}

impl Session {
    /// One whose first packet is not sent yet.
    pub(super) fn new(
        way: Way,
        protocol: Protocol,
        remote: u8,
        port: u16,
        public_port: u16,
    ) -> Self {
        Self {
            way,
            protocol,
            remote,
            port,
            public_port,
            seen: Span {
                from_s: f64::MAX,
                to_s: f64::MAX,
            },
            initiator_sent: false,
            replied: false,
            fins: [false; 2],
            was_reset: false,
            is_doubtful: false,
        }
    }

    /// A packet passes. On a machine that is too slow it may come too late for the session: then
    /// all that is known is when it is gone at the latest.
    pub(super) fn packet(&mut self, kind: Kind, from_initiator: bool, when: Span) {
        let is_first = self.seen.to_s == f64::MAX;
        self.is_doubtful |= !is_first && when.to_s >= self.end().from_s;
        // A remote alone does not keep a mapping alive that it has found.
        let refreshes = self.way != Way::Mapping || !from_initiator || self.replied;
        if refreshes || self.seen.to_s == f64::MAX {
            self.seen = when;
        }
        if kind == Kind::Open && self.is_closing() {
            // A new connection of the same ends.
            (self.initiator_sent, self.replied) = (false, false);
        }
        let sender = usize::from(from_initiator);
        match kind {
            Kind::Reset => self.was_reset = true,
            Kind::Open | Kind::Data => {
                self.was_reset = false;
                if self.fins == [true; 2] {
                    self.fins = [false; 2];
                }
            }
            Kind::Fin => self.fins[sender] = true,
        }
        if kind != Kind::Reset {
            self.replied |= !from_initiator;
            self.initiator_sent |= from_initiator && kind != Kind::Open;
        }
    }

    fn is_closing(&self) -> bool {
        self.was_reset || self.fins == [true; 2]
    }

    /// How long it may be idle, in seconds: the table "Timeouts" of the documentation.
    pub(super) fn timeout_s(&self) -> f64 {
        let is_unanswered = self.way != Way::Masquerade && !self.replied;
        match self.protocol {
            Protocol::Tcp if self.is_doubtful => ESTABLISHED_S,
            _ if is_unanswered => OUTSIDE_UNANSWERED_S,
            Protocol::Udp => 300.0,
            Protocol::Icmp => 60.0,
            Protocol::Tcp if self.is_closing() => 240.0,
            Protocol::Tcp if self.initiator_sent && self.replied => ESTABLISHED_S,
            Protocol::Tcp => 240.0,
        }
    }

    pub(super) fn is_established(&self) -> bool {
        !self.is_doubtful && self.timeout_s() == ESTABLISHED_S
    }

    /// Whether it is not known what it is like.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// When it ends: no sooner, and no later.
    pub(super) fn end(&self) -> Span {
        Span {
            from_s: self.seen.from_s + self.timeout_s() - COARSE_S,
            to_s: self.seen.to_s + self.timeout_s() + WHOLE_S + TICK_S + LATENESS_S,
        }
    }

    /// Whether it is there during all of a time.
    pub(super) fn presence(&self, during: Span) -> Presence {
        let end = self.end();
        if during.to_s < end.from_s && !self.is_doubtful {
            Presence::There
        } else if during.from_s > end.to_s {
            Presence::Gone
        } else {
            Presence::Unknown
        }
    }
}
