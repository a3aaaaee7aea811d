//! The paths of a packet through the host, each with its own hosts.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path as File;

use anyhow::{Context, Result};
use bench_ebpf::Joined;
use lab::{Host, Natbpf};

use super::bed::{BRIDGE, Bed, CLI, ETH, GATEWAY, GATEWAY6, PUBLIC, PUBLIC6, TAP, VM1, VM1_6, WAN};
use super::generator::{Arrival, Flows, Sender};
use super::programs::{Attached, Programs};
use super::report::count_of;

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

/// A path, and the size of its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Which path.
    pub(crate) path: Path,
    /// Forward rules; the last one is the one that matches.
    pub(crate) forwards: u32,
    /// Sessions that natbpf makes room for.
    pub(crate) sessions: u32,
    /// Whether it has IPv6 as well.
    pub(crate) has_ipv6: bool,
}

impl Variant {
    /// The path with one forward rule and natbpf's usual room.
    pub(crate) const fn new(path: Path) -> Self {
        Self {
            path,
            forwards: 1,
            sessions: 262_144,
            has_ipv6: false,
        }
    }

    /// With IPv6 as well.
    pub(crate) const fn with_ipv6(self) -> Self {
        Self {
            has_ipv6: true,
            ..self
        }
    }

    /// With so many forward rules.
    pub(crate) const fn with_forwards(self, forwards: u32) -> Self {
        Self { forwards, ..self }
    }

    /// With room for so many sessions.
    pub(crate) const fn with_sessions(self, sessions: u32) -> Self {
        Self { sessions, ..self }
    }

    /// As tables name it.
    pub(crate) fn name(&self) -> String {
        match self.forwards {
            1 => self.path.name().to_owned(),
            forwards => format!("{}, {}", self.path.name(), count_of(forwards, "forward")),
        }
    }
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A working path, on its own hosts.
pub(crate) struct Lane {
    /// Which path.
    pub(crate) variant: Variant,
    /// natbpf, if it is the path; declared before the hosts, because it is undone on them.
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
    pub(crate) fn new(variant: Variant, programs: &mut Programs, binary: &File) -> Result<Self> {
        let mut lane = Self {
            variant,
            natbpf: None,
            bed: match variant.has_ipv6 {
                true => Bed::with_ipv6()?,
                false => Bed::new()?,
            },
            redirects: Vec::new(),
        };
        lane.set_up(programs, binary)
            .with_context(|| format!("set up {}", variant.name()))?;
        Ok(lane)
    }

    fn set_up(&mut self, programs: &mut Programs, binary: &File) -> Result<()> {
        if self.path().is_bare() {
            self.bed.route_directly()?;
        }
        match self.path() {
            Path::Kernel => Ok(()),
            Path::RedirectXdp => {
                self.bed.finish_checksums()?;
                self.redirect(|host, interface| {
                    programs.attach_xdp("redirect_xdp", host, interface)
                })
            }
            Path::RedirectTc => {
                self.redirect(|host, interface| programs.attach_tc("redirect_tc", host, interface))
            }
            Path::Nftables if self.variant.has_ipv6 => {
                load_nftables(&self.bed)?;
                load_nftables6(&self.bed)
            }
            Path::Nftables => load_nftables(&self.bed),
            Path::Iptables => load_iptables(&self.bed, self.variant.forwards),
            Path::NatbpfTc => self.start_natbpf("tc", binary),
            Path::NatbpfXdp => self.start_natbpf("xdp", binary),
        }
    }

    fn path(&self) -> Path {
        self.variant.path
    }

    fn redirect(&mut self, mut attach: impl FnMut(&Host, &str) -> Result<Attached>) -> Result<()> {
        for interface in [WAN, TAP] {
            self.redirects.push(attach(&self.bed.host, interface)?);
        }
        Ok(())
    }

    fn start_natbpf(&mut self, mode: &str, binary: &File) -> Result<()> {
        let (host, place) = (&self.bed.host, self.bed.lab.place());
        let config = config(mode, &self.variant);
        let mut natbpf = Natbpf::prepare(host, place, binary.to_owned(), &config)?;
        natbpf.launch()?;
        self.natbpf = Some(natbpf);
        Ok(())
    }

    /// Empties natbpf's or the kernel's table of sessions.
    ///
    /// # Errors
    /// When the command for it fails.
    pub(crate) fn forget_sessions(&self) -> Result<()> {
        match &self.natbpf {
            Some(natbpf) => natbpf.cli(&["conntrack", "flush"])?.expect_ok(),
            None => self.bed.host.check(["conntrack", "-F"]),
        }
        .map(drop)
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
        let (host, peer) = self.ends(direction);
        let gateway = match direction {
            Direction::Inbound => WAN,
            Direction::Outbound => BRIDGE,
        };
        let to = if self.path().is_bare() {
            peer.mac(ETH)?
        } else {
            self.bed.host.mac(gateway)?
        };
        Ok(Sender {
            host,
            interface: ETH,
            to,
        })
    }

