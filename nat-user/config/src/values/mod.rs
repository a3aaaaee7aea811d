//! Single values, from a field to what it means.

mod address;
mod ipv6;
mod list;
mod mac;
mod name;
mod port;
mod word;

pub(crate) use self::{
    address::{
        address_in_prefix, address_range, any_address, host_address, hosts_of, prefix, reserved_in,
        snat_target, usable,
    },
    ipv6::{
        address_in_prefix6, address_or_suffix, address_range6, by_family, host_address6,
        is_anycast, is_suffix, join, looks_like_ipv6, prefix6,
    },
    list::distinct,
    mac::{duid, mac},
    name::{domain, interface, is_label},
    port::{external_ports, kept_port, port_range, protocols},
    word::{action, forwarding},
};
