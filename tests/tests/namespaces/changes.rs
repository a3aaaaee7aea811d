//! The fate of sessions when the host's network changes.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

use anyhow::{Context, Result, ensure};
use lab::topology::{Options, Proxmox, Uplink};
use nix::sys::signal::Signal;
use tests::following::{FOLLOWED, followed, soon, soon_seen};
use tests::{at, exchange};

/// The host's address on a second wire to the provider, and the provider's.
const BACKUP: Ipv4Addr = Ipv4Addr::new(19, 19, 9, 10);
const BACKUP_ISP: Ipv4Addr = Ipv4Addr::new(19, 19, 9, 1);

/// A server outside and a guest of it.
fn ends(net: &Proxmox) -> Result<(UdpSocket, UdpSocket)> {
    let server = net.cli.udp("198.51.100.2:7000")?;
    Ok((server, net.vm1.udp("0.0.0.0:5000")?))
}

/// The guest is seen as this address soon; then an answer must come back.
fn is_seen_as(guest: &UdpSocket, server: &UdpSocket, expected: Ipv4Addr) -> Result<()> {
    let to = at(Proxmox::CLI, 7000);
    let seen = soon_seen(guest, to, server, |seen| seen.ip() == expected)
        .with_context(|| format!("not seen as {expected}"))?;
    server.send_to(b"answer", seen)?;
    guest.recv(&mut [0; 16]).context("no answer")?;
    Ok(())
}

#[test]
fn l11_a_second_uplink_takes_over() -> Result<()> {
    let net = Proxmox::new()?;
    net.lab().veth((&net.host, "wan1"), (&net.isp, "wan1"))?;
    net.host.ip(&format!("address add {BACKUP}/24 dev wan1"))?;
    net.isp
        .ip(&format!("address add {BACKUP_ISP}/24 dev wan1"))?;
    let config = format!(
        "{}[uplink.backup]\ninterface = \"wan1\"\n[[snat]]\nname = \"backup-out\"\n\
         network = \"lan\"\nuplink = \"backup\"\nto = \"masquerade\"\n",
        net.config()
    );
    let natbpf = net.natbpf(&config)?;
    let (server, guest) = ends(&net)?;
    let (client, service) = (
        net.cli.udp("198.51.100.2:6000")?,
        net.vm2.udp("0.0.0.0:10000")?,
    );
    let ask = || exchange(&client, at(Proxmox::PUBLIC, 10000), &service, b"in");
    for _ in 0..8 {
        is_seen_as(&guest, &server, Proxmox::PUBLIC)?;
        ask()?;
    }
    net.host
        .ip(&format!("route replace default via {BACKUP_ISP} dev wan1"))?;
    is_seen_as(&guest, &server, BACKUP)?;
    // Who has asked at one address is answered from there.
    ask().context("asked by the first uplink, answered by the second")?;
    let sessions = natbpf.conntrack(&["--internal", "172.22.161.170"])?;
    ensure!(
        sessions.len() == 1,
        "the former session is still there: {sessions:?}"
    );
    net.host.ip(&format!(
        "route replace default via {} dev vmbr0",
        Proxmox::ISP
    ))?;
    is_seen_as(&guest, &server, Proxmox::PUBLIC)?;
    ask()?;
    Ok(())
}

#[test]
fn an_uplink_that_becomes_the_port_of_a_bridge_is_followed_by_a_reload() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ..Options::default()
    })?;
    let natbpf = net.natbpf(&net.config())?;
    let (server, guest) = ends(&net)?;
    is_seen_as(&guest, &server, Proxmox::PUBLIC)?;
    net.host.ip(&format!(
        "link add vmbr0 type bridge forward_delay 0 stp_state 0\nlink set vmbr0 up\n\
         address del {public}/24 dev eno1\nlink set eno1 master vmbr0\n\
         address add {public}/24 dev vmbr0\nroute replace default via {isp} dev vmbr0",
        public = Proxmox::PUBLIC,
        isp = Proxmox::ISP
    ))?;
    natbpf.reload(&net.config().replace("\"eno1\"", "\"vmbr0\""))?;
    is_seen_as(&guest, &server, Proxmox::PUBLIC)?;
    let (client, service) = (
        net.cli.udp("198.51.100.2:6000")?,
        net.vm2.udp("0.0.0.0:10000")?,
    );
    exchange(&client, at(Proxmox::PUBLIC, 10000), &service, b"in")?;
    let interfaces = &natbpf.status()?["interfaces"];
    ensure!(interfaces[0]["name"] == "vmbr0", "{interfaces}");
    Ok(())
}

