//! UDP checksums of IPv6 on the wire: none, and the one that would compute to 0.

use std::net::{Ipv6Addr, SocketAddrV6};

use anyhow::{Result, ensure};
use kit::packets::{At, ETHERNET, udp};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{L4, Natbpf, Packet6};
use tests::hears;

const NET: Ipv6 = Ipv6::ROUTED;
const GUEST: Ipv6Addr = Ipv6::LOCAL_VM1;
const CONFIG: &str = "[uplink.wan]\ninterface = \"vmbr0\"\n\n[network.lan]\ninterface = \
    \"vmbr1\"\naddress = [\"172.22.161.254/24\", \"fd00:18::1/64\"]\n\n[[snat]]\nnetwork = \
    \"lan\"\nuplink = \"wan\"\nto = \"masquerade\"\n\n[[forward]]\nuplink = \"wan\"\nprotocol = \
    \"udp\"\nports = 10000\nto = \"fd00:18::170\"\n";

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
