//! Established sessions: that they go past the kernel, what must not, and that they follow every
//! change of where the other side is.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kit::craft::{Ip, Segment};
use lab::patience::patience;
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Host, Natbpf, Offload};
use serde_json::Value;
use tests::bulk::{Sender, transfer};
use tests::{at, exchange, hears, order};

/// What may go through the kernel of many packets of a session: the first ones, and one in 16 s
/// each way.
const FEW: u64 = 12;
/// Packets that a session sends each way when the test checks whether it bypasses the kernel.
const MANY: usize = 60;
/// Packets that it sends each way before that.
const SETTLING: usize = 8;
/// How long packets may be lost after a change, on a machine that does other things as well.
const RECOVERED: Duration = Duration::from_secs(5);
/// How long a change may take to be followed.
const FOLLOWED: Duration = Duration::from_secs(1);

/// One session by masquerade and one by a forward, both of UDP, with datagrams going to and fro.
struct Sessions {
    pairs: [(UdpSocket, SocketAddrV4, UdpSocket); 2],
}

impl Sessions {
    fn open(net: &Proxmox) -> Result<Self> {
        let guest = (
            net.vm1.udp("0.0.0.0:5000")?,
            at(Proxmox::CLI, 7000),
            net.cli.udp("198.51.100.2:7000")?,
        );
        let remote = (
            net.cli.udp("198.51.100.2:6000")?,
            at(Proxmox::PUBLIC, 10000),
            net.vm2.udp("0.0.0.0:10000")?,
        );
        let sessions = Self {
            pairs: [guest, remote],
        };
        sessions.settle()?;
        Ok(sessions)
    }

    /// Gives the daemon time to see where everybody is, and the sessions packets to learn it by.
    fn settle(&self) -> Result<()> {
        self.talk(4)?;
        thread::sleep(patience(FOLLOWED));
        self.talk(SETTLING - 4)
    }

    /// Sends so many datagrams and as many answers in each session; all must arrive.
    fn talk(&self, times: usize) -> Result<()> {
        for (client, to, server) in &self.pairs {
            for _ in 0..times {
                exchange(client, *to, server, b"to and fro")?;
            }
        }
        Ok(())
    }

    /// How many packets of [`MANY`] each way and session pass through the bridge of the guests.
    fn slow_packets(&self, net: &Proxmox) -> Result<u64> {
        let before = bridge_packets(&net.host)?;
        self.talk(MANY)?;
        Ok(bridge_packets(&net.host)? - before)
    }

    fn go_past_the_kernel(&self, net: &Proxmox) -> Result<()> {
        let slow = self.slow_packets(net)?;
        ensure!(slow <= FEW, "{slow} packets went through the bridge");
        Ok(())
    }

    fn go_through_the_kernel(&self, net: &Proxmox) -> Result<()> {
        let slow = self.slow_packets(net)?;
        let all = 4 * MANY as u64;
        ensure!(
            slow >= all,
            "{slow} of {all} packets went through the bridge"
        );
        Ok(())
    }

    /// After a change: packets may be lost for a moment, and then go past the kernel again.
    fn recover(&self, net: &Proxmox) -> Result<()> {
        let deadline = Instant::now() + patience(RECOVERED);
        while let Err(error) = self.try_once() {
            ensure!(Instant::now() < deadline, "{error:#}");
        }
        self.settle()?;
        self.go_past_the_kernel(net)
    }

    /// One datagram and its answer in each session, with little patience.
    fn try_once(&self) -> Result<()> {
        for (client, to, server) in &self.pairs {
            for socket in [client, server] {
                socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            }
            let result = exchange(client, *to, server, b"once");
            for socket in [client, server] {
                // A late packet is not mistaken for the next one.
                while socket.recv_from(&mut [0; 64]).is_ok() {}
                socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            }
            result?;
        }
        Ok(())
    }
}

/// Packets that the host's own end of the bridge has sent and received.
fn bridge_packets(host: &Host) -> Result<u64> {
    let text = host.check(["ip", "-s", "-j", "link", "show", "vmbr1"])?;
    let links: Value = serde_json::from_str(&text)?;
    let count = |side: &str| links[0]["stats64"][side]["packets"].as_u64();
    count("rx")
        .zip(count("tx"))
        .map(|(rx, tx)| rx + tx)
        .context("no counters")
}

