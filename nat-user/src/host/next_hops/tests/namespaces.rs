//! The tables of a real kernel, and the next hops computed from them.

use std::time::Duration;

use nat_sys::{
    netlink::Netlink,
    testing::{bridge, filter_vlans, in_namespace, ip, without_ipv6},
    whereabouts::Whereabouts,
};

use super::*;

const GUEST_MOVED: [u8; 6] = [2, 0, 0, 0, 1, 11];

struct Host {
    netlink: Netlink,
    bridge: Link,
    tap1: Link,
    tap2: Link,
}

impl Host {
    /// A bridge with two ports, which carry, and a guest in the neighbour table and the forwarding
    /// database that no host has asked for.
    async fn new() -> Self {
        without_ipv6();
        ip("link add vmbr1 type bridge");
        for number in 1..=2 {
            ip(&format!(
                "link add name tap{number} type veth peer name guest{number}"
            ));
            ip(&format!("link set tap{number} master vmbr1 up"));
            ip(&format!("link set guest{number} up"));
        }
        ip("link set vmbr1 up");
        ip("addr add 172.22.161.254/24 dev vmbr1");
        ip("neigh add 172.22.161.10 dev vmbr1 nud permanent lladdr 02:00:00:00:01:0a");
        bridge("fdb add 02:00:00:00:01:0a dev tap1 master static");
        let netlink = Netlink::connect().unwrap();
        let link = async |name| netlink.link(name).await.unwrap().unwrap();
        Self {
            bridge: link("vmbr1").await,
            tap1: link("tap1").await,
            tap2: link("tap2").await,
            netlink,
        }
    }

    fn whereabouts(&self) -> Whereabouts {
        let bridge = BTreeSet::from([self.bridge.index]);
        Whereabouts::look::<IpAddr>(&bridge, &bridge).unwrap()
    }

    async fn next_hops(&self) -> Vec<NextHop> {
        let Whereabouts { neighbours, fdb } = self.whereabouts();
        let hops = next_hops(
            &self.netlink.links().await.unwrap(),
            &neighbours,
            &fdb,
            &self.netlink.route_mtus::<IpAddr>().await.unwrap(),
            &BTreeSet::from([self.bridge.index]),
        );
        hops.into_iter().collect()
    }

    /// Waits, because carriers come up asynchronously.
    async fn assert_next_hops(&self, expected: &[NextHop]) {
        let mut hops = self.next_hops().await;
        for _ in 0..100 {
            if hops == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            hops = self.next_hops().await;
        }
        assert_eq!(hops, expected);
    }

    /// The initial path to the guest.
    fn by_tap1(&self) -> NextHop {
        NextHop {
            device: self.bridge.index,
            mac: GUEST,
            port: self.tap1.index,
            source: self.bridge.mac.unwrap(),
            mtu: 1500,
        }
    }
}

#[test]
fn a_guest_is_followed_from_port_to_port() {
    in_namespace(async || {
        let host = Host::new().await;
        host.assert_next_hops(&[host.by_tap1()]).await;
        bridge("fdb replace 02:00:00:00:01:0a dev tap2 master static");
        let by_tap2 = NextHop {
            port: host.tap2.index,
            ..host.by_tap1()
        };
        host.assert_next_hops(&[by_tap2]).await;
        ip("link set tap2 nomaster");
        host.assert_next_hops(&[]).await;
    });
}

#[test]
fn a_bridge_with_a_queue_of_its_own_is_not_passed_by() {
    in_namespace(async || {
        let host = Host::new().await;
        host.assert_next_hops(&[host.by_tap1()]).await;
        let tc = |arguments: &str| {
            let status = std::process::Command::new("tc")
                .args(arguments.split(' '))
                .status();
            assert!(status.expect("run tc").success(), "tc {arguments}");
        };
        tc("qdisc add dev vmbr1 root tbf rate 1gbit burst 100k latency 50ms");
        host.assert_next_hops(&[]).await;
        tc("qdisc del dev vmbr1 root");
        host.assert_next_hops(&[host.by_tap1()]).await;
    });
}

#[test]
fn a_guest_with_another_mac_is_another_next_hop() {
    in_namespace(async || {
        let host = Host::new().await;
        host.assert_next_hops(&[host.by_tap1()]).await;
        let before = host.whereabouts().neighbours;
        ip("neigh change 172.22.161.10 dev vmbr1 lladdr 02:00:00:00:01:0b nud permanent");
        host.assert_next_hops(&[]).await;
        let after = host.whereabouts().neighbours;
        assert_eq!(
            abandoned(&before, &after),
            BTreeSet::from([(host.bridge.index, GUEST)])
        );
        bridge("fdb add 02:00:00:00:01:0b dev tap1 master dynamic");
        let moved = NextHop {
            mac: GUEST_MOVED,
            ..host.by_tap1()
        };
        host.assert_next_hops(&[moved]).await;
    });
}

#[test]
fn ports_that_do_not_carry_all_have_no_next_hops() {
    in_namespace(async || {
        let host = Host::new().await;
        for (off, on) in [("locked on", "locked off"), ("state 0", "state 3")] {
            host.assert_next_hops(&[host.by_tap1()]).await;
            bridge(&format!("link set dev tap1 {off}"));
            assert_eq!(host.next_hops().await, [], "{off}");
            bridge(&format!("link set dev tap1 {on}"));
        }
        host.assert_next_hops(&[host.by_tap1()]).await;
        ip("link set guest1 down");
        host.assert_next_hops(&[]).await;
    });
}

#[test]
fn a_bridge_that_filters_vlans_has_no_next_hops() {
    in_namespace(async || {
        let host = Host::new().await;
        host.assert_next_hops(&[host.by_tap1()]).await;
        if filter_vlans("vmbr1") {
            assert_eq!(host.next_hops().await, []);
            ip("link set vmbr1 type bridge vlan_filtering 0");
            host.assert_next_hops(&[host.by_tap1()]).await;
        }
    });
}

#[test]
fn the_bridges_own_address_is_no_next_hop() {
    in_namespace(async || {
        let host = Host::new().await;
        host.assert_next_hops(&[host.by_tap1()]).await;
        bridge("fdb replace 02:00:00:00:01:0a dev tap1 master local");
        assert_eq!(host.next_hops().await, []);
    });
}

#[test]
fn a_route_or_a_port_narrows_its_next_hops() {
    in_namespace(async || {
        let host = Host::new().await;
        let narrowed = |mtu| NextHop {
            mtu,
            ..host.by_tap1()
        };
        host.assert_next_hops(&[host.by_tap1()]).await;
        ip("route add 10.0.0.0/8 via 172.22.161.10 table 7 mtu 1300");
        assert_eq!(host.next_hops().await, [narrowed(1300)]);
        // A bridge whose MTU was not set follows its ports.
        ip("link set vmbr1 mtu 1400");
        ip("link set vmbr1 mtu 1500");
        ip("link set tap1 mtu 1200");
        assert_eq!(host.next_hops().await, [narrowed(1200)]);
        assert_eq!(host.netlink.link("vmbr1").await.unwrap().unwrap().mtu, 1500);
    });
}
