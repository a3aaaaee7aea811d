//! The host itself reaches what it forwards: by its own address and by 127.0.0.1, TCP and UDP.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_links;
use lab::service::{self, Service};
use lab::topology::Proxmox;
use lab::{Host, Natbpf};
use nat_user::dataplane::Pins;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use tests::{at, deliver, exchange};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// By these the host itself knows what it forwards.
const OWN: [Ipv4Addr; 2] = [LOOPBACK, Proxmox::PUBLIC];

/// The configuration, with this written into every rule that forwards ports.
fn with_local(net: &Proxmox, line: &str) -> String {
    let ports = "ports = \"10000-10999\"";
    net.config().replace(ports, &format!("{ports}\n{line}"))
}

/// What a guest's web server says to the host, as long as it is reached.
fn reaches_guest(host: &Host, to: SocketAddrV4) -> Result<()> {
    let page = service::http_get(host, to).with_context(|| format!("nothing at {to}"))?;
    let expected = format!("vm1 sees {}:", Proxmox::GATEWAY);
    ensure!(page.starts_with(&expected), "at {to}: {page}");
    Ok(())
}

/// Nobody takes a connection, and the host says so at once.
pub(super) fn is_refused(host: &Host, to: impl Into<SocketAddr>) -> Result<()> {
    let to = to.into();
    match host.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)))? {
        Ok(_) => bail!("{to} takes a connection"),
        Err(error) => {
            let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
            ensure!(refused, "{to}: {error}");
            Ok(())
        }
    }
}

/// Where the links of the host's own access are pinned.
pub(super) fn pins(natbpf: &Natbpf) -> Result<Vec<PathBuf>> {
    let mut pins = Vec::new();
    for entry in fs::read_dir(Pins::below(natbpf.bpffs()).links())? {
        let path = entry?.path();
        let name = path.file_name().context("a pin without a name")?;
        if name.to_string_lossy().starts_with("local-") {
            pins.push(path);
        }
    }
    pins.sort();
    Ok(pins)
}

/// The kernel's numbers of the links, and of the programs that they run.
pub(super) fn links(natbpf: &Natbpf) -> Result<Vec<(u32, u32)>> {
    let link = |path: &PathBuf| {
        let info = FdLink::from(PinnedLink::from_pin(path)?).info()?;
        Ok((info.id(), info.program_id()))
    };
    let links: Vec<(u32, u32)> = pins(natbpf)?.iter().map(link).collect::<Result<_>>()?;
    ensure!(!links.is_empty(), "no links");
    Ok(links)
}

pub(super) fn counted(natbpf: &Natbpf, rule: &str) -> Result<[u64; 2]> {
    let stats = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    let rule = rules.iter().find(|one| one["name"] == rule);
    let rule = rule.context("no such rule")?;
    let count = |key: &str| rule[key].as_u64().context("no count");
    Ok([count("connections")?, count("active")?])
}

#[test]
fn m5_the_host_reaches_a_guest_by_tcp() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    for address in OWN {
        let to = at(address, 10080);
        reaches_guest(&net.host, to)?;
        let shown = net.host.tcp(to)?.peer_addr()?;
        ensure!(shown == to.into(), "the other end is {shown}, not {to}");
    }
    // Nothing of it is translated: there is no session, and each connection is counted once.
    let sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.is_empty(), "{sessions:?}");
    let counted = counted(&natbpf, "vm1-tcp")?;
    ensure!(
        counted == [4, 0],
        "{counted:?} connections, not 4 that are over"
    );
    // Other ports are unaffected.
    for address in OWN {
        is_refused(&net.host, at(address, 9999))?;
    }
    is_refused(&net.host, at(Ipv4Addr::new(127, 0, 0, 2), 10080))?;
    let access = natbpf.status()?["local"].to_string();
    ensure!(
        access.starts_with("\"on, for sockets below control group /"),
        "{access}"
    );
    Ok(())
}

#[test]
fn m5_the_host_reaches_a_guest_by_udp_and_sees_the_named_peer() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    let server = net.vm2.udp("0.0.0.0:10000")?;
    // An unconnected socket, to both addresses alternately.
    let client = net.host.udp("0.0.0.0:0")?;
    for address in OWN.into_iter().cycle().take(4) {
        exchange(&client, at(address, 10000), &server, b"not connected")?;
    }
    // To the guest's own address it is the guest that answers.
    exchange(&client, at(Proxmox::VM2, 10000), &server, b"directly")?;
    for address in OWN {
        let (client, to) = (net.host.udp("0.0.0.0:0")?, at(address, 10000));
        client.connect(to)?;
        let shown = client.peer_addr()?;
        ensure!(shown == to.into(), "the other end is {shown}, not {to}");
        client.send(b"connected")?;
        let (_, seen) = server.recv_from(&mut [0; 64])?;
        server.send_to(b"answer", seen)?;
        let (_, from) = client.recv_from(&mut [0; 64]).context("no answer")?;
        ensure!(from == to.into(), "answered from {from}, not {to}");
    }
    // Each socket is counted once, however much it sends.
    let counted = counted(&natbpf, "vm2-udp")?;
    ensure!(
        counted == [3, 0],
        "{counted:?} connections, not 3 that are over"
    );
    Ok(())
}

