use nat_sys::testing::{bridge, filter_vlans, in_namespace, ip, tool, without_ipv6};

use super::*;

/// The next event except settings: each new interface has some.
async fn next(events: &mut Events) -> Event {
    tokio::time::timeout(Duration::from_secs(5), other_than_settings(events))
        .await
        .expect("an event")
}

async fn other_than_settings(events: &mut Events) -> Event {
    loop {
        match events.next().await {
            Event::SettingChanged => {}
            event => return event,
        }
    }
}

async fn nothing_more(events: &mut Events) {
    let other = other_than_settings(events);
    let waited = tokio::time::timeout(Duration::from_millis(300), other).await;
    assert!(waited.is_err(), "unexpected {waited:?}");
}

#[test]
fn settings_changed_by_others_are_an_event() {
    in_namespace(async || {
        ip("link add vmbr1 type bridge");
        let mut events = Events::subscribe().unwrap();
        for (key, value) in [
            ("ip_forward", "1"),
            ("conf/vmbr1/forwarding", "0"),
            ("ip_forward", "0"),
        ] {
            let path = format!("/proc/sys/net/ipv4/{key}");
            std::fs::write(path, value).unwrap();
            assert_eq!(
                events.next().await,
                Event::SettingChanged,
                "{key} = {value}"
            );
            quiet(&mut events).await;
        }
    });
}

/// Carriers come up asynchronously.
async fn quiet(events: &mut Events) {
    let patience = Duration::from_millis(500);
    while tokio::time::timeout(patience, events.next()).await.is_ok() {}
}

#[test]
fn a_burst_of_changes_is_one_event_of_each_kind() {
    in_namespace(async || {
        let mut events = Events::subscribe().unwrap();
        ip("link add vmbr1 type bridge");
        for host in 1..20 {
            ip(&format!("addr add 172.22.161.{host}/24 dev vmbr1"));
        }
        assert_eq!(next(&mut events).await, Event::LinkChanged);
        assert_eq!(next(&mut events).await, Event::AddressChanged);
        // The kernel routes to each address.
        assert_eq!(next(&mut events).await, Event::RouteChanged);
        // The bridge has its own MAC in its forwarding database.
        assert_eq!(next(&mut events).await, Event::NeighbourChanged);
        nothing_more(&mut events).await;
        ip("addr del 172.22.161.7/24 dev vmbr1");
        assert_eq!(next(&mut events).await, Event::AddressChanged);
        assert_eq!(next(&mut events).await, Event::RouteChanged);
        nothing_more(&mut events).await;
        ip("link del vmbr1");
        assert_eq!(next(&mut events).await, Event::LinkChanged);
    });
}

#[test]
fn changes_of_next_hops_are_events() {
    in_namespace(async || {
        without_ipv6();
        let mut events = Events::subscribe().unwrap();
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
        quiet(&mut events).await;
        let neighbour = "172.22.161.10 dev vmbr1 nud permanent lladdr";
        for (command, event) in [
            (
                "ip neigh add NEIGHBOUR 02:00:00:00:01:0a",
                Event::NeighbourChanged,
            ),
            (
                "ip neigh change NEIGHBOUR 02:00:00:00:01:0b",
                Event::NeighbourChanged,
            ),
            (
                "bridge fdb add 02:00:00:00:01:0b dev tap1 master static",
                Event::NeighbourChanged,
            ),
            (
                "bridge fdb replace 02:00:00:00:01:0b dev tap2 master static",
                Event::NeighbourChanged,
            ),
            ("bridge link set dev tap2 isolated on", Event::LinkChanged),
            ("bridge link set dev tap2 locked on", Event::LinkChanged),
            ("bridge link set dev tap2 state 0", Event::LinkChanged),
            (
                "ip route add 10.0.0.0/8 via 172.22.161.10 mtu 1300",
                Event::RouteChanged,
            ),
            ("ip rule add from 10.0.0.0/8 table 7", Event::RouteChanged),
        ] {
            let command = command.replace("NEIGHBOUR", neighbour);
            match command.split_once(' ') {
                Some(("ip", arguments)) => ip(arguments),
                Some(("bridge", arguments)) => bridge(arguments),
                _ => unreachable!("{command}"),
            };
            assert_eq!(next(&mut events).await, event, "{command}");
            nothing_more(&mut events).await;
        }
        if filter_vlans("vmbr1") {
            assert_eq!(next(&mut events).await, Event::LinkChanged);
        }
    });
}

