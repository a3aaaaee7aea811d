//! SYN floods (S4) at ten times the session table, from a guest and from outside, while connections
//! stand. Needs root.
//!
//! With `NATBPF_FLOOD_SECONDS=30` the flood is as long as that, the table has its usual size, and
//! the rate of a stream is compared with its rate under the same flood without NAT, alternately.

use std::env;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kit::craft::Ip;
use lab::topology::Proxmox;
use lab::{Background, Host, RawSocket, ones_complement_sum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tests::at;

/// Connections that stand idle, half of them through a forward and half by masquerade.
const IDLE: u16 = 1000;
/// The stream's port, the idle connections' ports, and those that are flooded.
const STREAM_PORT: u16 = 10_001;
const IDLE_PORT: u16 = 10_002;
const FLOODED_PORTS: std::ops::Range<u16> = 10_100..10_999;
/// Least share of the rate without NAT.
const LEAST_SHARE: f64 = 0.5;

/// How much is to be sent, and into how large a table.
#[derive(Clone, Copy)]
struct Load {
    sessions: u32,
    seconds: u32,
}

impl Load {
    const SHORT: Self = Self {
        sessions: 4096,
        seconds: 3,
    };

    /// Ten times the table, from either side.
    fn syns(self) -> u32 {
        10 * self.sessions
    }
}

/// SYNs of ever other connections, put on a wire at an even rate.
struct Flood {
    socket: RawSocket,
    ethernet: Vec<u8>,
    to: Target,
}

#[derive(Clone, Copy)]
enum Target {
    /// From a guest, to addresses that the provider throws away.
    Outside,
    /// From such addresses, to forwarded ports.
    Inside(Ipv4Addr),
}

impl Target {
    /// Source, destination, and their ports.
    fn connection(self, number: u32) -> (Ipv4Addr, Ipv4Addr, u16, u16) {
        let remote = Ipv4Addr::new(203, 0, 113, 1 + (number % 250) as u8);
        let port = 1024 + (number / 250 % 60_000) as u16;
        match self {
            Self::Outside => (Proxmox::VM2, remote, port, 80),
            Self::Inside(address) => {
                let ports = u32::from(FLOODED_PORTS.end - FLOODED_PORTS.start);
                let to = FLOODED_PORTS.start + (number % ports) as u16;
                (remote, address, port, to)
            }
        }
    }
}

impl Flood {
    fn from_guest(net: &Proxmox) -> Result<Self> {
        Ok(Self {
            socket: net.vm2.raw("eth0")?,
            ethernet: ethernet(net.host.mac("vmbr1")?, net.vm2.mac("eth0")?),
            to: Target::Outside,
        })
    }

    fn from_internet(net: &Proxmox, to: Ipv4Addr) -> Result<Self> {
        Ok(Self {
            socket: net.isp.raw(Proxmox::WAN)?,
            ethernet: ethernet(net.host.mac(net.uplink)?, net.isp.mac(Proxmox::WAN)?),
            to: Target::Inside(to),
        })
    }

    /// Sends all, in the time that there is or, if the machine is too slow, as fast as it can.
    fn run(&self, load: Load) -> Result<Duration> {
        let template = Ip::new(Proxmox::VM2, Proxmox::CLI).syn(1, 1, &[])?;
        let mut frame = [&self.ethernet[..], &template].concat();
        let each = Duration::from_secs(load.seconds.into()) / load.syns();
        let begun = Instant::now();
        for number in 0..load.syns() {
            let early = (each * number).saturating_sub(begun.elapsed());
            if early > Duration::from_millis(1) {
                thread::sleep(early);
            }
            self.write(&mut frame, number);
            self.socket.send(&frame)?;
        }
        Ok(begun.elapsed())
    }

    fn write(&self, frame: &mut [u8], number: u32) {
        let (source, destination, from, to) = self.to.connection(number);
        let (ip, tcp) = frame[14..].split_at_mut(20);
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..20].copy_from_slice(&destination.octets());
        ip[10..12].fill(0);
        let sum = !ones_complement_sum(&[ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        tcp[..2].copy_from_slice(&from.to_be_bytes());
        tcp[2..4].copy_from_slice(&to.to_be_bytes());
        tcp[16..18].fill(0);
        let length = tcp.len() as u8;
        let sum = !ones_complement_sum(&[&ip[12..20], &[0, 6, 0, length], tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &[0x08, 0x00]].concat()
}

/// Both ends of a connection.
type Ends = (TcpStream, TcpStream);

/// Opens idle connections to a port of a host, by this address of it.
fn connect(client: &Host, to: Ipv4Addr, server: &Host, count: u16) -> Result<Vec<Ends>> {
    let listener = server.tcp_listen(&format!("0.0.0.0:{IDLE_PORT}"))?;
    let mut connections = Vec::new();
    for _ in 0..count {
        let near = client.tcp(at(to, IDLE_PORT))?;
        let (far, _) = listener.accept().context("accept")?;
        far.set_read_timeout(Some(Duration::from_secs(3)))?;
        connections.push((near, far));
    }
    Ok(connections)
}

/// Asks and answers in every connection; returns how many fail.
fn lost(connections: &[Ends]) -> usize {
    let answers = |(near, far): &Ends| -> std::io::Result<()> {
        let (mut near, mut far, mut byte) = (near, far, [0]);
        near.write_all(b"?")?;
        far.read_exact(&mut byte)?;
        far.write_all(b"!")?;
        near.read_exact(&mut byte)
    };
    connections
        .iter()
        .filter(|ends| answers(ends).is_err())
        .count()
}

/// Starts a stream from outside to a guest, for longer than the flood.
fn stream(net: &Proxmox, to: Ipv4Addr, load: Load) -> Result<(Background, Background)> {
    let port = STREAM_PORT.to_string();
    let server = net.vm1.spawn(["iperf3", "-s", "-1", "-p", &port])?;
    // It listens after that, also on a busy machine.
    thread::sleep(Duration::from_millis(500));
    let (to, seconds) = (to.to_string(), (load.seconds + 1).to_string());
    let client = ["iperf3", "-J", "-c", &to, "-p", &port, "-t", &seconds];
    let client = net.cli.spawn(client)?;
    thread::sleep(Duration::from_millis(500));
    Ok((server, client))
}

/// What arrived, in Gbit/s.
fn rate(client: &mut Background, load: Load) -> Result<f64> {
    client.wait(Duration::from_secs(u64::from(load.seconds) * 4 + 20))?;
    let said = client.said();
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| said.clone())? / 1e9)
}

/// Floods from both sides while a stream runs, and returns the stream's rate.
fn under_flood(net: &Proxmox, to: Ipv4Addr, load: Load) -> Result<f64> {
    net.isp.ip("route add blackhole 203.0.113.0/24")?;
    let floods = [Flood::from_guest(net)?, Flood::from_internet(net, to)?];
    let (_server, mut client) = stream(net, to, load)?;
    let took: Vec<Result<Duration>> = thread::scope(|scope| {
        let threads = floods
            .each_ref()
            .map(|flood| scope.spawn(|| flood.run(load)));
        let results = threads.map(|thread| thread.join().expect("does not panic"));
        results.into_iter().collect()
    });
    for (took, whence) in took.into_iter().zip(["a guest", "outside"]) {
        println!("{} SYNs from {whence} in {:.1?}", load.syns(), took?);
    }
    rate(&mut client, load)
}

/// The flood on a host with natbpf, which must lose none of the connections that stand.
fn with_natbpf(load: Load) -> Result<f64> {
    let net = Proxmox::new()?;
    // By default one guest has half of the table: here it may fill it.
    let sessions = load.sessions;
    let limits = format!("[limits]\nsessions = {sessions}\nsessions_per_guest = {sessions}\n");
    let config = format!("{}\n{limits}", net.config());
    let natbpf = net.natbpf(&config)?;
    let mut connections = connect(&net.cli, Proxmox::PUBLIC, &net.vm1, IDLE / 2)?;
    connections.extend(connect(&net.vm1, Proxmox::CLI, &net.cli, IDLE / 2)?);
    let rate = under_flood(&net, Proxmox::PUBLIC, load)?;
    let lost = lost(&connections);
    ensure!(lost == 0, "{lost} of {IDLE} connections were lost");
    let drops = &natbpf.stats()?["drops"]["table_full"];
    println!("{drops} packets were refused for want of room");
    ensure!(drops.as_u64() > Some(0), "the table was never full");
    Ok(rate)
}

/// The same flood on a host that only routes.
fn with_plain_routing(load: Load) -> Result<f64> {
    let net = Proxmox::new()?;
    net.host.set_sysctl("net.ipv4.ip_forward", "1")?;
    net.isp.ip(&format!(
        "route add 172.22.161.0/24 via {}",
        Proxmox::PUBLIC
    ))?;
    under_flood(&net, Proxmox::VM1, load)
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Both ends of all connections are this process's.
fn allow_many_sockets() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("limit of open files")
}

#[test]
fn s4_a_syn_flood_breaks_no_established_connection() -> Result<()> {
    allow_many_sockets()?;
    let Some(seconds) = env::var("NATBPF_FLOOD_SECONDS").ok() else {
        let rate = with_natbpf(Load::SHORT)?;
        println!("the stream kept {rate:.2} Gbit/s");
        return Ok(());
    };
    let load = Load {
        sessions: 65_536,
        seconds: seconds.parse().context("NATBPF_FLOOD_SECONDS")?,
    };
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(with_natbpf(load)?);
        plain.push(with_plain_routing(load)?);
    }
    println!("with natbpf {ours:.2?} Gbit/s, with plain routing {plain:.2?} Gbit/s");
    let share = median(&mut ours) / median(&mut plain);
    println!("share: {share:.2}");
    ensure!(
        share >= LEAST_SHARE,
        "the stream kept {share:.2} of its rate"
    );
    Ok(())
}
