//! What holds in both families. Each test runs with IPv4 packets and with IPv6 ones: its kit is
//! that of the family which its crate names. Where the families differ, a test asks for `IS_IPV6`.

mod adopt;
mod bounds;
mod bridges;
mod direct;
mod dns;
mod errors;
mod exits;
pub(crate) mod fast;
mod forward_sources;
mod fragments;
mod guests;
mod hairpin;
mod host;
mod host_flows;
mod icmp;
mod limits;
mod local;
mod malformed;
pub(crate) mod mss;
mod offloads;
mod one_to_one;
pub(crate) mod policy;
mod portless;
mod races;
mod references;
mod refusals;
mod rules;
mod segments;
mod shares;
mod sides;
mod tcp;
mod udp;
mod uplinks;
