//! IPv6 on the host.

use super::*;

/// A host with an uplink `eth0` whose other end sends router advertisements, and a plan for it.
fn dual(networks: &[(&str, &[&str])]) -> Plan {
    let networks = networks.iter().map(|(interface, addresses)| Network {
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        ..network(interface, interface, "10.0.0.1/8")
    });
    Plan {
        networks: networks.collect(),
        has_ipv6: true,
        ..plan(&[])
    }
}

fn lan6() -> Plan {
    dual(&[(
        "vmbr1",
        &["172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64"],
    )])
}

/// Sets `net/ipv6/KEY`.
#[track_caller]
fn set(key: &str, value: &str) {
    std::fs::write(Path::new("/proc/sys/net/ipv6").join(key), value).unwrap();
}

fn value(key: &str) -> String {
    let text = std::fs::read_to_string(Path::new("/proc/sys/net/ipv6").join(key)).unwrap();
    text.trim().to_owned()
}

/// The IPv6 settings of all interfaces, and addresses and routes that are not of a link alone.
fn state() -> Vec<String> {
    let mut lines = Vec::new();
    for name in nat_sys::sysctl::ipv6_conf_names().unwrap() {
        for setting in ["forwarding", "accept_ra", "disable_ipv6"] {
            let key = format!("conf/{name}/{setting}");
            lines.push(format!("{key} = {}", value(&key)));
        }
    }
    for command in ["-o -6 addr show scope global", "-6 route show proto static"] {
        lines.extend(ip(command).lines().map(|line| line.trim().to_owned()));
    }
    lines
}

#[test]
fn ipv6_is_set_up_and_given_back() {
    in_namespace(async || {
        let host = Host::new();
        set("conf/guest1/forwarding", "1");
        let before = state();
        let report = host.apply(&lan6()).await.unwrap();
        for done in [
            "added 172.22.161.254/24 to vmbr1",
            "added 2001:db8:0:101::1/64 to vmbr1",
            "added fd00:18::1/64 to vmbr1",
            "set net/ipv6/conf/vmbr0/accept_ra to 2 (was 1)",
            "set net/ipv6/conf/vmbr1/forwarding to 1 (was 0)",
            "set net/ipv6/conf/all/forwarding to 1 (was 0)",
        ] {
            assert!(
                report.done.iter().any(|line| line == done),
                "{done}: {report}"
            );
        }
        assert_eq!(report.awaited, [""; 0]);
        assert_eq!(value("conf/vmbr0/forwarding"), "1");
        // Without a carrier: the bridge has no port.
        std::net::UdpSocket::bind("[2001:db8:0:101::1]:5000").unwrap();
        let again = host.apply(&lan6()).await.unwrap();
        assert!(again.is_empty(), "{again}");
        let undone = host.undo().await;
        assert_eq!(undone.failed, [""; 0]);
        assert_eq!(state(), before);
        assert!(!host.has_record());
    });
}

#[test]
fn a_plan_without_ipv6_leaves_its_settings_alone() {
    in_namespace(async || {
        let host = Host::new();
        let before = state();
        host.apply(&plan(&[lan()])).await.unwrap();
        assert_eq!(value("conf/all/forwarding"), "0");
        assert_eq!(value("conf/vmbr0/accept_ra"), "1");
        host.undo().await;
        assert_eq!(state(), before);
    });
}

#[test]
fn settings_of_a_network_manager_and_of_an_administrator_are_kept() {
    in_namespace(async || {
        let host = Host::new();
        for (now, expected) in [("0", "0"), ("2", "2")] {
            set("conf/vmbr0/accept_ra", now);
            host.apply(&lan6()).await.unwrap();
            assert_eq!(value("conf/vmbr0/accept_ra"), expected);
            host.undo().await;
            assert_eq!(value("conf/vmbr0/accept_ra"), now);
        }
        // The host forwards, so it has taken no advertisements until now.
        set("conf/vmbr0/accept_ra", "1");
        set("conf/all/forwarding", "1");
        host.apply(&lan6()).await.unwrap();
        assert_eq!(value("conf/vmbr0/accept_ra"), "1");
        host.undo().await;
        assert_eq!(value("conf/all/forwarding"), "1", "it was so before");
    });
}

