use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use ipnet::Ipv4Net;
use netlink_packet_route::{
    link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp},
    neighbour::{NeighbourAttribute, NeighbourMessage},
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric},
};
use rtnetlink::LinkUnspec;

use super::*;
use crate::{
    testing::{bridge, in_namespace, ip, without_ipv6},
    whereabouts::Whereabouts,
};

const MAC: [u8; 6] = [0x02, 0x12, 0x34, 0x56, 0x78, 0x9a];

async fn link(netlink: &Netlink, name: &str) -> Link {
    let found = netlink.link(name).await.unwrap();
    found.unwrap_or_else(|| panic!("{name} is there"))
}

#[test]
fn devices_without_ethernet_header_are_distinguished() {
    let none = [
        0xfffe, /* none: WireGuard, tun */
        512,    /* PPP */
        519,    /* raw IP: mobile modems */
        768, 776, 778, 823,
    ];
    for arphrd in none {
        assert_eq!(Layer::from_arphrd(arphrd), Layer::None, "{arphrd}");
    }
    assert_eq!(Layer::from_arphrd(1), Layer::Ethernet);
    assert_eq!(Layer::from_arphrd(772), Layer::Ethernet);
    assert_eq!(Layer::from_arphrd(32), Layer::Other(32), "InfiniBand");
}

#[test]
fn a_bridge_is_made_without_stp_and_keeps_its_mac() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        netlink.create_bridge("vmbr1", MAC).await.unwrap();
        let detail = ip("-d link show vmbr1");
        assert!(detail.contains("forward_delay 0 "), "{detail}");
        assert!(detail.contains("stp_state 0 "), "{detail}");
        // Where the kernel has it.
        let is_limited = detail.contains("fdb_max_learned 16384 ");
        assert!(
            is_limited || !detail.contains("fdb_max_learned"),
            "{detail}"
        );

        ip("link add tap1 address 00:00:00:00:00:01 type veth peer name guest1");
        let bridge = link(&netlink, "vmbr1").await;
        assert_eq!(bridge.kind, Kind::Bridge);
        assert_eq!(bridge.layer, Layer::Ethernet);
        assert_eq!((bridge.mac, bridge.up), (Some(MAC), false));

        netlink
            .attach(&link(&netlink, "tap1").await, &bridge)
            .await
            .unwrap();
        netlink.set_up(&bridge).await.unwrap();
        let bridge = link(&netlink, "vmbr1").await;
        assert_eq!((bridge.mac, bridge.up), (Some(MAC), true));
        let port = link(&netlink, "tap1").await;
        assert_eq!(
            (port.master, port.kind.clone()),
            (Some(bridge.index), Kind::Veth)
        );

        netlink.release(&port).await.unwrap();
        netlink.set_down(&bridge).await.unwrap();
        assert_eq!(link(&netlink, "tap1").await.master, None);
        assert!(!link(&netlink, "vmbr1").await.up);
        netlink.delete_link(&bridge).await.unwrap();
        assert_eq!(netlink.link("vmbr1").await.unwrap(), None);
    });
}

#[test]
fn interfaces_are_described() {
    in_namespace(async || {
        ip("link add vmbr0 type bridge nf_call_iptables 1");
        ip("link add name uplink mtu 1492 type veth peer name isp");
        ip("link set uplink up");
        ip("tuntap add dev tun7 mode tun");
        ip("tuntap add dev tap7 mode tap");
        ip("link add link vmbr0 name vmbr0.5 type macvlan");
        let netlink = Netlink::connect().unwrap();
        let links = netlink.links().await.unwrap();
        let named = |name: &str| links.iter().find(|link| link.name == name).unwrap();
        assert_eq!(named("lo").kind, Kind::Device);
        assert!(named("vmbr0").calls_netfilter);
        assert_eq!(named("uplink").mtu, 1492);
        assert!(
            named("uplink").up && !named("uplink").running,
            "its peer is down"
        );
        assert_eq!(
            (&named("tun7").kind, named("tun7").layer),
            (&Kind::Tun, Layer::None)
        );
        assert_eq!(named("tun7").mac, None);
        assert_eq!(
            (&named("tap7").kind, named("tap7").layer),
            (&Kind::Tun, Layer::Ethernet)
        );
        assert_eq!(named("vmbr0.5").kind, Kind::Other("macvlan".to_owned()));
        assert_eq!(
            netlink.link("vmbr0.5").await.unwrap().as_ref(),
            Some(named("vmbr0.5"))
        );
        assert_eq!(netlink.link("nothing").await.unwrap(), None);
    });
}

