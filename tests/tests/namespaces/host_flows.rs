//! The host's own flows have precedence over forwards and guests: S7, S8.

use anyhow::{Context, Result, ensure};
use kit::craft::Ip;
use lab::service::{self, Service};
use lab::topology::Proxmox;
use lab::{Background, Natbpf};
use tests::following::soon;
use tests::{at, exchange};

const GRE: u8 = 47;

/// Masquerade, and everything that comes in to the first guest.
const EVERYTHING: &str = r#"
[[snat]]
network = "lan"
uplink = "wan"
to = "masquerade"
[[forward]]
uplink = "wan"
protocol = "all"
to = "172.22.161.170"
"#;

fn everything(net: &Proxmox) -> Result<Natbpf> {
    net.natbpf(&(net.config_head() + EVERYTHING))
}

#[test]
fn s7_the_host_gets_its_answers_under_a_forward_of_everything() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = everything(&net)?;
    let server = net.cli.udp("198.51.100.2:53")?;
    let own = net.host.udp("0.0.0.0:40123")?;
    let seen = exchange(&own, at(Proxmox::CLI, 53), &server, b"a question")?;
    ensure!(seen == at(Proxmox::PUBLIC, 40123), "seen as {seen}");
    exchange(&own, at(Proxmox::CLI, 53), &server, b"and another")?;
    net.host
        .check(["ping", "-n", "-c1", "-W2", "-s3000", "198.51.100.2"])
        .context("a ping in fragments")?;
    let _web = Service::http(&net.cli, "198.51.100.2:8080")?;
    service::http_get(&net.host, at(Proxmox::CLI, 8080)).context("a connection")?;
    // Everybody else reaches the guest by that very port.
    let guest = net.vm1.udp("0.0.0.0:40123")?;
    let other = net.srv2.udp("198.51.100.4:53")?;
    exchange(&other, at(Proxmox::PUBLIC, 40123), &guest, b"for the guest")?;
    Ok(())
}

#[test]
fn s7_a_remote_of_the_hosts_is_the_hosts_without_ports_too() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = everything(&net)?;
    let refused = || -> Result<u64> {
        let drops = &natbpf.stats()?["drops"];
        Ok(drops["remote_in_use"].as_u64().unwrap_or(0))
    };
    let (outside, inside) = (net.cli.capture("eth0")?, net.vm1.capture("eth0")?);
    // The guest is first: then the host's session takes its place.
    net.inject_from_guest(
        &net.vm1,
        &Ip::new(Proxmox::VM1, Proxmox::CLI).raw(GRE, b"of a guest")?,
    )?;
    outside.wait_for(|_, packet| packet.payload() == b"of a guest")?;
    let out = Ip::new(Proxmox::PUBLIC, Proxmox::CLI).raw(GRE, b"of the host")?;
    net.inject_from_host(&out)?;
    let (_, packet) = outside.wait_for(|_, packet| packet.payload() == b"of the host")?;
    ensure!(packet.source == Proxmox::PUBLIC, "{packet}");
    net.inject_from_guest(
        &net.vm1,
        &Ip::new(Proxmox::VM1, Proxmox::CLI).raw(GRE, b"to be refused")?,
    )?;
    inside.wait_for(|_, packet| packet.icmp() == Some((3, 1)))?;
    ensure!(refused()? == 1, "not counted");
    for (from, payload) in [
        (Proxmox::CLI, b"to the host "),
        (Proxmox::SRV2, b"to the guest"),
    ] {
        net.inject_from_internet(&Ip::new(from, Proxmox::PUBLIC).raw(GRE, payload)?)?;
    }
    inside.wait_for(|_, packet| packet.payload() == b"to the guest")?;
    let mixed = inside.packets();
    let mixed = mixed
        .iter()
        .any(|(_, packet)| packet.payload() == b"to the host ");
    ensure!(!mixed, "the guest got what was the host's");
    Ok(())
}

/// A DHCP server of the provider with one address, which it probes before it offers it.
fn dhcp_server(net: &Proxmox) -> Result<Background> {
    let leases = net.lab().folder().join("provider.leases");
    let server = net.isp.spawn([
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--bind-interfaces",
        &format!("--interface={}", Proxmox::WAN),
        "--dhcp-range=19.19.8.77,19.19.8.77,2m",
        &format!("--dhcp-leasefile={}", leases.display()),
        "--pid-file",
    ])?;
    soon("the provider's DHCP server", || {
        let sockets = net.isp.check(["ss", "-lunH"])?;
        Ok(sockets.contains(":67 "))
    })?;
    Ok(server)
}

#[test]
fn s8_an_uplink_gets_its_first_lease_of_an_address_that_is_forwarded() -> Result<()> {
    let net = Proxmox::new()?;
    let _server = dhcp_server(&net)?;
    net.host.ip(&format!("address flush dev {}", net.uplink))?;
    let forward = EVERYTHING.replace("to = \"172", "address = \"19.19.8.77\"\nto = \"172");
    let _natbpf = net.natbpf(&(net.config_head() + &forward))?;
    let client = [
        "udhcpc",
        "-f",
        "-q",
        "-n",
        "-i",
        net.uplink,
        "-t15",
        "-T1",
        "-s",
        "/bin/true",
    ];
    net.host.check(client).context("no lease")?;
    Ok(())
}

#[test]
fn s8_a_renewal_is_answered_under_a_forward_of_everything() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = everything(&net)?;
    let client = net.host.udp("0.0.0.0:68")?;
    let server = net.cli.udp("198.51.100.2:67")?;
    // The server may also be the first to speak (RFC 3203).
    server.send_to(b"reconfigure", at(Proxmox::PUBLIC, 68))?;
    let mut buffer = [0; 64];
    let (length, from) = client.recv_from(&mut buffer)?;
    ensure!(&buffer[..length] == b"reconfigure", "from {from}");
    exchange(&client, at(Proxmox::CLI, 67), &server, b"renew")?;
    Ok(())
}
