//! Attempts to open a session, and sessions that other CPUs open at the same moment.

use crate::{
    drop_reason::DropReason,
    family::Family,
    session::{entries::add_pair, limits, tracking},
    tables::{Tables, environment::MAX_WAITS, sessions::SessionFlags},
    verifier::verifier_barrier,
    wire::address::Endpoint,
    work::opening::{Opening, Refusal},
};

/// How many times a packet that cannot open a session checks whether another CPU is opening it.
const MAX_LOOKS: u32 = 16;

/// Adds both entries of a session whose translation is known, as soon as no other CPU is changing
/// them.
#[inline(never)]
pub(crate) fn add_pair_in_time<A: Family, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) {
    opening.begin();
    verifier_barrier(opening);
    tables.repeat(MAX_WAITS, |_| {
        let result = match add_pair(tables, opening) {
            Err(Refusal::PortTaken) => Err(Refusal::Final(DropReason::Ending)),
            result => result,
        };
        opening.goes_on(tables, result, 1)
    });
    verifier_barrier(opening);
}

impl<A: Family> Opening<A> {
    /// The [`SessionFlags`] of the primary entry.
    #[inline(always)]
    fn primary_flags(&self) -> SessionFlags {
        let (request, answer) = (self.request.record.flags, self.answer.record.flags);
        match request.contains(SessionFlags::PRIMARY) {
            false => answer,
            true => request,
        }
    }

    /// Prepares the first attempt.
    #[inline(always)]
    pub(crate) fn begin(&mut self) {
        (self.attempt, self.looks) = (0, 0);
        self.is_joined = 0;
        self.outcome = Err(DropReason::PortsExhausted);
    }

    /// Records the result of an attempt and returns whether to try again.
    #[inline(always)]
    pub(crate) fn goes_on<T: Tables<A>>(
        &mut self,
        tables: &T,
        result: Result<(), Refusal>,
        attempts: u32,
    ) -> bool {
        match result {
            Ok(()) => {
                self.outcome = Ok(self.request.record.source_endpoint());
                false
            }
            Err(Refusal::PortTaken) => {
                self.attempt += 1;
                self.outcome = Err(DropReason::PortsExhausted);
                self.attempt < attempts
            }
            Err(Refusal::Again) => true,
            Err(Refusal::Busy) => {
                self.outcome = Err(DropReason::Ending);
                tables.pause();
                !join(tables, self)
            }
            Err(Refusal::Final(reason)) => {
                self.outcome = Err(reason);
                // Another CPU may have just taken the port for the same endpoint.
                let looks_again =
                    reason as u32 == DropReason::GuestPorts as u32 && self.looks < MAX_LOOKS;
                self.looks += 1;
                if looks_again {
                    tables.pause();
                }
                looks_again
            }
        }
    }

    /// Source and destination of the packet that opened the session, after translation. They are
    /// read from here, not returned by who opens it: across a `?` the compiler keeps them in stack
    /// slots that hold pointers on other paths, and the verifier refuses that.
    #[inline(always)]
    pub fn ends(&self) -> (Endpoint<A>, Endpoint<A>) {
        let record = &self.request.record;
        let destination = Endpoint::new(record.destination, record.destination_port);
        (record.source_endpoint(), destination)
    }
}

/// Uses the session that another CPU has opened for the same flow; returns whether there is one.
#[inline(never)]
fn join<A: Family, T: Tables<A>>(tables: &T, opening: &mut Opening<A>) -> bool {
    let key = &opening.request.key;
    let Some(session) = tables.session(key) else {
        return false;
    };
    if !session.is_usable() {
        return false;
    }
    if !session.has(SessionFlags::FROM_INITIATOR) {
        // It was opened from the other end: this packet is an answer there.
        session.state.fetch_or(tracking::REPLIED);
        if let Some(peer) = tables.session(&session.peer_key(key.protocol)) {
            peer.state.fetch_or(tracking::REPLIED);
        }
    }
    let record = &mut opening.request.record;
    record.source = session.source;
    record.source_port = session.source_port;
    record.destination = session.destination;
    record.destination_port = session.destination_port;
    opening.is_joined = 1;
    true
}

/// The session of the same flow if another CPU opens one at this moment, else why there is none.
#[inline(never)]
pub(crate) fn joined<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
    reason: DropReason,
) -> Result<(), DropReason> {
    look_again(tables, opening, reason)
}

/// [`joined`] inlined, where the stack has no room for another function.
#[inline(always)]
fn look_again<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
    reason: DropReason,
) -> Result<(), DropReason> {
    verifier_barrier(opening);
    opening.is_joined = 0;
    tables.repeat(MAX_LOOKS, |_| {
        tables.pause();
        !join(tables, opening)
    });
    verifier_barrier(opening);
    match opening.is_joined {
        0 => Err(reason),
        _ => Ok(()),
    }
}

/// Counts [`Opening::guest`].
#[inline(always)]
pub(crate) fn enter<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &Opening<A>,
) -> Result<(), DropReason> {
    limits::enter(tables, &opening.guest, opening.primary_flags())
}

/// Ends the opening of a session whose [`Opening::guest`] has been counted.
#[inline(never)]
pub(crate) fn finish<A: Family, T: Tables<A>>(
    tables: &T,
    opening: &mut Opening<A>,
) -> Result<(), DropReason> {
    if opening.is_joined == 0 && opening.outcome.is_ok() {
        tables.count_opened(opening.request.record.rule);
        return Ok(());
    }
    limits::leave(tables, &opening.guest, opening.primary_flags());
    match opening.outcome {
        Err(reason) if opening.is_joined == 0 => look_again(tables, opening, reason),
        _ => Ok(()),
    }
}