#[test]
fn lists_are_read_one_after_the_other() {
    in_namespace(async || {
        for number in 0..100 {
            ip(&format!("link add br{number} type bridge"));
        }
        let netlink = Netlink::connect().unwrap();
        // A request without a waiting caller, and three at once.
        drop(tokio::time::timeout(Duration::ZERO, netlink.links()).await);
        tokio::task::yield_now().await;
        let (links, again, addresses) =
            tokio::join!(netlink.links(), netlink.links(), netlink.addresses());
        assert_eq!(links.unwrap().len(), 101);
        assert_eq!(again.unwrap().len(), 101);
        assert_eq!(addresses.unwrap(), []);
    });
}

#[test]
fn addresses_come_in_the_kernels_order() {
    in_namespace(async || {
        ip("link add vmbr0 type bridge");
        ip("addr add 19.19.8.10/24 dev vmbr0");
        ip("addr add 19.19.8.9/24 dev vmbr0");
        ip("addr add 10.0.0.1/8 dev vmbr0 scope link");
        ip("addr add 123.45.12.48 peer 123.45.12.1 dev vmbr0");
        ip("addr add fd00::1/64 dev vmbr0");
        let netlink = Netlink::connect().unwrap();
        let index = link(&netlink, "vmbr0").await.index;
        let addresses = netlink.addresses_of(index).await.unwrap();
        let find = |net: &str| {
            let net = net.parse().unwrap();
            let at = addresses.iter().position(|address| address.net == net);
            at.unwrap_or_else(|| panic!("{net} in {addresses:?}"))
        };
        assert_eq!(addresses.len(), 4, "no IPv6");
        assert_eq!(find("10.0.0.1/8"), 0, "the narrower scope comes first");
        assert_eq!(find("19.19.8.10/24"), 1);
        assert_eq!(find("19.19.8.9/24"), 3, "secondary comes last");
        assert!(addresses[3].secondary && !addresses[1].secondary);
        assert_eq!(addresses[0].scope, AddressScope::Link);
        assert_eq!(addresses[1].scope, AddressScope::Universe);
        let point_to_point = &addresses[find("123.45.12.48/32")];
        assert_eq!(point_to_point.peer, Some(Ipv4Addr::new(123, 45, 12, 1)));
    });
}

#[test]
fn an_address_is_added_and_removed() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        netlink.create_bridge("vmbr1", MAC).await.unwrap();
        let bridge = link(&netlink, "vmbr1").await;
        let net: Ipv4Net = "172.22.161.254/24".parse().unwrap();
        netlink.add_address(&bridge, net).await.unwrap();
        assert!(ip("addr show vmbr1").contains("172.22.161.254/24 brd 172.22.161.255"));
        let again = netlink.add_address(&bridge, net).await.unwrap_err();
        assert_eq!(again.errno(), Some(libc::EEXIST));
        netlink.delete_address(&bridge, net).await.unwrap();
        assert_eq!(
            netlink
                .addresses_of::<Ipv4Addr>(bridge.index)
                .await
                .unwrap(),
            []
        );
    });
}

#[test]
fn bridges_and_ports_are_described() {
    in_namespace(async || {
        ip("link add vmbr1 type bridge");
        ip("link add name tap1 type veth peer name guest1");
        let netlink = Netlink::connect().unwrap();
        assert_eq!(link(&netlink, "tap1").await.port, None);
        ip("link set tap1 master vmbr1");
        let bridge_link = link(&netlink, "vmbr1").await;
        assert!(!bridge_link.vlan_filtering && bridge_link.port.is_none());
        assert_eq!(
            link(&netlink, "tap1").await.port,
            Some(BridgePort::default())
        );
        bridge("link set dev tap1 isolated on");
        bridge("link set dev tap1 locked on");
        for name in ["vmbr1", "tap1", "guest1"] {
            ip(&format!("link set {name} up"));
        }
        let expected = BridgePort {
            forwarding: true,
            isolated: true,
            locked: true,
        };
        // The carrier comes up asynchronously.
        for _ in 0..100 {
            if link(&netlink, "tap1").await.port == Some(expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(link(&netlink, "tap1").await.port, Some(expected));
    });
}

#[test]
fn a_bridge_that_filters_vlans_is_seen() {
    let parse = |options: Vec<InfoBridge>| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName("vmbr1".to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(options)),
            ]),
        ];
        let link = Link::parse(message).unwrap();
        (link.vlan_filtering, link.default_vlan)
    };
    let own = InfoBridge::VlanDefaultPvid(7);
    assert_eq!(parse(vec![InfoBridge::VlanFiltering(true), own]), (true, 7));
    assert_eq!(parse(vec![InfoBridge::VlanFiltering(false)]), (false, 0));
    assert_eq!(parse(vec![]), (false, 0));
}

