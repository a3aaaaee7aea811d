//! "Packet too big" in both directions, by every kind of translation (6G5).

use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kit::packets::{At, error_with_code, udp, with_rest};
use lab::patience::patience;
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Capture, Host, Packet6};
use tests::{at6, exchange};

const NET: Ipv6 = Ipv6::ROUTED;
const GUEST: Ipv6Addr = Ipv6::LOCAL_VM1;

/// A router on the remote's side.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// Where a frame made by the kit has its IP header, and that header its hop limit.
const ETHERNET: usize = 14;
const HOPS: usize = 7;

/// Behind the IPv6 header and that of ICMP, an error of 1280 bytes quotes so many.
const QUOTED: usize = 1280 - 40 - 8;
const TOO_BIG: [u8; 2] = [2, 0];

/// The first guest's public address in the world of [`world`], and by which its local one is known
/// outside.
#[derive(Clone, Copy, Debug)]
enum Way {
    Routed,
    Translated,
    Prefix,
}

const WAYS: [Way; 3] = [Way::Routed, Way::Translated, Way::Prefix];

/// The prefix of NPTv6, and what stands there for the first guest (RFC 6296).
const PREFIX: &str = "[[nat]]\nuplink = \"wan\"\naddress = \"2001:db8:0:150::/64\"\n\
                      to = \"fd00:18::/64\"\n";

const TRANSLATED: &str = "[[snat]]\nnetwork = \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\
                          [[forward]]\nuplink = \"wan\"\nprotocol = \"udp\"\nports = 10000\n\
                          to = \"fd00:18::170\"\n";

impl Way {
    fn config(self) -> String {
        let rules = match self {
            Self::Routed => "",
            Self::Translated => TRANSLATED,
            Self::Prefix => PREFIX,
        };
        format!(
            r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "2001:db8:0:101::1/64", "fd00:18::1/64"]
inbound = "accept"
{rules}
"#
        )
    }

    /// The guest's address.
    fn guest(self) -> Ipv6Addr {
        match self {
            Self::Routed => NET.vm1,
            Self::Translated | Self::Prefix => GUEST,
        }
    }
}

fn world() -> Result<Proxmox> {
    let net = Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })?;
    // (Errors are limited, by the address that they go to.)
    net.host.set_sysctl("net.ipv6.icmp.ratelimit", "0")?;
    Ok(net)
}

fn datagram(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), len: usize) -> Vec<u8> {
    let ends = (At(from.0.octets(), from.1), At(to.0.octets(), to.1));
    let payload: Vec<u8> = (0..len).map(|at| (at * 7 % 251) as u8).collect();
    udp(ends.0, ends.1).payload(&payload).bytes()
}

/// The one error that somebody gets, with its MTU; its checksum is right, and it quotes this packet
/// of theirs as it was when its hops had become fewer.
fn told(wire: &Capture, own: &[u8]) -> Result<(Packet6, u32)> {
    let (frame, seen) =
        wire.wait_for6(|frame, seen| !frame.outgoing && seen.icmp() == Some((2, 0)))?;
    frame.checksums()?;
    let mtu = seen.bytes[44..48].try_into().context("no MTU")?;
    let (quoted, own) = (seen.quoted().context("no quotation")?, &own[ETHERNET..]);
    ensure!(
        quoted.len() >= QUOTED.min(own.len()),
        "{} bytes",
        quoted.len()
    );
    let differs = (0..quoted.len()).filter(|at| *at != HOPS && quoted[*at] != own[*at]);
    let differs: Vec<usize> = differs.collect();
    ensure!(
        differs.is_empty(),
        "{seen} differs in bytes {differs:?} of the packet"
    );
    Ok((seen, u32::from_be_bytes(mtu)))
}

fn is_datagram(packet: &Packet6, port: u16) -> bool {
    packet.ports().is_some_and(|(_, to)| to == port) && packet.icmp().is_none()
}

