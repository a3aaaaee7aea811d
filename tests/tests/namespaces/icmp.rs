//! ICMP: I1 to I9.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kit::craft::{Ip, without_hops};
use lab::service::Service;
use lab::topology::Proxmox;
use lab::{Capture, Host, Packet, inner_checksums};
use tests::{Nat, Watch, at, exchange, hears};

/// A router somewhere in the internet.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// An IP header and the 8 bytes after it: the least that an error quotes (RFC 792).
const LEAST_QUOTE: usize = 28;

#[test]
fn i1_two_guests_ping_with_the_same_identifier() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let watch = Watch::proxmox(&net)?;
    let ping = [
        "ping",
        "-n",
        "-c4",
        "-i0.2",
        "-W2",
        "-e4242",
        "198.51.100.2",
    ];
    let said = thread::scope(|scope| {
        let both = [&net.vm1, &net.vm2].map(|guest| scope.spawn(|| guest.check(ping)));
        both.map(|thread| thread.join().expect("no panic"))
    });
    for said in said {
        let said = said?;
        ensure!(
            said.contains("4 received") && !said.contains("DUP"),
            "{said}"
        );
    }
    watch.finish().map(drop)
}

/// Sends every kind of error about the packet that the guest sent (`original`) and that left the
/// VM host as `sent`; each must reach the guest with the original quoted.
fn errors_come_back(
    net: &Proxmox,
    guest: &Capture,
    sent: &Packet,
    original: &Packet,
) -> Result<()> {
    let next_hop_mtu = [0, 0, 0x05, 0x78];
    for (kind, code, rest) in [
        (3, 0, [0; 4]),
        (3, 1, [0; 4]),
        (3, 3, [0; 4]),
        (3, 4, next_hop_mtu),
        (3, 13, [0; 4]),
        (11, 0, [0; 4]),
        (12, 0, [9, 0, 0, 0]),
    ] {
        for length in [sent.bytes.len(), LEAST_QUOTE] {
            let what = format!("error {kind}/{code} quoting {length} bytes of [{sent}]");
            let quoted = &sent.bytes[..length];
            let error = Ip::new(ROUTER, Proxmox::PUBLIC).icmp(kind, code, rest, quoted)?;
            net.inject_from_internet(&error)?;
            let (frame, got) = guest
                .wait_for(|_, got| {
                    got.icmp() == Some((kind, code)) && got.payload().len() == length
                })
                .with_context(|| what.clone())?;
            frame.checksums().with_context(|| what.clone())?;
            inner_checksums(&got.bytes).with_context(|| what.clone())?;
            ensure!(
                (got.source, got.destination) == (ROUTER, Proxmox::VM1),
                "{what}: {got}"
            );
            let (is, should) = (without_hops(got.payload()), without_hops(&original.bytes));
            ensure!(
                is == should[..length],
                "{what}:\n{is:02x?}, should be\n{should:02x?}"
            );
            ensure!(got.bytes[24..28] == rest, "{what}: {got}");
        }
    }
    Ok(())
}

/// A guest whose packets carry finished checksums, so that they can be compared byte by byte.
fn guest_and_wire(net: &Proxmox) -> Result<(Capture, Watch)> {
    net.vm1.set_offloads("eth0", false)?;
    // Another guest has the port and the identifier already: what vm1 sends must be renumbered.
    let server = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &net.vm2.udp("0.0.0.0:5000")?,
        at(Proxmox::CLI, 7000),
        &server,
        b"first",
    )?;
    net.vm2
        .check(["ping", "-n", "-c1", "-W2", "-e4242", "198.51.100.2"])?;
    Ok((net.vm1.capture("eth0")?, Watch::proxmox(net)?))
}