#[test]
fn parents_are_named_in_the_same_namespace_only() {
    in_namespace(async || {
        ip("link add name uplink type veth peer name isp");
        ip("link add link uplink name stacked type macvlan");
        let netlink = Netlink::connect().unwrap();
        let uplink = link(&netlink, "uplink").await;
        assert_eq!(link(&netlink, "stacked").await.parent, Some(uplink.index));
        assert_eq!(uplink.parent, Some(link(&netlink, "isp").await.index));
        assert_eq!(link(&netlink, "lo").await.parent, None);

        let elsewhere = Elsewhere::new();
        ip(&format!("link set isp netns {}", elsewhere.thread));
        assert_eq!(link(&netlink, "uplink").await.parent, None);
    });
}

/// A network namespace of another thread, which lives as long as this.
struct Elsewhere {
    thread: i32,
    _end: std::sync::mpsc::Sender<()>,
}

impl Elsewhere {
    fn new() -> Self {
        let (end, until) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: unshare takes no pointers; it moves this thread alone to a new namespace.
            let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(status, 0);
            // SAFETY: gettid takes nothing and cannot fail.
            tell.send(unsafe { libc::gettid() }).unwrap();
            until.recv().unwrap_err();
        });
        Self {
            thread: told.recv().unwrap(),
            _end: end,
        }
    }
}

#[test]
fn xdp_programs_are_seen() {
    in_namespace(async || {
        ip("link add name uplink type veth peer name isp");
        let netlink = Netlink::connect().unwrap();
        let uplink = link(&netlink, "uplink").await;
        assert_eq!(uplink.xdp, Xdp::default());
        let program = load_xdp_pass();
        // XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE (linux/if_link.h).
        for (mode, is_native) in [(1 << 1, false), (1 << 2, true)] {
            let attach = async |fd| {
                let mut message = LinkUnspec::new_with_index(uplink.index).build();
                let xdp = vec![LinkXdp::Fd(fd), LinkXdp::Flags(mode)];
                message.attributes.push(LinkAttribute::Xdp(xdp));
                netlink.handle.link().set(message).execute().await.unwrap();
            };
            attach(program.as_raw_fd()).await;
            let Xdp {
                native,
                generic,
                offloaded,
            } = link(&netlink, "uplink").await.xdp;
            let told = (native.is_some(), generic.is_some(), offloaded);
            assert_eq!(told, (is_native, !is_native, None));
            attach(-1).await;
        }
        assert_eq!(link(&netlink, "uplink").await.xdp, Xdp::default());
    });
}

/// Loads an XDP program that lets all packets pass.
fn load_xdp_pass() -> OwnedFd {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    /// The beginning of `union bpf_attr` (linux/bpf.h); what is left out is 0.
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: *const u64,
        license: *const libc::c_char,
    }
    // r0 = 2 (XDP_PASS); exit
    let instructions = [0x0000_0002_0000_00b7_u64, 0x0000_0000_0000_0095];
    let load = Load {
        kind: BPF_PROG_TYPE_XDP,
        length: 2,
        instructions: instructions.as_ptr(),
        license: c"MIT".as_ptr(),
    };
    // SAFETY: the attributes are as long as said, and name memory that outlives the call, which
    // only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &load, size_of::<Load>()) };
    let fd = i32::try_from(fd).unwrap();
    assert!(fd >= 0, "load: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just created it, and it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A veth pair without IPv6, both ends up, the near one with an address.
async fn uplink_and_isp(netlink: &Netlink) -> Link {
    without_ipv6();
    ip("link add name uplink type veth peer name isp");
    ip("link set uplink up");
    ip("link set isp up");
    ip("addr add 198.51.100.2/24 dev uplink");
    link(netlink, "uplink").await
}

async fn neighbour(netlink: &Netlink, address: &str) -> Option<Neighbour> {
    let address: Ipv4Addr = address.parse().unwrap();
    let uplink = BTreeSet::from([link(netlink, "uplink").await.index]);
    let found = Whereabouts::look::<IpAddr>(&uplink, &BTreeSet::new()).unwrap();
    let mut neighbours = found.neighbours.into_iter();
    neighbours.find(|entry| entry.address == address)
}

#[test]
fn an_entry_without_a_bridge_is_none() {
    let parse = |attributes: &[NeighbourAttribute]| {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 7;
        message.attributes = attributes.to_vec();
        FdbEntry::parse(&message)
    };
    let mac = NeighbourAttribute::LinkLayerAddress(MAC.to_vec());
    let bridge = NeighbourAttribute::Controller(3);
    let expected = FdbEntry {
        bridge: 3,
        port: 7,
        mac: MAC,
        local: false,
    };
    assert_eq!(parse(&[mac.clone(), bridge.clone()]), Some(expected));
    assert_eq!(parse(&[mac]), None);
    assert_eq!(parse(&[bridge]), None);
}

#[test]
fn mtus_of_routes_are_listed_with_their_devices() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let uplink = uplink_and_isp(&netlink).await.index;
        ip("link add name second type veth peer name isp2");
        ip("link set second up");
        ip("link set isp2 up");
        ip("addr add 203.0.113.2/24 dev second");
        let second = link(&netlink, "second").await.index;
        assert_eq!(netlink.route_mtus::<Ipv4Addr>().await.unwrap(), []);
        ip("route add 10.1.0.0/16 via 198.51.100.1 mtu 1300");
        ip("route add 10.2.0.0/16 via 203.0.113.1 table 77 mtu lock 1280 advmss 1000");
        ip("route add 10.3.0.0/16 via 198.51.100.1 advmss 1000");
        ip("route add 10.4.0.0/16 mtu 1200 nexthop via 198.51.100.1 nexthop via 203.0.113.1");
        let mut mtus = netlink.route_mtus::<Ipv4Addr>().await.unwrap();
        mtus.sort_unstable();
        let expected = [
            (uplink, 1200),
            (uplink, 1300),
            (second, 1200),
            (second, 1280),
        ];
        let device = |(device, mtu)| RouteMtu {
            device: Some(device),
            mtu,
        };
        assert_eq!(mtus, expected.map(device));
    });
}

