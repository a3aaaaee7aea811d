//! The outcome for a packet, as a value, and writing it into the packet.
//!
//! The hooks decide: they fill in a [`Translation`] and end with a [`Verdict`]. [`apply()`] writes
//! the translation into the packet. On the slow path nothing else writes to packets. The fast path
//! writes the addresses of an established session and of its next hop.

mod apply;
pub mod icmp_error;
pub mod mss;
pub mod rewrite;
mod value;
mod verdict;

pub use apply::apply;
pub use value::Translation;
pub use verdict::{Step, Verdict};
