//! The outcome for a packet.

use crate::{
    drop_reason::DropReason,
    tables::{
        Tables,
        interfaces::{Interface, interface_flags},
    },
    wire::address::Address,
};

/// The outcome for a packet that is not dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It passes unchanged.
    Untouched,
    /// It goes to an address that is not external, and nothing has refused it yet. (Used only
    /// within the pipeline.)
    Beyond,
    /// It passes rewritten.
    Translated,
    /// It passes rewritten, and opened a session.
    Opened,
    /// It is rewritten, received again at the same interface, and then passes.
    ReceivedAnew,
    /// The fast path sends it, as [`crate::work::Work::redirect`] says.
    Forwarded,
    /// A queued fragment: a copy of it passes when the first fragment of its packet arrives.
    Kept,
}

/// Where a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of its network header.
    pub l3: usize,
    /// Index of the interface.
    pub interface: u32,
    /// Whether the frame is addressed to the host, so that it may be forwarded.
    pub is_to_host: bool,
}

/// The outcome at a hook: a verdict, or why the packet is dropped.
pub type Outcome = Result<Verdict, DropReason>;

/// An [`Outcome`] in one word. [`Outcome`] has two words, and the compiler leaves one of them
/// undefined if it is unused. The verifier refuses a program that even copies such a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The packet passes, rewritten or not.
    GoesOn,
    /// It passes, and opened a session.
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

/// The outcome for a packet without a session: whether it opens one. It is one word for the same
/// reason as a [`Decision`].
pub(crate) type Opened = Result<(), NotOpened>;

/// Why a packet opens no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotOpened {
    /// It passes unchanged.
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

/// The outcome for a packet that an ingress hook has rewritten. If netfilter has seen it before,
/// its conntrack entry has the addresses before translation. The kernel then receives it again,
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
