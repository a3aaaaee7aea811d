//! Which ways sessions take through the lab, and the configuration that they need.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use lab::Host;
use lab::topology::Proxmox;

/// The external address that stays: forwards by it have nothing to do with masquerade. Its scope
/// lets natbpf, as the host itself, prefer the other one.
pub const KEPT: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 200);
/// The rules that most sessions are under.
pub const RULES: [&str; 3] = ["lan-out", "web", "game"];
/// The forwards that may be taken away, with their sessions.
pub const SPARE: [&str; 2] = ["spare-tcp", "spare-udp"];

/// Ports of the services: outside, of the forwards, and where the spare ones lead.
const OUTSIDE_PORT: u16 = 7000;
const FORWARDED_PORT: u16 = 10_000;
const SPARE_PORT: u16 = 11_000;
const SPARE_TO_PORT: u16 = 21_000;
/// Ways through one forward: two clients, by some ports of two addresses.
const WAYS: u16 = 8;

/// What sessions are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Whom a client sends to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// The server's own address: by masquerade.
    Server,
    /// This port of the first external address: by a forward.
    First(u16),
    /// This port of the address that stays.
    Kept(u16),
}

/// One way that sessions take.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) rule: &'static str,
    pub(super) protocol: Protocol,
    pub(super) client: Host,
    pub(super) target: Target,
    pub(super) server: Host,
    /// Where the server is, as it sees it.
    pub(super) service: SocketAddrV4,
}

impl Route {
    /// Where the client sends to, while `first` is the first external address.
    pub(super) fn to(&self, first: Ipv4Addr) -> SocketAddrV4 {
        match self.target {
            Target::Server => self.service,
            Target::First(port) => SocketAddrV4::new(first, port),
            Target::Kept(port) => SocketAddrV4::new(KEPT, port),
        }
    }

    pub(super) fn is_masquerade(&self) -> bool {
        matches!(self.target, Target::Server)
    }

    /// Whether sessions by it end when the first external address goes.
    pub(super) fn needs_first(&self) -> bool {
        !matches!(self.target, Target::Kept(_))
    }
}

/// Gives the uplink the address that stays.
///
/// # Errors
/// When the kernel does not take it.
pub fn add_kept_address(net: &Proxmox) -> Result<()> {
    let uplink = net.uplink;
    net.host
        .ip(&format!("address add {KEPT}/32 dev {uplink} scope link"))
}

/// The configuration, without the spare forwards.
#[must_use]
pub fn config(net: &Proxmox) -> String {
    format!(
        "{}[[snat]]\nname = \"lan-out\"\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\
         [[forward]]\nname = \"web\"\nuplink = \"wan\"\nprotocol = \"tcp\"\nports = \
         \"10000-10099\"\n\
         to = \"{}\"\n\
         [[forward]]\nname = \"game\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = \
         \"10000-10099\"\n\
         to = \"{}\"\n",
        net.config_head(),
        Proxmox::VM1,
        Proxmox::VM2
    )
}

/// One of the spare forwards, [`SPARE`]: many ports to one.
#[must_use]
pub fn spare_config(spare: usize) -> String {
    let (protocol, guest) = [("tcp", Proxmox::VM2), ("udp", Proxmox::VM1)][spare];
    format!(
        "[[forward]]\nname = \"{}\"\nuplink = \"wan\"\nprotocol = \"{protocol}\"\n\
         ports = \"{SPARE_PORT}-{}\"\nto = \"{guest}\"\nto_ports = {SPARE_TO_PORT}\n",
        SPARE[spare],
        SPARE_PORT + 9
    )
}

/// All ways, and for each session the number of its way: as many sessions of either protocol, half
/// of them by masquerade and half by forwards.
pub(super) fn plan(net: &Proxmox, each: usize, with_spare: bool) -> (Vec<Route>, Vec<usize>) {
    let (mut routes, mut sessions) = (Vec::new(), Vec::new());
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let [out, back, spare] = [
            masquerades(net, protocol),
            forwards(net, protocol),
            spares(net, protocol),
        ]
        .map(|ways| {
            let first = routes.len();
            routes.extend(ways);
            first..routes.len()
        });
        for n in 0..each {
            let ways = match n % 20 {
                n if n % 2 == 0 => &out,
                19 if with_spare => &spare,
                _ => &back,
            };
            sessions.push(ways.start + n / 2 % ways.len());
        }
    }
    (routes, sessions)
}

fn outside(net: &Proxmox) -> [(Host, Ipv4Addr); 2] {
    [
        (net.cli.clone(), Proxmox::CLI),
        (net.srv2.clone(), Proxmox::SRV2),
    ]
}

fn masquerades(net: &Proxmox, protocol: Protocol) -> Vec<Route> {
    let guests = [&net.vm1, &net.vm2];
    let pairs = guests
        .into_iter()
        .flat_map(|guest| outside(net).map(|server| (guest, server)));
    pairs
        .map(|(guest, (server, address))| Route {
            rule: RULES[0],
            protocol,
            client: guest.clone(),
            target: Target::Server,
            server,
            service: SocketAddrV4::new(address, OUTSIDE_PORT),
        })
        .collect()
}

fn forwards(net: &Proxmox, protocol: Protocol) -> Vec<Route> {
    let (rule, server, guest) = match protocol {
        Protocol::Tcp => (RULES[1], &net.vm1, Proxmox::VM1),
        Protocol::Udp => (RULES[2], &net.vm2, Proxmox::VM2),
    };
    let way = |n: u16| {
        let port = FORWARDED_PORT + n / 2;
        Route {
            rule,
            protocol,
            client: outside(net)[usize::from(n % 2)].0.clone(),
            target: match n {
                0 | 1 => Target::First(port),
                _ => Target::Kept(port),
            },
            server: server.clone(),
            service: SocketAddrV4::new(guest, port),
        }
    };
    (0..WAYS).map(way).collect()
}

fn spares(net: &Proxmox, protocol: Protocol) -> Vec<Route> {
    let (rule, server, guest) = match protocol {
        Protocol::Tcp => (SPARE[0], &net.vm2, Proxmox::VM2),
        Protocol::Udp => (SPARE[1], &net.vm1, Proxmox::VM1),
    };
    let way = |n: u16| Route {
        rule,
        protocol,
        client: outside(net)[usize::from(n)].0.clone(),
        target: Target::Kept(SPARE_PORT + n),
        server: server.clone(),
        service: SocketAddrV4::new(guest, SPARE_TO_PORT),
    };
    (0..2).map(way).collect()
}
