//! Interfaces: their properties, and requests that change them.

use std::collections::HashSet;

use netlink_packet_route::link::{
    BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::connection::{Netlink, RequestError, answer, collect};

/// Not in `libc`.
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// Users number groups from 0 on.
const LEAST_GROUP: u32 = 0x6e62_0000;

/// How many addresses a bridge may learn: some hundred times the number of guests of a host, and
/// few enough that a guest that forges addresses costs the host 2 MiB.
const MOST_LEARNED: u32 = 16_384;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, never used twice in a row.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What its packets begin with.
    pub layer: Layer,
    /// Whether it is set up (IFF_UP).
    pub up: bool,
    /// Whether it can carry packets now (IFF_RUNNING): up, with a carrier.
    pub running: bool,
    /// Whether it takes frames to all groups (IFF_ALLMULTI, as set by an administrator).
    pub all_groups: bool,
    /// The largest packet in bytes, without the link layer's header.
    pub mtu: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Its bridge, bond or VRF, by index.
    pub master: Option<u32>,
    /// Whether packets that it sends wait in its own queue, which may delay or reorder them (any
    /// root qdisc except `noqueue`).
    pub queues: bool,
    /// The bus of a physical device (`pci`, `usb`, `virtio`), if it has one.
    pub bus: Option<String>,
    /// For a bridge: whether it calls netfilter (`nf_call_iptables`) even where the namespace's
    /// `net/bridge/bridge-nf-call-iptables` is 0. It cannot turn it off where that is 1.
    pub calls_netfilter: bool,
    /// For a bridge: whether it filters VLANs (`vlan_filtering`).
    pub vlan_filtering: bool,
    /// For a bridge: the VLAN of its own frames and of those without a tag, if it filters VLANs and
    /// its ports have no other setting (`vlan_default_pvid`); 0 if there is none.
    pub default_vlan: u16,
    /// Its role in its bridge, if it is a port of one.
    pub port: Option<BridgePort>,
    /// Its lower interface, by index, if that is in the same namespace: of a VLAN or macvlan the
    /// one below, of a veth the other end (IFLA_LINK).
    pub parent: Option<u32>,
    /// The XDP programs that are attached to it.
    pub xdp: Xdp,
}

/// The role of an interface in a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgePort {
    /// Whether the spanning tree lets it carry frames. Without spanning tree, it may while it is up
    /// with a carrier.
    pub forwarding: bool,
    /// Whether it may not reach other isolated ports.
    pub isolated: bool,
    /// Whether it accepts frames only from addresses that the forwarding database has there.
    pub locked: bool,
}

/// XDP programs of an interface by where they run, each by its number (`bpftool prog`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Xdp {
    /// In the driver.
    pub native: Option<u32>,
    /// In the kernel's own receive path.
    pub generic: Option<u32>,
    /// In the network card.
    pub offloaded: Option<u32>,
}

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A physical device: a network card, or loopback.
    Device,
    /// A bridge.
    Bridge,
    /// A tun or tap device.
    Tun,
    /// One end of a pair.
    Veth,
    /// Any other, by the name in `ip link` (`bond`, `vlan`, `wireguard`).
    Other(String),
}

/// What an interface's packets begin with, as TC programs see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// Their IP header: PPP, WireGuard, tun, tunnels.
    None,
    /// Something else, by its number in `linux/if_arp.h`.
    Other(u16),
}

