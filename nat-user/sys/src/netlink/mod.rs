//! Requests to the kernel about interfaces, addresses, neighbours and routes (rtnetlink(7)).
//!
//! One connection, and one request at a time per caller. Errors name the request, the interface and
//! the missing privilege. This module decides no changes and remembers none.

mod addresses;
mod connection;
mod family;
mod links;
mod neighbours;
mod routes;

pub use self::{
    addresses::{Address, AddressScope},
    connection::{Netlink, RequestError},
    family::Family,
    links::{BridgePort, Kind, Layer, Link, Xdp},
    neighbours::{FdbEntry, Neighbour, NeighbourState},
    routes::{LinkRoute, RouteMtu, usual_metric},
};

#[cfg(test)]
mod ipv6_tests;
#[cfg(test)]
mod tests;
