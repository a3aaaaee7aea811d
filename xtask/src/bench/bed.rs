//! The hosts between which is measured.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use lab::{Host, Lab, Offload};

/// A host with one public address, a client outside and two guests:
///
/// ```text
/// cli 198.51.100.2 (eth0) ── wan0 198.51.100.1 host   vm1 172.22.161.170 (eth0) ─ tap1 ┐
///                                                     vm2 172.22.161.171 (eth0) ─ tap2 ┤
///                                  172.22.161.254 vmbr1 ───────────────────────────────┘
/// ```
///
/// Every neighbour is known in advance, because the sink also drops ARP. Each path has its own
/// hosts, so that nothing of another one, such as netfilter's hooks, affects it.
pub(crate) struct Bed {
    /// The client outside.
    pub(crate) cli: Host,
    /// The host that translates.
    pub(crate) host: Host,
    /// The guest that is measured.
    pub(crate) vm1: Host,
    /// Another guest, so that the bridge has a choice of ports.
    vm2: Host,
    /// The lab with all of them; last, as it takes them down.
    pub(crate) lab: Lab,
}

/// The host's public address.
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The client outside.
pub(crate) const CLI: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The host on the inside network.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 254);
/// The guest that is measured.
pub(crate) const VM1: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 170);
/// The other guest.
pub(crate) const VM2: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 171);

/// The same machines by IPv6.
pub(crate) const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub(crate) const CLI6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x161, 0, 0, 0, 0, 0, 0xfe);
pub(crate) const VM1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x161, 0, 0, 0, 0, 0, 0x170);

/// The host's interface towards the client.
pub(crate) const WAN: &str = "wan0";
/// The bridge of the guests.
pub(crate) const BRIDGE: &str = "vmbr1";
/// The bridge's port at which the measured guest is.
pub(crate) const TAP: &str = "tap1";
/// The only interface of client and guests.
pub(crate) const ETH: &str = "eth0";

impl Bed {
    /// Makes the hosts.
    ///
    /// # Errors
    /// Without root, or when something cannot be made.
    pub(crate) fn new() -> Result<Self> {
        Self::of(Lab::host)
    }

