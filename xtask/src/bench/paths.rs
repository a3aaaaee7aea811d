//! The ways a packet can take through the host, each with hosts of its own.

use std::path::Path as File;

use anyhow::{Context, Result};
use bench_ebpf::Joined;
use lab::Natbpf;

use super::bed::{BRIDGE, Bed, CLI, ETH, GATEWAY, PUBLIC, TAP, VM1, WAN};
use super::generator::{Arrival, Flows, Sender};
use super::programs::{Attached, Programs};

/// What carries packets from `wan0` to the guest and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// XDP redirects at `wan0` and `tap1`, with nothing looked up or rewritten.
    RedirectXdp,
    /// The same in TC.
    RedirectTc,
    /// The kernel's routing and bridge, without NAT.
    Kernel,
    /// nftables, with one rule each way.
    Nftables,
    /// iptables, with one rule each way.
    Iptables,
    /// natbpf with `mode = "tc"`.
    NatbpfTc,
    /// natbpf with `mode = "xdp"`.
    NatbpfXdp,
}

/// All of them, the quickest first.
pub(crate) const PATHS: [Path; 7] = [
    Path::RedirectXdp,
    Path::RedirectTc,
    Path::Kernel,
    Path::Nftables,
    Path::Iptables,
    Path::NatbpfTc,
    Path::NatbpfXdp,
];

impl Path {
    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RedirectXdp => "bare XDP redirect",
            Self::RedirectTc => "bare TC redirect",
            Self::Kernel => "kernel forwarding, no NAT",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::NatbpfTc => "natbpf tc",
            Self::NatbpfXdp => "natbpf xdp",
        }
    }

    /// Whether addresses are translated.
    pub(crate) fn translates(self) -> bool {
        !matches!(self, Self::RedirectXdp | Self::RedirectTc | Self::Kernel)
    }

    fn is_bare(self) -> bool {
        matches!(self, Self::RedirectXdp | Self::RedirectTc)
    }
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Direction {
    /// From the client to the guest, by a forward where there is NAT.
    Inbound,
    /// From the guest to the client, by masquerade where there is NAT.
    Outbound,
}

impl Direction {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Forwarded port, and the port of the client's services.
pub(crate) const PORT: u16 = 10_001;
/// The first source port of measured flows.
const FIRST_PORT: u16 = 16_384;

/// A path that works, on hosts of its own.
pub(crate) struct Lane {
    /// Which path.
    pub(crate) path: Path,
    /// natbpf, where it is the path; before the hosts, as it is undone on them.
    pub(crate) natbpf: Option<Natbpf>,
    /// Its hosts.
    pub(crate) bed: Bed,
    redirects: Vec<Attached>,
}

impl Lane {
    /// Makes the hosts and sets the path up.
    ///
    /// # Errors
    /// When something is missing or refused.
    pub(crate) fn new(path: Path, programs: &mut Programs, binary: &File) -> Result<Self> {
        let mut lane = Self {
            path,
            natbpf: None,
            bed: Bed::new()?,
            redirects: Vec::new(),
        };
        lane.set_up(programs, binary)
            .with_context(|| format!("set up {}", path.name()))?;
        Ok(lane)
    }

    fn set_up(&mut self, programs: &mut Programs, binary: &File) -> Result<()> {
        if self.path.is_bare() {
            self.bed.route_directly()?;
        }
        match self.path {
            Path::Kernel => {}
            Path::RedirectXdp => {
                for interface in [WAN, TAP] {
                    let link = programs.attach_xdp("redirect_xdp", &self.bed.host, interface)?;
                    self.redirects.push(link);
                }
            }
            Path::RedirectTc => {
                for interface in [WAN, TAP] {
                    let link = programs.attach_tc("redirect_tc", &self.bed.host, interface)?;
                    self.redirects.push(link);
                }
            }
            Path::Nftables => load_nftables(&self.bed)?,
            Path::Iptables => load_iptables(&self.bed, 0)?,
            Path::NatbpfTc => self.natbpf = Some(start(&self.bed, binary, &config("tc"))?),
            Path::NatbpfXdp => self.natbpf = Some(start(&self.bed, binary, &config("xdp"))?),
        }
        Ok(())
    }

    /// Says to the redirecting programs, which all lanes share, which interfaces are this one's.
    ///
    /// # Errors
    /// When an interface is gone.
    pub(crate) fn select(&self, programs: &mut Programs) -> Result<()> {
        let host = &self.bed.host;
        let (a, b) = (host.index(WAN)?, host.index(TAP)?);
        programs.join(Joined { a, b })
    }