fn started() -> Result<(Proxmox, Natbpf, Sessions)> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let sessions = Sessions::open(&net)?;
    Ok((net, natbpf, sessions))
}

#[test]
fn established_sessions_go_past_the_kernel_and_are_counted() -> Result<()> {
    let (net, natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    let sent = (SETTLING + MANY) as u64;
    for rule in ["lan-out", "vm2-udp"] {
        let rule = rule_of(&natbpf, rule)?;
        for count in ["packets_in", "packets_out"] {
            ensure!(rule[count] == sent, "{rule}, not {sent} {count}");
        }
    }
    Ok(())
}

#[test]
fn a_network_without_a_bridge_has_it_too() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ..Options::default()
    })?;
    net.host
        .ip("link set tap1 nomaster\nlink del vmbr1\naddress add 172.22.161.254/24 dev tap1")?;
    let config = net.config().replace("vmbr1", "tap1");
    let _natbpf = net.natbpf(&config)?;
    let (guest, server) = (net.vm1.udp("0.0.0.0:5000")?, net.cli.udp("0.0.0.0:7000")?);
    let talk = |times| -> Result<()> {
        (0..times)
            .try_for_each(|_| exchange(&guest, at(Proxmox::CLI, 7000), &server, b"x").map(drop))
    };
    talk(4)?;
    thread::sleep(patience(FOLLOWED));
    talk(4)?;
    // The kernel counts the packets that it forwards.
    let forwarded = || -> Result<u64> {
        let text = net
            .host
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let line = text
            .lines()
            .find(|line| line.starts_with("Ip: ") && !line.contains("Forw"));
        let count = line.and_then(|line| line.split(' ').nth(6)?.parse().ok());
        count.context("no count of forwarded packets")
    };
    let before = forwarded()?;
    talk(MANY)?;
    let slow = forwarded()? - before;
    ensure!(slow <= FEW, "{slow} packets went through the kernel");
    Ok(())
}

#[test]
fn told_so_all_packets_go_through_the_kernel() -> Result<()> {
    let (net, natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    natbpf.reload(&format!("forwarding = \"kernel\"\n{}", net.config()))?;
    sessions.go_through_the_kernel(&net).context("all")?;
    let status = natbpf.status()?;
    let text = status["interfaces"][0]["fast_path"]
        .as_str()
        .unwrap_or_default();
    ensure!(text.starts_with("off"), "{status}");

    let mut config = net.config();
    for rule in ["name = \"lan-out\"", "name = \"vm2-udp\""] {
        config = config.replace(rule, &format!("{rule}\nforwarding = \"kernel\""));
    }
    natbpf.reload(&config)?;
    sessions
        .go_through_the_kernel(&net)
        .context("rule by rule")?;
    natbpf.reload(&net.config())?;
    sessions.settle()?;
    sessions.go_past_the_kernel(&net).context("again")?;
    for rule in ["lan-out", "vm2-udp"] {
        let opened = &rule_of(&natbpf, rule)?["connections"];
        ensure!(*opened == 1, "{rule}: {opened} sessions were opened");
    }
    Ok(())
}

fn rule_of(natbpf: &Natbpf, name: &str) -> Result<Value> {
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    let rule = rules.iter().find(|one| one["name"] == name);
    rule.cloned().context("no rule")
}

#[test]
fn without_the_daemon_packets_go_through_the_kernel_after_a_while() -> Result<()> {
    let (net, mut natbpf, sessions) = started()?;
    natbpf.kill()?;
    thread::sleep(Duration::from_secs(6));
    sessions.go_through_the_kernel(&net)?;
    natbpf.launch()?;
    sessions.settle()?;
    sessions.go_past_the_kernel(&net)
}

#[test]
fn the_ttl_is_taken_down_by_one() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    let (inside, outside) = (net.vm2.capture("eth0")?, net.cli.capture("eth0")?);
    sessions.talk(4)?;
    let ttl = |capture: &lab::Capture, port: u16| -> Result<u8> {
        let (_, packet) = capture.wait_for(|frame, packet| {
            !frame.outgoing && packet.ports().is_some_and(|(_, to)| to == port)
        })?;
        Ok(packet.bytes[8])
    };
    // Two routers stand between the outside and a guest.
    let (in_, out) = (ttl(&inside, 10000)?, ttl(&outside, 7000)?);
    ensure!((in_, out) == (62, 62), "arrived with TTL {in_} and {out}");
    Ok(())
}