/// A router outside says any MTU, also one that IPv6 does not have (RFC 8201 section 4).
#[test]
fn g6_5_a_router_outside_tells_the_guest_in_each_kind_of_translation() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&Way::Routed.config())?;
    net.vm1.ping(Ipv6::CLI)?;
    for way in WAYS {
        natbpf.reload(&way.config())?;
        for (port, mtu) in [(7000, 1280), (7001, 1000), (7002, 1492)] {
            let sent = datagram((way.guest(), 5000), (Ipv6::CLI, port), 1400);
            let (outside, wire) = (net.cli.capture("eth0")?, net.vm1.capture("eth0")?);
            net.inject_from_guest(&net.vm1, &sent[ETHERNET..])?;
            let (_, out) = outside.wait_for6(|_, seen| is_datagram(seen, port))?;
            let about = [&sent[..ETHERNET], &out.bytes].concat();
            let error = error_with_code(ROUTER.octets(), &about, TOO_BIG, QUOTED);
            let error = with_rest(error, u32::to_be_bytes(mtu)).bytes();
            net.inject_from_internet(&error[ETHERNET..])?;
            let what = || format!("{way:?}, an MTU of {mtu}");
            let (seen, told) = told(&wire, &sent).with_context(what)?;
            ensure!(told == mtu, "{}: {told}", what());
            ensure!(
                seen.source == ROUTER && seen.destination == way.guest(),
                "{seen}"
            );
        }
    }
    Ok(())
}

/// The host itself, when the link to the guest or the uplink is too small.
#[test]
fn g6_5_the_host_tells_both_sides_in_each_kind_of_translation() -> Result<()> {
    const TO_GUEST: u32 = 1400;
    const UPLINK: u32 = 1300;
    const USUAL: u32 = 1500;
    let net = world()?;
    let natbpf = net.natbpf(&Way::Routed.config())?;
    net.vm1.ping(Ipv6::CLI)?;
    for way in WAYS {
        resize(&net.host, &[(net.uplink, USUAL), ("vmbr1", USUAL)])?;
        natbpf.reload(&way.config())?;
        // An established session, in which packets take the shortest way that there is.
        let (guest, remote) = (
            udp_at(&net.vm1, way.guest(), 5000)?,
            udp_at(&net.cli, Ipv6::CLI, 7000)?,
        );
        let mut seen = at6(Ipv6::CLI, 0);
        for _ in 0..6 {
            seen = exchange(&guest, at6(Ipv6::CLI, 7000), &remote, b"question")?;
        }
        resize(&net.host, &[(net.uplink, UPLINK)])?;
        let sent = datagram((way.guest(), 5000), (Ipv6::CLI, 7000), 1400);
        let wire = net.vm1.capture("eth0")?;
        net.inject_from_guest(&net.vm1, &sent[ETHERNET..])?;
        let (_, mtu) = told(&wire, &sent).with_context(|| format!("{way:?}, to the guest"))?;
        ensure!(mtu == UPLINK, "{way:?}: {mtu}");

        resize(&net.host, &[(net.uplink, USUAL), ("vmbr1", TO_GUEST)])?;
        // To the session, and to the forward, which has none as yet.
        let ends = match way {
            Way::Translated => vec![(*seen.ip(), seen.port()), (NET.public, 10_000)],
            _ => vec![(*seen.ip(), seen.port())],
        };
        for to in ends {
            let sent = datagram((Ipv6::CLI, 7000), to, 1420);
            let wire = net.isp.capture(Proxmox::WAN)?;
            net.inject_from_internet(&sent[ETHERNET..])?;
            let what = || format!("{way:?}, to the remote, about {to:?}");
            let (error, mtu) = told(&wire, &sent).with_context(what)?;
            ensure!(mtu == TO_GUEST, "{}: {mtu}", what());
            ensure!(error.destination == Ipv6::CLI, "{error}");
        }
    }
    Ok(())
}

/// The daemon hears of it by itself, and tells the fast path.
fn resize(host: &Host, links: &[(&str, u32)]) -> Result<()> {
    for (link, mtu) in links {
        host.ip(&format!("link set {link} mtu {mtu}"))?;
    }
    thread::sleep(patience(Duration::from_secs(1)));
    Ok(())
}

fn udp_at(host: &Host, address: Ipv6Addr, port: u16) -> Result<std::net::UdpSocket> {
    host.udp(&at6(address, port).to_string())
}
