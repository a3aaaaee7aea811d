mod namespaces;

use nat_sys::{
    netlink::{BridgePort, NeighbourState},
    testing::link,
};

use super::*;

const UPLINK: u32 = 2;
const BRIDGE: u32 = 3;
const OTHER_BRIDGE: u32 = 4;
const TAP1: u32 = 11;
const TAP2: u32 = 12;

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 1, 1];
const GUEST: [u8; 6] = [2, 0, 0, 0, 1, 10];

/// An uplink with a gateway, and a bridge with two ports and a guest behind the first one.
struct Lists {
    links: Vec<Link>,
    neighbours: Vec<Neighbour>,
    fdb: Vec<FdbEntry>,
    route_mtus: Vec<RouteMtu>,
}

impl Lists {
    fn new() -> Self {
        let bridge = |index, name| Link {
            kind: Kind::Bridge,
            ..link(index, name)
        };
        let port = |index, name| Link {
            master: Some(BRIDGE),
            port: Some(BridgePort {
                forwarding: true,
                ..BridgePort::default()
            }),
            ..link(index, name)
        };
        Self {
            links: vec![
                link(UPLINK, "eth0"),
                bridge(BRIDGE, "vmbr1"),
                bridge(OTHER_BRIDGE, "vmbr2"),
                port(TAP1, "tap1"),
                port(TAP2, "tap2"),
            ],
            neighbours: vec![neighbour(UPLINK, 1, GATEWAY), neighbour(BRIDGE, 10, GUEST)],
            fdb: vec![entry(TAP1, GUEST)],
            route_mtus: Vec::new(),
        }
    }

    fn link(&mut self, index: u32) -> &mut Link {
        let mut links = self.links.iter_mut();
        links.find(|link| link.index == index).unwrap()
    }

    fn port(&mut self, index: u32) -> &mut BridgePort {
        self.link(index).port.as_mut().unwrap()
    }

    fn next_hops(&self) -> BTreeSet<NextHop> {
        self.next_hops_of(&[UPLINK, BRIDGE])
    }

    fn next_hops_of(&self, devices: &[u32]) -> BTreeSet<NextHop> {
        let devices = devices.iter().copied().collect();
        next_hops(
            &self.links,
            &self.neighbours,
            &self.fdb,
            &self.route_mtus,
            &devices,
        )
    }

    /// The port by which the guest is reached.
    fn guest_port(&self) -> Option<u32> {
        Some(self.hop_to(BRIDGE)?.port)
    }

    /// The only next hop behind a device.
    fn hop_to(&self, device: u32) -> Option<NextHop> {
        let hops = self.next_hops_of(&[device]);
        assert!(hops.len() <= 1, "{hops:?}");
        hops.first().copied()
    }
}

fn neighbour(device: u32, host: u8, mac: [u8; 6]) -> Neighbour {
    Neighbour {
        device,
        address: IpAddr::from([10, 0, 0, host]),
        mac: Some(mac),
        state: NeighbourState::Reachable,
    }
}

fn entry(port: u32, mac: [u8; 6]) -> FdbEntry {
    FdbEntry {
        bridge: BRIDGE,
        port,
        mac,
        local: false,
    }
}

#[test]
fn a_bridge_sends_by_its_port_and_another_device_by_itself() {
    let expected = [
        NextHop {
            device: UPLINK,
            mac: GATEWAY,
            port: UPLINK,
            source: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
        },
        NextHop {
            device: BRIDGE,
            mac: GUEST,
            port: TAP1,
            source: [2, 0, 0, 0, 0, 3],
            mtu: 1500,
        },
    ];
    assert_eq!(Lists::new().next_hops(), BTreeSet::from(expected));
}

#[test]
fn only_the_devices_asked_for_have_next_hops() {
    let lists = Lists::new();
    let hops = lists.next_hops_of(&[BRIDGE, OTHER_BRIDGE, 99]);
    let devices: Vec<_> = hops.iter().map(|hop| hop.device).collect();
    assert_eq!(devices, [BRIDGE]);
    assert_eq!(lists.next_hops_of(&[]), BTreeSet::new());
}

