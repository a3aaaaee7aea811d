//! What becomes of a packet.

use crate::{
    drop_reason::DropReason,
    tables::{
        Tables,
        interfaces::{Interface, interface_flags},
    },
    wire::address::Address,
};

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on as it came.
    Untouched,
    /// Nothing is known against it as yet, and it goes to an address that is no external one.
    /// (Within the pipeline alone.)
    Beyond,
    /// It goes on rewritten.
    Translated,
    /// It goes on rewritten, and opened a session.
    Opened,
    /// It is received anew at the same interface, rewritten, and then goes on.
    ReceivedAnew,
    /// It is sent on by the fast path, as [`crate::work::Work::redirect`] says.
    Forwarded,
    /// A fragment that does not go on: a copy will, when the first one of its packet comes.
    Kept,
}

/// Where a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of its network header.
    pub l3: usize,
    /// Index of the interface.
    pub interface: u32,
    /// Whether it is a frame for the host itself, so that it may be sent on for it.
    pub is_to_host: bool,
}

/// The outcome at a hook: a verdict, or why the packet is dropped.
pub type Outcome = Result<Verdict, DropReason>;

/// An [`Outcome`] in one word. Of the other's two, one is undefined where the compiler sees no use
/// for it, and the verifier refuses a program that so much as moves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The packet goes on, rewritten or not.
    GoesOn,
    /// It goes on, and opened a session.
    Opened,
    /// See [`Verdict::ReceivedAnew`].
    ReceivedAnew,
    /// See [`Verdict::Forwarded`].
    Forwarded,
    /// See [`Verdict::Kept`].
    Kept,
    /// It is dropped.
    Dropped(DropReason),
}

impl From<Outcome> for Decision {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(Verdict::Untouched | Verdict::Beyond | Verdict::Translated) => Self::GoesOn,
            Ok(Verdict::Opened) => Self::Opened,
            Ok(Verdict::ReceivedAnew) => Self::ReceivedAnew,
            Ok(Verdict::Forwarded) => Self::Forwarded,
            Ok(Verdict::Kept) => Self::Kept,
            Err(reason) => Self::Dropped(reason),
        }
    }
}

/// What becomes of a packet that belongs to no session: it opens one, or not. One word, as a
/// [`Decision`] is and for the same reason.
pub(crate) type Opened = Result<(), NotOpened>;

/// Why a packet opens no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotOpened {
    /// It goes on as it came.
    Passes,
    /// See [`Verdict::Beyond`].
    Beyond,
    /// It is dropped.
    Dropped(DropReason),
}

impl From<DropReason> for NotOpened {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

#[inline(always)]
pub(crate) const fn outcome(opened: Opened) -> Outcome {
    match opened {
        Ok(()) => Ok(Verdict::Opened),
        Err(NotOpened::Passes) => Ok(Verdict::Untouched),
        Err(NotOpened::Beyond) => Ok(Verdict::Beyond),
        Err(NotOpened::Dropped(reason)) => Err(reason),
    }
}

/// What becomes of a packet that an ingress hook has rewritten. Where netfilter has seen it before,
/// its conntrack entry is that of the addresses before translation: the kernel receives it anew,
/// without that entry.
#[inline(always)]
pub(crate) fn rewritten<A: Address, T: Tables<A>>(
    tables: &T,
    place: Place,
    verdict: Verdict,
) -> Verdict {
    let is_first = |interface: &Interface| interface.flags & interface_flags::NETFILTER_FIRST != 0;
    match tables.interface(place.interface).is_some_and(is_first) {
        true => Verdict::ReceivedAnew,
        false => verdict,
    }
}
