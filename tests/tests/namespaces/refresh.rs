//! Streams that the host's firewall may stop: each direction shows it a packet in each round, and
//! continues only if that one has passed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::patience::patience;
use lab::topology::{Options, Proxmox, Uplink};
use lab::{Host, Natbpf, Offload};
use serde_json::Value;
use tests::at;

/// How many times as fast time goes for sessions: a round takes a second.
const TIMES: u32 = 16;
const ROUND: Duration = Duration::from_secs(1);
/// The traffic before a stream is stopped, and how long it is watched afterwards.
const WITHIN: Duration = Duration::from_millis(2500);
const WATCHED: Duration = Duration::from_millis(3500);
/// Between two packets of a stream.
const PACE: Duration = Duration::from_millis(2);

/// The streams: name, and what a rule of the firewall calls its packets.
const STREAMS: [(&str, &str); 4] = [
    ("udp_out", "ip saddr 172.22.161.0/24 udp dport 7000"),
    ("udp_in", "ip daddr 172.22.161.0/24 udp dport 10000"),
    ("tcp_out", "ip saddr 172.22.161.0/24 tcp dport 7100"),
    ("tcp_in", "ip daddr 172.22.161.0/24 tcp dport 10100"),
];

/// Packets that go one way without a pause.
pub(super) struct Stream {
    sent: Arc<AtomicU64>,
    /// Datagrams, of a connection bytes.
    received: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Calls both until the stream is over: one sends a packet, the other returns how much has
    /// arrived.
    fn start(
        mut send: impl FnMut() -> bool + Send + 'static,
        mut receive: impl FnMut() -> u64 + Send + 'static,
    ) -> Self {
        let (sent, received) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let is_over = Arc::<AtomicBool>::default();
        let sending = thread::spawn({
            let (sent, is_over) = (Arc::clone(&sent), Arc::clone(&is_over));
            move || {
                while !is_over.load(Relaxed) {
                    sent.fetch_add(send().into(), Relaxed);
                    thread::sleep(PACE);
                }
            }
        });
        let receiving = thread::spawn({
            let (received, is_over) = (Arc::clone(&received), Arc::clone(&is_over));
            move || {
                while !is_over.load(Relaxed) {
                    received.fetch_add(receive(), Relaxed);
                }
            }
        });
        Self {
            sent,
            received,
            is_over,
            threads: vec![sending, receiving],
        }
    }

    /// What has arrived.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(super) fn udp(sender: UdpSocket, to: SocketAddrV4, receiver: UdpSocket) -> Result<Self> {
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self::start(
            move || sender.send_to(b"one way", to).is_ok(),
            move || receiver.recv(&mut [0; 64]).is_ok().into(),
        ))
    }

    fn tcp(client: &Host, to: SocketAddrV4, listener: &TcpListener) -> Result<Self> {
        let mut near: TcpStream = client.tcp(to)?;
        let (mut far, _) = listener.accept()?;
        near.set_nodelay(true)?;
        near.set_write_timeout(Some(Duration::from_millis(50)))?;
        far.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self::start(
            move || near.write(b"one way").is_ok(),
            move || far.read(&mut [0; 4096]).unwrap_or(0) as u64,
        ))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// A host with natbpf, a firewall that counts, and all the streams.
struct World {
    streams: [Stream; 4],
    net: Proxmox,
    _natbpf: Natbpf,
}

impl World {
    fn new(mode: &str) -> Result<Self> {
        let net = Proxmox::with(&Options {
            uplink: match mode {
                "xdp" => Uplink::Nic,
                _ => Options::default().uplink,
            },
            ..Options::default()
        })?;
        for vm in [&net.vm1, &net.vm2] {
            vm.set_offload("eth0", Offload::Gro, true)?;
        }
        let mode = format!("mode = \"{mode}\"\n[network.lan]");
        let config = net.config().replace("[network.lan]", &mode);
        let mut natbpf = net.natbpf(&config)?;
        natbpf.stop()?;
        natbpf.set_time_scale(TIMES);
        natbpf.launch()?;
        let counters = STREAMS.map(|(name, _)| format!("counter {name} {{ }}\n"));
        let rules = STREAMS.map(|(name, packets)| format!("{packets} counter name {name}\n"));
        firewall(&net.host, "watch", &counters.concat(), &rules.concat())?;
        let streams = [
            Stream::udp(
                net.vm1.udp("0.0.0.0:5000")?,
                at(Proxmox::CLI, 7000),
                net.cli.udp("198.51.100.2:7000")?,
            )?,
            Stream::udp(
                net.cli.udp("198.51.100.2:6000")?,
                at(Proxmox::PUBLIC, 10000),
                net.vm2.udp("0.0.0.0:10000")?,
            )?,
            Stream::tcp(
                &net.vm1,
                at(Proxmox::CLI, 7100),
                &net.cli.tcp_listen("0.0.0.0:7100")?,
            )?,
            Stream::tcp(
                &net.cli,
                at(Proxmox::PUBLIC, 10100),
                &net.vm1.tcp_listen("0.0.0.0:10100")?,
            )?,
        ];
        Ok(Self {
            streams,
            net,
            _natbpf: natbpf,
        })
    }