#[test]
fn i2_errors_about_udp_reach_the_guest() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (guest, watch) = guest_and_wire(&net)?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    exchange(
        &net.vm1.udp("0.0.0.0:5000")?,
        at(Proxmox::CLI, 7000),
        &server,
        b"about UDP",
    )?;
    let sent = watch.sent(|packet| packet.payload() == b"about UDP")?;
    let (_, original) = guest.wait_for(|_, packet| packet.payload() == b"about UDP")?;
    ensure!(sent.ports() != Some((5000, 7000)), "not renumbered: {sent}");
    errors_come_back(&net, &guest, &sent, &original)
}

#[test]
fn i2_errors_about_tcp_reach_the_guest() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (guest, watch) = guest_and_wire(&net)?;
    let _echo = Service::tcp_echo(&net.cli, "198.51.100.2:7000")?;
    let stream = net.vm1.tcp(at(Proxmox::CLI, 7000))?;
    std::io::Write::write_all(&mut &stream, b"about TCP")?;
    let sent = watch.sent(|packet| packet.payload() == b"about TCP")?;
    let (_, original) =
        guest.wait_for(|frame, packet| frame.outgoing && packet.payload() == b"about TCP")?;
    errors_come_back(&net, &guest, &sent, &original)
}

#[test]
fn i2_errors_about_echo_reach_the_guest() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (guest, watch) = guest_and_wire(&net)?;
    let is_request = |packet: &Packet| packet.icmp() == Some((8, 0));
    net.vm1
        .check(["ping", "-n", "-c1", "-W2", "-e4242", "198.51.100.2"])?;
    let sent = watch.sent(is_request)?;
    let (_, original) = guest.wait_for(|_, packet| is_request(packet))?;
    errors_come_back(&net, &guest, &sent, &original)
}

#[test]
fn i3_a_guests_error_about_a_forwarded_flow_is_translated() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    net.cli.set_offloads("eth0", false)?;
    let watch = Watch::proxmox(&net)?;
    let client = net.cli.udp("198.51.100.2:7000")?;
    client.connect(at(Proxmox::PUBLIC, 10500))?;
    // No server on vm2: its kernel refuses, and cli's kernel must recognise its own packet.
    client.send(b"anybody there?")?;
    let refused = client.recv(&mut [0; 64]).map_err(|error| error.kind());
    ensure!(
        refused == Err(std::io::ErrorKind::ConnectionRefused),
        "{refused:?}"
    );

    let error = watch.sent(|packet| packet.icmp() == Some((3, 3)))?;
    ensure!(
        (error.source, error.destination) == (Proxmox::PUBLIC, Proxmox::CLI),
        "{error}"
    );
    let inner = error
        .quoted()
        .and_then(Packet::parse)
        .context("a whole packet is quoted")?;
    ensure!(
        (inner.source, inner.destination) == (Proxmox::CLI, Proxmox::PUBLIC),
        "{error}"
    );
    ensure!(inner.ports() == Some((7000, 10500)), "{error}");
    inner_checksums(&error.bytes)?;
    watch.finish().map(drop)
}

/// The hops that traceroute shows, in order.
fn trace(host: &Host, options: &[&str], to: Ipv4Addr) -> Result<Vec<String>> {
    let to = to.to_string();
    let fixed = ["traceroute", "-n", "-q1", "-w2", "-N1", "-m5"];
    let said = host.check(fixed.iter().chain(options).copied().chain([to.as_str()]))?;
    let lines = said.lines().skip(1);
    Ok(lines
        .map(|line| line.split_whitespace().nth(1).unwrap_or("?").to_owned())
        .collect())
}

#[test]
fn i8_traceroute_from_inside_shows_every_hop() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let _web = Service::http(&net.cli, "198.51.100.2:80")?;
    for options in [&["-U", "-p", "7000"][..], &["-I"], &["-T", "-p", "80"]] {
        let hops = trace(&net.vm1, options, Proxmox::CLI)?;
        ensure!(
            hops == ["172.22.161.254", "19.19.8.1", "198.51.100.2"],
            "{options:?}: {hops:?}"
        );
    }
    Ok(())
}

