//! What `natbpf import --host` adds to the rules: the interfaces of this host.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use nat_import::Options;
use nat_sys::netlink::Netlink;

/// Reads addresses and default route of the host that this runs on.
///
/// # Errors
/// When the kernel does not say.
pub async fn of_this_host() -> Result<Options> {
    let netlink = Netlink::connect()?;
    let links = netlink.links().await?;
    let addresses = netlink.addresses_in::<IpAddr>().await?;
    let named = addresses.into_iter().filter_map(|address| {
        let link = links.iter().find(|link| link.index == address.ifindex)?;
        Some((link.name.clone(), address.net))
    });
    let routes = std::fs::read_to_string("/proc/net/route").context("read /proc/net/route")?;
    // (A kernel without IPv6 has no such file.)
    let routes6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    Ok(Options {
        addresses: named.filter(|(_, net)| !net.addr().is_loopback()).collect(),
        default_route: default_route(&routes),
        default_route6: default_route6(&routes6),
        policies: false,
    })
}

/// The interface of the default route with the best metric, from the kernel's list.
fn default_route(routes: &str) -> Option<String> {
    let rows = routes
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let defaults = rows.filter_map(|row| match row[..] {
        [interface, "00000000", _, _, _, _, metric, "00000000", ..] => {
            Some((metric.parse::<u32>().ok()?, interface.to_owned()))
        }
        _ => None,
    });
    defaults.min().map(|(_, interface)| interface)
}

/// The same for IPv6.
fn default_route6(routes: &str) -> Option<String> {
    let rows = routes
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let zero = "0".repeat(32);
    let defaults = rows.filter_map(|row| match row[..] {
        [to, "00", _, _, _, metric, _, _, flags, interface] if to == zero => {
            let flags = u32::from_str_radix(flags, 16).ok()?;
            let metric = u32::from_str_radix(metric, 16).ok()?;
            // The kernel's own route of last resort rejects.
            (flags & RTF_REJECT == 0).then(|| (metric, interface.to_owned()))
        }
        _ => None,
    });
    defaults.min().map(|(_, interface)| interface)
}

/// `RTF_REJECT` of `linux/route.h`.
const RTF_REJECT: u32 = 0x200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_default_route_counts() {
        let routes = "Iface\tDestination\tGateway \
                      \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      eth1\t00000000\t0108130A\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                      eth0\t00000000\t01081313\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      br0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(default_route(routes).as_deref(), Some("eth0"));
        assert_eq!(default_route("Iface\n"), None);
    }

    #[test]
    fn the_best_default_route_of_ipv6_does_not_reject() {
        let zero = "0".repeat(32);
        let row = |metric: &str, flags: &str, interface: &str| {
            format!("{zero} 00 {zero} 00 {zero} {metric} 00000001 00000000 {flags} {interface}\n")
        };
        let routes = [
            row("00000400", "00000003", "eth1"),
            row("00000064", "00000003", "eth0"),
            row("00000001", "00200200", "lo"),
        ];
        assert_eq!(default_route6(&routes.concat()).as_deref(), Some("eth0"));
        assert_eq!(default_route6(""), None);
    }
}
