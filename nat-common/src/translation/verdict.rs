//! The outcome for a packet, in one word.

use crate::drop_reason::DropReason;

/// The outcome for a packet. It is one word: the compiler leaves unused parts of a larger value
/// undefined, and the verifier refuses a program that even copies them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It passes unchanged.
    Untouched,
    /// It goes to an address that is not external, and nothing has refused it yet. (Used only
    /// within the pipeline.)
    Beyond,
    /// It passes translated.
    Translated,
    /// It passes, and opened a session.
    Opened,
    /// It is translated, received again at the same interface, and then passes.
    ReceivedAnew,
    /// The fast path sends it, as [`crate::work::Work::redirect`] says.
    Forwarded,
    /// A queued fragment: a copy of it passes when the first fragment of its packet arrives.
    Queued,
    /// It is dropped.
    Dropped(DropReason),
}

impl From<DropReason> for Verdict {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

/// A step of a decision. `Ok` continues with the next step, and after the last one the packet is
/// translated. `Err` ends the decision with a verdict.
pub type Step = Result<(), Verdict>;
