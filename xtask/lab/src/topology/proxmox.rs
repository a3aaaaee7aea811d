//! One public address and many VMs, as on a Proxmox VE host.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::ipv6::Ipv6;
use crate::{Host, Lab, Natbpf, RawSocket};

/// A VM host with guests on a bridge, an internet provider's router, and two hosts outside:
///
/// ```text
/// cli  198.51.100.2 .3 ─┐
/// srv2 198.51.100.4 .5 ─┴─ 198.51.100.1 isp 19.19.8.1 ── 19.19.8.10 (uplink) host
///                          vm1 172.22.161.170 ─ tap1 ┐
///                          vm2 172.22.161.171 ─ tap2 ┴─ vmbr1 172.22.161.254 ┘
/// ```
pub struct Proxmox {
    /// A host outside, with the addresses [`Proxmox::CLI`] and [`Proxmox::CLI_B`] on `eth0`.
    pub cli: Host,
    /// Another, with [`Proxmox::SRV2`] and [`Proxmox::SRV2_B`].
    pub srv2: Host,
    /// The provider's router: `wan0` towards the VM host, the bridge `out` to the hosts outside.
    pub isp: Host,
    /// The VM host, on which natbpf runs.
    pub host: Host,
    /// The guest [`Proxmox::VM1`], on `eth0`.
    pub vm1: Host,
    /// The guest [`Proxmox::VM2`], on `eth0`.
    pub vm2: Host,
    /// The interface that holds the public address: natbpf's uplink.
    pub uplink: &'static str,
    /// The interface of the VM host at which the wire to the provider ends: the same as
    /// `uplink`, or its port or parent.
    pub wire: &'static str,
    lab: Lab,
}

/// What the uplink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// The bridge `vmbr0` with the NIC `eno1` as its port, as Proxmox has it.
    #[default]
    Bridge,
    /// The NIC `eno1` itself.
    Nic,
    /// The device `ppp0`, without Ethernet header.
    Tun,
}

/// The part of the inside network that exists before natbpf starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inside {
    /// The bridge `vmbr1` with its address and its ports `tap1` and `tap2`.
    #[default]
    Bridge,
    /// Nothing but `tap1` and `tap2`: natbpf is to make the bridge.
    OnlyPorts,
}

/// How a [`Proxmox`] differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the uplink is.
    pub uplink: Uplink,
    /// The existing part of the inside network.
    pub inside: Inside,
    /// The MTU of the wire to the provider, at both ends; else the kernel's default.
    pub uplink_mtu: Option<u16>,
    /// More public addresses or prefixes that the provider routes to the VM host.
    pub routed: Vec<String>,
    /// The hosts' IPv6 addresses; without, IPv6 is off on all but the VM host.
    pub ipv6: Option<Ipv6>,
    /// Whether netfilter sees the bridges' frames too. Proxmox says no, so it is the default.
    pub bridge_netfilter: bool,
    /// Whether the lab is to outlive this process; see [`Lab::keep`].
    pub lasting: bool,
}

impl Proxmox {
    /// The VM host's public address.
    pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 10);
    /// The provider's router, the VM host's gateway.
    pub const ISP: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 1);
    /// The VM host's address on the inside network, the guests' gateway.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 254);
    /// The first guest.
    pub const VM1: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 170);
    /// The second guest.
    pub const VM2: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 171);
    /// The first host outside.
    pub const CLI: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    /// Its second address.
    pub const CLI_B: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
    /// The second host outside.
    pub const SRV2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);
    /// Its second address.
    pub const SRV2_B: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);

    /// The provider's end of the wire to the VM host.
    pub const WAN: &str = "wan0";

    /// natbpf's configuration of the scenario: the ports and every ping go to guests. The
    /// uplink's name is to be put in place of `UPLINK`; see [`Proxmox::config`].
    const CONFIG: &str = r#"
[uplink.wan]
interface = "UPLINK"

