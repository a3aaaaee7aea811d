//! IPv6 prefixes that other software puts on the interface of a network: by prefix delegation, or
//! by hand.

use std::{collections::BTreeMap, fs, net::Ipv6Addr};

use ipnet::Ipv6Net;
use nat_config::model::{Config, NetworkId};

/// The addresses of all interfaces of this network namespace, a line each (`if6_seq_show` in
/// `net/ipv6/addrconf.c`): address, index, length of the prefix, scope, flags, interface.
const ADDRESSES: &str = "/proc/thread-self/net/if_inet6";
/// The scope of addresses that are valid beyond the link.
const GLOBAL_SCOPE: &str = "00";
/// Addresses that do not work, or that are about to go: `IFA_F_TEMPORARY`, `IFA_F_DADFAILED`,
/// `IFA_F_DEPRECATED` and `IFA_F_TENTATIVE` (`include/uapi/linux/if_addr.h`).
const UNUSABLE: u8 = 0x01 | 0x08 | 0x20 | 0x40;

/// The addresses that others have put on networks that follow their interfaces.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Followed(BTreeMap<NetworkId, Vec<Ipv6Net>>);

impl Followed {
    /// Reads those of the interfaces.
    pub(super) fn read(config: &Config) -> Self {
        match config.networks.iter().any(|network| network.follow) {
            true => Self::of(config, &fs::read_to_string(ADDRESSES).unwrap_or_default()),
            false => Self::default(),
        }
    }

    /// Those in a text of the form of [`ADDRESSES`].
    pub(super) fn of(config: &Config, text: &str) -> Self {
        let networks = config.networks.iter().zip((0..).map(NetworkId));
        let following = networks.filter(|(network, _)| network.follow);
        let all = following.map(|(network, id)| {
            let here = text.lines().filter_map(usable);
            let here = here.filter(|(interface, _)| *interface == network.interface);
            let mut addresses: Vec<Ipv6Net> = here.map(|(_, net)| net).collect();
            // In an order of their own, so that the kernel's does not matter.
            addresses.sort_unstable();
            (id, addresses)
        });
        Self(all.collect())
    }

    /// Whether a configuration has others.
    pub(super) fn has_changed(&self, config: &Config) -> bool {
        let mut changed = config.clone();
        self.write(&mut changed);
        changed.networks != config.networks
    }

    /// Tells the networks. A prefix that another network has stays that network's.
    pub(super) fn write(&self, config: &mut Config) {
        for (id, addresses) in &self.0 {
            let others = config.networks.iter().zip((0..).map(NetworkId));
            let others = others.filter(|(_, other)| other != id);
            let taken: Vec<Ipv6Net> = others
                .flat_map(|(network, _)| network.addresses6.clone())
                .collect();
            let is_free = |net: &&Ipv6Net| {
                let mut taken = taken.iter();
                !taken.any(|other| other.contains(*net) || net.contains(other))
            };
            let free = addresses.iter().filter(is_free).copied();
            let free: Vec<Ipv6Net> = free.collect();
            config.networks[id.0].set_followed(&free);
        }
    }
}

/// The interface and the address of a line, if guests can use its prefix.
fn usable(line: &str) -> Option<(&str, Ipv6Net)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [address, _, length, scope, flags, interface] = words[..] else {
        return None;
    };
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
    let net = Ipv6Net::new(address, u8::from_str_radix(length, 16).ok()?).ok()?;
    // (A single address has no guests beside it.)
    let is_usable = scope == GLOBAL_SCOPE && flags & UNUSABLE == 0 && net.prefix_len() < 128;
    is_usable.then_some((interface, net))
}