#[test]
fn what_others_change_is_set_again() {
    in_namespace(async || {
        let host = Host::new();
        host.apply(&lan6()).await.unwrap();
        let watched = settings(&lan6(), host.journal().changes()).unwrap();
        let watched: Vec<String> = watched
            .iter()
            .map(|(key, set)| format!("{key} {set}"))
            .collect();
        for one in [
            "net/ipv6/conf/all/forwarding 1",
            "net/ipv6/conf/vmbr0/accept_ra 2",
        ] {
            assert!(
                watched.iter().any(|watched| watched == one),
                "{one}: {watched:?}"
            );
        }
        set("conf/vmbr0/accept_ra", "1");
        set("conf/all/forwarding", "0");
        ip("addr del 2001:db8:0:101::1/64 dev vmbr1");
        host.apply(&lan6()).await.unwrap();
        assert_eq!(value("conf/vmbr0/accept_ra"), "2");
        assert_eq!(value("conf/vmbr1/forwarding"), "1");
        assert!(ip("-6 addr show vmbr1").contains("2001:db8:0:101::1/64"));
        ip("link del vmbr1");
        host.apply(&lan6()).await.unwrap();
        assert!(ip("-6 addr show vmbr1").contains("2001:db8:0:101::1/64"));
        assert_eq!(value("conf/vmbr1/forwarding"), "1");
        host.undo().await;
        assert_eq!(value("conf/all/forwarding"), "0");
        assert_eq!(value("conf/vmbr0/accept_ra"), "1");
    });
}

#[test]
fn a_reload_without_ipv6_gives_its_part_back() {
    in_namespace(async || {
        let host = Host::new();
        host.apply(&lan6()).await.unwrap();
        let ipv4 = Plan {
            has_ipv6: false,
            ..dual(&[("vmbr1", &["172.22.161.254/24"])])
        };
        host.apply(&ipv4).await.unwrap();
        assert_eq!(value("conf/all/forwarding"), "0");
        assert_eq!(value("conf/vmbr0/accept_ra"), "1");
        assert!(!ip("-6 addr show vmbr1").contains("2001:db8"));
        assert!(ip("-4 addr show vmbr1").contains("172.22.161.254/24"));
    });
}

#[test]
fn an_interface_without_ipv6_is_reported_and_the_rest_is_made() {
    in_namespace(async || {
        let host = Host::new();
        let plan = dual(&[("tap1", &["172.22.161.254/24", "2001:db8:0:101::1/64"])]);
        set("conf/tap1/disable_ipv6", "1");
        let report = host.apply(&plan).await.unwrap();
        assert_eq!(report.awaited.len(), 1, "{:?}", report.awaited);
        let said = &report.awaited[0];
        assert!(
            said.starts_with("tap1 has no IPv6 (net/ipv6/conf/tap1/disable_ipv6"),
            "{said}"
        );
        assert!(ip("-4 addr show tap1").contains("172.22.161.254/24"));
        set("conf/tap1/disable_ipv6", "0");
        let report = host.apply(&plan).await.unwrap();
        assert_eq!(report.awaited, [""; 0]);
        assert!(ip("-6 addr show tap1").contains("2001:db8:0:101::1/64"));
    });
}

#[test]
fn a_bridge_of_natbpf_has_ipv6_where_new_interfaces_have_none() {
    in_namespace(async || {
        let host = Host::new();
        set("conf/default/disable_ipv6", "1");
        host.apply(&lan6()).await.unwrap();
        assert!(ip("-6 addr show vmbr1").contains("2001:db8:0:101::1/64"));
    });
}

fn routed(prefix: &str) -> Plan {
    Plan {
        routes: vec![Route {
            uplink_addresses: vec!["2001:db8:fe::10".parse().unwrap()],
            ..super::route(&[prefix])
        }],
        ..lan6()
    }
}

#[test]
fn routes_of_ipv6_are_made_followed_and_undone() {
    in_namespace(async || {
        let host = Host::new();
        ip("addr add 2001:db8:fe::10/64 dev vmbr0 nodad");
        let before = state();
        host.apply(&routed("2001:db8:7::10/128")).await.unwrap();
        let route = || ip("-6 route show 2001:db8:7::10");
        assert!(route().contains("dev vmbr1"), "{}", route());
        assert!(route().contains("src 2001:db8:fe::10"), "{}", route());
        ip("-6 route del 2001:db8:7::10");
        host.apply(&routed("2001:db8:7::10/128")).await.unwrap();
        assert!(route().contains("dev vmbr1"), "{}", route());
        let report = host.apply(&routed("2001:db8:7::10/128")).await.unwrap();
        assert!(report.is_empty(), "{report}");
        host.undo().await;
        assert_eq!(state(), before);
    });
}