/// Programs in Java, for example, have sockets that speak both, and name IPv4 addresses in the form
/// of IPv6.
#[test]
fn m5_sockets_that_speak_ipv6_as_well_reach_it_too() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    let server = net.vm2.udp("0.0.0.0:10000")?;
    for address in OWN {
        let to = SocketAddr::new(address.to_ipv6_mapped().into(), 10080);
        let stream = net
            .host
            .enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))?;
        let shown = stream.with_context(|| format!("to {to}"))?.peer_addr()?;
        ensure!(shown == to, "the other end is {shown}, not {to}");

        let to = SocketAddr::new(address.to_ipv6_mapped().into(), 10000);
        let client = net.host.enter(|| UdpSocket::bind("[::]:0"))??;
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        client.send_to(b"not connected", to)?;
        let (_, seen) = server.recv_from(&mut [0; 64]).context("nothing came")?;
        server.send_to(b"answer", seen)?;
        let (_, from) = client.recv_from(&mut [0; 64]).context("no answer")?;
        ensure!(from == to, "answered from {from}, not {to}");
    }
    Ok(())
}

#[test]
fn m5_a_rule_that_is_not_for_the_host_leaves_it_alone() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&with_local(&net, "local = false"))?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    for address in OWN {
        is_refused(&net.host, at(address, 10080))?;
    }
    ensure!(pins(&natbpf)?.is_empty(), "attached for nothing");
    natbpf.reload(&with_local(&net, "local = true"))?;
    for address in OWN {
        reaches_guest(&net.host, at(address, 10080))?;
    }
    natbpf.reload(&with_local(&net, "local = false"))?;
    for address in OWN {
        is_refused(&net.host, at(address, 10080))?;
    }
    ensure!(pins(&natbpf)?.is_empty(), "still attached");
    // From outside nothing has changed.
    let page = service::http_get(&net.cli, at(Proxmox::PUBLIC, 10080))?;
    ensure!(page.starts_with("vm1 sees 198.51.100.2:"), "{page}");
    Ok(())
}

#[test]
fn s6_a_service_of_the_host_on_a_forwarded_port_comes_first_for_the_host() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let _webs = [
        Service::http(&net.vm1, "0.0.0.0:10080")?,
        Service::http(&net.vm1, "0.0.0.0:10081")?,
        Service::http(&net.vm1, "0.0.0.0:10082")?,
    ];
    let _everywhere = Service::http(&net.host, "0.0.0.0:10080")?;
    let _loopback = Service::http(&net.host, "127.0.0.1:10081")?;
    let _both = Service::http(&net.host, "[::]:10082")?;
    for (address, port) in [
        (LOOPBACK, 10080),
        (Proxmox::PUBLIC, 10080),
        (LOOPBACK, 10081),
        (LOOPBACK, 10082),
        (Proxmox::PUBLIC, 10082),
    ] {
        let to = at(address, port);
        let page = service::http_get(&net.host, to)?;
        ensure!(page.starts_with("host sees "), "at {to}: {page}");
    }
    reaches_guest(&net.host, at(Proxmox::PUBLIC, 10081))?;
    let guest = net.vm2.udp("0.0.0.0:10000")?;
    let client = net.host.udp("0.0.0.0:0")?;
    exchange(&client, at(LOOPBACK, 10000), &guest, b"to the guest")?;
    let own = net.host.udp("127.0.0.1:10000")?;
    exchange(&client, at(LOOPBACK, 10000), &own, b"to the host")?;
    exchange(&client, at(Proxmox::PUBLIC, 10000), &guest, b"to the guest")?;
    // Two that are connected with each other, one of them on a forwarded port.
    let one = net.host.udp("127.0.0.1:10001")?;
    let other = net.host.udp("0.0.0.0:0")?;
    let port = other.local_addr()?.port();
    one.connect(at(LOOPBACK, port))?;
    other.connect(at(LOOPBACK, 10001))?;
    other.send(b"between them")?;
    one.recv(&mut [0; 64]).context("went astray")?;
    Ok(())
}