    /// Makes hosts of both families.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub(crate) fn with_ipv6() -> Result<Self> {
        let bed = Self::of(Lab::dual_host)?;
        bed.add_ipv6()?;
        Ok(bed)
    }

    fn of(make: fn(&Lab, &str) -> Result<Host>) -> Result<Self> {
        let lab = Lab::new()?;
        let bed = Self {
            cli: make(&lab, "cli")?,
            host: make(&lab, "host")?,
            vm1: make(&lab, "vm1")?,
            vm2: make(&lab, "vm2")?,
            lab,
        };
        bed.connect_outside()?;
        bed.connect_guests()?;
        bed.introduce_neighbours()?;
        bed.set_up_kernel()?;
        Ok(bed)
    }

    fn connect_outside(&self) -> Result<()> {
        self.lab.veth((&self.host, WAN), (&self.cli, ETH))?;
        // What comes from a wire has its checksums and is no larger than the MTU. A guest leaves
        // both to the host, as by virtio.
        self.cli.set_offload(ETH, Offload::Checksum, false)?;
        self.host
            .ip(&format!("address add {PUBLIC}/24 dev {WAN}"))?;
        // By this route it reaches guests where nothing translates.
        self.cli.ip(&format!(
            "address add {CLI}/24 dev {ETH}\nroute add default via {PUBLIC}"
        ))
    }

    fn connect_guests(&self) -> Result<()> {
        self.host.ip(&format!(
            "link add {BRIDGE} type bridge forward_delay 0 stp_state 0\nlink set {BRIDGE} up\n\
             address add {GATEWAY}/24 dev {BRIDGE}"
        ))?;
        for (guest, port, address) in [(&self.vm1, TAP, VM1), (&self.vm2, "tap2", VM2)] {
            self.lab.veth((&self.host, port), (guest, ETH))?;
            self.host.ip(&format!("link set {port} master {BRIDGE}"))?;
            guest.ip(&format!(
                "address add {address}/24 dev {ETH}\nroute add default via {GATEWAY}"
            ))?;
            self.receive_in_polls(&[(&self.host, port), (guest, ETH)])?;
        }
        self.receive_in_polls(&[(&self.host, WAN), (&self.cli, ETH)])
    }

    /// A veth takes redirected frames only where it receives in NAPI's polls, as a NIC does; with
    /// GRO it does.
    fn receive_in_polls(&self, ends: &[(&Host, &str)]) -> Result<()> {
        ends.iter()
            .try_for_each(|(host, interface)| host.set_offload(interface, Offload::Gro, true))
    }

    fn introduce_neighbours(&self) -> Result<()> {
        let (wan, bridge) = (mac(&self.host, WAN)?, mac(&self.host, BRIDGE)?);
        let (cli, vm1, vm2) = (
            mac(&self.cli, ETH)?,
            mac(&self.vm1, ETH)?,
            mac(&self.vm2, ETH)?,
        );
        self.host.ip(&format!(
            "neighbour replace {CLI} lladdr {cli} dev {WAN} nud permanent\n\
             neighbour replace {VM1} lladdr {vm1} dev {BRIDGE} nud permanent\n\
             neighbour replace {VM2} lladdr {vm2} dev {BRIDGE} nud permanent"
        ))?;
        self.host.check([
            "bridge", "fdb", "replace", &vm1, "dev", TAP, "master", "static",
        ])?;
        self.cli.ip(&format!(
            "neighbour replace {PUBLIC} lladdr {wan} dev {ETH} nud permanent\n\
             neighbour replace {VM1} lladdr {vm1} dev {ETH} nud permanent"
        ))?;
        self.vm1.ip(&format!(
            "neighbour replace {GATEWAY} lladdr {bridge} dev {ETH} nud permanent\n\
             neighbour replace {CLI} lladdr {cli} dev {ETH} nud permanent"
        ))
    }

    fn add_ipv6(&self) -> Result<()> {
        let (wan, bridge) = (mac(&self.host, WAN)?, mac(&self.host, BRIDGE)?);
        let (cli, vm1) = (mac(&self.cli, ETH)?, mac(&self.vm1, ETH)?);
        self.host.ip(&format!(
            "address add {PUBLIC6}/64 dev {WAN} nodad\n\
             address add {GATEWAY6}/64 dev {BRIDGE} nodad\n\
             neighbour replace {CLI6} lladdr {cli} dev {WAN} nud permanent\n\
             neighbour replace {VM1_6} lladdr {vm1} dev {BRIDGE} nud permanent"
        ))?;
        self.host.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        self.cli.ip(&format!(
            "address add {CLI6}/64 dev {ETH} nodad\n\
             neighbour replace {PUBLIC6} lladdr {wan} dev {ETH} nud permanent"
        ))?;
        self.vm1.ip(&format!(
            "address add {VM1_6}/64 dev {ETH} nodad\nroute add default via {GATEWAY6}\n\
             neighbour replace {GATEWAY6} lladdr {bridge} dev {ETH} nud permanent"
        ))
    }

    fn set_up_kernel(&self) -> Result<()> {
        self.host.set_sysctl("net.ipv4.ip_forward", "1")?;
        // Or netfilter would see each packet on the bridge as well; Proxmox says no to it too.
        self.set_if_there("net.bridge.bridge-nf-call-iptables", "0")
    }

    /// Takes from connection tracking the work that a NIC does for it, which live frames have not
    /// been through: checking UDP checksums.
    pub(crate) fn trust_checksums(&self) -> Result<()> {
        self.set_if_there("net.netfilter.nf_conntrack_checksum", "0")
    }

    /// A sysctl of a module that may not be there, and then does not matter.
    fn set_if_there(&self, key: &str, value: &str) -> Result<()> {
        match self.host.sysctl(key) {
            Ok(_) => self.host.set_sysctl(key, value),
            Err(_) => Ok(()),
        }
    }

    /// Leaves the guest's checksums to no device either: as frames of XDP, packets are sent as they
    /// are.
    pub(crate) fn finish_checksums(&self) -> Result<()> {
        self.vm1.set_offload(ETH, Offload::Checksum, false)
    }

    /// Lets client and guest send to each other directly, for what joins their wires.
    pub(crate) fn route_directly(&self) -> Result<()> {
        self.cli.ip(&format!("route add {VM1}/32 dev {ETH}"))?;
        self.vm1.ip(&format!("route add {CLI}/32 dev {ETH}"))
    }
}

/// An interface's Ethernet address, as `ip` writes it.
fn mac(host: &Host, interface: &str) -> Result<String> {
    let bytes = host.mac(interface)?;
    Ok(bytes.map(|byte| format!("{byte:02x}")).join(":"))
}
