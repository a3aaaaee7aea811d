//! UDP: U1 to U8.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use kit::craft::Ip;
use lab::L4;
use lab::topology::Proxmox;
use tests::{Nat, Watch, at, deliver, exchange, hears};

/// Datagrams of every awkward length: none at all, odd ones, and the largest of one frame.
const LENGTHS: [usize; 7] = [0, 1, 2, 3, 512, 1471, 1472];

#[test]
fn u1_udp_both_ways_keeps_the_payload() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let watch = Watch::proxmox(&net)?;
    let outside = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    let service = net.vm2.udp("0.0.0.0:10000")?;
    for length in LENGTHS {
        let payload: Vec<u8> = (0..length).map(|n| (n * 7 % 251) as u8).collect();
        let seen = exchange(&guest, at(Proxmox::CLI, 7000), &outside, &payload)?;
        ensure!(
            seen == at(Proxmox::PUBLIC, 5000),
            "masquerade, {length} bytes: seen as {seen}"
        );
        let seen = exchange(&outside, at(Proxmox::PUBLIC, 10000), &service, &payload)?;
        ensure!(
            seen == at(Proxmox::CLI, 7000),
            "forward, {length} bytes: seen as {seen}"
        );
    }
    watch.finish().map(drop)
}

#[test]
fn u2_one_external_port_for_all_remotes() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let remotes = [
        (Proxmox::CLI, 7001),
        (Proxmox::CLI, 7002),
        (Proxmox::CLI_B, 7001),
    ];
    let servers: Result<Vec<_>> = remotes
        .iter()
        .map(|(ip, port)| net.cli.udp(&at(*ip, *port).to_string()))
        .collect();
    let servers = servers?;
    // The other guest has the port already, so that another one must be picked, once.
    let other = net.vm2.udp("0.0.0.0:5000")?;
    exchange(&other, at(Proxmox::CLI, 7001), &servers[0], b"first")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    let mut seen = Vec::new();
    for ((ip, port), server) in remotes.into_iter().zip(&servers) {
        seen.push(exchange(&guest, at(ip, port), server, b"same socket")?);
    }
    ensure!(seen.iter().all(|one| *one == seen[0]), "seen as {seen:?}");
    ensure!(seen[0].port() != 5000, "two guests share {}", seen[0]);
    Ok(())
}

#[test]
fn u4_two_guests_with_the_same_port_are_both_answered() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let (first, second) = (net.vm1.udp("0.0.0.0:5000")?, net.vm2.udp("0.0.0.0:5000")?);
    let seen_first = deliver(&first, at(Proxmox::CLI, 7000), &server, b"from vm1")?;
    let seen_second = deliver(&second, at(Proxmox::CLI, 7000), &server, b"from vm2")?;
    ensure!(seen_first != seen_second, "both are seen as {seen_first}");
    // Answered in the other order, so that the latest mapping is not the right one by chance.
    ensure!(deliver(&server, seen_second, &second, b"to vm2")? == at(Proxmox::CLI, 7000));
    ensure!(deliver(&server, seen_first, &first, b"to vm1")? == at(Proxmox::CLI, 7000));
    Ok(())
}

#[test]
fn u5_hairpin_to_a_forward_shows_the_external_mapping() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let service = net.vm2.udp("0.0.0.0:10000")?;
    let (guest, own) = (net.vm1.udp("0.0.0.0:5000")?, net.vm2.udp("0.0.0.0:5001")?);
    for (client, port) in [(&guest, 5000), (&own, 5001)] {
        let seen = exchange(client, at(Proxmox::PUBLIC, 10000), &service, b"hairpin")?;
        ensure!(seen == at(Proxmox::PUBLIC, port), "seen as {seen}");
    }
    Ok(())
}

#[test]
fn u5_hairpin_between_two_mappings_shows_the_external_mapping() -> Result<()> {
    let net = Proxmox::new()?;
    let filtering = "to = \"masquerade\"\nfiltering = \"endpoint-independent\"";
    let _natbpf = net.natbpf(&net.config().replace("to = \"masquerade\"", filtering))?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let (first, second) = (net.vm1.udp("0.0.0.0:5000")?, net.vm2.udp("0.0.0.0:5001")?);
    let mapping = exchange(&first, at(Proxmox::CLI, 7000), &server, b"makes a mapping")?;
    let seen = exchange(&second, mapping, &first, b"hairpin")?;
    ensure!(seen == at(Proxmox::PUBLIC, 5001), "seen as {seen}");
    Ok(())
}

#[test]
fn u6_no_checksum_stays_none() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let _outside = net.cli.udp("198.51.100.2:7000")?;
    let service = net.vm2.udp("0.0.0.0:10000")?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm2.capture("eth0")?);

    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp_unsummed(5000, 7000, b"outbound")?;
    net.inject_from_guest(&net.vm1, &packet)?;
    let sent = watch.sent(|packet| packet.payload() == b"outbound")?;
    ensure!(matches!(sent.l4, L4::Udp { checksum: 0, .. }), "{sent:?}");
    ensure!(sent.source == Proxmox::PUBLIC, "{sent}");

    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp_unsummed(7000, 10000, b"inbound")?;
    net.inject_from_internet(&packet)?;
    let (_, got) = guest.wait_for(|_, packet| packet.payload() == b"inbound")?;
    ensure!(matches!(got.l4, L4::Udp { checksum: 0, .. }), "{got:?}");
    ensure!(
        hears(&service)?.is_some(),
        "the guest's kernel did not take it"
    );
    watch.finish().map(drop)
}

