//! Checksums of IPv6 on the wire: of UDP without one, of one that would compute to 0, and those
//! that are left to devices.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use kit::packets::{At, ETHERNET, udp};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Host, L4, Natbpf, Packet6};
use tests::hears;

const NET: Ipv6 = Ipv6::ROUTED;
const GUEST: Ipv6Addr = Ipv6::LOCAL_VM1;
const CONFIG: &str = "[uplink.wan]\ninterface = \"vmbr0\"\n\n[network.lan]\ninterface = \
    \"vmbr1\"\naddress = [\"172.22.161.254/24\", \"fd00:18::1/64\"]\n\n[[snat]]\nnetwork = \
    \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\n[[forward]]\nuplink = \"wan\"\nprotocol = \
    [\"tcp\", \"udp\"]\nports = 10000\nto = \"fd00:18::170\"\n";

/// An end of a datagram.
type End = (Ipv6Addr, u16);

fn world() -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })?;
    let natbpf = net.natbpf(CONFIG)?;
    Ok((net, natbpf))
}

/// A datagram from its IP header on.
fn datagram(from: End, to: End, payload: &[u8], is_summed: bool) -> Vec<u8> {
    let [from, to] = [from, to].map(|(address, port)| At(address.octets(), port));
    let datagram = udp(from, to).payload(payload);
    let datagram = match is_summed {
        true => datagram,
        false => datagram.unsummed(),
    };
    datagram.bytes()[ETHERNET..].to_vec()
}

/// The data with which a datagram between these ends has a checksum that computes to 0.
fn all_ones(from: End, to: End) -> Vec<u8> {
    // The checksum as the payload: together they sum up to nothing but ones.
    datagram(from, to, &[0, 0], true)[46..48].to_vec()
}

fn checksum(packet: &Packet6) -> Option<u16> {
    match packet.l4 {
        L4::Udp { checksum, .. } => Some(checksum),
        _ => None,
    }
}

/// A datagram of a guest's and one to it are sent, and then each again: the first opens the flow
/// and the next ones take the fast path.
#[test]
fn c6_3_no_checksum_and_one_of_zero_leave_and_arrive_as_rfc_8200_says() -> Result<()> {
    let (net, _natbpf) = world()?;
    let remote = (Ipv6::CLI, 7000);
    let [server, service] =
        [(&net.cli, remote), (&net.vm1, (GUEST, 10000))].map(|(host, (address, port))| {
            host.udp(&SocketAddrV6::new(address, port, 0, 0).to_string())
        });
    let (server, service) = (server?, service?);
    let (shown, forwarded) = ((NET.public, 5000), (NET.public, 10000));
    for round in 0..3 {
        for (is_summed, expected) in [(false, 0), (true, 0xffff)] {
            let (outside, inside) = (net.cli.capture("eth0")?, net.vm1.capture("eth0")?);
            let payload = |from, to| match is_summed {
                true => all_ones(from, to),
                false => vec![0, round],
            };
            let data = payload(shown, remote);
            net.inject_from_guest(&net.vm1, &datagram((GUEST, 5000), remote, &data, is_summed))?;
            let (_, sent) = outside.wait_for6(|_, seen| {
                seen.source == NET.public && checksum(seen) == Some(expected)
            })?;
            ensure!(sent.payload() == data, "round {round}: {sent}");
            // The kernel takes no datagram of IPv6 without a checksum.
            ensure!(
                hears(&server)?.is_some() == is_summed,
                "round {round}: {sent}"
            );

            let data = payload(remote, (GUEST, 10000));
            net.inject_from_internet(&datagram(remote, forwarded, &data, is_summed))?;
            let (_, got) = inside.wait_for6(|_, seen| {
                seen.destination == GUEST && checksum(seen) == Some(expected)
            })?;
            ensure!(got.payload() == data, "round {round}: {got}");
            ensure!(
                hears(&service)?.is_some() == is_summed,
                "round {round}: {got}"
            );
        }
    }
    Ok(())
}

/// How much each connection carries.
const MUCH: usize = 16 << 20;
/// Bytes of a segment before it is cut, of BIG TCP.
const BIG: &str = "gso_max_size 185000 gro_max_size 185000";

fn at((address, port): End) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 0)
}

/// Sends much one way, and waits until the other end has all of it as it was sent.
fn carry(mut from: TcpStream, mut to: TcpStream) -> Result<()> {
    let sent: Vec<u8> = (0..MUCH).map(|at| (at / 7) as u8).collect();
    let received = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut bytes = Vec::new();
            to.read_to_end(&mut bytes).map(|_| bytes)
        });
        let written = from.write_all(&sent);
        drop(from);
        let read = reader.join().map_err(|_| anyhow!("the reader"))?;
        written.context("send").and(read.context("receive"))
    })?;
    ensure!(received == sent, "{} bytes, or others", received.len());
    Ok(())
}

/// How many segments with a wrong checksum a host has received.
fn wrong_sums(host: &Host) -> Result<u64> {
    let text = host.check(["cat", "/proc/net/snmp"])?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).context("no counters of TCP")?;
    let mut both = names.split(' ').zip(values.split(' '));
    let wrong = both.find(|(name, _)| *name == "InCsumErrors");
    wrong
        .context("no InCsumErrors")?
        .1
        .parse()
        .context("a number")
}

/// By masquerade and by a forward, both ways.
fn carry_all(net: &Proxmox, what: &str) -> Result<()> {
    let listeners = [
        net.cli.tcp_listen(&at((Ipv6::CLI, 7000)).to_string())?,
        net.vm1.tcp_listen(&at((GUEST, 10000)).to_string())?,
    ];
    for (client, to, listener) in [
        (&net.vm1, (Ipv6::CLI, 7000), &listeners[0]),
        (&net.cli, (NET.public, 10000), &listeners[1]),
    ] {
        for is_upload in [true, false] {
            let near = client.tcp(at(to))?;
            let far = listener.accept()?.0;
            let (from, to) = if is_upload { (near, far) } else { (far, near) };
            carry(from, to).with_context(|| format!("{what}, upload {is_upload}"))?;
        }
    }
    for host in [&net.vm1, &net.cli] {
        ensure!(
            wrong_sums(host)? == 0,
            "{what}: wrong sums at {}",
            host.name()
        );
    }
    Ok(())
}

#[test]
fn c6_2_much_by_tcp_has_right_sums_with_offloads_and_without() -> Result<()> {
    let (net, _natbpf) = world()?;
    // Guests have the address of masquerade alone.
    net.vm1
        .ip(&format!("address del {}/64 dev eth0", NET.vm1))?;
    let ends = [&net.vm1, &net.cli];
    for is_on in [true, false] {
        for end in ends {
            end.set_offloads("eth0", is_on)?;
        }
        net.host.set_offloads(net.wire, is_on)?;
        carry_all(&net, &format!("offloads {is_on}"))?;
    }
    for end in ends {
        end.set_offloads("eth0", true)?;
        // Kernels before 5.19 have no BIG TCP.
        let words = format!("ip link set eth0 {BIG}");
        let _is_known = end.run(words.split(' ').map(str::to_owned))?;
    }
    net.host.set_offloads(net.wire, true)?;
    carry_all(&net, "BIG TCP")
}