#[test]
fn i8_traceroute_to_a_forwarded_service_shows_every_hop() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    let watch = Watch::proxmox(&net)?;
    for options in [&["-U", "-p", "10500"][..], &["-I"], &["-T", "-p", "10080"]] {
        let hops = trace(&net.cli, options, Proxmox::PUBLIC)?;
        // The VM host as a router, then the guest, which shows the same address.
        let should = ["198.51.100.1", "19.19.8.10", "19.19.8.10"];
        ensure!(hops == should, "{options:?}: {hops:?}");
    }
    watch.finish().map(drop)
}

#[test]
fn i9_ttl_1_from_a_guest_is_answered_once_and_not_forwarded() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (wire, guest) = (net.isp.capture(Proxmox::WAN)?, net.vm1.capture("eth0")?);
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI)
        .ttl(1)
        .udp(5000, 7000, b"too far")?;
    net.inject_from_guest(&net.vm1, &packet)?;
    let (_, error) = guest.wait_for(|_, packet| packet.icmp() == Some((11, 0)))?;
    ensure!(
        (error.source, error.destination) == (Proxmox::GATEWAY, Proxmox::VM1),
        "{error}"
    );
    ensure!(error.quoted() == Some(&packet[..]), "{error}");
    thread::sleep(Duration::from_millis(500));
    let errors = guest
        .packets()
        .iter()
        .filter(|(_, p)| p.icmp() == Some((11, 0)))
        .count();
    ensure!(errors == 1, "{errors} errors");
    let passed = wire
        .packets()
        .iter()
        .any(|(_, p)| p.payload() == b"too far");
    ensure!(!passed, "forwarded with TTL 1");
    Ok(())
}

#[test]
fn i9_ttl_1_to_a_forward_is_answered_once_and_not_forwarded() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (wire, service) = (
        net.isp.capture(Proxmox::WAN)?,
        net.vm2.udp("0.0.0.0:10500")?,
    );
    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC)
        .ttl(1)
        .udp(7000, 10500, b"too far")?;
    net.inject_from_internet(&packet)?;
    let (frame, error) = wire.wait_for(|_, packet| packet.icmp() == Some((11, 0)))?;
    ensure!(
        (error.source, error.destination) == (Proxmox::PUBLIC, Proxmox::CLI),
        "{error}"
    );
    ensure!(error.quoted() == Some(&packet[..]), "{error}");
    frame.checksums()?;
    ensure!(hears(&service)?.is_none(), "forwarded with TTL 1");
    let errors = wire
        .packets()
        .iter()
        .filter(|(_, p)| p.icmp() == Some((11, 0)))
        .count();
    ensure!(errors == 1, "{errors} errors");
    Ok(())
}

#[test]
fn i1_a_guest_pings_another_by_the_public_address() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let server = net.vm1.capture("eth0")?;
    let said = net
        .vm2
        .check(["ping", "-n", "-c3", "-i0.2", "-W2", "19.19.8.10"])?;
    ensure!(said.contains("3 received"), "{said}");
    // It is the guest that answers, not the host, and it does not see the other's address.
    let (_, request) = server.wait_for(|_, packet| packet.icmp() == Some((8, 0)))?;
    ensure!(request.source == Proxmox::PUBLIC, "{request}");
    Ok(())
}

