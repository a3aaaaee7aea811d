//! The decisions at the hooks, from parsing to rewriting. Each hook has one file.
//!
//! | function | hook | job |
//! | --- | --- | --- |
//! | [`inbound`] | uplink, ingress | established session, else forward rule, mapping, host |
//! | [`from_guest`] | network, ingress | destination of hairpinned packets |
//! | [`outbound`] | uplink, egress | source translation after the kernel's routing |
//! | [`to_guest`] | network, egress | source of hairpinned packets |
//! | [`from_port`] | bridge port, ingress | established sessions, by the fast path |
//! | [`fn@early`] | uplink, XDP | established sessions, by the fast path |
//! | [`neighbours::answer`] | uplink, ingress | answers to IPv6 neighbours |
//! | [`prefixes::from_prefix`] | uplink and network, ingress | external IPv6 prefixes |
//! | [`prefixes::to_prefix`] | uplink and network, egress | internal IPv6 prefixes |

mod chains;
mod direct;
mod early;
mod exit;
mod fast;
mod follow;
mod fragment_ports;
pub mod fragments;
pub mod guard;
pub mod guard_ipv6;
mod icmp_errors;
pub mod local;
mod lookup;
pub mod neighbours;
mod network_egress;
mod network_ingress;
mod owner;
mod place;
mod policy;
mod port_ingress;
pub mod prefixes;
pub mod refusal;
mod uplink_egress;
mod uplink_ingress;

pub use early::early;
pub use network_egress::to_guest;
pub use network_ingress::from_guest;
pub use place::Place;
pub use port_ingress::from_port;
pub use uplink_egress::outbound;
pub use uplink_ingress::inbound;

pub use crate::translation::Verdict;
