//! The lab itself, without natbpf. Needs root.

use std::net::{SocketAddrV4, SocketAddrV6};
use std::path::Path;

use anyhow::{Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox, Snat, Uplink};

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

#[test]
fn hosts_of_both_families_reach_each_other_at_once() -> Result<()> {
    for (ipv6, uplink) in [
        (Ipv6::ROUTED, Uplink::Bridge),
        (Ipv6::ON_LINK, Uplink::Nic),
        (Ipv6::ROUTED, Uplink::Tun),
    ] {
        let net = Proxmox::with(&Options {
            uplink,
            ipv6: Some(ipv6),
            ..Options::default()
        })?;
        net.host.ping(Ipv6::CLI_B)?;
        net.srv2.ping(ipv6.public)?;
        net.vm1.ping(Ipv6::LOCAL_VM2)?;
        net.vm2.ping(Ipv6::LOCAL_GATEWAY)?;
        net.vm1.ping(Proxmox::GATEWAY)?;
        ensure!(
            net.vm2.ping(Ipv6::CLI).is_err(),
            "the host does not forward"
        );
    }
    Ok(())
}

#[test]
fn a_host_that_forwards_connects_guests_of_a_routed_prefix() -> Result<()> {
    let ipv6 = Ipv6::ROUTED;
    let net = Proxmox::with(&Options {
        ipv6: Some(ipv6),
        ..Options::default()
    })?;
    net.host.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let capture = net.cli.capture("eth0")?;
    net.vm2.ping(Ipv6::CLI)?;
    let _http = Service::http(&net.vm1, "[::]:80")?;
    let _mirror = Service::udp_mirror(&net.cli, "[::]:53")?;
    let page = service::http_get(&net.srv2, SocketAddrV6::new(ipv6.vm1, 80, 0, 0))?;
    ensure!(page.starts_with("vm1 sees [2001:db8:ffff::"), "{page}");
    let socket = net.vm1.udp("[::]:4000")?;
    let seen = service::seen_at(&socket, SocketAddrV6::new(Ipv6::CLI, 53, 0, 0))?;
    ensure!(seen == SocketAddrV6::new(ipv6.vm1, 4000, 0, 0), "{seen}");
    capture.wait_for6(|frame, packet| frame.outgoing && packet.ports() == Some((53, 4000)))?;
    for frame in capture.stop() {
        frame.checksums()?;
    }
    Ok(())
}
