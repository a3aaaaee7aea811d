//! What the daemon does to the host outside of BPF: bridges, addresses, ports and sysctls.
//!
//! Every change is a value ([`change::Change`]) that knows how it is made and how it is undone. It
//! stands in a file in the run directory ([`journal::Journal`]) before it is made, so that a daemon
//! that was killed leaves a record of all that it did. [`setup`] compares a plan with the host and
//! makes the difference, [`ports`] attaches single guests, [`events`] says what changes.
//! [`next_hops`] computes which way packets leave, [`policing`] says what the fast path must not
//! go past. [`grace`] makes attaching many programs quick.
//!
//! This module must not touch what natbpf did not make: a value that somebody changed in the
//! meantime, an interface that was deleted and made again, another's address on our bridge.

pub mod arp;
pub mod bridge_netfilter;
pub mod change;
pub mod events;
pub mod grace;
pub mod import_options;
pub mod journal;
pub mod next_hops;
pub mod policing;
pub mod ports;
pub mod routing;
pub mod setup;
pub mod xdp_features;