    /// Lets the host reach a prefix by the client's link.
    ///
    /// # Errors
    /// When the route cannot be added.
    pub(crate) fn route(&self, prefix: &str) -> Result<()> {
        let route = format!("route replace {prefix} via {CLI} dev {WAN}");
        self.bed.host.ip(&route)
    }

    /// Who begins in a direction, and who answers.
    pub(crate) fn ends(&self, direction: Direction) -> (&Host, &Host) {
        match direction {
            Direction::Inbound => (&self.bed.cli, &self.bed.vm1),
            Direction::Outbound => (&self.bed.vm1, &self.bed.cli),
        }
    }

    /// The address that is sent to in a direction.
    pub(crate) fn destination(&self, direction: Direction) -> Ipv4Addr {
        match direction {
            Direction::Inbound if self.path().translates() => PUBLIC,
            Direction::Inbound => VM1,
            Direction::Outbound => CLI,
        }
    }

    /// So many flows of a direction, by their source ports.
    pub(crate) fn flows(&self, direction: Direction, count: u32) -> Flows {
        Flows {
            source: match direction {
                Direction::Inbound => CLI,
                Direction::Outbound => VM1,
            },
            first_port: FIRST_PORT,
            ports: count,
            count,
            begin: 0,
            destination: self.destination(direction),
            port: PORT,
            is_answer: false,
        }
    }

    /// What has to arrive.
    pub(crate) fn arrival(&self, direction: Direction) -> Arrival {
        let (source, destination) = match direction {
            Direction::Inbound => (CLI, VM1),
            Direction::Outbound if self.path().translates() => (PUBLIC, CLI),
            Direction::Outbound => (VM1, CLI),
        };
        Arrival {
            source: Some(source),
            destination: Some((destination, PORT)),
        }
    }
}

/// natbpf's configuration: masquerade, and ports to the guest; the last one is used.
fn config(mode: &str, variant: &Variant) -> String {
    let mut text = format!(
        "[uplink.wan]\ninterface = \"{WAN}\"\nmode = \"{mode}\"\n\n\
         [network.lan]\ninterface = \"{BRIDGE}\"\naddress = {1}\n\n\
         [limits]\nsessions = {0}\nsessions_per_guest = {0}\nports_per_guest = {0}\n\n\
         [[snat]]\nname = \"out\"\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n",
        variant.sessions,
        match variant.has_ipv6 {
            true => format!("[\"{GATEWAY}/24\", \"{GATEWAY6}/64\"]"),
            false => format!("\"{GATEWAY}/24\""),
        }
    );
    let mut forward = |protocols: &str, port: u16, to: IpAddr| {
        text += &format!(
            "\n[[forward]]\nuplink = \"wan\"\nprotocol = [{protocols}]\nports = {port}\n\
             to = \"{to}\"\n"
        );
    };
    for (protocol, port) in other_forwards(variant.forwards) {
        forward(&format!("\"{protocol}\""), port, VM1.into());
    }
    forward("\"tcp\", \"udp\"", PORT, VM1.into());
    if variant.has_ipv6 {
        forward("\"tcp\", \"udp\"", PORT, VM1_6.into());
    }
    text
}

/// Protocols and ports of the forwards before the one that matches.
fn other_forwards(forwards: u32) -> impl Iterator<Item = (&'static str, u16)> {
    let free = |port: &u16| *port != PORT;
    let of = move |protocol| {
        (1024..=u16::MAX)
            .filter(free)
            .map(move |port| (protocol, port))
    };
    of("udp").chain(of("tcp")).take(forwards as usize - 1)
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

/// The same for IPv6.
fn load_nftables6(bed: &Bed) -> Result<()> {
    let rules = format!(
        "table ip6 bench {{\n\
         chain before {{\ntype nat hook prerouting priority dstnat;\n\
         ip6 daddr {PUBLIC6} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {VM1_6}\n}}\n\
         chain after {{\ntype nat hook postrouting priority srcnat;\n\
         oifname \"{WAN}\" ip6 saddr fd00:161::/64 masquerade\n}}\n}}\n"
    );
    load(bed, &["nft", "-f", "-"], &rules)
}

/// The same in iptables.
fn load_iptables(bed: &Bed, forwards: u32) -> Result<()> {
    let mut rules = String::from("*nat\n");
    let used = [("udp", PORT), ("tcp", PORT)];
    for (protocol, port) in other_forwards(forwards).chain(used) {
        rules += &format!(
            "-A PREROUTING -d {PUBLIC}/32 -p {protocol} --dport {port} \
             -j DNAT --to-destination {VM1}\n"
        );
    }
    rules += &format!("-A POSTROUTING -o {WAN} -s 172.22.161.0/24 -j MASQUERADE\nCOMMIT\n");
    load(bed, &["iptables-restore"], &rules)
}

fn load(bed: &Bed, command: &[&str], rules: &str) -> Result<()> {
    bed.host
        .run_with_input(command, rules.as_bytes())?
        .expect_ok()?;
    bed.trust_checksums()
}
