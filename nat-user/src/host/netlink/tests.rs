use super::*;
use crate::host::testing::{in_namespace, ip};

const MAC: [u8; 6] = [0x02, 0x12, 0x34, 0x56, 0x78, 0x9a];

async fn link(netlink: &Netlink, name: &str) -> Link {
    let found = netlink.link(name).await.unwrap();
    found.unwrap_or_else(|| panic!("{name} is there"))
}

#[test]
fn layers_without_ethernet_header_are_told_apart() {
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
        // One that nobody waits for any more, and three at once.
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
        let net = "172.22.161.254/24".parse().unwrap();
        netlink.add_address(&bridge, net).await.unwrap();
        assert!(ip("addr show vmbr1").contains("172.22.161.254/24 brd 172.22.161.255"));
        let again = netlink.add_address(&bridge, net).await.unwrap_err();
        assert_eq!(again.errno(), Some(libc::EEXIST));
        netlink.delete_address(&bridge, net).await.unwrap();
        assert_eq!(netlink.addresses_of(bridge.index).await.unwrap(), []);
    });
}

#[test]
fn errors_name_operation_object_and_what_is_missing() {
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
