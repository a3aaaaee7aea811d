//! The host itself reaches what it forwards by IPv6: by its own address and by ::1, TCP and UDP.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::service::{self, Service};
use lab::topology::{Ipv6, Options, Proxmox};
use lab::{Host, Natbpf};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn6, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use tests::following::soon;
use tests::{at6, deliver, exchange};

use super::local::{counted, is_refused, links, pins, replaced};

const NET: Ipv6 = Ipv6::ROUTED;
const LOOPBACK: Ipv6Addr = Ipv6Addr::LOCALHOST;
/// By these the host itself knows what it forwards.
const OWN: [Ipv6Addr; 2] = [LOOPBACK, NET.public];
const FIRST: Ipv6Addr = Ipv6::LOCAL_VM1;
const SECOND: Ipv6Addr = Ipv6::LOCAL_VM2;

/// The pin of the destinations that sockets have named.
const DESTINATIONS: &str = "v5/DESTINATIONS6";

/// The port by which a guest's web server is reached, and the one at which it listens.
const WEB: u16 = 10_080;

fn world() -> Result<Proxmox> {
    Proxmox::with(&Options {
        ipv6: Some(NET),
        ..Options::default()
    })
}

/// Forwards of both families, and these further lines in those of IPv6.
fn config(net: &Proxmox, lines: &str) -> String {
    let network = "\"172.22.161.254/24\"";
    let both = format!("[{network}, \"fd00:18::1/64\"]");
    let config = net.config().replace(network, &both);
    ["tcp", "udp"]
        .iter()
        .zip([FIRST, SECOND])
        .fold(config, |config, (protocol, to)| {
            format!(
                "{config}\n[[forward]]\nname = \"{protocol}6\"\nuplink = \"wan\"\n\
                 protocol = \"{protocol}\"\nports = \"10000-10999\"\nto = \"{to}\"\n{lines}\n"
            )
        })
}

fn natbpf(net: &Proxmox) -> Result<Natbpf> {
    net.natbpf(&config(net, ""))
}

fn web(host: &Host, address: Ipv6Addr, port: u16) -> Result<Service> {
    Service::http(host, &at6(address, port).to_string())
}

fn udp(host: &Host, address: Ipv6Addr, port: u16) -> Result<UdpSocket> {
    host.udp(&at6(address, port).to_string())
}

/// What a guest's web server says to the host, as long as it is reached.
fn reaches_guest(host: &Host, to: SocketAddrV6) -> Result<()> {
    let page = service::http_get(host, to).with_context(|| format!("nothing at {to}"))?;
    let expected = format!("vm1 sees [{}]:", Ipv6::LOCAL_GATEWAY);
    ensure!(page.starts_with(&expected), "at {to}: {page}");
    Ok(())
}

#[test]
fn m6_4_the_host_reaches_a_guest_by_tcp() -> Result<()> {
    let net = world()?;
    let natbpf = natbpf(&net)?;
    let _web = web(&net.vm1, FIRST, WEB)?;
    for address in OWN {
        let to = at6(address, WEB);
        reaches_guest(&net.host, to)?;
        let shown = net.host.tcp(to)?.peer_addr()?;
        ensure!(shown == to.into(), "the other end is {shown}, not {to}");
    }
    // Nothing of it is translated: there is no session, and each connection is counted once.
    let sessions = natbpf.conntrack(&[])?;
    ensure!(sessions.is_empty(), "{sessions:?}");
    let counted = counted(&natbpf, "tcp6")?;
    ensure!(
        counted == [4, 0],
        "{counted:?} connections, not 4 that are over"
    );
    // Other ports are unaffected, and so are other hosts and guests.
    for address in OWN {
        is_refused(&net.host, at6(address, 9999))?;
    }
    for stranger in [&net.vm2, &net.cli] {
        is_refused(stranger, at6(LOOPBACK, WEB))?;
    }
    // The guest's own address is reached as before.
    let to = at6(FIRST, WEB);
    let shown = net.host.tcp(to)?.peer_addr()?;
    ensure!(shown == to.into(), "the other end is {shown}, not {to}");
    Ok(())
}

