//! What IPv6 alone has.

mod extensions;
mod fragments;
mod guard;
mod link;
mod outside;
mod sources;
mod sums;

use kit::ipv6::Ip;

/// An address by its text.
fn ip(text: &str) -> Ip {
    let address: std::net::Ipv6Addr = text.parse().unwrap();
    address.octets()
}
