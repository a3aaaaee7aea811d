//! What the daemon does to the host outside of BPF: bridges, addresses, ports and sysctls.
//!
//! Every change is a value ([`change::Change`]) that can be made and undone. It is written to a
//! file in the run directory ([`journal::Journal`]) before it is made, so a killed daemon leaves a
//! record of all its changes. [`setup`] compares a plan with the host and makes the missing
//! changes, [`ports`] attaches single guests, and [`events`] reports changes. [`next_hops`]
//! computes by which port packets leave, and [`policing`] finds what the fast path must not bypass.
//! [`grace`] makes attaching many programs fast.
//!
//! This module must not touch anything that natbpf did not create: a value that other software has
//! changed in the meantime, a recreated interface, a foreign address on our bridge.

pub mod advertise;
pub mod arp;
pub mod bridge_netfilter;
pub mod change;
pub mod events;
pub mod grace;
pub mod import_options;
pub mod journal;
mod link_socket;
pub mod next_hops;
pub mod policing;
pub mod ports;
pub mod routing;
pub mod setup;
pub mod xdp_features;