#[test]
fn i4_an_error_about_a_hairpinned_flow_reaches_its_sender() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    net.vm1.set_offloads("eth0", false)?;
    let (sender, refuser) = (net.vm1.capture("eth0")?, net.vm2.capture("eth0")?);
    let client = net.vm1.udp("0.0.0.0:5000")?;
    client.connect(at(Proxmox::PUBLIC, 10500))?;
    // No server on vm2: its kernel refuses, and vm1's must recognise its own packet.
    client.send(b"anybody there?")?;
    let refused = client.recv(&mut [0; 64]).map_err(|error| error.kind());
    ensure!(
        refused == Err(std::io::ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
    let (frame, error) = sender.wait_for(|_, packet| packet.icmp() == Some((3, 3)))?;
    frame.checksums()?;
    inner_checksums(&error.bytes)?;
    ensure!(
        (error.source, error.destination) == (Proxmox::PUBLIC, Proxmox::VM1),
        "{error}"
    );
    // What the other end refused showed it the mapping of the sender.
    let (_, error) = refuser.wait_for(|_, packet| packet.icmp() == Some((3, 3)))?;
    ensure!(error.destination == Proxmox::PUBLIC, "{error}");
    Ok(())
}

/// A guest's mapping at port 5000 towards cli, and what the guest has sent, as it left.
fn a_flow(net: &Proxmox, watch: &Watch) -> Result<Packet> {
    let server = net.cli.udp("198.51.100.2:7000")?;
    let guest = net.vm1.udp("0.0.0.0:5000")?;
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"the flow")?;
    watch.sent(|packet| packet.payload() == b"the flow")
}

/// The errors among what a guest has got.
fn errors(guest: &Capture) -> Vec<Packet> {
    let packets = guest.packets().into_iter().map(|(_, packet)| packet);
    packets.filter(|packet| packet.quoted().is_some()).collect()
}

#[test]
fn i5_damaged_errors_and_errors_about_nothing_reach_no_guest() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);
    let sent = a_flow(&net, &watch)?;
    let from_router = Ip::new(ROUTER, Proxmox::PUBLIC);
    let good = from_router.icmp(3, 1, [0; 4], &sent.bytes)?;
    let mut damaged = good.clone();
    // In the quotation's payload, which nothing but the checksum tells about.
    *damaged.last_mut().context("bytes")? ^= 0x10;
    net.inject_from_internet(&damaged)?;
    for (source, ports) in [
        // No session of this port, of this remote, of the address of the guest itself.
        (Proxmox::PUBLIC, (5999, 7000)),
        (Proxmox::PUBLIC, (5000, 7999)),
        (Proxmox::VM1, (5000, 7000)),
    ] {
        let quoted = Ip::new(source, Proxmox::CLI).udp(ports.0, ports.1, b"never sent")?;
        net.inject_from_internet(&from_router.icmp(3, 1, [0; 4], &quoted)?)?;
    }
    // The same without damage does arrive, so that it was the damage.
    net.inject_from_internet(&good)?;
    guest.wait_for(|_, packet| packet.icmp() == Some((3, 1)))?;
    thread::sleep(Duration::from_millis(300));
    let got = errors(&guest);
    ensure!(got.len() == 1, "reached the guest: {got:?}");
    Ok(())
}

#[test]
fn i6_options_in_the_quotation_and_extensions_behind_it_are_kept() -> Result<()> {
    let net = Proxmox::new()?;
    let _nat = Nat::proxmox(&net, &net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);
    let mut ip = Ip::new(Proxmox::VM1, Proxmox::CLI);
    // Three that do nothing, and the end of the list.
    ip.options = vec![1, 1, 1, 0];
    let original = ip.udp(5000, 7000, &[6; 200])?;
    net.inject_from_guest(&net.vm1, &original)?;
    let sent = watch.sent(|packet| packet.options == [1, 1, 1, 0])?;

    // RFC 4884: the quotation's length in words, an extension header, and one object, as a router
    // of MPLS sends it.
    let quoted_words = 32_u8;
    let mut extensions = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0xff];
    let checksum = !lab::ones_complement_sum(&[&extensions]);
    extensions[2..4].copy_from_slice(&checksum.to_be_bytes());
    let quoted = &sent.bytes[..usize::from(quoted_words) * 4];
    let payload = [quoted, &extensions].concat();
    let error = Ip::new(ROUTER, Proxmox::PUBLIC).icmp(11, 0, [0, quoted_words, 0, 0], &payload)?;
    net.inject_from_internet(&error)?;
    let (frame, got) = guest.wait_for(|_, packet| packet.icmp() == Some((11, 0)))?;
    frame.checksums()?;
    ensure!(got.bytes[24..28] == [0, quoted_words, 0, 0], "{got}");
    let (quotation, rest) = got.payload().split_at(quoted.len());
    ensure!(rest == extensions, "other extensions: {rest:02x?}");
    let (is, should) = (without_hops(quotation), without_hops(&original));
    ensure!(is == should[..quoted.len()], "another quotation: {is:02x?}");
    Ok(())
}

