//! tayga's stateless translation (RFC 6145), field by field beside natbpf's (RFC 7915).
//!
//! The same packets go through tayga on a TUN device and through the code that natbpf's NAT64 runs.
//! The results must be the same, or differ in one of the ways in [`decisions`].

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bpf_toolchain::Workspace;
use bpf_toolchain::unpack::TRANSLATORS;
use kit::nat64::Table;
use kit::octets::Octets;
use kit::packets::{At, ETHERNET, udp};
use lab::{Background, Host, Lab, RawSocket};
use nat_common::nat64::Prefix;

use decisions::DECISIONS;
use packets::{Family, packets};

mod decisions;
mod packets;

type V4 = [u8; 4];
type V6 = [u8; 16];

const GUEST_4: V4 = [100, 64, 46, 10];
const GUEST: V6 = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const SERVER: V4 = [203, 0, 113, 2];
/// tayga's own address, which stands for nodes that have no counterpart.
const TAYGA: V4 = [100, 64, 46, 254];
/// (Behind the well-known prefix, tayga reaches no address for documentation.)
const PREFIX: Prefix = Prefix([0x2001_0db8_u32.to_be(), 0x0064_0000_u32.to_be(), 0]);
const CONFIG: &str = "tun-device nat64
ipv4-addr 100.64.46.254
ipv6-addr 2001:db8:fe::1
prefix 2001:db8:64::/96
map 100.64.46.10 2001:db8:7::10
";

const DEVICE: &str = "nat64";
const PATIENCE: Duration = Duration::from_secs(3);
/// The port of the datagrams behind which nothing is under way any more.
const MARKER: u16 = 9;

/// What came out.
type Outcome = Vec<Vec<u8>>;

/// tayga on a host of its own.
struct Twin {
    sending: RawSocket,
    receiving: RawSocket,
    tayga: Background,
    _host: Host,
    _lab: Lab,
}

impl Twin {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("translator")?;
        let config = lab.folder().join("tayga.conf");
        fs::write(&config, CONFIG)?;
        let built = std::env::current_exe().context("path of the running program")?;
        let workspace = Workspace::containing(env!("CARGO_MANIFEST_DIR").as_ref(), &built)?;
        let program = workspace.unpacked().apart(TRANSLATORS).join("tayga");
        let path = program.display();
        ensure!(
            program.exists(),
            "there is no {path}: run `cargo xtask setup`"
        );
        let words = [program.as_os_str(), "-c".as_ref(), config.as_os_str()];
        let tayga = host.spawn(words.into_iter().chain(["--nodetach".as_ref()]))?;
        let begun = Instant::now();
        while host.index(DEVICE).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "no device: {}", tayga.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        host.ip(&format!("link set {DEVICE} mtu 65535 up"))?;
        Ok(Self {
            sending: host.raw(DEVICE)?,
            receiving: host.listen(DEVICE)?,
            tayga,
            _host: host,
            _lab: lab,
        })
    }

    /// What tayga makes of a packet.
    fn translate(&self, packet: &[u8]) -> Result<Outcome> {
        self.sending.send(packet)?;
        let marker = udp(At(GUEST, MARKER), At(of_ipv4(SERVER), MARKER)).bytes();
        self.sending.send(&marker[ETHERNET..])?;
        let begun = Instant::now();
        let mut outcome = Vec::new();
        loop {
            let Some(frame) = self.receiving.receive()? else {
                let said = || self.tayga.said();
                ensure!(
                    begun.elapsed() < PATIENCE,
                    "the marker did not come out: {}",
                    said()
                );
                self.receiving.wait(Duration::from_millis(100));
                continue;
            };
            if frame.outgoing {
                continue;
            }
            let [a, b] = MARKER.to_be_bytes();
            if frame.bytes.get(20..24) == Some(&[a, b, a, b]) {
                return Ok(outcome);
            }
            outcome.push(frame.bytes);
        }
    }
}

fn of_ipv4([a, b, c, d]: V4) -> V6 {
    [0x20, 1, 0xd, 0xb8, 0, 0x64, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// What natbpf makes of a packet. The kernel decrements its hops before the device and behind it,
/// where tayga is one hop.
fn natbpf(packet: &[u8]) -> Outcome {
    let table = Table {
        prefix: PREFIX,
        guests: [(GUEST_4, GUEST)].into(),
        strangers: TAYGA,
        random: 0,
    };
    let Ok(mut after) = table.translate(packet) else {
        return Vec::new();
    };
    let hops = if after[0] >> 4 == 4 { 8 } else { 7 };
    after[hops] = after[hops].saturating_sub(2);
    if after[0] >> 4 == 4 {
        V4::correct_header(&mut after);
    }
    vec![after]
}

/// Compares both translations of all packets of a family; what no decision explains.
fn compare<I: Family>(twin: &Twin, tally: &mut BTreeMap<&str, usize>) -> Result<Vec<String>> {
    let mut unexplained = Vec::new();
    for (what, packet) in packets::<I>() {
        let tayga = twin.translate(&packet).with_context(|| what.clone())?;
        let natbpf = natbpf(&packet);
        let mut pair = (tayga.clone(), natbpf.clone());
        let mut names = Vec::new();
        for decision in DECISIONS {
            let before = pair.clone();
            (decision.explains)(&packet, &mut pair.0, &mut pair.1);
            if before != pair {
                names.push(decision.name);
            }
        }
        if pair.0 == pair.1 {
            names.push(if names.is_empty() {
                "alike"
            } else {
                "by decision"
            });
            for name in names {
                *tally.entry(name).or_default() += 1;
            }
        } else {
            let show = |outcome: &[Vec<u8>]| {
                let hex = |bytes: &Vec<u8>| -> String {
                    bytes
                        .iter()
                        .take(120)
                        .map(|byte| format!("{byte:02x}"))
                        .collect()
                };
                let all: Vec<_> = outcome.iter().map(hex).collect();
                all.join(" and ")
            };
            unexplained.push(format!(
                "{what}\n  in     {}\n  tayga  {}\n  natbpf {}",
                show(&[packet]),
                show(&tayga),
                show(&natbpf)
            ));
        }
    }
    Ok(unexplained)
}

#[test]
fn x6_2_tayga_makes_the_same_of_every_packet() -> Result<()> {
    let twin = Twin::new()?;
    let mut tally = BTreeMap::new();
    let mut unexplained = compare::<V6>(&twin, &mut tally)?;
    unexplained.extend(compare::<V4>(&twin, &mut tally)?);
    for (name, count) in &tally {
        let why = DECISIONS.iter().find(|decision| decision.name == *name);
        println!(
            "{count:>6} {name}: {}",
            why.map_or("", |decision| decision.why)
        );
    }
    if !unexplained.is_empty() {
        let (count, shown) = (unexplained.len(), &unexplained[..unexplained.len().min(20)]);
        bail!(
            "{count} differences without a decision:\n{}",
            shown.join("\n")
        );
    }
    Ok(())
}
