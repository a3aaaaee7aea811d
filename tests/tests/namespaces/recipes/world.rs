//! A host with an uplink and guests' taps, and the world around it.

use std::net::Ipv4Addr;

use anyhow::Result;
use lab::{Host, Lab, Natbpf};

/// ```text
/// out 198.51.100.2 ── 198.51.100.1 gw 10.10.10.1 ── 10.10.10.190 (eth0) host (tap…) ── guests
/// ```
pub(super) struct World {
    /// A machine outside.
    pub(super) out: Host,
    /// The router beyond the uplink, which sends the guests' prefix to the host.
    pub(super) gw: Host,
    pub(super) host: Host,
    /// Each on its `eth0`, without an address.
    pub(super) guests: [Host; 2],
    pub(super) lab: Lab,
}

impl World {
    pub(super) const OUT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    pub(super) const GW: Ipv4Addr = Ipv4Addr::new(10, 10, 10, 1);
    pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 10, 10, 190);

    /// With guests who are called this, and whose network is this prefix.
    pub(super) fn new(guests: [&str; 2], inside: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let (out, gw, host) = (lab.host("out")?, lab.host("gw")?, lab.vm_host("host")?);
        let [first, second] = guests.map(|name| lab.host(name));
        let guests = [first?, second?];
        lab.veth((&host, "eth0"), (&gw, "wan0"))?;
        lab.veth((&gw, "lan0"), (&out, "eth0"))?;
        host.ip("address add 10.10.10.190/24 dev eth0\nroute add default via 10.10.10.1")?;
        gw.ip(&format!(
            "address add 10.10.10.1/24 dev wan0\naddress add 198.51.100.1/24 dev lan0\n\
             route add {inside} via 10.10.10.190"
        ))?;
        gw.set_sysctl("net.ipv4.ip_forward", "1")?;
        out.ip("address add 198.51.100.2/24 dev eth0\nroute add default via 198.51.100.1")?;
        for (guest, tap) in guests.iter().zip(["tap0", "tap1"]) {
            lab.veth((&host, tap), (guest, "eth0"))?;
        }
        // With it, netfilter sees what guests send to each other as well.
        let key = "net.bridge.bridge-nf-call-iptables";
        if host.sysctl(key).is_ok() {
            host.set_sysctl(key, "0")?;
        }
        Ok(Self {
            out,
            gw,
            host,
            guests,
            lab,
        })
    }

    pub(super) fn natbpf(&self, config: &str) -> Result<Natbpf> {
        Natbpf::start(&self.host, self.lab.place(), config)
    }
}
