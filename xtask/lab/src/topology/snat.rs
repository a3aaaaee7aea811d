//! A tenant behind a VM: source NAT without a bridge, as Neutron does it.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::{Host, Lab, Natbpf, Place};

/// A guest whose inside interface is a plain veth, and a host beyond the uplink:
///
/// ```text
/// guest 1.1.1.2 (veth1) ── (veth0) 1.1.1.3 host 192.168.38.116 (eth0) ── 192.168.38.1 gw
///                                                    out 198.51.100.2 ── 198.51.100.1 ┘
/// ```
pub struct Snat {
    /// The tenant's machine, on `veth1`.
    pub guest: Host,
    /// The host on which natbpf runs: `veth0` inside, `eth0` outside.
    pub host: Host,
    /// The router beyond the uplink: `wan0` towards the host, `lan0` towards `out`.
    pub gw: Host,
    /// A host outside, on `eth0`.
    pub out: Host,
    lab: Lab,
}

impl Snat {
    /// The tenant's machine.
    pub const GUEST: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 2);
    /// The host's address inside, the tenant's gateway.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 3);
    /// The host's address outside.
    pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 168, 38, 116);
    /// The router beyond the uplink.
    pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 38, 1);
    /// The host outside.
    pub const OUT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    /// natbpf's configuration of the scenario: source NAT to the fixed address as `tenant`.
    pub const CONFIG: &str = r#"
[uplink.out]
interface = "eth0"

[network.tenant]
interface = "veth0"
address = "1.1.1.3/24"

[[snat]]
name = "tenant"
network = "tenant"
uplink = "out"
to = "192.168.38.116"
"#;

    /// The unmodified scenario.
    ///
    /// # Errors
    /// Without root, or when a tool is missing.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (guest, gw, out) = (lab.host("guest")?, lab.host("gw")?, lab.host("out")?);
        let host = lab.vm_host("host")?;
        lab.veth((&guest, "veth1"), (&host, "veth0"))?;
        lab.veth((&host, "eth0"), (&gw, "wan0"))?;
        lab.veth((&gw, "lan0"), (&out, "eth0"))?;
        let (inside, public, router) = (Self::GATEWAY, Self::PUBLIC, Self::ROUTER);
        guest.ip(&format!(
            "address add {}/24 dev veth1\nroute add default via {inside}",
            Self::GUEST
        ))?;
        host.ip(&format!(
            "address add {inside}/24 dev veth0\naddress add {public}/24 dev eth0\n\
             route add default via {router}"
        ))?;
        gw.ip(&format!(
            "address add {router}/24 dev wan0\naddress add 198.51.100.1/24 dev lan0"
        ))?;
        gw.set_sysctl("net.ipv4.ip_forward", "1")?;
        out.ip(&format!(
            "address add {}/24 dev eth0\nroute add default via 198.51.100.1",
            Self::OUT
        ))?;
        Ok(Self {
            guest,
            host,
            gw,
            out,
            lab,
        })
    }

    /// The lab that holds the hosts.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Where the lab is.
    #[must_use]
    pub fn place(&self) -> &Place {
        self.lab.place()
    }

    /// Runs natbpf on the host.
    ///
    /// # Errors
    /// See [`Natbpf::start`].
    pub fn natbpf(&self, config: &str) -> Result<Natbpf> {
        Natbpf::start(&self.host, self.lab.place(), config)
    }
}
