//! Frames by the million on one core: `BPF_PROG_TEST_RUN` with live frames sends them, an XDP program
//! at the other end counts them, and all between the two runs on the sender's core.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{
    SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use lab::Host;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::net::ETH;

/// Length of a frame in bytes.
pub(crate) const FRAME: usize = 64;
/// Frames that are sent before the other end has its turn.
const BATCH: u32 = 64;
/// The core that all work is done on.
const CORE: usize = 1;

/// `struct xdp_md` as the kernel takes it: from the frame's start to its end, and by which interface
/// it came.
const XDP_MD_LEN: usize = 24;
const XDP_MD_DATA_END: usize = 4;
const XDP_MD_INGRESS_IFINDEX: usize = 12;

/// A plan of frames; the program's own layout of it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Plan {
    frame: [u8; FRAME],
    flows: u32,
    ports: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Expected {
    source: [u8; 4],
    destination: [u8; 4],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Seen {
    expected: u64,
    other: u64,
}

// SAFETY: integers and byte arrays without padding.
unsafe impl aya::Pod for Plan {}
// SAFETY: as above.
unsafe impl aya::Pod for Expected {}
// SAFETY: as above.
unsafe impl aya::Pod for Seen {}

/// What is sent: UDP of 64 bytes a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) from_mac: [u8; 6],
    pub(crate) to_mac: [u8; 6],
    /// Source of flow 0. Ports count up first, then addresses.
    pub(crate) source: (Ipv4Addr, u16),
    pub(crate) destination: (Ipv4Addr, u16),
    pub(crate) flows: u32,
    /// Flows from one address.
    pub(crate) ports: u32,
    /// Source and destination address that must arrive; unspecified for any.
    pub(crate) arrives: (Ipv4Addr, Ipv4Addr),
}

/// A sender's generator and a receiver's sink.
pub(crate) struct Generator {
    sender: Host,
    interface: u32,
    ebpf: Ebpf,
    _sink: Ebpf,
    seen: PerCpuArray<MapData, Seen>,
    expected: Array<MapData, Expected>,
}

impl Generator {
    /// Loads both, and attaches the sink.
    pub(crate) fn new(object: &Path, sender: &Host, receiver: &Host) -> Result<Self> {
        let mut ebpf = load(object, 0)?;
        let generate: &mut Xdp = program(&mut ebpf, "generate")?.try_into()?;
        generate.load()?;
        let mut sink = load(object, 0)?;
        let program: &mut Xdp = program(&mut sink, "sink")?.try_into()?;
        program.load()?;
        receiver.enter(|| program.attach(ETH, XdpMode::Driver))??;
        let seen = PerCpuArray::try_from(sink.take_map("SEEN").context("SEEN")?)?;
        let expected = Array::try_from(sink.take_map("EXPECTED").context("EXPECTED")?)?;
        Ok(Self {
            interface: index(sender, ETH)?,
            sender: sender.clone(),
            ebpf,
            _sink: sink,
            seen,
            expected,
        })
    }

