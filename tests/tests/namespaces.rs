//! natbpf between hosts in network namespaces: one test for each case of the behaviour list,
//! named by its id. Needs root.
//!
//! With `NATBPF_TEST_ORACLE=1`, those tests that must pass for any NAT run against nftables
//! instead, to judge the tests themselves.

mod namespaces {
    mod advertisements;
    mod attacks;
    mod changes;
    mod control;
    mod dhcp;
    mod exhaustion;
    mod external;
    mod fast_path;
    mod fragments;
    mod guest_ports;
    mod host_flows;
    mod icmp;
    mod import;
    mod ipv6_guests;
    mod ipv6_host;
    mod ipv6_on_link;
    mod ipv6_prefixes;
    mod ipv6_routed;
    mod ipv6_sums;
    mod ipv6_too_large;
    mod ipv6_translated;
    mod ipv6_wire;
    mod ipv6_xdp;
    mod layouts;
    mod leaks;
    mod leases;
    mod life;
    mod lifecycle;
    mod local;
    mod local_ipv6;
    mod memory;
    mod nat;
    mod nat64;
    mod neighbours_on_host;
    mod policies;
    mod policing;
    mod portless;
    mod ports;
    mod recipes;
    mod refresh;
    mod routes;
    mod routing;
    mod rules;
    mod scenarios;
    mod security;
    mod standards;
    mod sums;
    mod tags;
    mod takeover;
    mod tcp;
    mod too_large;
    mod tunnels;
    mod udp;
    mod wire;
}
