//! The fast path of IPv6 by XDP: it shares the uplink's program with IPv4.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use aya::util::KernelVersion;
use lab::patience::patience;
use lab::topology::{Ipv6, Options, Proxmox, Uplink};
use lab::{Capture, Natbpf, Offload};
use tests::order::arrive_in_order;
use tests::{exchange, hears};

const NET: Ipv6 = Ipv6::ROUTED;

/// What may go through traffic control of many packets of a session: the first ones, and one in
/// 16 s.
const FEW: usize = 12;
/// Packets that a session sends each way when the test checks whether XDP takes them.
const MANY: usize = 60;

fn at(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, 0).into()
}

fn udp(host: &lab::Host, address: Ipv6Addr, port: u16) -> Result<UdpSocket> {
    host.udp(&at(address, port).to_string())
}

/// The file with these addresses of the network, and more tables.
fn config(addresses: &str, tables: &str) -> String {
    format!(
        "[uplink.wan]\ninterface = \"eno1\"\nmode = \"xdp\"\n\n[network.lan]\ninterface = \
         \"vmbr1\"\naddress = [{addresses}]\n\n[[snat]]\nname = \"lan-out\"\nnetwork = \
         \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\n[[forward]]\nname = \
         \"second\"\nuplink = \"wan\"\nprotocol = \"udp\"\nports = \"9000-9099\"\nto = \
         \"172.22.161.171\"\n\n{tables}\n"
    )
}

const BOTH: &str = r#""172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64""#;
const IPV4: &str = r#""172.22.161.254/24""#;
const FORWARD: &str = "[[forward]]\nname = \"first\"\nuplink = \"wan\"\n\
    protocol = [\"tcp\", \"udp\"]\nports = \"10000-10099\"\nto = \"fd00:18::170\"\n";

/// A NIC as the uplink, and ends that take frames from XDP.
fn world() -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ipv6: Some(NET),
        ..Options::default()
    })?;
    for vm in [&net.vm1, &net.vm2] {
        vm.set_offload("eth0", Offload::Gro, true)?;
    }
    // XDP leaves unfinished checksums to the kernel.
    net.cli.set_offload("eth0", Offload::Checksum, false)?;
    let natbpf = net.natbpf(&config(BOTH, FORWARD))?;
    Ok((net, natbpf))
}

/// A session by masquerade and one by a forward, of UDP.
struct Sessions {
    pairs: [(UdpSocket, SocketAddr, UdpSocket); 2],
}

impl Sessions {
    fn open(net: &Proxmox) -> Result<Self> {
        let guest = (
            udp(&net.vm1, Ipv6::LOCAL_VM1, 5000)?,
            at(Ipv6::CLI, 7000),
            udp(&net.cli, Ipv6::CLI, 7000)?,
        );
        let remote = (
            udp(&net.cli, Ipv6::CLI, 6000)?,
            at(NET.public, 10_000),
            udp(&net.vm1, Ipv6::LOCAL_VM1, 10_000)?,
        );
        let sessions = Self {
            pairs: [guest, remote],
        };
        sessions.settle()?;
        Ok(sessions)
    }

    /// Gives the daemon time to see where everybody is, and the sessions packets to learn it by.
    fn settle(&self) -> Result<()> {
        self.talk(4)?;
        thread::sleep(patience(Duration::from_secs(1)));
        self.talk(4)
    }

    fn talk(&self, times: usize) -> Result<()> {
        for (client, to, server) in &self.pairs {
            for _ in 0..times {
                exchange(client, *to, server, b"to and fro")?;
            }
        }
        Ok(())
    }

    /// How many packets of 2 × [`MANY`] from outside come as far as traffic control.
    fn slow_packets(&self, net: &Proxmox) -> Result<usize> {
        let uplink = net.host.capture("eno1")?;
        self.talk(MANY)?;
        Ok(arrived(&uplink))
    }

    fn are_in_xdp(&self, net: &Proxmox) -> Result<()> {
        let slow = self.slow_packets(net)?;
        // Before, the kernel does not say that a veth takes frames, and traffic control sends them.
        if KernelVersion::current()? >= KernelVersion::new(6, 3, 0) {
            ensure!(slow <= FEW, "{slow} packets went through traffic control");
        }
        Ok(())
    }
}

/// Datagrams of the test that came in where programs of traffic control see them.
fn arrived(uplink: &Capture) -> usize {
    let is_ours = |port: u16| matches!(port, 5000 | 6000 | 7000 | 10_000);
    let packets = uplink.packets6();
    let packets = packets.iter().filter(|(frame, packet)| {
        let ports = packet.ports();
        !frame.outgoing && ports.is_some_and(|(from, to)| is_ours(from) && is_ours(to))
    });
    packets.count()
}

fn has_hook(natbpf: &Natbpf, hook: &str) -> Result<bool> {
    let status = natbpf.status()?;
    let hooks = status["interfaces"][0]["hooks"].as_array().cloned();
    Ok(hooks.unwrap_or_default().iter().any(|one| one == hook))
}