#[test]
fn an_address_beside_the_others_comes_and_goes() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let (server, guest) = ends(&net)?;
    is_seen_as(&guest, &server, Proxmox::PUBLIC)?;
    let other = Ipv4Addr::new(19, 19, 8, 77);
    let (client, service) = (
        net.cli.udp("198.51.100.2:6000")?,
        net.vm2.udp("0.0.0.0:10000")?,
    );
    for _ in 0..3 {
        net.host.ip(&format!("address add {other}/24 dev vmbr0"))?;
        soon_seen(&client, at(other, 10000), &service, |_| true)?;
        exchange(&client, at(other, 10000), &service, b"by the new address")?;
        net.host.ip(&format!("address del {other}/24 dev vmbr0"))?;
        followed("the address's sessions end", || {
            let sessions = natbpf.conntrack(&["--internal", "172.22.161.171"])?;
            Ok(sessions.is_empty())
        })?;
    }
    let sessions = natbpf.conntrack(&["--internal", "172.22.161.170"])?;
    ensure!(sessions.len() == 1, "{sessions:?}");
    is_seen_as(&guest, &server, Proxmox::PUBLIC)
}

/// So many changes that the kernel drops messages about them: the daemon looks at everything again.
#[test]
fn changes_that_the_kernel_could_not_tell_of_are_followed() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let (server, guest) = ends(&net)?;
    is_seen_as(&guest, &server, Proxmox::PUBLIC)?;
    let other = Ipv4Addr::new(19, 19, 8, 11);
    natbpf.signal(Signal::SIGSTOP)?;
    for _ in 0..400 {
        net.host.ip("link set tap2 down\nlink set tap2 up")?;
    }
    net.exchange_address(Proxmox::PUBLIC, other)?;
    natbpf.signal(Signal::SIGCONT)?;
    is_seen_as(&guest, &server, other).with_context(|| natbpf.log())?;
    let log = natbpf.log();
    ensure!(
        log.contains("dropped messages"),
        "no message was lost, so this shows nothing: {log}"
    );
    Ok(())
}

#[test]
fn a_change_that_could_not_be_followed_is_followed_later() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let (server, guest) = ends(&net)?;
    is_seen_as(&guest, &server, Proxmox::PUBLIC)?;
    let [other, third] = [11, 12].map(|last| Ipv4Addr::new(19, 19, 8, last));
    let id = natbpf.id().context("the daemon runs")?.to_string();
    let prlimit = |words: &[&str]| net.host.check([&["prlimit", "--pid", &id], words].concat());
    let usual = prlimit(&["--nofile", "--output=SOFT", "--noheadings"])?;
    // It can open nothing more, not even a socket to ask the kernel by.
    prlimit(&["--nofile=3:"])?;
    net.exchange_address(Proxmox::PUBLIC, other)?;
    let fails = |pause: &str| {
        let said = format!("tried again in {pause}\n");
        soon(&said, || Ok(natbpf.log().contains(&said))).with_context(|| natbpf.log())
    };
    let usual = [&*format!("--nofile={}:", usual.trim())];
    fails("500ms")?;
    prlimit(&usual)?;
    is_seen_as(&guest, &server, other).with_context(|| natbpf.log())?;
    // Who waits long by now is woken by the next change.
    prlimit(&["--nofile=3:"])?;
    net.host.ip("address add 19.19.8.13/24 dev vmbr0")?;
    fails("4s")?;
    prlimit(&usual)?;
    net.exchange_address(other, third)?;
    is_seen_as(&guest, &server, third).with_context(|| natbpf.log())
}

#[test]
fn ports_of_guests_come_and_go() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    for round in 0..5 {
        let port = format!("tap{}", 7 + round);
        let vm = net.lab().host(&format!("vm{round}x"))?;
        net.lab().veth((&net.host, &port), (&vm, "eth0"))?;
        net.host.ip(&format!("link set {port} master vmbr1"))?;
        vm.ip(&format!(
            "address add 172.22.161.{}/24 dev eth0\nroute add default via {}",
            200 + round,
            Proxmox::GATEWAY
        ))?;
        let guest = vm.udp("0.0.0.0:5000")?;
        for _ in 0..4 {
            exchange(&guest, at(Proxmox::CLI, 7000), &server, b"from a new port")?;
        }
        net.host.ip(&format!("link del {port}"))?;
    }
    thread::sleep(FOLLOWED);
    let log = natbpf.log();
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}