    /// What the firewall has seen of each stream.
    fn slow(&self) -> Result<[u64; 4]> {
        let list = ["nft", "-j", "list", "counters", "table", "ip", "watch"];
        let text = self.net.host.check(list)?;
        let all: Value = serde_json::from_str(&text)?;
        let all = all["nftables"].as_array().context("no counters")?;
        let mut slow = [0; 4];
        for ((name, _), slow) in STREAMS.iter().zip(&mut slow) {
            let counter = all.iter().map(|one| &one["counter"]);
            let counter = counter.into_iter().find(|one| one["name"] == *name);
            let packets = counter.and_then(|one| one["packets"].as_u64());
            *slow = packets.context("no counter")?;
        }
        Ok(slow)
    }

    fn sent(&self) -> [u64; 4] {
        self.streams
            .each_ref()
            .map(|stream| stream.sent.load(Relaxed))
    }

    fn received(&self) -> [u64; 4] {
        let received = self.streams.each_ref();
        received.map(Stream::received)
    }

    /// In some rounds the firewall sees a packet of each stream in each, and few more.
    fn go_on(&self, rounds: u32) -> Result<()> {
        let (slow, sent, received) = (self.slow()?, self.sent(), self.received());
        thread::sleep(rounds * ROUND);
        let (slow_then, sent_then, received_then) = (self.slow()?, self.sent(), self.received());
        for (index, (name, _)) in STREAMS.iter().enumerate() {
            let slow = slow_then[index] - slow[index];
            let sent = sent_then[index] - sent[index];
            let received = received_then[index] - received[index];
            ensure!(
                slow + 1 >= rounds.into(),
                "{name}: {slow} packets of {sent} in {rounds} rounds went through the firewall"
            );
            ensure!(
                slow <= sent / 4,
                "{name}: {slow} packets of {sent} went through the firewall"
            );
            ensure!(received >= sent / 2, "{name}: {received} of {sent} arrived");
        }
        Ok(())
    }
}

/// Adds a table with a chain for what is forwarded.
fn firewall(host: &Host, table: &str, objects: &str, rules: &str) -> Result<()> {
    let text = format!(
        "table ip {table} {{\n{objects}chain forward {{\n\
         type filter hook forward priority 0;\n{rules}}}\n}}\n"
    );
    host.run_with_input(["nft", "-f", "-"], text.as_bytes())?
        .expect_ok()?;
    Ok(())
}

/// Streams go on past the firewall; then it stops them all, and in the end lets them on.
fn streams_heed_the_firewall(mode: &str) -> Result<()> {
    let world = World::new(mode)?;
    thread::sleep(patience(ROUND));
    world.go_on(3).context("without a rule")?;

    let rules = STREAMS.map(|(_, packets)| format!("{packets} drop\n"));
    firewall(&world.net.host, "later", "", &rules.concat())?;
    thread::sleep(patience(WITHIN));
    let before = world.received();
    thread::sleep(WATCHED);
    let after = world.received();
    ensure!(after == before, "{before:?} arrived, then {after:?}");

    let delete = ["nft", "delete", "table", "ip", "later"];
    world.net.host.check(delete)?;
    let deadline = Instant::now() + patience(Duration::from_secs(15));
    while world
        .received()
        .iter()
        .zip(after)
        .any(|(now, then)| *now == then)
    {
        let received = world.received();
        ensure!(Instant::now() < deadline, "{after:?}, then {received:?}");
        thread::sleep(Duration::from_millis(50));
    }
    world.go_on(2).context("once the rule is gone")
}

#[test]
fn streams_that_a_later_rule_drops_stop_for_good_and_others_go_on() -> Result<()> {
    thread::scope(|scope| {
        let modes = ["tc", "xdp"].map(|mode| {
            let run = move || streams_heed_the_firewall(mode).context(mode);
            scope.spawn(run)
        });
        for mode in modes {
            mode.join().expect("it does not panic")?;
        }
        Ok(())
    })
}
