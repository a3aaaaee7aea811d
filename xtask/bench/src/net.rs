//! The hosts that are measured:
//!
//! ```text
//! cli 198.51.100.2 ── 198.51.100.1 wan0 host vmbr1 172.22.161.254 ┬ tap1 ─ vm1 172.22.161.170
//!                                                                 └ tap2 ─ vm2 172.22.161.171
//! ```

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;
use lab::{Host, Lab, Offload};

/// The programs that are measured and that measure.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// natbpf's program.
    pub(crate) natbpf: PathBuf,
    /// The benchmark's BPF object.
    pub(crate) object: PathBuf,
}

pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const CLI: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub(crate) const VM1: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 170);
/// The port that is forwarded to the same one of `vm1`.
pub(crate) const PORT: u16 = 10_001;

pub(crate) const UPLINK: &str = "wan0";
pub(crate) const BRIDGE: &str = "vmbr1";
pub(crate) const TAP: &str = "tap1";
/// The interface of every host but the one in the middle.
pub(crate) const ETH: &str = "eth0";

/// The hosts.
pub(crate) struct Net {
    pub(crate) cli: Host,
    pub(crate) host: Host,
    pub(crate) vm1: Host,
    pub(crate) lab: Lab,
}

impl Net {
    pub(crate) fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (cli, host) = (lab.host("cli")?, lab.host("host")?);
        let (vm1, vm2) = (lab.host("vm1")?, lab.host("vm2")?);
        lab.veth((&host, UPLINK), (&cli, ETH))?;
        cli.ip(&format!(
            "address add {CLI}/24 dev {ETH}\nroute add default via {PUBLIC}"
        ))?;
        host.ip(&format!(
            "address add {PUBLIC}/24 dev {UPLINK}\n\
             link add {BRIDGE} type bridge forward_delay 0 stp_state 0\nlink set {BRIDGE} up\n\
             address add 172.22.161.254/24 dev {BRIDGE}"
        ))?;
        for (vm, tap, last) in [(&vm1, TAP, 170), (&vm2, "tap2", 171)] {
            lab.veth((&host, tap), (vm, ETH))?;
            host.ip(&format!("link set {tap} master {BRIDGE}"))?;
            vm.ip(&format!(
                "address add 172.22.161.{last}/24 dev {ETH}\nroute add default via 172.22.161.254"
            ))?;
        }
        host.set_sysctl("net.ipv4.ip_forward", "1")?;
        host.set_sysctl("net.bridge.bridge-nf-call-iptables", "0")?;
        let net = Self {
            cli,
            host,
            vm1,
            lab,
        };
        net.settle()?;
        Ok(net)
    }

    /// NAPI at every end, which frames that XDP sends need, and neighbours for those whose sink
    /// takes ARP away.
    fn settle(&self) -> Result<()> {
        for (host, interface) in [
            (&self.cli, ETH),
            (&self.host, UPLINK),
            (&self.host, TAP),
            (&self.vm1, ETH),
        ] {
            host.set_offload(interface, Offload::Gro, true)?;
        }
        let known = |address: Ipv4Addr, of: &Host, device: &str| {
            let mac = lab_mac(of.mac(ETH)?);
            self.host.ip(&format!(
                "neighbour replace {address} lladdr {mac} dev {device} nud permanent"
            ))
        };
        known(CLI, &self.cli, UPLINK)?;
        known(VM1, &self.vm1, BRIDGE)?;
        // The bridge is to know the guest's port before the guest says anything.
        let mac = lab_mac(self.vm1.mac(ETH)?);
        self.host
            .check([
                "bridge", "fdb", "replace", &mac, "dev", TAP, "master", "static",
            ])
            .map(|_| ())
    }
}

fn lab_mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
