//! Questions of guests, and flows that must survive.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::patience::patience;
use lab::topology::Proxmox;
use tests::{Load, at, exchange};

/// How long a question to a name server may go unanswered.
const QUESTION: Duration = Duration::from_millis(200);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);
/// The `[[guest]]` of the configuration.
const WEB1: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 50);

/// A question for the A record of `web1`.
const WEB1_QUESTION: &[u8] =
    b"\x17\x2a\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04web1\x00\x00\x01\x00\x01";

/// Whether a guest's question for a name is answered.
pub(crate) fn is_resolved(net: &Proxmox) -> Result<bool> {
    let socket = net.vm1.udp("0.0.0.0:0")?;
    socket
        .set_read_timeout(Some(QUESTION))
        .context("a time limit")?;
    // (An error may be that of the question before.)
    let _refused = socket.send_to(WEB1_QUESTION, at(Proxmox::GATEWAY, 53));
    let mut answer = [0; 512];
    let Ok(length) = socket.recv(&mut answer) else {
        return Ok(false);
    };
    Ok(answer[..length].ends_with(&WEB1.octets()))
}

/// The address that a guest gets by DHCP and does not use. The first time takes 3 s, because
/// dnsmasq pings the address.
pub(crate) fn lease(net: &Proxmox) -> Result<Ipv4Addr> {
    let words = "udhcpc -f -q -n -i eth0 -t 4 -T 6 -s /bin/true";
    let output = net.vm1.run(words.split(' '))?;
    let said = output.stdout + &output.stderr;
    let address = said
        .split("lease of ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let address = address.with_context(|| format!("no lease: {said}"))?;
    address.parse().with_context(|| address.to_owned())
}

/// Flows that must survive: a stream of datagrams without loss, a TCP connection, and a socket that
/// is mostly silent and must keep its external port.
pub(crate) struct Flows {
    load: Load,
    /// Both ends of a connection.
    connection: [TcpStream; 2],
    near: UdpSocket,
    far: UdpSocket,
    seen: SocketAddrV4,
}

impl Flows {
    const SILENT: u16 = 7001;

    pub(crate) fn open(net: &Proxmox) -> Result<Self> {
        let listener = net.cli.tcp_listen("198.51.100.2:7000")?;
        let client = net.vm1.tcp(at(Proxmox::CLI, 7000))?;
        let (server, _) = listener.accept().context("accept a connection")?;
        let limit = Some(patience(ANSWER));
        server.set_read_timeout(limit).context("a time limit")?;
        let far = net.cli.udp(&format!("198.51.100.2:{}", Self::SILENT))?;
        let near = net.vm1.udp("0.0.0.0:0")?;
        let seen = exchange(&near, at(Proxmox::CLI, Self::SILENT), &far, b"opened")?;
        ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
        let flows = Self {
            load: Load::start(&net.vm1, at(Proxmox::CLI, 7002), &net.cli, 7002)?,
            connection: [client, server],
            near,
            far,
            seen,
        };
        flows.go_on("at first")?;
        Ok(flows)
    }

    /// The connection and the silent flow work as before.
    pub(crate) fn go_on(&self, when: &str) -> Result<()> {
        let seen = exchange(
            &self.near,
            at(Proxmox::CLI, Self::SILENT),
            &self.far,
            b"still",
        )
        .with_context(|| format!("the datagrams {when}"))?;
        ensure!(
            seen == self.seen,
            "{when} seen as {seen}, not as {}",
            self.seen
        );
        let [client, server] = &self.connection;
        for (mut from, mut to) in [(client, server), (server, client)] {
            let mut heard = [0; 5];
            from.write_all(b"still")
                .and_then(|()| to.read_exact(&mut heard))
                .with_context(|| format!("the connection {when}"))?;
            ensure!(heard == *b"still", "{when} other bytes came");
        }
        Ok(())
    }

    /// Nothing may have been lost.
    pub(crate) fn finish(self) -> Result<()> {
        self.go_on("at last")?;
        self.load.finish().map(drop)
    }
}
