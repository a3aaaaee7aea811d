//! Real owners of bridges: libvirt and ifupdown restart their bridges while natbpf runs, or starts
//! before, after or at the same time.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context, Result, ensure};
use lab::topology::{Inside, Options, Proxmox};
use lab::{Background, Natbpf};
use tests::at;
use tests::following::{soon, soon_seen};
use tests::owners::Owners;

use super::{Pages, both_pass, counted, findings, no_findings, out};

/// Software that makes the guests' bridge and adds its address.
trait Owner: Sync {
    /// The bridge's name.
    const BRIDGE: &str;

    /// Makes the bridge and attaches the guests.
    fn up(&self, net: &Proxmox) -> Result<()>;

    /// Removes the bridge.
    fn down(&self) -> Result<()>;
}

/// What natbpf does while the owner restarts its bridge.
#[derive(Clone, Copy, Debug)]
enum Natbpfs {
    Running,
    StartedBefore,
    StartedMeanwhile,
    StartedAfter,
}

/// How often each owner restarts its bridge.
const TIMES: usize = 20;

/// What natbpf does at each restart. Each start of natbpf takes a second of CPU time.
fn turn(time: usize) -> Natbpfs {
    match time {
        4 | 12 => Natbpfs::StartedMeanwhile,
        8 => Natbpfs::StartedAfter,
        16 => Natbpfs::StartedBefore,
        _ => Natbpfs::Running,
    }
}

/// How many seconds a flow may take to get through: a port that has just come up may lose an ARP
/// request, and the kernel repeats it after a second.
const SECONDS: usize = 5;

fn network() -> Result<Proxmox> {
    Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        ..Options::default()
    })
}

/// Restarts the bridge [`TIMES`] times. Each restart succeeds, and natbpf then translates outbound
/// and hairpin flows.
fn made_again<O: Owner>(net: &Proxmox, owner: &O) -> Result<Natbpf> {
    let natbpf_config = net.config().replace("vmbr1", O::BRIDGE);
    let mut natbpf = net.natbpf(&natbpf_config)?;
    let flows = Flows::open(net)?;
    owner.up(net)?;
    flows.are_translated()?;
    for time in 1..=TIMES {
        let turn = turn(time);
        again(net, owner, &mut natbpf, turn)
            .and_then(|()| flows.are_translated())
            .with_context(|| format!("time {time} of {TIMES}, natbpf {turn:?}"))?;
    }
    Ok(natbpf)
}

fn again<O: Owner>(net: &Proxmox, owner: &O, natbpf: &mut Natbpf, turn: Natbpfs) -> Result<()> {
    if !matches!(turn, Natbpfs::Running) {
        natbpf.stop()?;
    }
    owner.down()?;
    match turn {
        Natbpfs::Running => owner.up(net),
        Natbpfs::StartedBefore => natbpf.launch().and_then(|()| owner.up(net)),
        Natbpfs::StartedAfter => owner.up(net).and_then(|()| natbpf.launch()),
        Natbpfs::StartedMeanwhile => thread::scope(|scope| {
            let made = scope.spawn(|| owner.up(net));
            let started = natbpf.launch();
            let made = made
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            made.and(started)
        }),
    }
}

/// Datagrams of a guest, to the outside and to another guest's public address.
struct Flows {
    guest: UdpSocket,
    outside: UdpSocket,
    other: UdpSocket,
}

impl Flows {
    fn open(net: &Proxmox) -> Result<Self> {
        Ok(Self {
            guest: net.vm1.udp("0.0.0.0:5000")?,
            outside: net.cli.udp("198.51.100.2:7000")?,
            other: net.vm2.udp("0.0.0.0:10500")?,
        })
    }

    fn are_translated(&self) -> Result<()> {
        let (out, hairpin) = (at(Proxmox::CLI, 7000), at(Proxmox::PUBLIC, 10500));
        for (to, server) in [(out, &self.outside), (hairpin, &self.other)] {
            let by_public = |seen: SocketAddr| seen.ip() == Proxmox::PUBLIC;
            let once = || soon_seen(&self.guest, to, server, by_public);
            let seen = (1..SECONDS).fold(once(), |seen, _| seen.or_else(|_| once()));
            seen.with_context(|| format!("to {to}"))?;
        }
        Ok(())
    }
}

/// libvirt's network "default", with the addresses of this lab.
struct Libvirt {
    owners: Owners,
    _daemon: Background,
}

