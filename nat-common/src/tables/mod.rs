//! The tables on which decisions are based, one file for the layout of each.

pub mod addresses;
pub mod bindings;
pub mod counters;
pub mod datagrams;
pub mod destinations;
pub mod environment;
pub mod excludes;
pub mod forward_sources;
pub mod forwards;
pub mod fragments;
pub mod guests;
pub mod host;
pub mod insert;
pub mod inside;
pub mod interfaces;
pub mod mappings;
pub mod neighbours;
pub mod next_hops;
pub mod origin;
pub mod permits;
pub mod policies;
pub mod ports;
pub mod queued;
pub mod references;
pub mod refusals;
pub mod routes;
pub mod rules;
pub mod sessions;
pub mod settings;
pub mod snats;
pub mod uplinks;

use crate::{
    tables::{
        addresses::ExternalAddresses, counters::Counters, datagrams::Datagrams,
        environment::Environment, excludes::Excludes, forward_sources::ForwardSources,
        forwards::Forwards, fragments::Fragments, guests::Guests, host::HostSockets,
        inside::InsideAddresses, interfaces::Interfaces, mappings::Mappings, next_hops::NextHops,
        permits::Permits, policies::Policies, ports::Ports, queued::QueuedFragments,
        refusals::RateLimiters, routes::Routes, rules::Rules, sessions::Sessions,
        settings::CurrentSettings, snats::Snats, uplinks::Uplinks,
    },
    wire::address::Address,
};

/// Lists the tables once, for the trait and for all its implementations.
macro_rules! sum_of_tables {
    ($(#[$doc:meta])* $($table:path),+ $(,)?) => {
        $(#[$doc])*
        pub trait Tables<A: Address>: $($table +)+ {}

        impl<A: Address, T: $($table +)+> Tables<A> for T {}
    };
}

sum_of_tables! {
    /// The tables, the clock and the random numbers of a data plane.
    ///
    /// Adding never replaces an entry. Entries are shared with other CPUs, so changing fields are
    /// atomic.
    ExternalAddresses<A>, Counters, Datagrams<A>, Environment, Excludes<A>, ForwardSources<A>,
    Forwards<A>, Fragments<A>, Guests<A>, QueuedFragments<A>, HostSockets<A>, InsideAddresses<A>,
    Interfaces, Mappings<A>, NextHops, Permits<A>, Policies<A>, Ports<A>, RateLimiters, Routes<A>,
    Rules, Sessions<A>, CurrentSettings, Snats<A>, Uplinks,
}
