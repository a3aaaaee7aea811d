//! The meaning of a valid configuration.
//!
//! Every value here is checked: prefixes contain their addresses, ranges are not inverted, names
//! resolve. The rest of the program never sees the text of the file. Indices such as [`UplinkId`]
//! point into the vectors of [`Config`].

mod address;
mod config;
mod external;
mod family;
mod forward;
mod forwarding;
mod guest;
mod limits;
mod nat;
mod nat64;
mod network;
mod policy;
mod port;
mod route;
mod service;
mod snat;
mod uplink;

pub use self::{
    address::{Address, Prefix},
    config::{Config, Ipv6Rules},
    external::Named,
    family::Family,
    forward::{ForwardMatch, ForwardRule, PortForward},
    forwarding::Forwarding,
    guest::{Guest, GuestAddress, Identity, Tenant, mac_text},
    limits::{Limits, Timeouts},
    nat::{NatRule, PrefixRule},
    nat64::Nat64,
    network::{Action, HostService, Inbound, Network, NetworkId},
    policy::{PolicyEnd, PolicyRule},
    port::{ForwardProtocol, PortRange},
    route::Route,
    service::{Dhcp, Dhcp6, Dns, Forwarders, Preference, Ra, RaMode},
    snat::{FilteringBehaviour, MappingBehaviour, SnatRule, SnatSource, SnatTarget},
    uplink::{Claim, Mode, MssClamp, Uplink, UplinkAddresses, UplinkId},
};
