//! What becomes of a packet, as a value, and writing it into the packet.
//!
//! The hooks decide: they fill in a [`Translation`] and end with a [`Verdict`]. [`apply()`] writes
//! the translation into the packet. Nothing else writes to packets but the fast path, whose
//! translation is an established session with its next hop.

mod apply;
pub mod icmp_error;
pub mod mss;
pub mod rewrite;
mod value;
mod verdict;

pub use apply::apply;
pub use value::Translation;
pub use verdict::{Step, Verdict};
