//! A host to which the provider routes several public addresses.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use lab::{Capture, Host, Lab, Natbpf};

/// The host's own address.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(123, 45, 12, 48);
/// The host in the internet.
pub(super) const OUT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// The first address of the subnet, which elsewhere would be no host's.
pub(super) const FIRST: Ipv4Addr = Ipv4Addr::new(123, 45, 90, 112);
/// Its last address, elsewhere that of broadcasts.
pub(super) const LAST: Ipv4Addr = Ipv4Addr::new(123, 45, 90, 119);
/// A single one.
pub(super) const SINGLE: Ipv4Addr = Ipv4Addr::new(123, 45, 53, 11);

/// How the provider's router brings packets to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    /// It routes the addresses to the host.
    Routes,
    /// It asks by ARP who has them.
    Asks,
}

/// The hosts:
///
/// ```text
/// vm112 .112/32 ── tap112 br112 ┐
/// vm119 .119/32 ── tap119 br119 ┤ host 123.45.12.48/32 ── 123.45.12.1 gw ── 198.51.100.2 out
/// vm11  123.45.53.11/32 ── br11 ┘ (eth0)               (wan0)
/// ```
pub(super) struct Hetzner {
    pub(super) lab: Lab,
    pub(super) out: Host,
    pub(super) gw: Host,
    pub(super) host: Host,
    pub(super) vm112: Host,
    pub(super) vm119: Host,
    pub(super) vm11: Host,
}

impl Hetzner {
    /// natbpf's configuration of the scenario, with a bridge for each of the eleven addresses.
    pub(super) const CONFIG: &str = r#"
[uplink.wan]
interface = "eth0"

[[template]]
for = { n = ["112-119", "11-13"], public = ["123.45.90.112/29", "123.45.53.11-123.45.53.13"] }

[template.network."br{n}"]
interface = "br{n}"
address = "172.30.{n}.1/24"
create = true
ports = "tap{n}"
anti_spoof = true

[[template.route]]
name = "public{n}"
network = "br{n}"
addresses = "{public}"

[[snat]]
name = "private"
source = "172.30.0.0/16"
uplink = "wan"
to = "123.45.12.48"
"#;

    pub(super) fn new(provider: Provider) -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.vm_host("host")?;
        let named = |name| lab.host(name);
        let net = Self {
            out: named("out")?,
            gw: named("gw")?,
            vm112: named("vm112")?,
            vm119: named("vm119")?,
            vm11: named("vm11")?,
            host,
            lab,
        };
        net.connect_outside(provider)?;
        net.connect_guest(&net.vm112, 112, FIRST)?;
        net.connect_guest(&net.vm119, 119, LAST)?;
        net.connect_guest(&net.vm11, 11, SINGLE)?;
        Ok(net)
    }

    fn connect_outside(&self, provider: Provider) -> Result<()> {
        let (gw, host, out) = (&self.gw, &self.host, &self.out);
        self.lab.veth((host, "eth0"), (gw, "wan0"))?;
        self.lab.veth((gw, "lan0"), (out, "eth0"))?;
        host.ip(&format!(
            "address add {HOST}/32 dev eth0\nroute add 123.45.12.1 dev eth0\n\
             route add default via 123.45.12.1"
        ))?;
        gw.ip(&format!(
            "address add 123.45.12.1/32 dev wan0\naddress add 198.51.100.1/24 dev lan0\n\
             route add {HOST} dev wan0"
        ))?;
        let way = match provider {
            Provider::Routes => format!("via {HOST}"),
            Provider::Asks => "dev wan0".to_owned(),
        };
        for prefix in [
            "123.45.90.112/29",
            "123.45.53.11",
            "123.45.53.12",
            "123.45.53.13",
        ] {
            gw.ip(&format!("route add {prefix} {way}"))?;
        }
        gw.set_sysctl("net.ipv4.ip_forward", "1")?;
        out.ip(&format!(
            "address add {OUT}/24 dev eth0\nroute add default via 198.51.100.1"
        ))
    }

    /// A guest as the provider's manual sets it up: its address alone, and the host's as gateway.
    /// The private address is what it had while it was installed.
    fn connect_guest(&self, guest: &Host, number: u8, public: Ipv4Addr) -> Result<()> {
        self.lab
            .veth((&self.host, &format!("tap{number}")), (guest, "eth0"))?;
        guest.ip(&format!(
            "address add {public}/32 dev eth0\naddress add 172.30.{number}.10/24 dev eth0\n\
             route add {HOST} dev eth0 src {public}\nroute add default via {HOST} src {public}"
        ))
    }

    pub(super) fn natbpf(&self, config: &str) -> Result<Natbpf> {
        Natbpf::start(&self.host, self.lab.place(), config)
    }

    /// What is on the wire to the provider.
    pub(super) fn wire(&self) -> Result<Capture> {
        self.gw.capture("wan0")
    }

    /// A frame from a guest to its gateway.
    pub(super) fn inject(&self, guest: &Host, bridge: &str, packet: &[u8]) -> Result<()> {
        let to = self.host.mac(bridge)?;
        let from = guest.mac("eth0")?;
        let frame = [&to[..], &from, &[0x08, 0x00], packet].concat();
        guest.inject("eth0", &frame).context("inject from a guest")
    }
}
