//! Sends packets by an XDP program on live frames, on one core, and looks at what the sink got.
//!
//! Frames go out by the sender's interface as if its program had redirected them, sixty-four at a
//! time. Behind a veth everything up to the receiver's program runs on the same core before the
//! next sixty-four are made: packets received by time is the cost of the whole path.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use bench_ebpf::{
    Expected, FRAME_BYTES, HEADER_WORDS, IP, Progress, Received, SOURCE, Traffic, UDP, UDP_LENGTH,
};
use lab::Host;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::programs::Programs;

/// Frames handed over at once; the kernel's own number for a poll.
const BATCH: u32 = 64;
/// The most packets in one call of the kernel, after which the time is checked. Each call allocates
/// and frees its pages, which takes some tens of milliseconds: with 32,768 packets the bare XDP
/// redirect came to 0.9 million packets a second, with this many to 2.6.
const CHUNK: u32 = 1 << 18;
/// How long packets may still be on their way after the last one was sent.
const SETTLE: Duration = Duration::from_millis(20);
/// Bytes of the Ethernet and IPv4 headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP_PROTOCOL: u8 = 17;

/// What is sent: UDP packets of 64 bytes with one of several flows' addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flows {
    /// Source address of the first flow.
    pub(crate) source: Ipv4Addr,
    /// Source port of the first flow.
    pub(crate) first_port: u16,
    /// Source ports used with each source address; then comes the next address.
    pub(crate) ports: u32,
    /// Flows in all; after the last one comes the first again.
    pub(crate) count: u32,
    /// With which one to begin.
    pub(crate) begin: u32,
    /// Destination address.
    pub(crate) destination: Ipv4Addr,
    /// Destination port.
    pub(crate) port: u16,
    /// Whether packets go the other way: from that address and port to those of the flows.
    pub(crate) is_answer: bool,
}

/// What has to arrive for a measurement to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Source address: this one, or any.
    pub(crate) source: Option<Ipv4Addr>,
    /// Destination address and port: these, or any.
    pub(crate) destination: Option<(Ipv4Addr, u16)>,
}

/// The interface by which packets leave, and the Ethernet address that they go to.
pub(crate) struct Sender<'a> {
    /// The host.
    pub(crate) host: &'a Host,
    /// Its interface.
    pub(crate) interface: &'static str,
    /// Destination Ethernet address.
    pub(crate) to: [u8; 6],
}

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    /// Until this has passed.
    Time(Duration),
    /// So many packets, exactly.
    Packets(u32),
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shot {
    /// Packets that the generator made.
    pub(crate) made: u64,
    /// Packets that arrived as they should.
    pub(crate) arrived: u64,
    /// Time from the first to the last one made.
    pub(crate) elapsed: Duration,
}

impl Shot {
    /// Share of packets that did not arrive.
    pub(crate) fn lost(&self) -> f64 {
        1.0 - self.arrived as f64 / self.made as f64
    }

    /// Millions of packets a second that arrived.
    pub(crate) fn mpps(&self) -> f64 {
        self.arrived as f64 / self.elapsed.as_secs_f64() / 1e6
    }
}

/// Sends, and returns what arrived at the sink, which must be attached.
///
/// # Errors
/// When other packets arrive than expected, or less than half of them: such a path does not work,
/// and its speed means nothing.
pub(crate) fn shoot(
    programs: &mut Programs,
    sender: &Sender<'_>,
    flows: &Flows,
    arrival: &Arrival,
    amount: Amount,
) -> Result<Shot> {
    let from = sender.host.mac(sender.interface)?;
    let index = sender.host.index(sender.interface)?;
    programs.prepare(
        traffic(flows, sender.to, from, index),
        progress(flows),
        expected(arrival),
    )?;
    let frame = [0; FRAME_BYTES];
    run(
        programs,
        sender,
        (programs.generator("generate")?, &frame),
        amount,
    )
}