#[test]
fn xdp_takes_inbound_datagrams_of_ipv6_and_they_stay_right() -> Result<()> {
    let (net, natbpf) = world()?;
    ensure!(has_hook(&natbpf, "xdp-native-ipv6")?);
    let sessions = Sessions::open(&net)?;
    sessions.are_in_xdp(&net)?;
    let guest = net.vm1.capture("eth0")?;
    for is_unfinished in [false, true] {
        net.cli
            .set_offload("eth0", Offload::Checksum, is_unfinished)?;
        for (client, to, server) in &sessions.pairs {
            for length in [0, 1, 64, 1000, 1400] {
                exchange(client, *to, server, &vec![0x5a; length])?;
            }
        }
    }
    for (frame, packet) in guest.packets6() {
        let is_ours = packet.ports().is_some_and(|(from, _)| from == 7000);
        if is_ours && !frame.outgoing {
            // The provider's router and the host.
            ensure!(packet.hop_limit == 62, "{packet}");
        }
    }
    // Echo requests and their answers are datagrams, too.
    let ping = format!(
        "ping -n -c20 -i0.02 -W2 -I {} {}",
        Ipv6::LOCAL_VM1,
        Ipv6::CLI
    );
    net.vm1.check(ping.split(' ').map(str::to_owned))?;
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().cloned().unwrap_or_default();
    let forward = rules.iter().find(|rule| rule["name"] == "first");
    let counted = forward.and_then(|rule| rule["packets_in"].as_u64());
    ensure!(counted == Some(8 + MANY as u64 + 10), "{stats}");
    Ok(())
}

/// Packets that the program leaves to the kernel.
#[test]
fn xdp_leaves_other_packets_of_ipv6_to_the_kernel() -> Result<()> {
    let (net, _natbpf) = world()?;
    let sessions = Sessions::open(&net)?;
    sessions.are_in_xdp(&net)?;
    let (client, to, server) = &sessions.pairs[1];
    // More than a frame: fragments.
    exchange(client, *to, server, &vec![0x5a; 1900])?;
    // A packet that may go no further.
    let uplink = net.host.capture("eno1")?;
    let guest = net.vm1.capture("eth0")?;
    let header = kit::packets::udp(
        kit::packets::At(Ipv6::CLI.octets(), 6000),
        kit::packets::At(NET.public.octets(), 10_000),
    );
    for hops in [1, 0] {
        let mut packet = header.clone().payload(b"too far").bytes();
        packet[14 + 7] = hops;
        net.inject_from_internet(&packet[14..])?;
    }
    ensure!(hears(server)?.is_none(), "a packet without hops arrived");
    ensure!(
        guest
            .packets6()
            .iter()
            .all(|(_, packet)| packet.hop_limit != 0),
        "forwarded with hop limit 0"
    );
    ensure!(arrived(&uplink) > 0, "nothing reached the kernel");
    // The session is in XDP again.
    sessions.settle()?;
    sessions.are_in_xdp(&net)
}

#[test]
fn packets_of_ipv6_keep_their_order_when_a_session_moves_to_xdp() -> Result<()> {
    let (net, _natbpf) = world()?;
    let sender = udp(&net.cli, Ipv6::CLI, 6001)?;
    let receiver = udp(&net.vm1, Ipv6::LOCAL_VM1, 10_001)?;
    arrive_in_order(&sender, at(NET.public, 10_001), &receiver, || Ok(()))
}

/// The XDP program of IPv4 stays when IPv6 goes and comes.
#[test]
fn ipv6_comes_into_xdp_and_goes_with_a_reload() -> Result<()> {
    let (net, natbpf) = world()?;
    let ipv4 = (
        net.cli.udp("198.51.100.2:6000")?,
        tests::at(Proxmox::PUBLIC, 9000),
        net.vm2.udp("0.0.0.0:9000")?,
    );
    let talk = || -> Result<()> {
        for _ in 0..4 {
            exchange(&ipv4.0, ipv4.1, &ipv4.2, b"ipv4")?;
        }
        Ok(())
    };
    talk()?;
    Sessions::open(&net)?.are_in_xdp(&net)?;
    for _ in 0..2 {
        natbpf.reload(&config(IPV4, ""))?;
        ensure!(!has_hook(&natbpf, "xdp-native-ipv6")?);
        ensure!(has_hook(&natbpf, "xdp-native")?);
        talk()?;
        natbpf.reload(&config(BOTH, FORWARD))?;
        ensure!(has_hook(&natbpf, "xdp-native-ipv6")?);
        talk()?;
        Sessions::open(&net)?.are_in_xdp(&net)?;
    }
    // Larger tables have programs of their own.
    let sessions = Sessions::open(&net)?;
    for limit in ["sessions_ipv6 = 20000", "sessions = 30000"] {
        let limits = format!("{FORWARD}\n[limits]\n{limit}\n");
        natbpf.reload(&config(BOTH, &limits))?;
        sessions.settle()?;
        sessions.are_in_xdp(&net)?;
        talk()?;
    }
    // And so has traffic control, if the file says so.
    natbpf.reload(&config(BOTH, FORWARD).replace("\"xdp\"", "\"tc\""))?;
    ensure!(!has_hook(&natbpf, "xdp-native-ipv6")?);
    let slow = sessions.slow_packets(&net)?;
    ensure!(
        slow >= 2 * MANY,
        "{slow} packets went through traffic control"
    );
    Ok(())
}

/// As long as the daemon's lease lasts, nothing changes without it, and the next one takes over.
#[test]
fn ipv6_stays_in_xdp_while_the_daemon_starts_again() -> Result<()> {
    let (net, mut natbpf) = world()?;
    let sessions = Sessions::open(&net)?;
    sessions.are_in_xdp(&net)?;
    natbpf.kill()?;
    sessions.are_in_xdp(&net)?;
    natbpf.launch()?;
    sessions.settle()?;
    sessions.are_in_xdp(&net)?;
    natbpf.down()?;
    ensure!(
        !net.host
            .check(["ip", "link", "show", "eno1"])?
            .contains("xdp")
    );
    Ok(())
}
