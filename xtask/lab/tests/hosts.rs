//! The lab itself, without natbpf. Needs root.

use std::net::SocketAddrV4;
use std::path::Path;

use anyhow::{Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Options, Proxmox, Snat, Uplink};

const PING: [&str; 4] = ["ping", "-c1", "-W1", "-n"];

fn ping(host: &lab::Host, to: impl ToString) -> Result<()> {
    host.check(PING.into_iter().map(str::to_owned).chain([to.to_string()]))
        .map(drop)
}

#[test]
fn every_uplink_carries_packets() -> Result<()> {
    for uplink in [Uplink::Bridge, Uplink::Nic, Uplink::Tun] {
        let net = Proxmox::with(&Options {
            uplink,
            ..Options::default()
        })?;
        ping(&net.host, Proxmox::CLI_B)?;
        ping(&net.srv2, Proxmox::PUBLIC)?;
        ping(&net.vm1, Proxmox::VM2)?;
        ping(&net.vm2, Proxmox::GATEWAY)?;
        ensure!(
            ping(&net.vm2, Proxmox::CLI).is_err(),
            "no NAT is configured here"
        );
    }
    Ok(())
}

#[test]
fn a_tenant_reaches_its_gateway_and_no_further() -> Result<()> {
    let net = Snat::new()?;
    ping(&net.guest, Snat::PUBLIC)?;
    ping(&net.host, Snat::OUT)?;
    ensure!(
        ping(&net.guest, Snat::OUT).is_err(),
        "no NAT is configured here"
    );
    Ok(())
}

#[test]
fn a_dropped_lab_leaves_nothing_behind() -> Result<()> {
    let net = Proxmox::new()?;
    let place = net.lab().place().clone();
    ensure!(place.exists() && place.folder().is_dir());
    // A process that the lab does not know by itself: it ends with its namespace.
    let sleeper = net
        .vm1
        .check(["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & echo $!"])?;
    drop(net);
    ensure!(!place.exists() && !place.folder().exists());
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    ensure!(!mounts.contains(place.prefix()), "still mounted: {mounts}");
    let stat = std::fs::read_to_string(Path::new("/proc").join(sleeper.trim()).join("stat"));
    ensure!(
        stat.map_or(true, |stat| stat.contains(") Z ")),
        "still running"
    );
    Ok(())
}

#[test]
fn services_answer_and_captures_see_it() -> Result<()> {
    let net = Proxmox::new()?;
    let capture = net.vm1.capture("eth0")?;
    let _http = Service::http(&net.vm1, "0.0.0.0:80")?;
    let _mirror = Service::udp_mirror(&net.vm1, "0.0.0.0:53")?;
    let page = service::http_get(&net.vm2, SocketAddrV4::new(Proxmox::VM1, 80))?;
    ensure!(page.starts_with("vm1 sees 172.22.161.171:"), "{page}");
    let socket = net.vm2.udp("0.0.0.0:4000")?;
    let seen = service::seen_at(&socket, SocketAddrV4::new(Proxmox::VM1, 53))?;
    ensure!(seen == SocketAddrV4::new(Proxmox::VM2, 4000), "{seen}");
    capture.wait_for(|frame, packet| frame.outgoing && packet.ports() == Some((53, 4000)))?;
    for frame in capture.stop() {
        frame.checksums()?;
    }
    Ok(())
}

#[test]
fn a_capture_holds_what_has_passed_whether_or_not_its_thread_has_run() -> Result<()> {
    let net = Proxmox::new()?;
    let capture = net.vm1.capture("eth0")?;
    let socket = net.vm1.udp("0.0.0.0:4000")?;
    for sent in 1..=100 {
        socket.send_to(b"x", SocketAddrV4::new(Proxmox::VM2, 53))?;
        let packets = capture.packets();
        let seen = packets
            .iter()
            .filter(|(frame, packet)| frame.outgoing && packet.ports() == Some((4000, 53)))
            .count();
        // The first one waits until the guest's address is resolved.
        ensure!(sent == 1 || seen == sent, "{seen} of {sent}");
        if sent == 1 {
            capture.wait_for(|_, packet| packet.ports() == Some((4000, 53)))?;
        }
    }
    Ok(())
}
