//! The outcome for a packet, as a value, and writing it into the packet.
//!
//! The hooks decide: they fill in a [`Translation`] and end with a [`Verdict`]. [`apply()`] writes
//! the translation into the packet, and `apply_forwarded` does on the fast path, where an
//! established session and its next hop are the translation. Nothing else writes to packets.

mod apply;
pub mod icmp_error;
pub mod mss;
pub mod prefix;
pub mod prefix_table;
pub mod rewrite;
mod value;
mod verdict;

pub use apply::apply;
pub(crate) use apply::apply_forwarded;
pub use value::Translation;
pub use verdict::{Step, Verdict};