#[test]
fn shapers_at_an_interface_are_an_event() {
    in_namespace(async || {
        without_ipv6();
        ip("link add name tap1 type veth peer name guest");
        ip("link set tap1 up");
        let mut events = Events::subscribe().unwrap();
        quiet(&mut events).await;
        for command in [
            "tc qdisc add dev tap1 root tbf rate 1mbit burst 20k latency 50ms",
            "tc qdisc del dev tap1 root",
            "tc qdisc add dev tap1 clsact",
            "tc filter add dev tap1 ingress protocol all bpf bytecode 1,6_0_0_0",
            "nft add table netdev guard",
            "nft add chain netdev guard c { type filter hook ingress device tap1 priority 0; }",
            "nft add rule netdev guard c drop",
            "nft delete table netdev guard",
        ] {
            tool(command);
            assert_eq!(next(&mut events).await, Event::PolicingChanged, "{command}");
            nothing_more(&mut events).await;
        }
        // Rules about routed packets apply anyway.
        tool("nft add table ip filter");
        tool("nft add chain ip filter forward { type filter hook forward priority 0; }");
        tool("nft add rule ip filter forward drop");
        nothing_more(&mut events).await;
    });
}

#[test]
fn a_peer_that_stops_accepting_frames_is_an_event() {
    in_namespace(async || {
        without_ipv6();
        ip("link add name tap1 type veth peer name guest");
        ip("link set tap1 up");
        ip("link set guest up");
        let mut events = Events::subscribe().unwrap();
        quiet(&mut events).await;
        for turn in ["on", "off"] {
            tool(&format!("ethtool -K guest gro {turn}"));
            assert_eq!(next(&mut events).await, Event::LinkChanged, "{turn}");
            nothing_more(&mut events).await;
        }
    });
}

#[test]
fn ipv6_is_no_event_while_it_is_not_heard() {
    in_namespace(async || {
        ip("link add name uplink type veth peer name isp");
        let mut events = Events::subscribe().unwrap();
        events.hear_ipv6(false);
        ip("neigh add fd00::7 lladdr 02:00:00:00:00:07 dev uplink");
        ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev uplink");
        assert_eq!(next(&mut events).await, Event::NeighbourChanged);
        ip("neigh change fd00::7 lladdr 02:00:00:00:00:08 dev uplink");
        ip("addr add fd00::1/64 dev uplink");
        ip("-6 rule add from fd00::/64 lookup 77");
        nothing_more(&mut events).await;
    });
}

#[test]
fn changes_of_ipv6_are_events() {
    in_namespace(async || {
        ip("link add name uplink type veth peer name isp");
        ip("link set uplink up");
        ip("link set isp up");
        ip("addr add fd00::1/64 dev uplink nodad");
        let mut events = Events::subscribe().unwrap();
        // It may be switched off and on again.
        events.hear_ipv6(false);
        events.hear_ipv6(true);
        quiet(&mut events).await;
        for (command, event) in [
            (
                "addr add fd00::2/64 dev uplink nodad",
                Event::AddressChanged,
            ),
            (
                "addr change fd00::2/64 dev uplink preferred_lft 0",
                Event::AddressChanged,
            ),
            ("route add fd00:7::/64 via fd00::9", Event::RouteChanged),
            ("-6 rule add from fd00::/64 lookup 77", Event::RouteChanged),
            (
                "neigh add fd00::9 lladdr 02:00:00:00:00:07 dev uplink",
                Event::NeighbourChanged,
            ),
            (
                "neigh change fd00::9 lladdr 02:00:00:00:00:08 dev uplink",
                Event::NeighbourChanged,
            ),
        ] {
            ip(command);
            assert_eq!(next(&mut events).await, event, "{command}");
            quiet(&mut events).await;
        }
        std::fs::write("/proc/sys/net/ipv6/conf/uplink/forwarding", "1").unwrap();
        // The kernel adds routes for the address of all routers of the link.
        while events.next().await != Event::SettingChanged {}
    });
}