#[test]
fn a_packet_at_its_last_hop_is_answered_by_the_kernel() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    let guest = net.vm1.capture("eth0")?;
    let packet = Ip::new(Proxmox::VM1, Proxmox::CLI)
        .ttl(1)
        .udp(5000, 7000, b"last")?;
    net.inject_from_guest(&net.vm1, &packet)?;
    guest.wait_for(|frame, packet| {
        !frame.outgoing && packet.source == Proxmox::GATEWAY && packet.icmp() == Some((11, 0))
    })?;
    let wire = net.isp.capture(Proxmox::WAN)?;
    let packet = Ip::new(Proxmox::CLI, Proxmox::PUBLIC)
        .ttl(1)
        .udp(6000, 10000, b"last")?;
    net.inject_from_internet(&packet)?;
    wire.wait_for(|frame, packet| {
        !frame.outgoing && packet.source == Proxmox::PUBLIC && packet.icmp() == Some((11, 0))
    })?;
    Ok(())
}

#[test]
fn a_guest_that_moves_to_another_port_is_followed() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    // Its address moves along, as when a machine migrates: only the bridge learns of it.
    for (vm, old, new, address) in [
        (&net.vm1, "tap1", "tap3", Proxmox::VM1),
        (&net.vm2, "tap2", "tap4", Proxmox::VM2),
    ] {
        let [a, b, c, d, e, f] = vm.mac("eth0")?;
        net.lab().veth((&net.host, new), (vm, "eth1"))?;
        net.host.ip(&format!(
            "link set {new} master vmbr1\nlink set {old} nomaster"
        ))?;
        vm.ip(&format!(
            "link set eth0 down\naddress del {address}/24 dev eth0\nlink set eth1 down\n\
             link set eth1 address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\n\
             link set eth1 up\naddress add {address}/24 dev eth1\n\
             route add default via {}",
            Proxmox::GATEWAY
        ))?;
        vm.check(["ping", "-c", "1", "-W", "1", &Proxmox::GATEWAY.to_string()])?;
    }
    sessions.recover(&net)
}

#[test]
fn a_guest_with_a_new_link_layer_address_is_followed() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    for (vm, address) in [
        (&net.vm1, "02:00:00:00:99:01"),
        (&net.vm2, "02:00:00:00:99:02"),
    ] {
        vm.ip(&format!("link set eth0 address {address}"))?;
        // The host hears of it.
        vm.check(["ping", "-c", "1", "-W", "1", &Proxmox::GATEWAY.to_string()])?;
    }
    sessions.recover(&net)
}

#[test]
fn a_port_that_leaves_its_bridge_gets_nothing_more() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    net.host.ip("link set tap2 nomaster")?;
    thread::sleep(patience(FOLLOWED));
    let (client, to, server) = &sessions.pairs[1];
    client.send_to(b"nobody is there", to)?;
    ensure!(hears(server)?.is_none(), "it still gets packets");
    net.host.ip("link set tap2 master vmbr1")?;
    net.vm2
        .check(["ping", "-c", "1", "-W", "2", &Proxmox::GATEWAY.to_string()])?;
    while server.recv_from(&mut [0; 64]).is_ok_and(|_| true) && hears(server)?.is_some() {}
    sessions.recover(&net)
}

#[test]
fn isolated_ports_are_kept_apart_and_have_it_too() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    for port in ["tap1", "tap2"] {
        net.host
            .ip(&format!("link set {port} type bridge_slave isolated on"))?;
    }
    thread::sleep(patience(FOLLOWED));
    sessions.settle()?;
    sessions.go_past_the_kernel(&net)?;
    let (by_bridge, other) = (net.vm2.udp("0.0.0.0:9")?, net.vm1.udp("0.0.0.0:9")?);
    other.send_to(b"past the host", at(Proxmox::VM2, 9))?;
    ensure!(hears(&by_bridge)?.is_none(), "one guest reached the other");
    Ok(())
}

