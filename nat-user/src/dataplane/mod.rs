//! The data plane as the daemon and the command line see it: programs, maps and pins.
//!
//! Everything is pinned under a directory named after the version of the layout, so it outlives the
//! process. Operations that need only pins ([`Dataplane::open`]) work without a daemon: counters,
//! sessions, ending sessions.

mod activation;
mod answers;
pub mod attach;
mod batch;
mod bindings;
mod clsact;
mod expiry;
mod family;
mod layout;
mod link;
pub mod local;
mod migration;
mod nat64;
mod next_hops;
mod object;
mod pins;
mod plain;
mod plane;
mod prefixes;
mod programs;
mod record;
mod removal;
mod rules;
mod sessions;
mod signals;
mod takeover;
mod xdp;

pub use self::{
    activation::Rulesets,
    answers::Answer,
    bindings::Bound,
    expiry::{Expiry, PASS_BUDGET, Pass},
    family::{FamilyTables, Pinned},
    migration::Migration,
    next_hops::NextHops,
    object::{OBJECT, OBJECT_6, Sizes},
    pins::{Lock, Pins},
    plain::Plain,
    plane::Dataplane,
    programs::{Logger, Programs, TestRunOutput},
    sessions::{SessionEntry, SessionTable},
};