#[test]
fn a_storm_of_neighbours_hides_nothing_else_and_is_a_few_events() {
    in_namespace(async || {
        without_ipv6();
        ip("link add vmbr1 type bridge");
        ip("link add name tap1 type veth peer name guest1");
        ip("link set tap1 master vmbr1 up");
        ip("link set guest1 up");
        ip("link set vmbr1 up");
        let mut events = Events::subscribe().unwrap();
        quiet(&mut events).await;
        let batch = tempfile::NamedTempFile::new().unwrap();
        let lines: String = (0..4096_u32)
            .map(|number| {
                let [_, _, a, b] = number.to_be_bytes();
                format!("fdb add 06:00:00:00:{a:02x}:{b:02x} dev tap1 master dynamic\n")
            })
            .collect();
        std::fs::write(batch.path(), lines).unwrap();
        events.hear_neighbours(false);
        bridge(&format!("-batch {}", batch.path().display()));
        ip("addr add 172.22.161.1/24 dev vmbr1");
        loop {
            match next(&mut events).await {
                // Carriers come up asynchronously.
                Event::LinkChanged | Event::RouteChanged => {}
                event => break assert_eq!(event, Event::AddressChanged),
            }
        }
        quiet(&mut events).await;
        events.hear_neighbours(true);
        let mut told = 0;
        let patience = Duration::from_millis(300);
        while let Ok(event) = tokio::time::timeout(patience, events.next()).await {
            assert_eq!(event, Event::NeighbourChanged);
            told += 1;
        }
        assert!((1..64).contains(&told), "4096 changes are {told} events");
    });
}

#[test]
fn an_event_wakes_the_waiter() {
    in_namespace(async || {
        let mut events = Events::subscribe().unwrap();
        let (event, ()) = tokio::join!(next(&mut events), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            ip("link add vmbr1 type bridge");
        });
        assert_eq!(event, Event::LinkChanged);
    });
}

#[test]
fn lost_messages_are_reported() {
    in_namespace(async || {
        let mut events = Events::subscribe().unwrap();
        let socket = &events.subscriptions[0].socket;
        socket.get_ref().set_rx_buf_sz(4096).unwrap();
        ip("link add vmbr1 type bridge");
        for mtu in 1000..1020 {
            ip(&format!("link set vmbr1 mtu {mtu}"));
        }
        // At once, not after the pause for errors that cannot happen.
        let event = tokio::time::timeout(PAUSE_AFTER_ERROR / 2, events.next()).await;
        assert_eq!(event, Ok(Event::Overrun));
        nothing_more(&mut events).await;
        ip("addr add 172.22.161.1/24 dev vmbr1");
        assert_eq!(next(&mut events).await, Event::AddressChanged);
    });
}

#[test]
fn cut_and_odd_datagrams_are_read_within_their_bounds() {
    let message = |length: u32, kind: u16, size: usize| {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(size, 0);
        bytes
    };
    let mut two = message(14, libc::RTM_NEWADDR, 16);
    two.extend(message(4096, libc::RTM_DELLINK, 16));
    for (datagram, noted) in [
        (vec![], ""),
        (vec![0; 5], ""),
        (message(0, libc::RTM_NEWLINK, 16), "links"),
        (message(u32::MAX - 3, libc::RTM_NEWADDR, 16), "addresses"),
        (message(16, libc::RTM_NEWROUTE, 16), "routes"),
        (message(16, libc::RTM_DELRULE, 16), "routes"),
        (message(16, libc::RTM_NEWQDISC, 16), "policing"),
        (message(16, libc::RTM_NEWTCLASS, 16), ""),
        (message(28, libc::RTM_DELNEIGH, 28), "neighbours"),
        (message(28, libc::RTM_NEWNEIGH, 16), "neighbours"),
        (two, "links addresses"),
    ] {
        let mut pending = Pending::default();
        pending.note(Source::Route, &datagram);
        let noted = Pending {
            links: noted.contains("links"),
            addresses: noted.contains("addresses"),
            routes: noted.contains("routes"),
            neighbours: noted.contains("neighbours"),
            policing: noted.contains("policing"),
            settings: false,
            overrun: false,
        };
        assert_eq!(pending, noted, "{datagram:?}");
    }
}

#[test]
fn events_that_others_depend_on_come_first() {
    let mut pending = Pending {
        links: true,
        addresses: true,
        routes: true,
        neighbours: true,
        policing: true,
        settings: true,
        overrun: false,
    };
    let order: Vec<_> = std::iter::from_fn(|| pending.take()).collect();
    assert_eq!(
        order,
        [
            Event::LinkChanged,
            Event::AddressChanged,
            Event::RouteChanged,
            Event::NeighbourChanged,
            Event::PolicingChanged,
            Event::SettingChanged,
        ]
    );
}