    /// Sends so many frames and gives millions a second that arrived as they should, on one core.
    pub(crate) fn send(&mut self, traffic: &Traffic, frames: u32) -> Result<f64> {
        let (source, destination) = traffic.arrives;
        let expected = Expected {
            source: source.octets(),
            destination: destination.octets(),
        };
        self.expected.set(0, expected, 0)?;
        let mut plans: Array<_, Plan> =
            Array::try_from(self.ebpf.map_mut("PLAN").context("PLAN")?)?;
        plans.set(0, traffic.plan(), 0)?;
        let mut flow: PerCpuArray<_, u32> =
            PerCpuArray::try_from(self.ebpf.map_mut("NEXT_FLOW").context("NEXT_FLOW")?)?;
        let cpus = flow.get(&0, 0)?.len();
        flow.set(0, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        let before = self.seen()?;
        let generate: &mut Xdp = program(&mut self.ebpf, "generate")?.try_into()?;
        let (interface, frame) = (self.interface, traffic.plan().frame);
        let elapsed = self
            .sender
            .enter(|| run(generate, interface, &frame, frames))??;
        let after = self.seen()?;
        let (expected, other) = (after.expected - before.expected, after.other - before.other);
        ensure!(
            other <= u64::from(frames) / 1000 && expected > 0,
            "{expected} packets arrived as they should, {other} others, of {frames}"
        );
        Ok(expected as f64 / elapsed / 1e6)
    }

    fn seen(&self) -> Result<Seen> {
        let values = self.seen.get(&0, 0)?;
        Ok(values.iter().fold(Seen::default(), |sum, cpu| Seen {
            expected: sum.expected + cpu.expected,
            other: sum.other + cpu.other,
        }))
    }
}

/// Runs the generator on the core, and gives the seconds that it took.
fn run(generate: &mut Xdp, interface: u32, frame: &[u8], frames: u32) -> Result<f64> {
    let mut cores = CpuSet::new();
    cores.set(CORE)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("stay on one core")?;
    let mut context = [0; XDP_MD_LEN];
    context[XDP_MD_DATA_END..][..4].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[XDP_MD_INGRESS_IFINDEX..][..4].copy_from_slice(&interface.to_ne_bytes());
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat: frames,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    let begun = Instant::now();
    generate.test_run(options).context("send live frames")?;
    Ok(begun.elapsed().as_secs_f64())
}

impl Traffic {
    fn plan(&self) -> Plan {
        let mut ip = vec![0x45, 0, 0, (FRAME - 14) as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
        ip.extend(self.source.0.octets());
        ip.extend(self.destination.0.octets());
        let checksum = lab::ones_complement_sum(&[&ip]);
        ip[10..12].copy_from_slice(&(!checksum).to_be_bytes());
        let mut udp = Vec::new();
        let len = (FRAME - 34) as u16;
        for word in [self.source.1, self.destination.1, len, 0] {
            udp.extend(word.to_be_bytes());
        }
        udp.resize(len.into(), 0);
        let mut summed = ip[12..20].to_vec();
        summed.extend([0, 17]);
        summed.extend(len.to_be_bytes());
        summed.extend(&udp);
        let checksum = lab::ones_complement_sum(&[&summed]);
        udp[6..8].copy_from_slice(&(!checksum).to_be_bytes());
        let mut bytes = [&self.to_mac[..], &self.from_mac, &[0x08, 0x00]].concat();
        bytes.extend(ip);
        bytes.extend(udp);
        let mut frame = [0; FRAME];
        frame.copy_from_slice(&bytes);
        Plan {
            frame,
            flows: self.flows,
            ports: self.ports,
        }
    }
}

/// Loads the benchmark's programs; the bare redirects send to this interface.
fn load(object: &Path, target: u32) -> Result<Ebpf> {
    let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
    EbpfLoader::new()
        .override_global("TARGET", &target, true)
        .load(&bytes)
        .context("load the benchmark's programs")
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::programs::Program> {
    ebpf.program_mut(name)
        .with_context(|| format!("no program {name}"))
}

/// An interface's index.
pub(crate) fn index(host: &Host, interface: &str) -> Result<u32> {
    let index = host.enter(|| nix::net::if_::if_nametoindex(interface))?;
    index.with_context(|| format!("index of {interface} of {}", host.name()))
}

/// A bare redirect from one interface of a host to another; gone when dropped.
pub(crate) struct Redirect {
    _ebpf: Ebpf,
}

impl Redirect {
    pub(crate) fn xdp(object: &Path, host: &Host, from: &str, to: &str) -> Result<Self> {
        let mut ebpf = load(object, index(host, to)?)?;
        let redirect: &mut Xdp = program(&mut ebpf, "bare_xdp")?.try_into()?;
        redirect.load()?;
        host.enter(|| redirect.attach(from, XdpMode::Driver))??;
        Ok(Self { _ebpf: ebpf })
    }

    pub(crate) fn tc(object: &Path, host: &Host, from: &str, to: &str) -> Result<Self> {
        let mut ebpf = load(object, index(host, to)?)?;
        let redirect: &mut SchedClassifier = program(&mut ebpf, "bare_tc")?.try_into()?;
        redirect.load()?;
        host.enter(|| redirect.attach(from, TcAttachType::Ingress))??;
        Ok(Self { _ebpf: ebpf })
    }
}