#[test]
fn a_route_that_changes_is_followed() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    net.host.ip("route add unreachable 198.51.100.2/32")?;
    thread::sleep(patience(FOLLOWED));
    let (client, to, server) = &sessions.pairs[0];
    client.send_to(b"no way", to)?;
    ensure!(hears(server)?.is_none(), "it left by a route that is gone");
    net.host.ip("route del unreachable 198.51.100.2/32")?;
    // The guest has been told by then.
    while client.recv_from(&mut [0; 64]).is_err() && client.take_error()?.is_some() {}
    sessions.recover(&net)
}

#[test]
fn a_smaller_mtu_is_reported_to_the_sender() -> Result<()> {
    let (net, _natbpf, sessions) = started()?;
    sessions.go_past_the_kernel(&net)?;
    let large = |port| Ip::new(Proxmox::VM1, Proxmox::CLI).udp(5000, port, &[7; 1400]);
    for change in [
        "link set vmbr0 mtu 1300",
        "link set vmbr0 mtu 1500\nroute replace default via 19.19.8.1 mtu 1300",
    ] {
        net.host.ip(change)?;
        thread::sleep(patience(FOLLOWED));
        let guest = net.vm1.capture("eth0")?;
        let mut packet = large(7000)?;
        packet[6] |= 0x40; // Don't fragment.
        let sum = lab::ones_complement_sum(&[&packet[..10], &packet[12..20]]);
        packet[10..12].copy_from_slice(&(!sum).to_be_bytes());
        net.inject_from_guest(&net.vm1, &packet)?;
        guest
            .wait_for(|frame, packet| !frame.outgoing && packet.icmp() == Some((3, 4)))
            .with_context(|| change.to_owned())?;
    }
    Ok(())
}

/// A stateful firewall that drops what its connection tracking takes for invalid or new.
const STATEFUL: &str = "table ip stateful {\nchain forward {\n\
    type filter hook forward priority 0; policy drop;\n\
    ct state invalid drop\nct state established,related accept\n\
    iifname \"vmbr1\" accept\nip daddr 172.22.161.0/24 tcp dport 10000-10999 tcp flags syn accept\n\
    ip daddr 172.22.161.0/24 udp dport 10000-10999 accept\n}\n}\n";

#[test]
fn a_stateful_firewall_and_the_fast_path_get_along() -> Result<()> {
    let net = Proxmox::new()?;
    net.host
        .run_with_input(["nft", "-f", "-"], STATEFUL.as_bytes())?
        .expect_ok()?;
    let _natbpf = net.natbpf(&net.config())?;
    let sessions = Sessions::open(&net)?;
    sessions.go_past_the_kernel(&net)?;
    let bytes = 200_000_000;
    for sender in [Sender::Client, Sender::Server] {
        let before = bridge_packets(&net.host)?;
        let out = at(Proxmox::CLI, 7100);
        transfer(&net.vm1, out, &net.cli, 7100, sender, bytes).context("out")?;
        let forwarded = at(Proxmox::PUBLIC, 10100);
        transfer(&net.cli, forwarded, &net.vm1, 10100, sender, bytes).context("in")?;
        let slow = bridge_packets(&net.host)? - before;
        ensure!(slow < 200, "{slow} packets went through the bridge");
    }
    // Connection tracking has seen the connections end.
    let text = net
        .host
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))?;
    if let Ok(text) = text {
        let open = text.lines().filter(|line| line.contains("ESTABLISHED"));
        ensure!(open.count() == 0, "{text}");
    }
    Ok(())
}

/// A remote that no host is.
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A connection of handmade segments; one end sends many bytes.
struct Giant<'a> {
    net: &'a Proxmox,
    guest_sends: bool,
    port: u16,
    /// Next sequence numbers: of who sends, and of who acknowledges.
    next: [u32; 2],
}