/// The same with what has been prepared, by a generator of frames of a length.
///
/// # Errors
/// As for [`shoot`].
pub(crate) fn run(
    programs: &Programs,
    sender: &Sender<'_>,
    generator: (&Xdp, &[u8]),
    amount: Amount,
) -> Result<Shot> {
    let elapsed = sender.host.enter(|| send(generator, amount))??;
    sleep(SETTLE);
    let (made, received) = (programs.made()?, programs.received()?);
    let (arrived, wrong) = (received.right, received.wrong);
    ensure!(
        wrong == 0,
        "{wrong} packets arrived as {}",
        decode(&received)
    );
    ensure!(arrived * 2 >= made, "of {made} packets {arrived} arrived");
    Ok(Shot {
        made,
        arrived,
        elapsed,
    })
}

/// Runs in a separate thread in the sender's namespace, on one core and with priority there, so
/// that other load on the machine is not measured.
fn send((generator, frame): (&Xdp, &[u8]), amount: Amount) -> Result<Duration> {
    pin_to_one_core()?;
    // SAFETY: the call takes no pointers. 0 is the calling thread.
    let raised = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    ensure!(
        raised == 0,
        "raise the generator's priority: {}",
        std::io::Error::last_os_error()
    );
    let mut left = match amount {
        Amount::Packets(packets) => packets,
        Amount::Time(_) => u32::MAX,
    };
    let begun = Instant::now();
    while left > 0 {
        let chunk = left.min(CHUNK);
        generator
            .test_run(TestRunOptions {
                data_in: Some(frame),
                repeat: chunk,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })
            .context("run the generator on live frames, which Linux has from 5.18 on")?;
        match amount {
            Amount::Packets(_) => left -= chunk,
            Amount::Time(limit) if begun.elapsed() >= limit => break,
            Amount::Time(_) => {}
        }
    }
    Ok(begun.elapsed())
}

/// Keeps the calling thread on the last core that it may use: interrupts mostly go to the first.
pub(crate) fn pin_to_one_core() -> Result<()> {
    let (_, last) = cores()?;
    let mut one = CpuSet::new();
    one.set(last)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("stay on one core")
}

/// The first and the last core that the calling thread may use; they may be the same.
pub(crate) fn cores() -> Result<(usize, usize)> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask for the cores in use")?;
    let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
    let first = cores.next().context("no core may be used")?;
    Ok((first, cores.next_back().unwrap_or(first)))
}

/// The headers as words, and what their constant parts add up to.
fn traffic(flows: &Flows, to: [u8; 6], from: [u8; 6], interface: u32) -> Traffic {
    let header = header(flows, to, from);
    let sum = |words: &[u16]| words.iter().map(|word| u32::from(*word)).sum::<u32>();
    let ip_sum = sum(&header[IP..UDP]);
    let protocol = u32::from(u16::from(UDP_PROTOCOL).to_be());
    // The flow's address and port, which are 0 here, are added for each packet.
    let pseudo = sum(&header[SOURCE..UDP]) + u32::from(header[UDP_LENGTH]) + protocol;
    Traffic {
        udp_sum: pseudo + sum(&header[UDP..]),
        header,
        first_port: flows.first_port,
        first_address: flows.source.to_bits(),
        ports: flows.ports.max(1),
        flows: flows.count.max(1),
        ip_sum,
        interface,
        is_answer: flows.is_answer.into(),
    }
}

/// Where the generator begins.
fn progress(flows: &Flows) -> Progress {
    let (flow, ports) = (flows.begin % flows.count.max(1), flows.ports.max(1));
    Progress {
        flow,
        port: flow % ports,
        address: flow / ports,
        ..Progress::default()
    }
}