#[test]
fn addresses_with_one_mac_share_a_next_hop() {
    let mut lists = Lists::new();
    lists.neighbours.push(neighbour(UPLINK, 2, GATEWAY));
    assert_eq!(lists.next_hops(), Lists::new().next_hops());
    lists.neighbours.push(neighbour(UPLINK, 3, GUEST));
    assert_eq!(lists.next_hops().len(), 3);
}

#[test]
fn only_neighbours_that_the_kernel_would_send_to_are_reached() {
    use NeighbourState::{
        Delay, Failed, Incomplete, Noarp, None, Permanent, Probe, Reachable, Stale,
    };
    let reached = |state, mac| {
        let mut lists = Lists::new();
        lists.neighbours = vec![Neighbour {
            state,
            mac,
            ..neighbour(UPLINK, 1, GATEWAY)
        }];
        !lists.next_hops().is_empty()
    };
    for state in [Permanent, Noarp, Reachable, Stale, Delay, Probe] {
        assert!(reached(state, Some(GATEWAY)), "{state}");
        assert!(!reached(state, Option::None), "{state} without MAC");
        assert!(!reached(state, Some([0; 6])), "{state} with MAC of zeros");
        assert!(!reached(state, Some([0xff; 6])), "{state}, broadcast");
        let multicast = [0x01, 0, 0x5e, 0, 0, 1];
        assert!(!reached(state, Some(multicast)), "{state}, multicast");
    }
    for state in [Incomplete, Failed, None, NeighbourState::Other(0x60)] {
        assert!(!reached(state, Some(GATEWAY)), "{state}");
    }
}

#[test]
fn a_device_must_be_there_and_carry_ethernet_frames() {
    let changes: [fn(&mut Link); 5] = [
        |link| link.up = false,
        |link| link.running = false,
        |link| link.layer = Layer::None,
        |link| link.mac = None,
        |link| link.index = 99,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut lists = Lists::new();
        change(lists.link(UPLINK));
        change(lists.link(BRIDGE));
        assert_eq!(lists.next_hops(), BTreeSet::new(), "change {number}");
    }
}

#[test]
fn a_port_must_carry_whatever_the_bridge_sends() {
    let changes: [fn(&mut Lists); 9] = [
        |lists| lists.port(TAP1).locked = true,
        |lists| lists.port(TAP1).forwarding = false,
        |lists| lists.link(TAP1).up = false,
        |lists| lists.link(TAP1).running = false,
        |lists| lists.link(TAP1).index = 99,
        |lists| lists.link(TAP1).port = None,
        |lists| lists.link(TAP1).master = Some(OTHER_BRIDGE),
        |lists| lists.link(BRIDGE).vlan_filtering = true,
        |lists| lists.link(BRIDGE).queues = true,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut lists = Lists::new();
        change(&mut lists);
        assert_eq!(lists.guest_port(), None, "change {number}");
        assert_eq!(lists.next_hops().len(), 1, "the uplink's stays");
    }
}

#[test]
fn an_isolated_port_has_the_fast_path() {
    // Both paths go through the host, which isolated ports may reach.
    let mut lists = Lists::new();
    lists.port(TAP1).isolated = true;
    lists.port(TAP2).isolated = true;
    assert_eq!(lists.next_hops(), Lists::new().next_hops());
}

#[test]
fn other_ports_do_not_matter() {
    let mut lists = Lists::new();
    lists.port(TAP2).isolated = true;
    lists.link(TAP2).mtu = 1280;
    lists.link(OTHER_BRIDGE).vlan_filtering = true;
    assert_eq!(lists.next_hops(), Lists::new().next_hops());
}

