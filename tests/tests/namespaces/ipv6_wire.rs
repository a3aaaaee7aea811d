//! NPTv6 with offloads on and off (6C2).

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, ensure};
use lab::Natbpf;
use lab::topology::{Ipv6, Options, Proxmox};
use tests::at6;
use tests::bulk::{Sender, transfer};

use super::wire::{bad_checksums, with_each_offload};

const NET: Ipv6 = Ipv6::ROUTED;
const GUEST: Ipv6Addr = Ipv6::LOCAL_VM1;
/// What stands for the guest in NPTv6's external prefix (RFC 6296).
const EXTERNAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x150, 0xce0f, 0, 0, 0x170);

const MEGABYTE: usize = 1_000_000;

const CONFIG: &str = r#"
[uplink.wan]
interface = "vmbr0"
[network.lan]
interface = "vmbr1"
address = ["172.22.161.254/24", "fd00:18::1/64"]
inbound = "accept"
[[nat]]
uplink = "wan"
address = "2001:db8:0:150::/64"
to = "fd00:18::/64"
"#;

/// A guest with a unique local address alone.
fn world() -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })?;
    net.vm1.ip(&format!(
        "address del {}/64 dev eth0\nroute replace default via {}",
        NET.vm1,
        Ipv6::LOCAL_GATEWAY
    ))?;
    let natbpf = net.natbpf(CONFIG)?;
    Ok((net, natbpf))
}

/// One connection from outside and one from the guest, each sending both ways; whatever is on the
/// wire meanwhile has right checksums.
fn both_ways(net: &Proxmox) -> Result<()> {
    let wire = net.isp.capture(Proxmox::WAN)?;
    for sender in [Sender::Client, Sender::Server] {
        let to = at6(EXTERNAL, 10_001);
        transfer(&net.cli, to, &net.vm1, 10_001, sender, MEGABYTE)
            .with_context(|| format!("from outside, {sender:?} sends"))?;
        let to = at6(Ipv6::CLI, 7000);
        let seen = transfer(&net.vm1, to, &net.cli, 7000, sender, MEGABYTE)
            .with_context(|| format!("from the guest, {sender:?} sends"))?;
        ensure!(*seen.ip() == EXTERNAL, "seen as {seen}");
    }
    let packets = wire.packets6();
    ensure!(!packets.is_empty(), "nothing was on the wire");
    for (frame, packet) in packets {
        frame.checksums().with_context(|| packet.to_string())?;
        let is_inside = [packet.source, packet.destination].contains(&GUEST);
        ensure!(!is_inside, "{packet}");
    }
    for host in [&net.vm1, &net.cli] {
        let bad = bad_checksums(host)?;
        ensure!(bad == 0, "{} threw {bad} packets away", host.name());
    }
    Ok(())
}

#[test]
fn c6_2_nptv6_with_offloads_on_and_off_at_each_end() -> Result<()> {
    let (net, _natbpf) = world()?;
    with_each_offload(&net, || both_ways(&net))
}