[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"

[[snat]]
name = "lan-out"
network = "lan"
uplink = "wan"
to = "masquerade"

[[forward]]
name = "vm1-tcp"
uplink = "wan"
protocol = "tcp"
ports = "10000-10999"
to = "172.22.161.170"

[[forward]]
name = "vm2-udp"
uplink = "wan"
protocol = "udp"
ports = "10000-10999"
to = "172.22.161.171"

[[forward]]
name = "vm1-ping"
uplink = "wan"
protocol = "icmp"
to = "172.22.161.170"
"#;

    /// The unmodified scenario.
    ///
    /// # Errors
    /// Without root, or when a tool is missing.
    pub fn new() -> Result<Self> {
        Self::with(&Options::default())
    }

    /// The scenario with differences.
    ///
    /// # Errors
    /// As for [`Proxmox::new`].
    pub fn with(options: &Options) -> Result<Self> {
        let lab = if options.lasting {
            Lab::new_lasting()?
        } else {
            Lab::new()?
        };
        let (uplink, wire) = match options.uplink {
            Uplink::Bridge => ("vmbr0", "eno1"),
            Uplink::Nic => ("eno1", "eno1"),
            Uplink::Tun => ("ppp0", "ppp0"),
        };
        let make = |name| match options.ipv6 {
            Some(_) => lab.dual_host(name),
            None => lab.host(name),
        };
        let [cli, srv2, isp] = ["cli", "srv2", "isp"].map(make);
        let host = lab.vm_host("host")?;
        let [vm1, vm2] = ["vm1", "vm2"].map(make);
        let net = Self {
            cli: cli?,
            srv2: srv2?,
            isp: isp?,
            host,
            vm1: vm1?,
            vm2: vm2?,
            uplink,
            wire,
            lab,
        };
        net.connect_outside()?;
        net.connect_uplink(options)?;
        net.connect_guests(options)?;
        if let Some(ipv6) = &options.ipv6 {
            net.connect_ipv6(ipv6, options.inside)?;
        }
        Ok(net)
    }

    fn connect_outside(&self) -> Result<()> {
        self.isp
            .ip("link add out type bridge forward_delay 0 stp_state 0\n\
             link set out up\naddress add 198.51.100.1/24 dev out")?;
        for (outside, port, addresses) in [
            (&self.cli, "p-cli", [Self::CLI, Self::CLI_B]),
            (&self.srv2, "p-srv2", [Self::SRV2, Self::SRV2_B]),
        ] {
            self.lab.veth((&self.isp, port), (outside, "eth0"))?;
            self.isp.ip(&format!("link set {port} master out"))?;
            for address in addresses {
                outside.ip(&format!("address add {address}/24 dev eth0"))?;
            }
            outside.ip("route add default via 198.51.100.1")?;
        }
        self.isp.set_sysctl("net.ipv4.ip_forward", "1")?;
        // A router that answers every probe: the tests count what natbpf does, not what it omits.
        self.isp.set_sysctl("net.ipv4.icmp_ratelimit", "0")
    }

    fn connect_uplink(&self, options: &Options) -> Result<()> {
        let (host, isp, uplink) = (&self.host, &self.isp, self.uplink);
        let wan = Self::WAN;
        if options.uplink == Uplink::Tun {
            self.lab.tun((host, self.wire), (isp, wan))?;
        } else {
            self.lab.veth((host, self.wire), (isp, wan))?;
        }
        if let Some(mtu) = options.uplink_mtu {
            host.ip(&format!("link set {} mtu {mtu}", self.wire))?;
            isp.ip(&format!("link set {wan} mtu {mtu}"))?;
        }
        if options.uplink == Uplink::Bridge {
            host.ip(&format!(
                "link add {uplink} type bridge forward_delay 0 stp_state 0\n\
                 link set {} master {uplink}\nlink set {uplink} up",
                self.wire
            ))?;
        }
        host.ip(&format!(
            "address add {}/24 dev {uplink}\nroute add default via {} dev {uplink}",
            Self::PUBLIC,
            Self::ISP
        ))?;
        isp.ip(&format!("address add {}/24 dev {wan}", Self::ISP))?;
        for prefix in &options.routed {
            isp.ip(&format!(
                "route add {prefix} via {} dev {wan}",
                Self::PUBLIC
            ))?;
        }
        Ok(())
    }

    fn connect_guests(&self, options: &Options) -> Result<()> {
        if options.inside == Inside::Bridge {
            // With its own Ethernet address, as systemd's and libvirt's bridges have: a bridge that
            // takes the lowest address of its ports changes it when a guest moves.
            self.host.ip(&format!(
                "link add vmbr1 address 52:54:00:16:1a:fe type bridge forward_delay 0 stp_state 0\n\
                 link set vmbr1 up\n\
                 address add {}/24 dev vmbr1",
                Self::GATEWAY
            ))?;
        }
        for (guest, port, address) in [
            (&self.vm1, "tap1", Self::VM1),
            (&self.vm2, "tap2", Self::VM2),
        ] {
            self.lab.veth((&self.host, port), (guest, "eth0"))?;
            if options.inside == Inside::Bridge {
                self.host.ip(&format!("link set {port} master vmbr1"))?;
            }
            guest.ip(&format!(
                "address add {address}/24 dev eth0\nroute add default via {}",
                Self::GATEWAY
            ))?;
        }
        let key = "net.bridge.bridge-nf-call-iptables";
        // Without the module br_netfilter, netfilter never sees bridged frames.
        if self.host.sysctl(key).is_ok() {
            self.host
                .set_sysctl(key, if options.bridge_netfilter { "1" } else { "0" })?;
        }
        Ok(())
    }

    fn connect_ipv6(&self, ipv6: &Ipv6, inside: Inside) -> Result<()> {
        ipv6.add_to_router(&self.isp, Self::WAN)?;
        Ipv6::add_outside(&self.cli, [Ipv6::CLI, Ipv6::CLI_B])?;
        Ipv6::add_outside(&self.srv2, [Ipv6::SRV2, Ipv6::SRV2_B])?;
        let bridge = (inside == Inside::Bridge).then_some("vmbr1");
        ipv6.add_to_host(&self.host, self.uplink, bridge)?;
        ipv6.add_to_guests(&self.vm1, &self.vm2)
    }

    /// The lab that holds the hosts.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Gives the uplink another address instead of one that it has.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn exchange_address(&self, old: Ipv4Addr, new: Ipv4Addr) -> Result<()> {
        let uplink = self.uplink;
        self.host.ip(&format!(
            "address del {old}/24 dev {uplink}\naddress add {new}/24 dev {uplink}\n\
             route replace default via {} dev {uplink}",
            Self::ISP
        ))
    }

    /// natbpf's configuration of the scenario: masquerade as `lan-out`, tcp 10000-10999 to vm1 as
    /// `vm1-tcp`, udp 10000-10999 to vm2 as `vm2-udp`, pings to vm1 as `vm1-ping`.
    #[must_use]
    pub fn config(&self) -> String {
        Self::CONFIG.replace("UPLINK", self.uplink)
    }

    /// The head of a configuration: the uplink as `wan`, the inside network as `lan`.
    #[must_use]
    pub fn config_head(&self) -> String {
        let config = self.config();
        config.split("[[").next().unwrap_or_default().to_owned()
    }

    /// Leaves everything standing; see [`Lab::keep`].
    ///
    /// # Errors
    /// When it was not made with [`Options::lasting`].
    pub fn keep(self) -> Result<crate::Place> {
        self.lab.keep()
    }

    /// Runs natbpf on the VM host.
    ///
    /// # Errors
    /// See [`Natbpf::start`].
    pub fn natbpf(&self, config: &str) -> Result<Natbpf> {
        Natbpf::start(&self.host, self.lab.place(), config)
    }

    /// Puts an IP packet on the wire from the provider to the VM host, as if it came from
    /// somewhere in the internet.
    ///
    /// # Errors
    /// When it is too large for the wire.
    pub fn inject_from_internet(&self, packet: &[u8]) -> Result<()> {
        self.internet_socket()?.send(packet)
    }

    /// Puts an IP packet on a guest's wire, as if the guest had sent it to its gateway.
    ///
    /// # Errors
    /// When it is too large for the wire.
    pub fn inject_from_guest(&self, guest: &Host, packet: &[u8]) -> Result<()> {
        let gateway = self.host.mac("vmbr1")?;
        guest.inject("eth0", &framed(gateway, guest.mac("eth0")?, packet))
    }

    /// Sends an IP packet out by the uplink, as if a program of the host had sent it to its
    /// gateway.
    ///
    /// # Errors
    /// When it is too large for the wire.
    pub fn inject_from_host(&self, packet: &[u8]) -> Result<()> {
        let gateway = self.isp.mac(Self::WAN)?;
        let frame = framed(gateway, self.host.mac(self.uplink)?, packet);
        self.host.inject(self.uplink, &frame)
    }

    fn internet_socket(&self) -> Result<Injector> {
        let socket = self.isp.raw(Self::WAN)?;
        let macs = match self.uplink {
            "ppp0" => None,
            uplink => Some((self.host.mac(uplink)?, self.isp.mac(Self::WAN)?)),
        };
        Ok(Injector { socket, macs })
    }
}

/// A raw socket, and the addresses of the Ethernet header when there is one.
struct Injector {
    socket: RawSocket,
    macs: Option<([u8; 6], [u8; 6])>,
}

impl Injector {
    fn send(&self, packet: &[u8]) -> Result<()> {
        let sent = match self.macs {
            Some((to, from)) => self.socket.send(&framed(to, from, packet)),
            None => self.socket.send(packet),
        };
        sent.context("inject from the internet")
    }
}

/// An Ethernet frame with an IPv4 or IPv6 packet.
fn framed(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ether_type = match packet.first() {
        Some(first) if first >> 4 == 6 => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    [&to[..], &from, &ether_type, packet].concat()
}