fn header(flows: &Flows, to: [u8; 6], from: [u8; 6]) -> [u16; HEADER_WORDS] {
    let ip_bytes = (FRAME_BYTES - ETHERNET) as u16;
    let mut bytes = [to, from].concat();
    bytes.extend([0x08, 0x00]);
    bytes.extend([0x45, 0]);
    bytes.extend(ip_bytes.to_be_bytes());
    // No identification, "don't fragment", a time to live of 64.
    bytes.extend([0, 0, 0x40, 0, 64, UDP_PROTOCOL, 0, 0]);
    let (address, port) = (flows.destination.octets(), flows.port.to_be_bytes());
    let (addresses, ports) = match flows.is_answer {
        false => ([[0; 4], address], [[0; 2], port]),
        true => ([address, [0; 4]], [port, [0; 2]]),
    };
    bytes.extend(addresses.as_flattened());
    bytes.extend(ports.as_flattened());
    bytes.extend((ip_bytes - IPV4 as u16).to_be_bytes());
    bytes.extend([0, 0]);
    let mut words = [0; HEADER_WORDS];
    for (word, pair) in words.iter_mut().zip(bytes.chunks_exact(2)) {
        *word = u16::from_ne_bytes([pair[0], pair[1]]);
    }
    words
}

fn expected(arrival: &Arrival) -> Expected {
    let mask = |counts: bool| if counts { 0xffff } else { 0 };
    let (source, destination) = (arrival.source, arrival.destination);
    Expected {
        source: source.map_or([0; 2], words),
        source_mask: [mask(source.is_some()); 2],
        destination: destination.map_or([0; 2], |(address, _)| words(address)),
        destination_mask: [mask(destination.is_some()); 2],
        port: destination.map_or(0, |(_, port)| port.to_be()),
        port_mask: mask(destination.is_some()),
    }
}

/// An address as its words lie in a packet.
fn words(address: Ipv4Addr) -> [u16; 2] {
    let [a, b, c, d] = address.octets();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The last packet that was not as expected, in words.
fn decode(received: &Received) -> String {
    let words = received.last_wrong;
    let address = |at: usize| {
        let ([a, b], [c, d]) = (words[at].to_ne_bytes(), words[at + 1].to_ne_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    let number = |at: usize| u16::from_be(words[at]);
    format!(
        "{}:{} to {}:{}, checksums {:#06x} and {:#06x}",
        address(0),
        number(4),
        address(2),
        number(5),
        number(6),
        number(7)
    )
}

#[cfg(test)]
mod tests {
    use bench_ebpf::{DESTINATION, IP_CHECKSUM, UDP_CHECKSUM, checksum};

    use super::*;

    const FLOWS: Flows = Flows {
        source: Ipv4Addr::new(198, 51, 100, 2),
        first_port: 16_384,
        ports: 100,
        count: 1000,
        begin: 0,
        destination: Ipv4Addr::new(198, 51, 100, 1),
        port: 10_001,
        is_answer: false,
    };

    /// The first flow's packet, put together as the program does it.
    fn first_packet(flows: &Flows) -> Vec<u8> {
        let traffic = traffic(flows, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 7);
        let (address, port) = (words(flows.source), flows.first_port.to_be());
        let sum = address.map(u32::from).iter().sum::<u32>();
        let mut header = traffic.header;
        let (address_at, port_at) = match traffic.is_answer {
            0 => (SOURCE, UDP),
            _ => (DESTINATION, UDP + 1),
        };
        header[address_at..address_at + 2].copy_from_slice(&address);
        header[port_at] = port;
        header[IP_CHECKSUM] = checksum(traffic.ip_sum + sum);
        header[UDP_CHECKSUM] = checksum(traffic.udp_sum + sum + u32::from(port));
        let mut frame: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        frame.resize(FRAME_BYTES, 0);
        frame
    }

    #[test]
    fn a_generated_packet_has_right_checksums_in_either_direction() {
        for is_answer in [false, true] {
            let flows = Flows { is_answer, ..FLOWS };
            let packet = &first_packet(&flows)[ETHERNET..];
            lab::checksums(packet, false).unwrap();
            let addresses = [packet[12..16].to_vec(), packet[16..20].to_vec()];
            let [source, destination] =
                [FLOWS.source, FLOWS.destination].map(|a| a.octets().to_vec());
            let expected = match is_answer {
                false => [source, destination],
                true => [destination, source],
            };
            assert_eq!(addresses, expected);
        }
    }

    #[test]
    fn flows_begin_with_the_port_and_address_of_the_one_asked_for() {
        let at = progress(&Flows {
            begin: 1250,
            ..FLOWS
        });
        assert_eq!((at.flow, at.address, at.port), (250, 2, 50));
    }
}