#[test]
fn m5_sockets_of_other_hosts_are_let_alone() -> Result<()> {
    let nets = [Proxmox::new()?, Proxmox::new()?];
    let mut at_work = Vec::new();
    for net in &nets {
        at_work.push((
            net.natbpf(&net.config())?,
            Service::http(&net.vm1, "0.0.0.0:10080")?,
            net.vm2.udp("0.0.0.0:10000")?,
        ));
    }
    // Each host reaches its own guests.
    for (net, (_, web, server)) in nets.iter().zip(&at_work) {
        for address in OWN {
            let before = web.peers().len();
            reaches_guest(&net.host, at(address, 10080))?;
            ensure!(web.peers().len() == before + 1, "served by another's guest");
            let client = net.host.udp("0.0.0.0:0")?;
            exchange(&client, at(address, 10000), server, b"to its own")?;
        }
    }
    // A guest and a host outside are themselves at 127.0.0.1, and the guest that serves too.
    for stranger in [&nets[0].vm2, &nets[0].cli] {
        is_refused(stranger, at(LOOPBACK, 10080))?;
    }
    let page = service::http_get(&nets[0].vm1, at(LOOPBACK, 10080))?;
    ensure!(page.starts_with("vm1 sees 127.0.0.1:"), "{page}");
    // One of them goes, and the other stays.
    let (mut first, ..) = at_work.remove(0);
    first.down()?;
    is_refused(&nets[0].host, at(LOOPBACK, 10080))?;
    reaches_guest(&nets[1].host, at(LOOPBACK, 10080))
}

#[test]
fn m5_after_down_nothing_is_attached() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let before: Vec<u32> = links(&natbpf)?.iter().map(|(link, _)| *link).collect();
    natbpf.down()?;
    // (The kernel forgets a link a moment after its last name.)
    for _ in 0..50 {
        let left = loaded_links().filter_map(Result::ok);
        let left = left.filter(|link| before.contains(&link.id())).count();
        if left == 0 {
            return is_refused(&net.host, at(LOOPBACK, 10080));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("some of the links {before:?} are left");
}

#[test]
fn m5_the_hosts_access_outlives_the_daemon_and_changes_of_the_tables() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    let server = net.vm2.udp("0.0.0.0:10000")?;
    let (client, to) = (net.host.udp("0.0.0.0:0")?, at(LOOPBACK, 10000));
    let connected = net.host.tcp(at(LOOPBACK, 10080))?;
    let goes_on = |when: &str| -> Result<()> {
        reaches_guest(&net.host, at(LOOPBACK, 10080)).context(when.to_owned())?;
        let shown = connected.peer_addr()?;
        ensure!(
            shown == at(LOOPBACK, 10080).into(),
            "{when} the other end is {shown}"
        );
        exchange(&client, to, &server, b"and again").context(when.to_owned())?;
        Ok(())
    };
    let seen = deliver(&client, to, &server, b"a question")?;
    let before = links(&natbpf)?;
    ensure!(before.len() == 7, "not seven links: {before:?}");
    natbpf.kill()?;
    // An answer to what was asked before, and new ones.
    server.send_to(b"a late answer", seen)?;
    let (_, from) = client.recv_from(&mut [0; 64]).context("no answer")?;
    ensure!(from == to.into(), "answered from {from}, not {to}");
    goes_on("without the daemon")?;
    natbpf.launch()?;
    goes_on("with another daemon")?;
    replaced(&before, &links(&natbpf)?)?;
    let before = links(&natbpf)?;
    natbpf.reload(&format!("{}[limits]\nsessions = 2000\n", net.config()))?;
    goes_on("with other tables")?;
    replaced(&before, &links(&natbpf)?)
}

/// The links are the same, and run other programs: nothing was missed in between.
pub(super) fn replaced(before: &[(u32, u32)], after: &[(u32, u32)]) -> Result<()> {
    ensure!(before.len() == after.len(), "{before:?} became {after:?}");
    for ((link, program), (link_after, program_after)) in before.iter().zip(after) {
        ensure!(
            link == link_after && program != program_after,
            "links and programs {before:?} became {after:?}"
        );
    }
    Ok(())
}

/// Connects from an address that the program has chosen.
fn connect_bound(host: &Host, from: Ipv4Addr, to: SocketAddrV4) -> Result<TcpStream> {
    let made = host.enter(|| {
        let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let fd = socket(AddressFamily::Inet, kind, flags, None)?;
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(3, 0))?;
        bind(
            fd.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(from, 0)),
        )?;
        connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
        Ok::<_, nix::Error>(TcpStream::from(fd))
    })?;
    Ok(made?)
}

#[test]
fn m5_a_bound_socket_reaches_only_guests_that_can_answer() -> Result<()> {
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&net.config())?;
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    for from in [Proxmox::PUBLIC, Proxmox::GATEWAY] {
        for address in OWN {
            let stream = connect_bound(&net.host, from, at(address, 10080));
            let stream = stream.with_context(|| format!("from {from} to {address}"))?;
            ensure!(stream.local_addr()?.ip() == from, "{stream:?}");
        }
    }
    // No guest could answer 127.0.0.1, so the program gets the same error as without natbpf.
    for address in OWN {
        match connect_bound(&net.host, LOOPBACK, at(address, 10080)) {
            Ok(stream) => bail!("connected: {stream:?}"),
            Err(error) => ensure!(
                error.downcast_ref() == Some(&nix::Error::ECONNREFUSED),
                "{error:#}"
            ),
        }
    }
    Ok(())
}