#[test]
fn a_mac_must_be_behind_a_port_of_the_bridge() {
    let local = FdbEntry {
        local: true,
        ..entry(TAP1, GUEST)
    };
    let elsewhere = FdbEntry {
        bridge: OTHER_BRIDGE,
        ..entry(TAP2, GUEST)
    };
    let plain = |port| entry(port, GUEST);
    for (fdb, port) in [
        (vec![], None),
        (vec![entry(TAP1, GATEWAY)], None),
        (vec![plain(TAP2)], Some(TAP2)),
        (vec![local], None),
        (vec![elsewhere.clone()], None),
        (vec![elsewhere, plain(TAP1)], Some(TAP1)),
    ] {
        let mut lists = Lists::new();
        lists.fdb.clone_from(&fdb);
        assert_eq!(lists.guest_port(), port, "{fdb:?}");
    }
}

#[test]
fn the_narrowest_of_device_port_and_routes_says_the_mtu() {
    let mtu = |bridge, port, routes: &[(Option<u32>, u32)]| {
        let mut lists = Lists::new();
        lists.link(BRIDGE).mtu = bridge;
        lists.link(TAP1).mtu = port;
        let routes = routes.iter();
        let routes = routes.map(|(device, mtu)| RouteMtu {
            device: *device,
            mtu: *mtu,
        });
        lists.route_mtus = routes.collect();
        lists.hop_to(BRIDGE).unwrap().mtu
    };
    assert_eq!(mtu(1500, 1500, &[]), 1500);
    assert_eq!(mtu(1500, 1280, &[]), 1280);
    assert_eq!(mtu(1400, 9000, &[]), 1400);
    assert_eq!(mtu(1500, 1500, &[(Some(BRIDGE), 1300)]), 1300);
    assert_eq!(
        mtu(1500, 1500, &[(Some(BRIDGE), 1300), (Some(BRIDGE), 1200)]),
        1200
    );
    assert_eq!(mtu(1500, 1500, &[(Some(BRIDGE), 9000)]), 1500);
    assert_eq!(mtu(1500, 1500, &[(Some(UPLINK), 1300)]), 1500);
    assert_eq!(mtu(1500, 1500, &[(None, 1300)]), 1300, "by any device");
}

#[test]
fn macs_that_a_neighbour_has_no_longer_are_abandoned() {
    let before = [
        neighbour(UPLINK, 1, GATEWAY),
        neighbour(UPLINK, 2, GATEWAY),
        neighbour(BRIDGE, 10, GUEST),
    ];
    let after = |change: fn(&mut Vec<Neighbour>)| {
        let mut after = before.to_vec();
        change(&mut after);
        abandoned(&before, &after).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(after(|_| {}), []);
    assert_eq!(after(|all| all.reverse()), []);
    assert_eq!(after(|all| all[2].state = NeighbourState::Stale), []);
    assert_eq!(after(|all| all.push(neighbour(BRIDGE, 11, GATEWAY))), []);
    // The other neighbour still has the gateway's MAC.
    assert_eq!(after(|all| all[0].mac = Some(GUEST)), [(UPLINK, GATEWAY)]);
    assert_eq!(
        after(|all| all.retain(|neighbour| neighbour.address != IpAddr::from([10, 0, 0, 1]))),
        [(UPLINK, GATEWAY)]
    );
    assert_eq!(
        after(|all| all[2].state = NeighbourState::Failed),
        [(BRIDGE, GUEST)]
    );
    assert_eq!(
        after(|all| all[2].state = NeighbourState::Incomplete),
        [(BRIDGE, GUEST)]
    );
    assert_eq!(after(|all| all[2].mac = None), [(BRIDGE, GUEST)]);
    assert_eq!(after(|all| all[2].device = OTHER_BRIDGE), [(BRIDGE, GUEST)]);
    assert_eq!(after(Vec::clear), [(UPLINK, GATEWAY), (BRIDGE, GUEST)]);
}

#[test]
fn an_unreachable_neighbour_abandons_nothing() {
    let failed = Neighbour {
        state: NeighbourState::Failed,
        ..neighbour(UPLINK, 1, GATEWAY)
    };
    assert_eq!(abandoned(&[failed], &[]), BTreeSet::new());
    assert_eq!(
        abandoned(&[], &[neighbour(UPLINK, 1, GATEWAY)]),
        BTreeSet::new()
    );
}