#[test]
fn m6_4_the_host_reaches_a_guest_by_udp_and_sees_the_named_peer() -> Result<()> {
    let net = world()?;
    let natbpf = natbpf(&net)?;
    let server = udp(&net.vm2, SECOND, 10_000)?;
    // An unconnected socket, to both addresses alternately.
    let client = udp(&net.host, Ipv6Addr::UNSPECIFIED, 0)?;
    for address in OWN.into_iter().cycle().take(4) {
        exchange(&client, at6(address, 10_000), &server, b"not connected")?;
    }
    // To the guest's own address it is the guest that answers.
    exchange(&client, at6(SECOND, 10_000), &server, b"directly")?;
    for address in OWN {
        let client = udp(&net.host, Ipv6Addr::UNSPECIFIED, 0)?;
        let to = at6(address, 10_000);
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
    let counted = counted(&natbpf, "udp6")?;
    ensure!(
        counted == [3, 0],
        "{counted:?} connections, not 3 that are over"
    );
    Ok(())
}

/// A socket of IPv6 that speaks IPv4 as well, or not.
fn socket_of_ipv6(host: &Host, is_only: bool) -> Result<UdpSocket> {
    let made = host.enter(|| {
        let (kind, flags) = (SockType::Datagram, SockFlag::SOCK_CLOEXEC);
        let fd = socket(AddressFamily::Inet6, kind, flags, None)?;
        setsockopt(&fd, sockopt::Ipv6V6Only, &is_only)?;
        Ok::<_, nix::Error>(UdpSocket::from(fd))
    })?;
    let made = made?;
    made.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(made)
}

/// By one socket, each family leads to its own guest.
#[test]
fn m6_4_a_socket_of_both_families_reaches_the_forwards_of_both() -> Result<()> {
    let net = world()?;
    let _natbpf = natbpf(&net)?;
    let ipv6 = udp(&net.vm2, SECOND, 10_000)?;
    let ipv4 = net.vm2.udp(&format!("{}:10000", Proxmox::VM2))?;
    for is_only in [false, true] {
        let client = socket_of_ipv6(&net.host, is_only)?;
        exchange(&client, at6(LOOPBACK, 10_000), &ipv6, b"of IPv6")?;
        let mapped = at6(Proxmox::PUBLIC.to_ipv6_mapped(), 10_000);
        if is_only {
            ensure!(client.send_to(b"of IPv4", mapped).is_err());
            continue;
        }
        client.send_to(b"of IPv4", mapped)?;
        let (_, seen) = ipv4.recv_from(&mut [0; 64]).context("nothing came")?;
        ipv4.send_to(b"answer", seen)?;
        let (_, from) = client.recv_from(&mut [0; 64]).context("no answer")?;
        ensure!(from == mapped.into(), "answered from {from}, not {mapped}");
        exchange(&client, at6(NET.public, 10_000), &ipv6, b"of IPv6")?;
    }
    // By TCP.
    let _webs = [
        web(&net.vm1, FIRST, WEB)?,
        Service::http(&net.vm1, &format!("{}:{WEB}", Proxmox::VM1))?,
    ];
    reaches_guest(&net.host, at6(LOOPBACK, WEB))?;
    let mapped: SocketAddr = at6(Proxmox::PUBLIC.to_ipv6_mapped(), WEB).into();
    let shown = net.host.tcp(mapped)?.peer_addr()?;
    ensure!(shown == mapped, "the other end is {shown}, not {mapped}");
    Ok(())
}

#[test]
fn m6_4_a_service_of_the_host_comes_first_for_the_host() -> Result<()> {
    let net = world()?;
    let _natbpf = natbpf(&net)?;
    let _webs = [
        web(&net.vm1, FIRST, 10_080)?,
        web(&net.vm1, FIRST, 10_081)?,
        web(&net.vm1, FIRST, 10_082)?,
    ];
    let _everywhere = web(&net.host, Ipv6Addr::UNSPECIFIED, 10_080)?;
    let _loopback = web(&net.host, LOOPBACK, 10_081)?;
    let _of_ipv4 = Service::http(&net.host, "0.0.0.0:10082")?;
    for (address, port) in [(LOOPBACK, 10_080), (NET.public, 10_080), (LOOPBACK, 10_081)] {
        let to = at6(address, port);
        let page = service::http_get(&net.host, to)?;
        ensure!(page.starts_with("host sees "), "at {to}: {page}");
    }
    reaches_guest(&net.host, at6(NET.public, 10_081))?;
    for address in OWN {
        reaches_guest(&net.host, at6(address, 10_082))?;
    }
    let guest = udp(&net.vm2, SECOND, 10_000)?;
    let client = udp(&net.host, Ipv6Addr::UNSPECIFIED, 0)?;
    exchange(&client, at6(LOOPBACK, 10_000), &guest, b"to the guest")?;
    let own = udp(&net.host, LOOPBACK, 10_000)?;
    exchange(&client, at6(LOOPBACK, 10_000), &own, b"to the host")?;
    exchange(&client, at6(NET.public, 10_000), &guest, b"to the guest")?;
    Ok(())
}

#[test]
fn m6_4_the_hosts_access_follows_the_configuration() -> Result<()> {
    let net = world()?;
    let natbpf = net.natbpf(&net.config())?;
    let _web = web(&net.vm1, FIRST, WEB)?;
    let of_ipv4 = links(&natbpf)?;
    ensure!(of_ipv4.len() == 7, "{of_ipv4:?}");
    for lines in ["", "local = false", "local = true"] {
        natbpf.reload(&config(&net, lines))?;
        let is_on = !lines.contains("false");
        let pins = pins(&natbpf)?;
        ensure!(pins.len() == if is_on { 11 } else { 7 }, "{pins:?}");
        for address in OWN {
            match is_on {
                true => reaches_guest(&net.host, at6(address, WEB))?,
                false => is_refused(&net.host, at6(address, WEB))?,
            }
        }
    }
    // From outside nothing has changed.
    let page = service::http_get(&net.cli, at6(NET.public, WEB))?;
    ensure!(page.starts_with("vm1 sees ["), "{page}");
    // Without IPv6, and with nothing of it left.
    natbpf.reload(&net.config())?;
    is_refused(&net.host, at6(LOOPBACK, WEB))?;
    ensure!(pins(&natbpf)?.len() == 7, "still attached");
    let destinations = natbpf.bpffs().join(DESTINATIONS);
    ensure!(!destinations.exists(), "{} is left", destinations.display());
    natbpf.reload(&config(&net, ""))?;
    reaches_guest(&net.host, at6(LOOPBACK, WEB))?;
    ensure!(destinations.exists());
    Ok(())
}

/// What the host itself opens needs no policy, in either family. What guests open to it does.
#[test]
fn m6_4_the_host_reaches_a_guest_of_a_closed_network() -> Result<()> {
    let net = world()?;
    let bridge = "interface = \"vmbr1\"";
    let closed = format!("{bridge}\npolicy = \"drop\"");
    let _natbpf = net.natbpf(&config(&net, "").replace(bridge, &closed))?;
    let _webs = [
        web(&net.vm1, FIRST, WEB)?,
        Service::http(&net.vm1, &format!("{}:{WEB}", Proxmox::VM1))?,
        web(&net.host, Ipv6::LOCAL_GATEWAY, 80)?,
    ];
    for address in OWN {
        reaches_guest(&net.host, at6(address, WEB))?;
    }
    let ipv4 = SocketAddr::from((Ipv4Addr::LOCALHOST, WEB));
    ensure!(service::http_get(&net.host, ipv4)?.starts_with("vm1 sees "));
    let page = service::http_get(&net.vm1, at6(Ipv6::LOCAL_GATEWAY, 80));
    ensure!(page.is_err(), "{page:?}");
    Ok(())
}

#[test]
fn m6_4_the_hosts_access_follows_its_address() -> Result<()> {
    let net = world()?;
    let _natbpf = natbpf(&net)?;
    let _web = web(&net.vm1, FIRST, WEB)?;
    let other: Ipv6Addr = "2001:db8:fe::77".parse()?;
    net.host.ip(&format!(
        "address del {}/64 dev vmbr0\naddress add {other}/64 dev vmbr0 nodad",
        NET.public
    ))?;
    let page = |address| service::http_get(&net.host, at6(address, WEB));
    soon("the new address", || {
        Ok(page(other).is_ok_and(|page| page.starts_with("vm1 sees")))
    })?;
    reaches_guest(&net.host, at6(LOOPBACK, WEB))
}

#[test]
fn m6_4_the_hosts_access_outlives_the_daemon_and_changes_of_the_tables() -> Result<()> {
    let net = world()?;
    let mut natbpf = natbpf(&net)?;
    let _web = web(&net.vm1, FIRST, WEB)?;
    let server = udp(&net.vm2, SECOND, 10_000)?;
    let client = udp(&net.host, Ipv6Addr::UNSPECIFIED, 0)?;
    let to = at6(LOOPBACK, 10_000);
    let connected = net.host.tcp(at6(LOOPBACK, WEB))?;
    let goes_on = |when: &str| -> Result<()> {
        reaches_guest(&net.host, at6(LOOPBACK, WEB)).context(when.to_owned())?;
        let shown = connected.peer_addr()?;
        ensure!(
            shown == at6(LOOPBACK, WEB).into(),
            "{when} the other end is {shown}"
        );
        exchange(&client, to, &server, b"and again").context(when.to_owned())?;
        Ok(())
    };
    let seen = deliver(&client, to, &server, b"a question")?;
    let before = links(&natbpf)?;
    ensure!(before.len() == 11, "{before:?}");
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
    let limits = "[limits]\nsessions_ipv6 = 2000\n";
    natbpf.reload(&format!("{}{limits}", config(&net, "")))?;
    goes_on("with other tables")?;
    replaced(&before, &links(&natbpf)?)?;
    natbpf.down()?;
    is_refused(&net.host, at6(LOOPBACK, WEB))
}

/// Versions of natbpf before this access have pinned the rest of IPv6.
#[test]
fn m6_4_a_daemon_adds_the_hosts_access_to_what_an_older_one_has_pinned() -> Result<()> {
    let net = world()?;
    let mut natbpf = natbpf(&net)?;
    let _web = web(&net.vm1, FIRST, WEB)?;
    natbpf.kill()?;
    let all = pins(&natbpf)?;
    let added = all.iter().filter(|pin| {
        let name = pin.file_name().unwrap_or_default();
        name.to_string_lossy().contains("local6")
    });
    for pin in added.chain([&natbpf.bpffs().join(DESTINATIONS)]) {
        fs::remove_file(pin).with_context(|| format!("remove {}", pin.display()))?;
    }
    natbpf.launch()?;
    reaches_guest(&net.host, at6(LOOPBACK, WEB))?;
    ensure!(pins(&natbpf)? == all && natbpf.bpffs().join(DESTINATIONS).exists());
    Ok(())
}

/// Connects from an address that the program has chosen.
fn connect_bound(host: &Host, from: Ipv6Addr, to: SocketAddrV6) -> Result<TcpStream> {
    let made = host.enter(|| {
        let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let fd = socket(AddressFamily::Inet6, kind, flags, None)?;
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(3, 0))?;
        bind(fd.as_raw_fd(), &SockaddrIn6::from(at6(from, 0)))?;
        connect(fd.as_raw_fd(), &SockaddrIn6::from(to))?;
        Ok::<_, nix::Error>(TcpStream::from(fd))
    })?;
    Ok(made?)
}

#[test]
fn m6_4_a_bound_socket_reaches_only_guests_that_can_answer() -> Result<()> {
    let net = world()?;
    let _natbpf = natbpf(&net)?;
    let _web = web(&net.vm1, FIRST, WEB)?;
    for from in [NET.public, Ipv6::LOCAL_GATEWAY] {
        for address in OWN {
            let stream = connect_bound(&net.host, from, at6(address, WEB));
            let stream = stream.with_context(|| format!("from {from} to {address}"))?;
            ensure!(stream.local_addr()?.ip() == from, "{stream:?}");
        }
    }
    // No guest could answer ::1, so the program gets the same error as without natbpf.
    match connect_bound(&net.host, LOOPBACK, at6(LOOPBACK, WEB)) {
        Ok(stream) => bail!("connected: {stream:?}"),
        Err(error) => ensure!(
            error.downcast_ref() == Some(&nix::Error::ECONNREFUSED),
            "{error:#}"
        ),
    }
    Ok(())
}
