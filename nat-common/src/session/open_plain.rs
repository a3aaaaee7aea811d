//! Opening a session without translation.

use crate::{
    drop_reason::DropReason,
    family::Family,
    session::{
        entries::{answer_key, first_state, record},
        opening::{add_pair_in_time, enter, finish, joined},
    },
    tables::{
        Tables,
        guests::GuestKey,
        sessions::{SessionFlags, SessionRecord, View},
    },
    work::{Work, opening::Entry},
};

/// A session without translation, as the packet that opens it sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// Where the packet was seen.
    pub view: View,
    /// Number of the network that it came from, 0 if from none.
    pub network: u16,
    /// Where answers will be seen.
    pub answer_view: View,
    /// Number of the network that they come from, 0 if from none.
    pub answer_network: u16,
    /// Number of the rule that it counts under.
    pub rule: u32,
}

/// Opens a session without translation, so that its answers are recognised. It counts for the guest
/// that opens it, or for the guest to which it is opened.
///
/// # Errors
///
/// Why the packet must be dropped.
#[inline(never)]
pub fn open_plain<A: Family, T: Tables<A>>(
    tables: &T,
    work: &mut Work<A>,
    plain: &Plain,
) -> Result<(), DropReason> {
    prepare_plain(tables, work, plain);
    let opening = &mut work.opening;
    if let Err(reason) = enter(tables, opening) {
        return joined(tables, opening, reason);
    }
    add_pair_in_time(tables, opening);
    finish(tables, opening)
}

/// Writes both entries. (A separate function, to save stack.)
#[inline(never)]
fn prepare_plain<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>, plain: &Plain) {
    let Work {
        parsed, opening, ..
    } = work;
    let (source, destination) = (parsed.source(), parsed.destination());
    let is_guests = plain.view as u8 == View::Inside as u8;
    let (by_guest, to_guest) = (SessionFlags::PRIMARY, SessionFlags::IN);
    opening.request = Entry {
        key: parsed.key(plain.view, plain.network),
        record: SessionRecord {
            flags: SessionFlags::FROM_INITIATOR | if is_guests { by_guest } else { to_guest },
            ..record(
                tables,
                source,
                destination,
                plain.answer_view,
                plain.answer_network,
                plain.rule,
            )
        },
    };
    opening.answer.record = SessionRecord {
        flags: if is_guests { to_guest } else { by_guest },
        ..record(
            tables,
            destination,
            source,
            plain.view,
            plain.network,
            plain.rule,
        )
    };
    if is_guests {
        let state = first_state(parsed.header.protocol, destination.port);
        (opening.request.record.state, opening.answer.record.state) = (state, state);
    }
    opening.answer.key = answer_key(&opening.request);
    opening.guest = match is_guests {
        true => GuestKey::new(source.address, plain.network),
        false => GuestKey::new(destination.address, plain.answer_network),
    };
}