#[test]
fn u3_each_filtering_mode_admits_its_remotes() -> Result<()> {
    let net = Proxmox::new()?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    // Another port of a remote that the guest has sent to, its other address, another remote.
    let probes = [
        net.cli.udp("198.51.100.2:7001")?,
        net.cli.udp("198.51.100.3:7000")?,
        net.srv2.udp("198.51.100.4:7000")?,
    ];
    for (mode, let_in) in [
        ("endpoint-independent", [true, true, true]),
        ("address-dependent", [true, false, false]),
        ("address-and-port-dependent", [false, false, false]),
    ] {
        let rule = format!("to = \"masquerade\"\nfiltering = \"{mode}\"");
        let natbpf = net.natbpf(&net.config().replace("to = \"masquerade\"", &rule))?;
        let guest = net.vm1.udp("0.0.0.0:5000")?;
        let mapping = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"makes a mapping")?;
        for (probe, is_let_in) in probes.iter().zip(let_in) {
            let who = probe.local_addr()?;
            probe.send_to(b"probe", mapping)?;
            let heard = hears(&guest)?;
            ensure!(
                heard == is_let_in.then(|| (b"probe".to_vec(), who)),
                "{mode}: from {who}: {heard:?}"
            );
        }
        exchange(&guest, at(Proxmox::CLI, 7000), &server, b"and goes on")?;
        drop(natbpf);
    }
    Ok(())
}

/// A port that guests share towards different remotes is the host's towards all others, once a
/// service of the host listens there.
#[test]
fn s6_a_service_of_the_host_on_a_shared_port_is_reached() -> Result<()> {
    let net = Proxmox::new()?;
    let rule = "to = \"masquerade\"\nmapping = \"address-and-port-dependent\"";
    let _nat = net.natbpf(&net.config().replace("to = \"masquerade\"", rule))?;
    let (guest, server) = (net.vm1.udp("0.0.0.0:5000")?, net.cli.udp("0.0.0.0:7000")?);
    let shared = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"opens")?;
    let service = net.host.udp(&shared.to_string())?;
    let stranger = net.srv2.udp("0.0.0.0:7000")?;
    let to = at(Proxmox::PUBLIC, shared.port());
    exchange(&stranger, to, &service, b"to the service")?;
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"goes on").map(drop)
}

#[test]
fn u7_a_sum_that_is_zero_after_translation_is_sent_as_ffff() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (outside, service) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm2.udp("0.0.0.0:10000")?,
    );
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm2.capture("eth0")?);
    // The checksum as the payload: together they sum up to nothing but ones.
    let payload_for = |source, destination, ports: (u16, u16)| -> Result<[u8; 2]> {
        let packet = Ip::new(source, destination).udp(ports.0, ports.1, &[0, 0])?;
        Ok([packet[26], packet[27]])
    };
    let payload = payload_for(Proxmox::PUBLIC, Proxmox::CLI, (5000, 7000))?;
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, 7000, &payload)?;
    net.inject_from_guest(&net.vm1, &packet)?;
    let sent = watch.sent(|packet| packet.payload() == payload)?;
    ensure!(
        matches!(
            sent.l4,
            L4::Udp {
                checksum: 0xffff,
                ..
            }
        ),
        "{sent:?}"
    );
    ensure!(hears(&outside)?.is_some(), "the remote did not take it");

    let payload = payload_for(Proxmox::CLI, Proxmox::VM2, (7000, 10000))?;
    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC).udp(7000, 10000, &payload)?;
    net.inject_from_internet(&packet)?;
    let (_, got) = guest.wait_for(|_, packet| packet.payload() == payload)?;
    ensure!(
        matches!(
            got.l4,
            L4::Udp {
                checksum: 0xffff,
                ..
            }
        ),
        "{got:?}"
    );
    ensure!(hears(&service)?.is_some(), "the guest did not take it");
    watch.finish().map(drop)
}

#[test]
fn u8_a_mapping_lasts_while_the_guest_sends_and_ends_when_it_stops() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&(net.config() + "[timeouts]\nudp = 3\n"))?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    let mapping = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"first")?;
    for _ in 0..6 {
        thread::sleep(Duration::from_secs(1));
        deliver(&guest, at(Proxmox::CLI, 7000), &server, b"refreshes")?;
    }
    deliver(&server, mapping, &guest, b"let in after twice the timeout")?;
    // A remote that is filtered keeps nothing alive.
    let stranger = net.srv2.udp("198.51.100.4:7000")?;
    for _ in 0..6 {
        thread::sleep(Duration::from_secs(1));
        stranger.send_to(b"filtered", mapping)?;
    }
    let left = natbpf.conntrack(&[])?;
    ensure!(left.is_empty(), "left after the timeout: {left:?}");
    server.send_to(b"too late", mapping)?;
    ensure!(hears(&guest)?.is_none(), "let in after the timeout");
    Ok(())
}
