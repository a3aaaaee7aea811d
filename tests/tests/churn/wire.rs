//! The generator's hosts, which say nothing by themselves, and its packets.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etherparse::TcpHeader;
use kit::craft::Ip;
use lab::patience::patience;
use lab::topology::Proxmox;
use lab::{Host, RawSocket};

use super::model::{Kind, Protocol, Session, Way};

/// The remotes, which the provider's router throws away.
const REMOTES: [u8; 3] = [203, 0, 113];
/// The remotes' port.
const REMOTE_PORT: u16 = 7000;
/// The guests' packets come from this one, except answers of the forwarded UDP ports.
const GUEST: Ipv4Addr = Proxmox::VM1;

/// What no host speaks: an EtherType for experiments (IEEE 802).
const MARKER: [u8; 2] = [0x88, 0xb5];
const MARKER_LIMIT: Duration = Duration::from_secs(10);

/// The places at which packets are put on a wire.
pub(super) struct Wire {
    guests: [(Ipv4Addr, RawSocket, Vec<u8>); 2],
    internet: (RawSocket, Vec<u8>),
    /// Where natbpf's host receives from the guests, and from the internet.
    received: [RawSocket; 2],
    markers: Cell<u32>,
}

impl Wire {
    /// Silences the scenario's hosts.
    pub(super) fn new(net: &Proxmox) -> Result<Self> {
        net.isp.ip("route add blackhole 203.0.113.0/24")?;
        let gateway = net.host.mac("vmbr1")?;
        let guest = |host: &Host, address| -> Result<_> {
            let rules = "table ip quiet { chain input { type filter hook input priority 0; policy \
                drop; }; }";
            host.run_with_input(["nft", "-f", "-"], rules.as_bytes())?
                .expect_ok()?;
            let header = ethernet(gateway, host.mac("eth0")?);
            Ok((address, host.raw("eth0")?, header))
        };
        let header = ethernet(net.host.mac(net.uplink)?, net.isp.mac(Proxmox::WAN)?);
        Ok(Self {
            guests: [
                guest(&net.vm1, Proxmox::VM1)?,
                guest(&net.vm2, Proxmox::VM2)?,
            ],
            internet: (net.isp.raw(Proxmox::WAN)?, header),
            received: [net.host.listen("vmbr1")?, net.host.listen(net.uplink)?],
            markers: Cell::new(0),
        })
    }

    /// Waits until natbpf has seen all that was sent, however long the kernel takes: a marker that
    /// is sent now from each place arrives behind it, since this thread stays on one processor.
    pub(super) fn settle(&self) -> Result<()> {
        let number = self.markers.get() + 1;
        self.markers.set(number);
        let guests = self.guests.iter().map(|guest| (&guest.1, &guest.2, 0));
        let internet = (&self.internet.0, &self.internet.1, 1);
        for (index, (socket, header, receiver)) in guests.chain([internet]).enumerate() {
            let mut marker = header.clone();
            marker.truncate(12);
            marker.extend(MARKER);
            marker.extend(number.to_be_bytes());
            marker.push(index as u8);
            socket.send(&marker)?;
            self.receive(receiver, &marker)?;
        }
        Ok(())
    }

    fn receive(&self, receiver: usize, marker: &[u8]) -> Result<()> {
        let socket = &self.received[receiver];
        let deadline = Instant::now() + patience(MARKER_LIMIT);
        loop {
            match socket.receive()? {
                Some(frame) if frame.bytes.starts_with(marker) => return Ok(()),
                Some(_) => {}
                None => {
                    ensure!(Instant::now() < deadline, "what was sent does not arrive");
                    socket.wait(Duration::from_millis(100));
                }
            }
        }
    }

    /// Sends a packet of a session.
    pub(super) fn send(&self, session: &Session, kind: Kind, from_initiator: bool) -> Result<()> {
        let is_out = from_initiator == (session.way == Way::Masquerade);
        let ends = Ends::new(session);
        let packet = if is_out {
            let from = Ip::new(ends.guest, ends.remote);
            ends.packet(
                &from,
                (ends.guest_port, ends.remote_port),
                session,
                kind,
                from_initiator,
            )?
        } else {
            let from = Ip::new(ends.remote, Proxmox::PUBLIC);
            ends.packet(
                &from,
                (ends.remote_port, ends.public_port),
                session,
                kind,
                from_initiator,
            )?
        };
        let (socket, header) = if is_out {
            let known = self.guests.iter().find(|guest| guest.0 == ends.guest);
            let (_, socket, header) = known.context("a guest")?;
            (socket, header)
        } else {
            (&self.internet.0, &self.internet.1)
        };
        socket.send(&[&header[..], &packet].concat())
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &[0x08, 0x00]].concat()
}

/// Addresses and ports of a session. A port is the same on both sides: the NAT keeps it while it is
/// free, and no two sessions of the generator use the same.
struct Ends {
    guest: Ipv4Addr,
    guest_port: u16,
    public_port: u16,
    remote: Ipv4Addr,
    remote_port: u16,
}

impl Ends {
    fn new(session: &Session) -> Self {
        let [a, b, c] = REMOTES;
        let (port, remote_port) = match session.way {
            Way::Masquerade => (session.port, REMOTE_PORT),
            Way::Forward | Way::Mapping => (session.public_port, session.port),
        };
        let guest = match (session.way, session.protocol) {
            (Way::Forward, Protocol::Udp) => Proxmox::VM2,
            _ => GUEST,
        };
        Self {
            guest,
            guest_port: port,
            public_port: port,
            remote: Ipv4Addr::new(a, b, c, session.remote),
            remote_port,
        }
    }

    fn packet(
        &self,
        ip: &Ip,
        ports: (u16, u16),
        session: &Session,
        kind: Kind,
        from_initiator: bool,
    ) -> Result<Vec<u8>> {
        match session.protocol {
            Protocol::Udp => ip.udp(ports.0, ports.1, b"churn"),
            Protocol::Icmp => {
                let [high, low] = session.port.to_be_bytes();
                let kind = if from_initiator { 8 } else { 0 };
                ip.icmp(kind, 0, [high, low, 0, 1], b"churn")
            }
            Protocol::Tcp => segment(ip, ports, kind, from_initiator),
        }
    }
}

fn segment(ip: &Ip, ports: (u16, u16), kind: Kind, from_initiator: bool) -> Result<Vec<u8>> {
    let mut header = TcpHeader::new(ports.0, ports.1, 1, 1024);
    header.syn = kind == Kind::Open;
    header.fin = kind == Kind::Fin;
    header.rst = kind == Kind::Reset;
    header.ack = kind != Kind::Open || !from_initiator;
    let payload: &[u8] = if kind == Kind::Data { b"churn" } else { b"" };
    let (source, destination) = (ip.source.octets(), ip.destination.octets());
    header.checksum = header
        .calc_checksum_ipv4_raw(source, destination, payload)
        .context("TCP checksum")?;
    ip.raw(6, &[&header.to_bytes(), payload].concat())
}