#[test]
fn a_route_without_device_may_lead_anywhere_and_learned_ones_do_not_count() {
    let mut message = RouteMessage::default();
    message.attributes = vec![RouteAttribute::Metrics(vec![RouteMetric::Mtu(1300)])];
    let anywhere = RouteMtu {
        device: None,
        mtu: 1300,
    };
    assert_eq!(RouteMtu::parse(&message), [anywhere]);
    message.header.flags = RouteFlags::Cloned;
    assert_eq!(RouteMtu::parse(&message), []);
}

#[test]
fn a_stale_neighbour_is_verified_when_it_is_used() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let uplink = uplink_and_isp(&netlink).await;
        ip("neigh add 198.51.100.1 dev uplink lladdr 02:12:34:56:78:9a nud stale");
        let address = IpAddr::from([198, 51, 100, 1]);
        assert!(netlink.use_neighbour(uplink.index, address).await.unwrap());
        let used = neighbour(&netlink, "198.51.100.1").await.unwrap();
        assert!(
            matches!(used.state, NeighbourState::Delay | NeighbourState::Probe),
            "{used:?}"
        );
        assert_eq!(used.mac, Some(MAC));
    });
}

#[test]
fn neighbours_that_others_keep_are_not_used() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let uplink = uplink_and_isp(&netlink).await;
        for (address, how) in [
            ("198.51.100.3", "nud permanent"),
            ("198.51.100.4", "nud noarp"),
            ("198.51.100.5", "nud stale extern_learn"),
        ] {
            ip(&format!(
                "neigh add {address} dev uplink lladdr 02:12:34:56:78:9a {how}"
            ));
            let show = || ip(&format!("neigh show {address} nud all"));
            let before = show();
            let used = netlink.use_neighbour(uplink.index, address.parse().unwrap());
            assert!(!used.await.unwrap(), "{how}");
            assert_eq!(show(), before);
        }
    });
}

#[test]
fn a_neighbour_that_is_not_there_is_not_made() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let uplink = uplink_and_isp(&netlink).await;
        let address = IpAddr::from([198, 51, 100, 1]);
        assert!(!netlink.use_neighbour(uplink.index, address).await.unwrap());
        assert!(!netlink.use_neighbour(9999, address).await.unwrap());
        assert_eq!(neighbour(&netlink, "198.51.100.1").await, None);
    });
}

#[test]
fn errors_name_operation_object_and_missing_privilege() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let long = netlink
            .create_bridge("a-name-too-long-for-linux", MAC)
            .await;
        let text = long.unwrap_err().to_string();
        assert!(
            text.starts_with("create bridge a-name-too-long-for-linux: "),
            "{text}"
        );

        drop_net_admin();
        let error = netlink.create_bridge("vmbr1", MAC).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "create bridge vmbr1: Operation not permitted (os error 1); needs CAP_NET_ADMIN"
        );
        assert_eq!(error.errno(), Some(libc::EPERM));
    });
}

/// Takes CAP_NET_ADMIN from the calling thread. The kernel checks both the one who opened a
/// netlink socket and the one who sends.
fn drop_net_admin() {
    const CAP_NET_ADMIN: u32 = 12;
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    // Effective, permitted and inheritable, for capabilities 0 to 31 and 32 to 63.
    let mut data = [0_u32; 6];
    // SAFETY: the header and the six words are what capget(2) of version 3 reads and writes.
    let status = unsafe { libc::syscall(libc::SYS_capget, &header, data.as_mut_ptr()) };
    assert_eq!(status, 0);
    data[0] &= !(1 << CAP_NET_ADMIN);
    // SAFETY: as above; it concerns the calling thread only.
    let status = unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) };
    assert_eq!(status, 0);
}