impl Giant<'_> {
    /// Sends a segment of one end, which moves its sequence number on.
    fn segment(&mut self, is_sender: bool, flags: u8, payload: &[u8]) -> Result<()> {
        let (own, other) = (usize::from(!is_sender), usize::from(is_sender));
        let segment = Segment {
            flags,
            sequence: self.next[own],
            payload,
        };
        let acknowledged = match flags & ACK {
            0 => 0,
            _ => self.next[other],
        };
        let moved = payload.len() as u32 + u32::from(flags & SYN != 0);
        self.next[own] = self.next[own].wrapping_add(moved);
        if is_sender == self.guest_sends {
            let packet = Ip::new(Proxmox::VM1, REMOTE);
            let packet = packet.tcp_answer(self.port, 80, &segment, acknowledged)?;
            return self.net.inject_from_guest(&self.net.vm1, &packet);
        }
        let packet = Ip::new(REMOTE, Proxmox::PUBLIC);
        let packet = packet.tcp_answer(80, self.port, &segment, acknowledged)?;
        self.net.inject_from_internet(&packet)
    }

    /// Data and its acknowledgement.
    fn data(&mut self) -> Result<()> {
        self.segment(true, ACK, &[7; 1000])?;
        thread::sleep(Duration::from_millis(5));
        self.segment(false, ACK, b"")?;
        thread::sleep(Duration::from_millis(5));
        Ok(())
    }
}

/// Opens a connection, has so many quarters of a GiB go, and resets it at the end that sent them.
fn reset_after(net: &Proxmox, guest_sends: bool, port: u16, quarters: u32) -> Result<()> {
    let mut giant = Giant {
        net,
        guest_sends,
        port,
        next: [500, 100],
    };
    // The guest opens it.
    giant.segment(guest_sends, SYN, b"")?;
    thread::sleep(Duration::from_millis(20));
    giant.segment(!guest_sends, SYN | ACK, b"")?;
    thread::sleep(Duration::from_millis(20));
    giant.segment(guest_sends, ACK, b"")?;
    (0..4).try_for_each(|_| giant.data())?;
    for _ in 0..quarters {
        giant.next[0] = giant.next[0].wrapping_add(1 << 28);
        giant.data()?;
    }
    let capture = match guest_sends {
        true => net.isp.capture(Proxmox::WAN)?,
        false => net.vm1.capture("eth0")?,
    };
    giant.segment(true, RST, b"")?;
    let is_it = |frame: &lab::Frame, packet: &lab::Packet| {
        let is_reset = packet.bytes.get(33).is_some_and(|flags| flags & RST != 0);
        let ports = packet.ports().map(|(from, to)| from.max(to));
        !frame.outgoing && is_reset && ports == Some(port)
    };
    capture
        .wait_for(is_it)
        .with_context(|| format!("after {quarters} quarters of a GiB, guest: {guest_sends}"))?;
    Ok(())
}

#[test]
fn a_reset_after_gigabytes_passes_a_stateful_firewall() -> Result<()> {
    let net = Proxmox::new()?;
    net.host
        .run_with_input(["nft", "-f", "-"], STATEFUL.as_bytes())?
        .expect_ok()?;
    // The kernel of the guest knows nothing of these connections.
    let mute = "table ip mute {\nchain output {\ntype filter hook output priority 0;\n\
                tcp flags & rst == rst drop\n}\n}\n";
    net.vm1
        .run_with_input(["nft", "-f", "-"], mute.as_bytes())?
        .expect_ok()?;
    let _natbpf = net.natbpf(&net.config())?;
    for (port, (guest_sends, quarters)) in
        (45000..).zip([(false, 0), (false, 10), (false, 13), (true, 0), (true, 10)])
    {
        reset_after(&net, guest_sends, port, quarters)?;
    }
    Ok(())
}

/// Datagrams of a forward, while something happens.
fn arrive_in_order(net: &Proxmox, meanwhile: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let sender = net.cli.udp("198.51.100.2:6001")?;
    let receiver = net.vm2.udp("0.0.0.0:10001")?;
    order::arrive_in_order(&sender, at(Proxmox::PUBLIC, 10001), &receiver, meanwhile)
}