impl Netlink {
    /// All interfaces.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn links(&self) -> Result<Vec<Link>, RequestError> {
        let request = || self.handle.link().get().execute();
        let messages = self.list("list interfaces", request).await?;
        Ok(messages.into_iter().filter_map(Link::parse).collect())
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// When the kernel does not answer, or takes the name for none.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, RequestError> {
        let request = self.handle.link().get().match_name(name).execute();
        one(collect(&format!("look up interface {name}"), request).await)
    }

    /// The interface of that index, if there is one.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn link_at(&self, index: u32) -> Result<Option<Link>, RequestError> {
        let request = self.handle.link().get().match_index(index).execute();
        one(collect(&format!("look up interface {index}"), request).await)
    }

    /// Creates a bridge without spanning tree and forward delay, and leaves it down. With its own
    /// address it does not take that of a port, as it otherwise would whenever a port is added or
    /// removed, and the guests do not lose their gateway.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn create_bridge(&self, name: &str, mac: [u8; 6]) -> Result<(), RequestError> {
        // `LinkBridge::new` would set it up at once.
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            // (Kernels before Linux 6.7 ignore it.)
            .fdb_max_learned(MOST_LEARNED)
            .address(mac.to_vec())
            .build();
        let request = self.handle.link().add(message).execute();
        answer(&format!("create bridge {name}"), request).await
    }

    /// Creates two interfaces that are connected to each other, of which one sends what is routed
    /// to it without asking for neighbours (veth without ARP). The other is set up.
    ///
    /// # Errors
    /// When a name is taken, or the kernel refuses.
    pub async fn create_pair(
        &self,
        name: &str,
        peer: &str,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), RequestError> {
        let message = LinkVeth::new(name, peer)
            .arp(false)
            .mtu(mtu)
            .address(mac.to_vec())
            .build();
        let request = self.handle.link().add(message).execute();
        answer(&format!("create {name} and {peer}"), request).await?;
        let message = LinkUnspec::new_with_name(peer).up().build();
        let request = self.handle.link().set(message).execute();
        answer(&format!("set {peer} up"), request).await
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// When it is gone, is of a kind that cannot be deleted, or the kernel refuses.
    pub async fn delete_link(&self, link: &Link) -> Result<(), RequestError> {
        let request = self.handle.link().del(link.index).execute();
        answer(&format!("delete interface {}", link.name), request).await
    }

    /// Deletes several interfaces in one request. Individually, each makes the kernel wait some 40
    /// ms for its last readers.
    ///
    /// The request names them by their group (`ip link set group`), which nothing else is in.
    ///
    /// # Errors
    /// As for [`Self::delete_link`]; some may have got another group then.
    pub async fn delete_links(&self, links: &[Link]) -> Result<(), RequestError> {
        let taken = self.groups().await?;
        let group = (links.iter().map(|link| link.index))
            .fold(1, u32::max)
            .max(LEAST_GROUP);
        let group = (group..).find(|group| !taken.contains(group));
        let group = group.unwrap_or(u32::MAX);
        for link in links {
            let message = LinkUnspec::new_with_index(link.index)
                .append_extra_attribute(LinkAttribute::Group(group))
                .build();
            let request = self.handle.link().set(message).execute();
            answer(&format!("mark {} for deletion", link.name), request).await?;
        }
        let mut request = self.handle.link().del(0);
        let group = LinkAttribute::Group(group);
        request.message_mut().attributes.push(group);
        let what = format!("delete {} interfaces", links.len());
        answer(&what, request.execute()).await
    }

    /// The groups that there are.
    async fn groups(&self) -> Result<HashSet<u32>, RequestError> {
        let request = || self.handle.link().get().execute();
        let messages = self.list("list groups of interfaces", request).await?;
        let attributes = messages.iter().flat_map(|message| &message.attributes);
        Ok(attributes
            .filter_map(|attribute| match attribute {
                LinkAttribute::Group(group) => Some(*group),
                _ => None,
            })
            .collect())
    }

    /// Attaches an interface to a bridge, and detaches it from its former one.
    ///
    /// # Errors
    /// When one of them is gone or the kernel refuses.
    pub async fn attach(&self, port: &Link, bridge: &Link) -> Result<(), RequestError> {
        let message = LinkUnspec::new_with_index(port.index)
            .controller(bridge.index)
            .build();
        let request = self.handle.link().set(message).execute();
        answer(&format!("attach {} to {}", port.name, bridge.name), request).await
    }

    /// Detaches a port from its bridge.
    ///
    /// # Errors
    /// When it is gone or the kernel refuses.
    pub async fn release(&self, port: &Link) -> Result<(), RequestError> {
        let message = LinkUnspec::new_with_index(port.index)
            .nocontroller()
            .build();
        let request = self.handle.link().set(message).execute();
        answer(&format!("release {} from its bridge", port.name), request).await
    }

    /// Sets whether the port of a bridge is isolated from the bridge's other isolated ports.
    ///
    /// # Errors
    /// When it is gone, is no port, or the kernel refuses.
    pub async fn isolate(&self, port: &Link, isolated: bool) -> Result<(), RequestError> {
        let message = LinkBridgePort::new(port.index).isolated(isolated).build();
        let request = self.handle.link().set_port(message).execute();
        let what = if isolated { "isolate" } else { "join" };
        answer(&format!("{what} port {}", port.name), request).await
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// When it is gone or the kernel refuses.
    pub async fn set_up(&self, link: &Link) -> Result<(), RequestError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let request = self.handle.link().set(message).execute();
        answer(&format!("set {} up", link.name), request).await
    }

    /// Makes an interface take frames to all groups, or only to those that the host has joined.
    ///
    /// # Errors
    /// When it is gone or the kernel refuses.
    pub async fn take_all_groups(&self, link: &Link, takes: bool) -> Result<(), RequestError> {
        let message = LinkUnspec::new_with_index(link.index).allmulticast(takes);
        let message = message.build();
        let request = self.handle.link().set(message).execute();
        answer(
            &format!("take frames to all groups on {}", link.name),
            request,
        )
        .await
    }

    /// Sets an interface down.
    ///
    /// # Errors
    /// When it is gone or the kernel refuses.
    pub async fn set_down(&self, link: &Link) -> Result<(), RequestError> {
        let message = LinkUnspec::new_with_index(link.index).down().build();
        let request = self.handle.link().set(message).execute();
        answer(&format!("set {} down", link.name), request).await
    }
}