#[test]
fn i7_errors_neither_end_nor_refresh_a_session() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&(net.config() + "[timeouts]\nudp = 4\n"))?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);
    let sent = a_flow(&net, &watch)?;
    for (kind, code) in [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (12, 0)] {
        let error = Ip::new(ROUTER, Proxmox::PUBLIC).icmp(kind, code, [0; 4], &sent.bytes)?;
        net.inject_from_internet(&error)?;
        guest.wait_for(|_, packet| packet.icmp() == Some((kind, code)))?;
    }
    let sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.len() == 1, "ended by an error: {sessions:?}");
    let error = Ip::new(ROUTER, Proxmox::PUBLIC).icmp(3, 1, [0; 4], &sent.bytes)?;
    for _ in 0..6 {
        thread::sleep(Duration::from_secs(1));
        net.inject_from_internet(&error)?;
    }
    let sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.is_empty(), "kept alive by errors: {sessions:?}");
    Ok(())
}

#[test]
fn redirects_and_source_quenches_reach_no_guest() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);
    let sent = a_flow(&net, &watch)?;
    for kind in [4, 5] {
        let message = Ip::new(Proxmox::ISP, Proxmox::PUBLIC).icmp(kind, 1, [0; 4], &sent.bytes)?;
        net.inject_from_internet(&message)?;
    }
    thread::sleep(Duration::from_millis(300));
    let got = guest
        .packets()
        .into_iter()
        .find(|(_, packet)| matches!(packet.icmp(), Some((4 | 5, _))));
    ensure!(got.is_none(), "{got:?}");
    Ok(())
}

#[test]
fn queries_other_than_echo_are_answered() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);
    // A timestamp request (RFC 792), which Linux answers: identifier 77, sequence 1.
    let request = Ip::new(Proxmox::VM1, Proxmox::CLI).icmp(13, 0, [0, 77, 0, 1], &[0; 12])?;
    net.inject_from_guest(&net.vm1, &request)?;
    let sent = watch.sent(|packet| packet.icmp() == Some((13, 0)))?;
    ensure!(sent.source == Proxmox::PUBLIC, "{sent}");
    let (_, reply) = guest.wait_for(|_, packet| packet.icmp() == Some((14, 0)))?;
    ensure!(reply.destination == Proxmox::VM1, "{reply}");
    ensure!(reply.bytes[24..28] == [0, 77, 0, 1], "{reply}");
    watch.finish().map(drop)
}

#[test]
fn i7_errors_about_a_ping_neither_end_nor_refresh_its_session() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&(net.config() + "[timeouts]\nicmp = 4\n"))?;
    let (watch, guest) = (Watch::proxmox(&net)?, net.vm1.capture("eth0")?);
    net.vm1
        .check(["ping", "-n", "-c1", "-W2", "-e4242", "198.51.100.2"])?;
    let sent = watch.sent(|packet| packet.icmp() == Some((8, 0)))?;
    let error = Ip::new(ROUTER, Proxmox::PUBLIC).icmp(11, 0, [0; 4], &sent.bytes)?;
    net.inject_from_internet(&error)?;
    guest.wait_for(|_, packet| packet.icmp() == Some((11, 0)))?;
    let sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.len() == 1, "ended by an error: {sessions:?}");
    for _ in 0..6 {
        thread::sleep(Duration::from_secs(1));
        net.inject_from_internet(&error)?;
    }
    let sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.is_empty(), "kept alive by errors: {sessions:?}");
    Ok(())
}