    /// What ends packets at both ends, until it is dropped.
    ///
    /// # Errors
    /// When something else is attached there.
    pub(crate) fn sinks(&self, programs: &mut Programs) -> Result<[Attached; 2]> {
        Ok([
            programs.attach_xdp("sink", &self.bed.cli, ETH)?,
            programs.attach_xdp("sink", &self.bed.vm1, ETH)?,
        ])
    }

    /// Who sends in a direction, and to which Ethernet address.
    ///
    /// # Errors
    /// When an interface is gone.
    pub(crate) fn sender(&self, direction: Direction) -> Result<Sender<'_>> {
        let bed = &self.bed;
        let (host, peer, gateway) = match direction {
            Direction::Inbound => (&bed.cli, &bed.vm1, WAN),
            Direction::Outbound => (&bed.vm1, &bed.cli, BRIDGE),
        };
        let to = if self.path.is_bare() {
            peer.mac(ETH)?
        } else {
            bed.host.mac(gateway)?
        };
        Ok(Sender {
            host,
            interface: ETH,
            to,
        })
    }

    /// So many flows of a direction.
    pub(crate) fn flows(&self, direction: Direction, count: u32) -> Flows {
        let (source, destination) = match direction {
            Direction::Inbound if self.path.translates() => (CLI, PUBLIC),
            Direction::Inbound => (CLI, VM1),
            Direction::Outbound => (VM1, CLI),
        };
        Flows {
            source,
            first_port: FIRST_PORT,
            ports: count,
            count,
            destination,
            port: PORT,
        }
    }

    /// What has to arrive.
    pub(crate) fn arrival(&self, direction: Direction) -> Arrival {
        let (source, destination) = match direction {
            Direction::Inbound => (CLI, VM1),
            Direction::Outbound if self.path.translates() => (PUBLIC, CLI),
            Direction::Outbound => (VM1, CLI),
        };
        Arrival {
            source: Some(source),
            destination,
            port: PORT,
        }
    }
}

/// natbpf's configuration: masquerade, and one port to the guest.
pub(crate) fn config(mode: &str) -> String {
    format!(
        "[uplink.wan]\ninterface = \"{WAN}\"\nmode = \"{mode}\"\n\n\
         [network.lan]\ninterface = \"{BRIDGE}\"\naddress = \"{GATEWAY}/24\"\n\n\
         [[snat]]\nname = \"out\"\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\n\
         [[forward]]\nname = \"in\"\nuplink = \"wan\"\nprotocol = [\"tcp\", \"udp\"]\n\
         ports = {PORT}\nto = \"{VM1}\"\n"
    )
}

fn start(bed: &Bed, binary: &File, config: &str) -> Result<Natbpf> {
    let mut natbpf = Natbpf::prepare(&bed.host, bed.lab.place(), binary.to_owned(), config)?;
    natbpf.launch()?;
    Ok(natbpf)
}

/// The same in nftables.
fn load_nftables(bed: &Bed) -> Result<()> {
    let rules = format!(
        "table ip bench {{\n\
         chain before {{\ntype nat hook prerouting priority dstnat;\n\
         ip daddr {PUBLIC} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {VM1}\n}}\n\
         chain after {{\ntype nat hook postrouting priority srcnat;\n\
         oifname \"{WAN}\" ip saddr 172.22.161.0/24 masquerade\n}}\n}}\n"
    );
    load(bed, &["nft", "-f", "-"], &rules)
}

/// The same in iptables, behind so many rules that do not match.
pub(crate) fn load_iptables(bed: &Bed, others: u16) -> Result<()> {
    let mut rules = String::from("*nat\n");
    let forward = |protocol: &str, port: u16| {
        format!(
            "-A PREROUTING -d {PUBLIC}/32 -p {protocol} --dport {port} \
             -j DNAT --to-destination {VM1}\n"
        )
    };
    for port in 0..others {
        rules += &forward("udp", PORT + 1 + port);
    }
    rules += &forward("udp", PORT);
    rules += &forward("tcp", PORT);
    rules += &format!("-A POSTROUTING -o {WAN} -s 172.22.161.0/24 -j MASQUERADE\nCOMMIT\n");
    load(bed, &["iptables-restore"], &rules)
}

fn load(bed: &Bed, command: &[&str], rules: &str) -> Result<()> {
    bed.host
        .run_with_input(command, rules.as_bytes())?
        .expect_ok()?;
    bed.trust_checksums()
}