impl Link {
    pub(super) fn parse(message: LinkMessage) -> Option<Self> {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: Kind::Device,
            layer: Layer::from_arphrd(message.header.link_layer_type.into()),
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            all_groups: flags.contains(LinkFlags::Allmulti),
            mtu: 0,
            mac: None,
            master: None,
            calls_netfilter: false,
            bus: None,
            queues: false,
            vlan_filtering: false,
            default_vlan: 0,
            port: None,
            parent: None,
            xdp: Xdp::default(),
        };
        let mut is_parent_elsewhere = false;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Qdisc(name) => link.queues = name != "noqueue",
                LinkAttribute::ParentDevBusName(bus) => link.bus = Some(bus),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) if link.layer == Layer::Ethernet => {
                    link.mac = bytes.try_into().ok();
                }
                LinkAttribute::Controller(index) if index != 0 => link.master = Some(index),
                LinkAttribute::Link(index) if index != 0 => link.parent = Some(index),
                LinkAttribute::LinkNetNsId(_) => is_parent_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => link.parse_info(&infos),
                LinkAttribute::Xdp(programs) => link.xdp = Xdp::parse(&programs),
                _ => {}
            }
        }
        if is_parent_elsewhere {
            link.parent = None;
        }
        (!link.name.is_empty()).then_some(link)
    }

    fn parse_info(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Kind::from(kind),
                LinkInfo::Data(InfoData::Bridge(options)) => {
                    self.calls_netfilter = options.contains(&InfoBridge::NfCallIpTables(true));
                    self.vlan_filtering = options.contains(&InfoBridge::VlanFiltering(true));
                    let vlan = options.iter().find_map(|option| match option {
                        InfoBridge::VlanDefaultPvid(vlan) => Some(*vlan),
                        _ => None,
                    });
                    self.default_vlan = vlan.unwrap_or(0);
                }
                LinkInfo::PortData(InfoPortData::BridgePort(options)) => {
                    self.port = Some(BridgePort::parse(options));
                }
                _ => {}
            }
        }
    }
}

impl BridgePort {
    /// Whether the bridge treats frames between it and the host like those of any other port.
    /// Isolation applies only to frames between ports (`br_skb_isolated()` in
    /// `net/bridge/br_private.h`): frames that the host sends or routes are from no port.
    #[must_use]
    pub fn is_plain(self) -> bool {
        self.forwarding && !self.locked
    }

    fn parse(options: &[InfoBridgePort]) -> Self {
        Self {
            forwarding: options.contains(&InfoBridgePort::State(BridgePortState::Forwarding)),
            isolated: options.contains(&InfoBridgePort::Isolated(true)),
            locked: options.contains(&InfoBridgePort::Locked(true)),
        }
    }
}

impl Xdp {
    fn parse(programs: &[LinkXdp]) -> Self {
        let mut xdp = Self::default();
        for program in programs {
            match program {
                LinkXdp::DrvProgId(number) => xdp.native = Some(*number),
                LinkXdp::SkbProgId(number) => xdp.generic = Some(*number),
                LinkXdp::HwProgId(number) => xdp.offloaded = Some(*number),
                _ => {}
            }
        }
        xdp
    }
}

impl From<&InfoKind> for Kind {
    fn from(kind: &InfoKind) -> Self {
        match kind {
            InfoKind::Bridge => Self::Bridge,
            InfoKind::Tun => Self::Tun,
            InfoKind::Veth => Self::Veth,
            other => Self::Other(other.to_string()),
        }
    }
}

impl Layer {
    /// The same distinction as `dev_is_mac_header_xmit()` in `linux/if_arp.h` makes for
    /// redirected packets. Loopback has an Ethernet header, of zeros.
    pub(super) fn from_arphrd(arphrd: u16) -> Self {
        match arphrd {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Self::Ethernet,
            libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT
            | libc::ARPHRD_IPGRE
            | ARPHRD_IP6GRE
            | libc::ARPHRD_VOID
            | libc::ARPHRD_NONE
            | ARPHRD_RAWIP
            | libc::ARPHRD_PIMREG
            | libc::ARPHRD_PPP => Self::None,
            other => Self::Other(other),
        }
    }
}

fn one(answer: Result<Vec<LinkMessage>, RequestError>) -> Result<Option<Link>, RequestError> {
    match answer {
        Ok(messages) => Ok(messages.into_iter().find_map(Link::parse)),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}