impl Libvirt {
    /// Starts libvirt's daemon and defines the network.
    fn start(net: &Proxmox, forward_mode: &str) -> Result<Self> {
        let owners = Owners::on(&net.host, net.lab())?;
        let daemon = owners.spawn(&["libvirtd"])?;
        let libvirt = Self {
            owners,
            _daemon: daemon,
        };
        soon("libvirt answers", || {
            Ok(libvirt.owners.run(&virsh("net-list"))?.ok())
        })?;
        // As libvirt ships it, except for stp='on': with that, a new port blocks for four seconds.
        let gateway = Proxmox::GATEWAY;
        let network = format!(
            "<network><name>default</name><forward mode='{forward_mode}'/>\
             <bridge name='virbr0' stp='off' delay='0'/>\
             <ip address='{gateway}' netmask='255.255.255.0'><dhcp>\
             <range start='172.22.161.2' end='172.22.161.99'/></dhcp></ip></network>"
        );
        libvirt.owners.write("/etc/libvirt/default.xml", &network)?;
        let define = [&virsh("net-define")[..], &["/etc/libvirt/default.xml"]].concat();
        libvirt.owners.check(&define)?;
        Ok(libvirt)
    }

    fn network(&self, action: &'static str) -> Result<()> {
        let words = [&virsh(action)[..], &["default"]].concat();
        self.owners.check(&words).map(drop)
    }
}

fn virsh(action: &'static str) -> [&'static str; 4] {
    ["virsh", "--connect", "network:///system", action]
}

impl Owner for Libvirt {
    const BRIDGE: &str = "virbr0";

    fn up(&self, net: &Proxmox) -> Result<()> {
        self.network("net-start")?;
        // libvirt does so for each guest that it starts.
        net.host
            .ip("link set tap1 master virbr0\nlink set tap2 master virbr0")
    }

    fn down(&self) -> Result<()> {
        self.network("net-destroy")
    }
}

/// ifupdown with bridge-utils, and a bridge as administrators write it.
struct Ifupdown(Owners);

impl Ifupdown {
    fn on(net: &Proxmox) -> Result<Self> {
        let owners = Owners::on(&net.host, net.lab())?;
        let gateway = Proxmox::GATEWAY;
        let interfaces = format!(
            "auto vmbr1\niface vmbr1 inet static\n    address {gateway}/24\n    \
             bridge_ports tap1 tap2\n    bridge_stp off\n    bridge_fd 0\n"
        );
        owners.write("/etc/network/interfaces", &interfaces)?;
        Ok(Self(owners))
    }
}

impl Owner for Ifupdown {
    const BRIDGE: &str = "vmbr1";

    fn up(&self, _: &Proxmox) -> Result<()> {
        self.0.check(&["ifup", "vmbr1"]).map(drop)
    }

    fn down(&self) -> Result<()> {
        self.0.check(&["ifdown", "vmbr1"]).map(drop)
    }
}

#[test]
fn libvirts_default_network_starts_every_time_beside_natbpf() -> Result<()> {
    let net = network()?;
    let libvirt = Libvirt::start(&net, "nat")?;
    let natbpf = made_again(&net, &libvirt)?;
    // libvirt translates outbound flows first; natbpf leaves them alone and reports it.
    let _pages = Pages::open(&net)?;
    let seen = out(&net)?;
    ensure!(seen.contains("cli sees 19.19.8.10:"), "{seen}");
    ensure!(counted(&natbpf, "lan-out")? == 0, "translated by both");
    let found = findings(&natbpf, "other-nat")?;
    ensure!(!found.is_empty(), "no finding");
    for one in found {
        ensure!(one.to_string().contains("mode="), "{one:#}");
    }
    Ok(())
}

/// libvirt fails to start a network whose address is on the bridge already. In this mode it adds
/// the address right after it has created the bridge: no program that waits for the bridge is
/// faster. In mode `nat` it calls iptables in between, and another program has that time to add the
/// address: the test above fails if natbpf does so. This one shows that both translate what they
/// should.
#[test]
fn libvirts_open_network_starts_every_time_beside_natbpf() -> Result<()> {
    let net = network()?;
    let libvirt = Libvirt::start(&net, "open")?;
    let natbpf = made_again(&net, &libvirt)?;
    let _pages = Pages::open(&net)?;
    both_pass(&net)?;
    ensure!(counted(&natbpf, "lan-out")? > 0, "not translated by natbpf");
    no_findings(&natbpf)
}

#[test]
fn ifupdowns_bridge_comes_up_every_time_beside_natbpf() -> Result<()> {
    let net = network()?;
    let ifupdown = Ifupdown::on(&net)?;
    let natbpf = made_again(&net, &ifupdown)?;
    let _pages = Pages::open(&net)?;
    both_pass(&net)?;
    no_findings(&natbpf)
}