#[test]
fn an_ipv6_route_that_would_cut_the_host_off_is_a_problem() {
    in_namespace(async || {
        let host = Host::new();
        ip("addr add 2001:db8:fe::10/64 dev vmbr0 nodad");
        ip("-6 route add 2001:db8:8::/64 via 2001:db8:fe::1");
        for (prefix, why) in [
            (
                "2001:db8:fe::10/128",
                "2001:db8:fe::10 is the host's own address, on vmbr0",
            ),
            ("2001:db8:fe::/64", "2001:db8:fe::/64 holds 2001:db8:fe::10"),
            (
                "2001:db8:fe::1/128",
                "holds 2001:db8:fe::1, the router of the host's route",
            ),
            (
                "2001:db8:8::/64",
                "the host already has a route to 2001:db8:8::/64 by vmbr0",
            ),
        ] {
            let error = host.apply(&routed(prefix)).await.unwrap_err().to_string();
            assert!(error.contains(why), "{prefix}: {error}");
        }
        host.apply(&routed("2001:db8:fe::11/128")).await.unwrap();
    });
}

/// A host whose uplink has the guests' prefix on its link, with a router in it.
fn on_link(guests: &[&str]) -> Plan {
    let mut plan = dual(&[("vmbr1", &["2001:db8:1:2::1:1/64", "fd00:18::1/64"])]);
    plan.networks[0].ndp = Some("vmbr0".to_owned());
    plan.networks[0].guests = guests.iter().map(|one| one.parse().unwrap()).collect();
    plan
}

#[test]
fn n6_8_guests_of_a_prefix_on_the_uplinks_link_are_behind_the_bridge_and_the_router_is_not() {
    in_namespace(async || {
        let host = Host::new();
        ip("addr add 2001:db8:1:2::2/64 dev vmbr0 nodad");
        ip("-6 route add default via 2001:db8:1:2::fffe dev vmbr0");
        let before = (state(), ip("-6 route show"), ip("maddr show dev vmbr0"));
        let plan = on_link(&["2001:db8:1:2::1:10", "fd00:18::10"]);
        let report = host.apply(&plan).await.unwrap();
        let device = |to: &str| {
            let route = ip(&format!("-6 route get {to}"));
            let mut words = route.split(' ').skip_while(|word| *word != "dev");
            words.nth(1).unwrap().to_owned()
        };
        assert_eq!(device("2001:db8:1:2::1:10"), "vmbr1");
        assert_eq!(device("2001:db8:1:2:5054:ff:fe00:10"), "vmbr1");
        assert_eq!(device("2001:db8:1:2::fffe"), "vmbr0");
        assert_eq!(device("2001:db8:ffff::1"), "vmbr0");
        assert!(ip("link show vmbr0").contains("ALLMULTI"), "{report}");
        let groups = ip("maddr show dev vmbr0");
        assert!(groups.contains("ff02::1:ff01:10"), "{groups}");
        assert!(
            !groups.contains("ff02::1:ff00:10"),
            "not of a local address: {groups}"
        );
        let again = host.apply(&plan).await.unwrap();
        assert!(again.is_empty(), "{again}");
        // One guest less, and what others have removed is made again.
        ip("link set vmbr0 allmulticast off");
        ip("-6 route del 2001:db8:1:2::/64 dev vmbr1 metric 128");
        host.apply(&on_link(&[])).await.unwrap();
        assert_eq!(device("2001:db8:1:2::1:10"), "vmbr1");
        assert!(ip("link show vmbr0").contains("ALLMULTI"));
        assert!(!ip("maddr show dev vmbr0").contains("ff02::1:ff01:10"));
        host.undo().await;
        let after = (state(), ip("-6 route show"), ip("maddr show dev vmbr0"));
        assert_eq!(after, before);
        assert!(!ip("link show vmbr0").contains("ALLMULTI"));
    });
}

#[test]
fn external_addresses_that_no_interface_has_are_heard_or_added() {
    in_namespace(async || {
        let host = Host::new();
        let before = (state(), ip("maddr show dev vmbr0"));
        let mut plan = lan6();
        plan.uplinks[0].answered = ["2001:db8:fe::a:1", "2001:db8:fe::b:2"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        plan.uplinks[0].addresses = vec!["2001:db8:fe::c:3".parse().unwrap()];
        // Another interface has one of them: the kernel hears who asks for it.
        ip("addr add 2001:db8:fe::b:2/128 dev lo");
        host.apply(&plan).await.unwrap();
        let groups = ip("maddr show dev vmbr0");
        assert!(groups.contains("ff02::1:ff0a:1"), "{groups}");
        assert!(!groups.contains("ff02::1:ff0b:2"), "{groups}");
        assert!(ip("-6 addr show vmbr0").contains("2001:db8:fe::c:3/128"));
        let again = host.apply(&plan).await.unwrap();
        assert!(again.is_empty(), "{again}");
        host.undo().await;
        ip("addr del 2001:db8:fe::b:2/128 dev lo");
        assert_eq!((state(), ip("maddr show dev vmbr0")), before);
    });
}
