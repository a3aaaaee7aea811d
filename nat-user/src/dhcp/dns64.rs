//! The configuration of an unbound, which gives names that have IPv4 addresses alone addresses of
//! NAT64's prefix (DNS64, RFC 6147). A network's dnsmasq asks it, and it asks the forwarders.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use nat_config::model::{Dns, Nat64};
use nix::unistd::User;

/// The user that Debian's package creates for it.
const USER: &str = "unbound";

/// Where it listens: no service has this port, and each network has an address of 127.0.0.0/8.
const PORT: u16 = 5364;

/// The addresses of `ipv4only.arpa`, by which guests find the prefix (RFC 7050 section 2.2).
const IPV4_ONLY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// Prefixes to which no name of the internet may resolve. (dnsmasq's own `stop-dns-rebind` also
/// refuses the prefixes for documentation, and 127.0.0.0/8, by which lists that mail servers ask
/// answer.)
pub(super) const PRIVATE: [&str; 7] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// Where programs read the host's name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where the unbound of the network on the interface with this index listens.
pub(super) fn address(index: u32) -> SocketAddrV4 {
    let [_, _, high, low] = index.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, 64, high, low), PORT)
}

/// Whether a socket has that address.
pub(super) fn is_served(index: u32) -> bool {
    let own = address(index);
    // The kernel prints the words of an address as they are in memory.
    let address = u32::from_ne_bytes(own.ip().octets());
    let own = format!(" {address:08X}:{:04X} ", own.port());
    fs::read_to_string("/proc/net/udp").is_ok_and(|table| table.contains(&own))
}

/// The host's name servers; without any, the resolver asks the host itself (resolv.conf(5)).
pub(super) fn host_servers() -> Vec<IpAddr> {
    servers_in(&fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

fn servers_in(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    });
    let servers: Vec<IpAddr> = servers.collect();
    match servers.is_empty() {
        true => vec![Ipv4Addr::LOCALHOST.into()],
        false => servers,
    }
}

/// The configuration. Without a file for the process id: natbpf knows it. The names of private
/// addresses are the forwarders' to know.
pub(super) fn options(
    network: &str,
    nat64: &Nat64,
    dns: &Dns,
    index: u32,
    forwarders: &[IpAddr],
) -> String {
    let has_user = User::from_name(USER).is_ok_and(|user| user.is_some());
    let user = if has_user { USER } else { "" };
    let (prefix, own) = (nat64.prefix, address(index));
    let mut text = format!(
        "# Written by natbpf for network {network:?}; changes are lost.\n\
         server:\n\
         \tdirectory: \"\"\n\
         \tchroot: \"\"\n\
         \tusername: \"{user}\"\n\
         \tpidfile: \"\"\n\
         \tuse-syslog: no\n\
         \tverbosity: 0\n\
         \tnum-threads: 1\n\
         \tunblock-lan-zones: yes\n\
         \tinterface: {}@{PORT}\n\
         \tdo-not-query-localhost: no\n\
         \tmodule-config: \"dns64 iterator\"\n\
         \tdns64-prefix: {prefix}\n\
         \tlocal-zone: \"ipv4only.arpa.\" static\n",
        own.ip()
    );
    for address in IPV4_ONLY {
        let ipv6 = Nat64::address_of(prefix, address);
        text += &format!(
            "\tlocal-data: \"ipv4only.arpa. 3600 IN A {address}\"\n\
             \tlocal-data: \"ipv4only.arpa. 3600 IN AAAA {ipv6}\"\n"
        );
    }
    if !dns.private_answers {
        for prefix in PRIVATE {
            text += &format!("\tprivate-address: {prefix}\n");
        }
    }
    text += "remote-control:\n\tcontrol-enable: no\nforward-zone:\n\tname: \".\"\n";
    for forwarder in forwarders {
        text += &format!("\tforward-addr: {forwarder}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use nat_config::model::{Forwarders, NetworkId};

    use super::*;

    #[test]
    fn name_servers_of_the_host() {
        let text = "# a comment\nsearch lan\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::53 \noptions rotate\n";
        let expected: [IpAddr; 2] = [
            "192.0.2.1".parse().unwrap(),
            "2001:db8::53".parse().unwrap(),
        ];
        assert_eq!(servers_in(text), expected);
        assert_eq!(servers_in("search lan\n"), [IpAddr::from([127, 0, 0, 1])]);
    }

    #[test]
    fn each_network_has_an_address() {
        assert_eq!(address(7).to_string(), "127.64.0.7:5364");
        assert_ne!(address(7), address(7 + 256));
    }

    #[test]
    fn the_prefix_and_the_forwarders_are_those_of_the_file() {
        let nat64 = Nat64 {
            prefix: "2001:db8:64::/96".parse().unwrap(),
            pool: Nat64::POOL,
            network: NetworkId(1),
            networks: None,
            uplink: None,
            holders: std::collections::BTreeMap::new(),
        };
        let dns = |private_answers| Dns {
            forwarders: Forwarders::Host,
            private_answers,
            dns64: true,
        };
        let servers = ["192.0.2.53".parse().unwrap()];
        let text = options("six", &nat64, &dns(false), 7, &servers);
        for line in [
            "\tdns64-prefix: 2001:db8:64::/96",
            "\tinterface: 127.64.0.7@5364",
            "\tforward-addr: 192.0.2.53",
            "\tprivate-address: 10.0.0.0/8",
            "\tlocal-data: \"ipv4only.arpa. 3600 IN AAAA 2001:db8:64::c000:aa\"",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        let text = options("six", &nat64, &dns(true), 7, &servers);
        assert!(!text.contains("private-address"), "{text}");
    }
}
