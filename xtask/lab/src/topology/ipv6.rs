//! IPv6 in scenario `proxmox`: what the provider gives the VM host.

use std::net::Ipv6Addr;

use anyhow::Result;

use crate::Host;

/// The IPv6 addresses of scenario `proxmox`. The guests' addresses end as their IPv4 addresses do,
/// and each guest has a unique local address beside its public one:
///
/// ```text
/// cli  2001:db8:ffff::2 ::3 ─┐
/// srv2 2001:db8:ffff::4 ::5 ─┴─ 2001:db8:ffff::1 isp fe80::1 ── public (uplink) host
///       vm1 prefix::170, fd00:18::170 ─ tap1 ┐
///       vm2 prefix::171, fd00:18::171 ─ tap2 ┴─ vmbr1 gateway, fd00:18::1 ┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// The VM host's address on the uplink.
    pub public: Ipv6Addr,
    /// The VM host's address on the inside network, the guests' gateway.
    pub gateway: Ipv6Addr,
    /// The first guest.
    pub vm1: Ipv6Addr,
    /// The second guest.
    pub vm2: Ipv6Addr,
    /// A prefix that the provider routes to [`Ipv6::public`]; without one, the guests' addresses
    /// are on the link of the uplink.
    pub routed: Option<&'static str>,
}

impl Ipv6 {
    /// The provider's router, as the VM host knows it.
    pub const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    /// The first host outside.
    pub const CLI: Ipv6Addr = outside(2);
    /// Its second address.
    pub const CLI_B: Ipv6Addr = outside(3);
    /// The second host outside.
    pub const SRV2: Ipv6Addr = outside(4);
    /// Its second address.
    pub const SRV2_B: Ipv6Addr = outside(5);
    /// The VM host's unique local address on the inside network.
    pub const LOCAL_GATEWAY: Ipv6Addr = local(1);
    /// The first guest's unique local address.
    pub const LOCAL_VM1: Ipv6Addr = local(0x170);
    /// The second guest's unique local address.
    pub const LOCAL_VM2: Ipv6Addr = local(0x171);

    /// 2001:db8:0:100::/56 is routed to the VM host, which gives a /64 of it to its guests.
    pub const ROUTED: Self = Self {
        public: Ipv6Addr::new(0x2001, 0xdb8, 0xfe, 0, 0, 0, 0, 0x10),
        gateway: Ipv6Addr::new(0x2001, 0xdb8, 0, 0x101, 0, 0, 0, 1),
        vm1: Ipv6Addr::new(0x2001, 0xdb8, 0, 0x101, 0, 0, 0, 0x170),
        vm2: Ipv6Addr::new(0x2001, 0xdb8, 0, 0x101, 0, 0, 0, 0x171),
        routed: Some("2001:db8:0:100::/56"),
    };

    /// 2001:db8:1:2::/64 is on the link of the uplink: the router asks there for each address.
    pub const ON_LINK: Self = Self {
        public: on_link(2),
        gateway: Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 1, 1),
        vm1: on_link(0x170),
        vm2: on_link(0x171),
        routed: None,
    };

    /// Adds the VM host's addresses, and its default route; inside only if it has the bridge.
    pub(super) fn add_to_host(
        &self,
        host: &Host,
        uplink: &str,
        bridge: Option<&str>,
    ) -> Result<()> {
        let router = Self::ROUTER;
        host.ip(&format!(
            "address add {}/64 dev {uplink} nodad\n\
             route add default via {router} dev {uplink}",
            self.public
        ))?;
        let Some(bridge) = bridge else {
            return Ok(());
        };
        host.ip(&format!(
            "address add {}/64 dev {bridge} nodad\naddress add {}/64 dev {bridge} nodad",
            self.gateway,
            Self::LOCAL_GATEWAY
        ))
    }

    /// Adds the guests' addresses and default routes.
    pub(super) fn add_to_guests(&self, vm1: &Host, vm2: &Host) -> Result<()> {
        let guests = [
            (vm1, self.vm1, Self::LOCAL_VM1),
            (vm2, self.vm2, Self::LOCAL_VM2),
        ];
        guests.into_iter().try_for_each(|(guest, public, local)| {
            guest.ip(&format!(
                "address add {public}/64 dev eth0\naddress add {local}/64 dev eth0\n\
                 route add default via {}",
                self.gateway
            ))
        })
    }

    /// Makes the provider's router one of IPv6, between `wan` and the bridge `out`.
    pub(super) fn add_to_router(&self, isp: &Host, wan: &str) -> Result<()> {
        let router = Self::ROUTER;
        isp.ip(&format!(
            "address add {}/64 dev out\naddress add {router}/64 dev {wan}",
            outside(1)
        ))?;
        isp.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let [a, b, c, d, ..] = self.public.segments();
        let link = Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0);
        isp.ip(&format!("route add {link}/64 dev {wan}"))?;
        let Some(prefix) = self.routed else {
            return Ok(());
        };
        isp.ip(&format!("route add {prefix} via {}", self.public))
    }

    /// Adds the addresses of a host outside.
    pub(super) fn add_outside(host: &Host, [first, second]: [Ipv6Addr; 2]) -> Result<()> {
        // The kernel answers from a deprecated address only if it was asked there.
        host.ip(&format!(
            "address add {first}/64 dev eth0\naddress add {second}/64 dev eth0 preferred_lft 0\n\
             route add default via {}",
            outside(1)
        ))
    }
}

const fn outside(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, last)
}

const fn local(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, last)
}

const fn on_link(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, last)
}
