//! What becomes of a packet, in one word.

use crate::drop_reason::DropReason;

/// What becomes of a packet. One word: of a larger value the compiler leaves parts undefined that
/// it sees no use for, and the verifier refuses a program that so much as moves them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on as it came.
    Untouched,
    /// Nothing is known against it as yet, and it goes to an address that is no external one.
    /// (Within the pipeline alone.)
    Beyond,
    /// It goes on translated.
    Translated,
    /// It goes on, and opened a session.
    Opened,
    /// It is received anew at the same interface, translated, and then goes on.
    ReceivedAnew,
    /// The fast path sends it on, as [`crate::work::Work::redirect`] says.
    Forwarded,
    /// A fragment that does not go on: a copy will, when the first one of its packet comes.
    Kept,
    /// It is dropped.
    Dropped(DropReason),
}

impl From<DropReason> for Verdict {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

/// A step of a decision: the next step follows, or the verdict is known. After the last step the
/// packet is translated.
pub type Step = Result<(), Verdict>;
