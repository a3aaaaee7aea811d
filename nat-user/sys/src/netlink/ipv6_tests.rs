//! IPv6 addresses, routes and neighbours of a real kernel.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::*;
use crate::testing::{in_namespace, ip};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A bridge that is up and carries, because one end of a pair is its port.
async fn bridge(netlink: &Netlink) -> Link {
    ip("link add vmbr1 type bridge");
    ip("link add name tap1 type veth peer name guest1");
    for name in ["vmbr1", "guest1"] {
        ip(&format!("link set {name} up"));
    }
    ip("link set tap1 master vmbr1 up");
    netlink.link("vmbr1").await.unwrap().unwrap()
}

#[test]
fn addresses_are_in_the_order_in_which_they_were_added() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let bridge = bridge(&netlink).await;
        let added = ["2001:db8::7/64", "fd00::1/64", "2001:db8::3/64"];
        for net in added {
            ip(&format!("addr add {net} dev vmbr1 nodad"));
        }
        ip("addr add 10.0.0.1/8 dev vmbr1");
        let own = netlink.addresses_of::<Ipv6Addr>(bridge.index).await;
        let global = own.unwrap().into_iter();
        let global = global.filter(|own| own.scope == AddressScope::Universe);
        let found: Vec<Ipv6Net> = global.map(|own| own.net).collect();
        assert_eq!(found, added.map(|net| net.parse().unwrap()));
        let all = netlink.addresses_of::<IpAddr>(bridge.index).await.unwrap();
        assert!(all.iter().any(|own| own.net == net("10.0.0.1/8")));
        assert!(all.iter().any(|own| own.net == net("fd00::1/64")));
    });
}

#[test]
fn tentative_deprecated_and_temporary_addresses_are_not_stable() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let bridge = bridge(&netlink).await;
        ip("addr add 2001:db8::1/64 dev vmbr1 nodad");
        ip("addr add 2001:db8::2/64 dev vmbr1 nodad preferred_lft 0");
        // The bridge has no neighbour that would answer: the probe takes a second.
        ip("addr add 2001:db8::3/64 dev vmbr1");
        std::fs::write("/proc/sys/net/ipv6/conf/vmbr1/use_tempaddr", "2").unwrap();
        ip("addr add 2001:db8:1::1/64 dev vmbr1 nodad mngtmpaddr");
        let own = netlink.addresses_of::<Ipv6Addr>(bridge.index).await;
        let own = own.unwrap();
        let is_stable = |text: &str| {
            let mut own = own.iter();
            let found = own.find(|own| own.net.addr() == address(text)).unwrap();
            found.is_stable
        };
        assert!(is_stable("2001:db8::1") && is_stable("2001:db8:1::1"));
        assert!(!is_stable("2001:db8::2"), "deprecated");
        assert!(!is_stable("2001:db8::3"), "tentative");
        let made_up = own.iter().filter(|own| {
            own.net.addr().segments()[2] == 1 && own.net.addr() != address("2001:db8:1::1")
        });
        let made_up: Vec<_> = made_up.collect();
        assert_eq!(made_up.len(), 1);
        assert!(!made_up[0].is_stable && !made_up[0].secondary, "temporary");
    });
}

#[test]
fn an_added_address_can_be_used_at_once() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let bridge = bridge(&netlink).await;
        netlink
            .add_address(&bridge, net("2001:db8::1/64"))
            .await
            .unwrap();
        std::net::UdpSocket::bind("[2001:db8::1]:5000").unwrap();
        netlink
            .delete_address(&bridge, net("2001:db8::1/64"))
            .await
            .unwrap();
        assert!(!ip("-6 addr show vmbr1").contains("2001:db8::1"));
    });
}

#[test]
fn a_route_of_another_metric_stays_when_ours_comes_and_goes() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let bridge = bridge(&netlink).await;
        ip("addr add 2001:db8::1/128 dev vmbr1 nodad");
        ip("route add 2001:db8:7::/64 dev vmbr1 metric 256");
        let prefix = net("2001:db8:7::/64");
        let source = Some(address("2001:db8::1").into());
        let put = netlink.put_route(&bridge, prefix, source, Some(128));
        put.await.unwrap();
        netlink
            .put_route(&bridge, prefix, None, None)
            .await
            .unwrap();
        let routes: Vec<LinkRoute<Ipv6Addr>> = netlink.main_routes().await.unwrap();
        let to_it = routes
            .into_iter()
            .filter(|route| IpNet::from(route.prefix) == prefix);
        let mut to_it: Vec<_> = to_it.collect();
        to_it.sort_by_key(|route| route.metric);
        let metrics: Vec<u32> = to_it.iter().map(|route| route.metric).collect();
        assert_eq!(metrics, [128, 256, 1024]);
        assert_eq!(to_it[0].source, Some(address("2001:db8::1")));
        assert!(to_it.iter().all(|route| route.device == Some(bridge.index)));
        for (metric, expected) in [(Some(128), true), (None, true), (None, false)] {
            let deleted = netlink.delete_route(&bridge, prefix, metric);
            assert_eq!(deleted.await.unwrap(), expected, "{metric:?}");
        }
        assert!(ip("-6 route show 2001:db8:7::/64").contains("metric 256"));
    });
}

#[test]
fn a_default_route_is_one_of_its_family() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        bridge(&netlink).await;
        ip("addr add 10.0.0.1/8 dev vmbr1");
        ip("route add default via 10.0.0.2");
        ip("-6 route add default via fe80::1 dev vmbr1 mtu 1400");
        let routes: Vec<LinkRoute<IpAddr>> = netlink.main_routes().await.unwrap();
        let defaults = routes.iter().filter(|route| route.prefix.prefix_len() == 0);
        let gateways: Vec<_> = defaults
            .map(|route| (route.prefix, route.gateway))
            .collect();
        let expected = [
            (net("0.0.0.0/0"), Some("10.0.0.2".parse().unwrap())),
            (net("::/0"), Some("fe80::1".parse().unwrap())),
        ];
        assert_eq!(gateways, expected);
        let mtus = netlink.route_mtus::<Ipv6Addr>().await.unwrap();
        assert_eq!(mtus.iter().map(|one| one.mtu).collect::<Vec<_>>(), [1400]);
    });
}

#[test]
fn a_proxy_joins_the_group_of_its_address() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let bridge = bridge(&netlink).await;
        let one = IpAddr::from(address("2001:db8::abcd"));
        netlink.add_proxy(&bridge, one).await.unwrap();
        assert!(ip("maddr show dev vmbr1").contains("ff02::1:ff00:abcd"));
        assert_eq!(netlink.proxies().await.unwrap(), [(bridge.index, one)]);
        assert!(netlink.delete_proxy(&bridge, one).await.unwrap());
        assert!(!netlink.delete_proxy(&bridge, one).await.unwrap());
        assert!(!ip("maddr show dev vmbr1").contains("ff02::1:ff00:abcd"));
    });
}