/// Routes come and go: each time, sessions move to the kernel's way and back.
fn routes_come_and_go(net: &Proxmox) -> Result<()> {
    for turn in 0..30 {
        let action = if turn % 2 == 0 { "add" } else { "del" };
        net.host
            .ip(&format!("route {action} 10.99.0.0/16 dev vmbr0"))?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn packets_keep_their_order_when_a_session_moves() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    arrive_in_order(&net, || routes_come_and_go(&net))
}

/// A NIC as the uplink, and ends that take frames from XDP.
fn xdp() -> Result<(Proxmox, Natbpf)> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        ..Options::default()
    })?;
    for vm in [&net.vm1, &net.vm2] {
        vm.set_offload("eth0", Offload::Gro, true)?;
    }
    let config = net
        .config()
        .replace("[network.lan]", "mode = \"xdp\"\n[network.lan]");
    let natbpf = net.natbpf(&config)?;
    Ok((net, natbpf))
}

#[test]
fn xdp_takes_inbound_datagrams_and_they_stay_right() -> Result<()> {
    let (net, natbpf) = xdp()?;
    let status = natbpf.status()?;
    let hooks = &status["interfaces"][0]["hooks"];
    ensure!(
        hooks
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == "xdp-native")),
        "{status}"
    );
    let sessions = Sessions::open(&net)?;
    sessions.go_past_the_kernel(&net)?;
    // Large ones, and such whose sum is left unfinished for a device that is none.
    let (client, to, server) = &sessions.pairs[1];
    for length in [0, 1, 64, 1000, 1400] {
        exchange(client, *to, server, &vec![0x5a; length])?;
    }
    transfer(
        &net.cli,
        at(Proxmox::PUBLIC, 10100),
        &net.vm1,
        10100,
        Sender::Client,
        20_000_000,
    )?;
    Ok(())
}

#[test]
fn packets_keep_their_order_when_a_session_moves_to_xdp() -> Result<()> {
    let (net, _natbpf) = xdp()?;
    arrive_in_order(&net, || Ok(()))
}

/// Sends to a silent guest, and returns how often the host probes it in that time.
fn questions_to_a_silent_guest(net: &Proxmox, mut natbpf: Natbpf) -> Result<usize> {
    // A change that would take half a minute must take a second or two.
    natbpf.stop()?;
    natbpf.set_time_scale(16);
    natbpf.launch()?;
    net.host
        .set_sysctl("net.ipv4.neigh.vmbr1.base_reachable_time_ms", "1000")?;
    net.host
        .set_sysctl("net.ipv4.neigh.vmbr1.delay_first_probe_time", "1")?;
    let sender = net.cli.udp("198.51.100.2:6001")?;
    let _receiver = net.vm2.udp("0.0.0.0:10001")?;
    let send = |times: u32| -> Result<()> {
        for _ in 0..times {
            sender.send_to(b"no answer", at(Proxmox::PUBLIC, 10001))?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    send(1000)?;
    let guest = net.vm2.capture("eth0")?;
    send(3500)?;
    let is_question =
        |frame: &lab::Frame| !frame.outgoing && frame.bytes.get(12..14) == Some(&[0x08, 0x06]);
    Ok(guest
        .stop()
        .iter()
        .filter(|frame| is_question(frame))
        .count())
}

#[test]
fn the_kernel_asks_after_neighbours_that_only_the_fast_path_uses() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let questions = questions_to_a_silent_guest(&net, natbpf)?;
    ensure!(questions >= 2, "asked {questions} times, traffic control");
    let (net, natbpf) = xdp()?;
    let questions = questions_to_a_silent_guest(&net, natbpf)?;
    ensure!(questions >= 2, "asked {questions} times, XDP");
    Ok(())
}

#[test]
fn xdp_that_cannot_be_attached_is_an_error_where_it_is_asked_for() -> Result<()> {
    let net = Proxmox::new()?;
    let config = net
        .config()
        .replace("[network.lan]", "mode = \"xdp\"\n[network.lan]");
    let Err(error) = net.natbpf(&config) else {
        bail!("a bridge took an XDP program");
    };
    let said = format!("{error:#}");
    ensure!(
        said.contains("mode = \"tc\"") && said.contains("vmbr0"),
        "{said}"
    );
    Ok(())
}
