//! Who reaches whom, by which address and protocol, and as whom the other sees it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Host;
use lab::patience::patience;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Long enough for a SYN that is sent again after a second, should the first one get lost.
const CONNECTING: Duration = Duration::from_millis(2500);
/// How long a datagram waits for its answer before it is sent again, and how often it is sent.
const ANSWER: Duration = Duration::from_millis(600);
const TRIES: u32 = 4;
/// How many probes are under way at a time; nearly all of them wait.
const AT_ONCE: usize = 64;
/// What every payload begins with, so that nothing else is taken for an answer.
const MARK: &[u8] = b"natbpf matrix ";

const ICMP_HEADER: usize = 8;

/// What differs between the families.
#[derive(Debug)]
struct Version {
    /// Types of an echo and its answer.
    echo: [u8; 2],
    /// Whether raw sockets get packets with their network header.
    has_header: bool,
    family: AddressFamily,
    icmp: SockProtocol,
    /// Any address of the family.
    any: &'static str,
    /// The option of `ip`.
    option: &'static str,
}

static IPV4: Version = Version {
    echo: [8, 0],
    has_header: true,
    family: AddressFamily::Inet,
    icmp: SockProtocol::Icmp,
    any: "0.0.0.0:0",
    option: "-4",
};

static IPV6: Version = Version {
    echo: [128, 129],
    has_header: false,
    family: AddressFamily::Inet6,
    icmp: SockProtocol::IcmpV6,
    any: "[::]:0",
    option: "-6",
};

fn version(address: IpAddr) -> &'static Version {
    if address.is_ipv4() { &IPV4 } else { &IPV6 }
}

/// What is tried at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Tcp(u16),
    Udp(u16),
    Ping,
}

use Service::{Ping, Tcp, Udp};

/// The result of each probe, by `FROM PROTOCOL ADDRESS PORT`, or `FROM ping ADDRESS`:
/// `vm1 sees 19.19.8.1`, `refused` (TCP only) or `nothing`.
pub(super) type Matrix = BTreeMap<String, String>;

/// Probes whose outcome the two hosts do not share.
#[derive(Clone, Copy)]
pub(super) struct Difference<'a> {
    /// Words as in a [`Matrix`], each of which may be several, as in `vm1|vm2 tcp 10.0.0.1 80|443`.
    pub(super) probes: &'a str,
    /// What the rules that are written by hand do with all of them; `*` is any result other than
    /// natbpf's.
    pub(super) by_hand: &'a str,
    /// What natbpf does.
    pub(super) natbpf: &'a str,
    /// Why that is right.
    pub(super) why: &'a str,
}

/// Who takes part, and what is tried, with addresses of one family.
pub(super) struct Questions<'a, A> {
    /// Each reaches out to every address, and serves what it has below.
    pub(super) machines: &'a [&'a Host],
    /// What is tried at each of them, from every machine.
    pub(super) addresses: &'a [A],
    /// By the host alone.
    pub(super) own: &'a [A],
    /// At each address.
    pub(super) services: &'a [Service],
    /// What the machine `host` does not serve, because it forwards it.
    pub(super) forwarded: &'a [Service],
}

struct Probe<'a> {
    from: &'a Host,
    to: IpAddr,
    service: Service,
}

impl Probe<'_> {
    fn name(&self) -> String {
        let (from, to) = (self.from.name(), self.to);
        match self.service {
            Tcp(port) => format!("{from} tcp {to} {port}"),
            Udp(port) => format!("{from} udp {to} {port}"),
            Ping => format!("{from} ping {to}"),
        }
    }
}

impl<A: Copy + Into<IpAddr>> Questions<'_, A> {
    /// Asks them all.
    pub(super) fn ask(&self) -> Result<Matrix> {
        let pings = Arc::new(Mutex::new(BTreeMap::new()));
        let first = self.addresses.first().context("no address")?;
        let version = version((*first).into());
        let mut answering = Vec::new();
        for machine in self.machines {
            let is_host = machine.name() == "host";
            let services = self.services.iter().copied();
            let services: Vec<Service> = services
                .filter(|service| !is_host || !self.forwarded.contains(service))
                .collect();
            answering.push(Answering::start(machine, &services, &pings, version)?);
        }
        let probes = self.probes();
        let (next, answers) = (AtomicUsize::new(0), Mutex::new(Matrix::new()));
        thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some((number, probe)) = take(&next, &probes) {
                    let answer = probe.try_it(number, &pings)?;
                    locked(&answers).insert(probe.name(), answer);
                }
                Ok(())
            };
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        let answers = std::mem::take(&mut *locked(&answers));
        ensure!(answers.len() == probes.len(), "two probes of one name");
        Ok(answers)
    }

    fn probes(&self) -> Vec<Probe<'_>> {
        let mut probes = Vec::new();
        for from in self.machines {
            let own = if from.name() == "host" { self.own } else { &[] };
            for to in self.addresses.iter().chain(own) {
                probes.extend(self.services.iter().map(|service| Probe {
                    from,
                    to: (*to).into(),
                    service: *service,
                }));
            }
        }
        probes
    }
}

fn take<'p>(next: &AtomicUsize, probes: &'p [Probe<'p>]) -> Option<(usize, &'p Probe<'p>)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    Some((number, probes.get(number)?))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who got an echo, by the number of the probe.
type Pings = Mutex<BTreeMap<usize, String>>;

impl Probe<'_> {
    fn try_it(&self, number: usize, pings: &Pings) -> Result<String> {
        let answer = match self.service {
            Tcp(port) => self.connect(port),
            Udp(port) => self.ask(port),
            Ping => self.ping(number, pings),
        };
        answer.with_context(|| self.name())
    }

    fn connect(&self, port: u16) -> Result<String> {
        let to = SocketAddr::from((self.to, port));
        let limit = patience(CONNECTING);
        let connected = self.from.enter(|| TcpStream::connect_timeout(&to, limit))?;
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                return Ok("refused".to_owned());
            }
            Err(_) => return Ok("nothing".to_owned()),
        };
        stream.set_read_timeout(Some(patience(CONNECTING)))?;
        let mut answer = String::new();
        match stream.read_to_string(&mut answer) {
            Ok(_) => Ok(answer),
            Err(error) => Ok(format!("a connection, then {error}")),
        }
    }

    fn ask(&self, port: u16) -> Result<String> {
        let to = SocketAddr::from((self.to, port));
        let socket = self.from.udp(version(self.to).any)?;
        let mut answer = [0; 256];
        for _ in 0..TRIES {
            // (A route that is missing is an error at once.)
            let _ = socket.send_to(MARK, to);
            if let Some(length) = receive(&socket, &mut answer, |from, _| from == to)? {
                return Ok(String::from_utf8_lossy(&answer[..length]).into_owned());
            }
        }
        Ok("nothing".to_owned())
    }

    fn ping(&self, number: usize, pings: &Pings) -> Result<String> {
        let version = version(self.to);
        let socket = ping_socket(self.from, version)?;
        let to = SocketAddr::from((self.to, 0));
        let [kind, reply] = version.echo;
        let request = echo(kind, number)?;
        let mut answer = [0; 256];
        for _ in 0..TRIES {
            let _ = socket.send_to(&request, to);
            let is_reply = |from: SocketAddr, packet: &[u8]| {
                from.ip() == to.ip() && echo_of(packet, version) == Some((reply, number))
            };
            if receive(&socket, &mut answer, is_reply)?.is_some() {
                return who_got(number, pings);
            }
        }
        Ok("nothing".to_owned())
    }
}

/// Who got an echo that was answered: the kernel answers before its reader has written that down.
fn who_got(number: usize, pings: &Pings) -> Result<String> {
    let deadline = Instant::now() + patience(CONNECTING);
    loop {
        if let Some(who) = locked(pings).get(&number) {
            return Ok(who.clone());
        }
        ensure!(
            Instant::now() < deadline,
            "an answer to a ping that nobody got"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the expected result, for a while.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    is_expected: impl Fn(SocketAddr, &[u8]) -> bool,
) -> Result<Option<usize>> {
    let deadline = Instant::now() + patience(ANSWER);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left)).context("time limit")?;
        // (An error is the time limit, or an ICMP error about what was sent.)
        if let Ok((length, from)) = socket.recv_from(buffer)
            && is_expected(from, &buffer[..length])
        {
            return Ok(Some(length));
        }
    }
}

/// A raw socket for ICMP, with the interface of one for UDP.
fn ping_socket(host: &Host, version: &Version) -> Result<UdpSocket> {
    let made = host.enter(|| {
        socket(
            version.family,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            Some(version.icmp),
        )
    })?;
    Ok(UdpSocket::from(made.context("a raw socket")?))
}

/// An echo request whose identifier and payload are the probe's own (RFC 792, RFC 4443). The kernel
/// writes the checksum of ICMPv6.
fn echo(kind: u8, number: usize) -> Result<Vec<u8>> {
    let identifier = u16::try_from(number + 1).context("too many probes")?;
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(MARK);
    packet.extend(u64::try_from(number)?.to_be_bytes());
    let checksum = !lab::ones_complement_sum(&[&packet]);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(packet)
}

/// Type and number of an echo of ours, from a packet as raw sockets get it.
fn echo_of(packet: &[u8], version: &Version) -> Option<(u8, usize)> {
    let header = match version.has_header {
        true => usize::from(packet.first()? & 0x0f) * 4,
        false => 0,
    };
    let icmp = packet.get(header..)?;
    let number = icmp.get(ICMP_HEADER..)?.strip_prefix(MARK)?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some((icmp[0], usize::try_from(number).ok()?))
}

/// A machine that answers, until it is dropped.
struct Answering {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Ping(UdpSocket, &'static Version),
}

impl Answering {
    fn start(
        machine: &Host,
        services: &[Service],
        pings: &Arc<Pings>,
        version: &'static Version,
    ) -> Result<Self> {
        let mut listeners = Vec::new();
        let addresses = addresses(machine, version)?;
        for service in services {
            match service {
                Tcp(port) => {
                    let any: SocketAddr = version.any.parse()?;
                    let any = SocketAddr::from((any.ip(), *port));
                    let socket = machine.tcp_listen(&any.to_string())?;
                    listeners.push(Listener::Tcp(socket));
                }
                // One for each address, as an answer comes from where the question went.
                Udp(port) => {
                    for address in &addresses {
                        let own = SocketAddr::from((*address, *port));
                        listeners.push(Listener::Udp(machine.udp(&own.to_string())?));
                    }
                }
                Ping => listeners.push(Listener::Ping(ping_socket(machine, version)?, version)),
            }
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (number, listener) in listeners.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(number)?);
            match listener {
                Listener::Tcp(socket) => epoll.add(socket.as_fd(), event)?,
                Listener::Udp(socket) | Listener::Ping(socket, _) => {
                    epoll.add(socket.as_fd(), event)?;
                }
            }
        }
        let (name, stop) = (machine.name().to_owned(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (stop, pings) = (stop.clone(), Arc::clone(pings));
            move || answer_all(&name, &listeners, &epoll, &stop, &pings)
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn addresses(machine: &Host, version: &Version) -> Result<Vec<IpAddr>> {
    let said = machine.check(["ip", version.option, "-o", "address", "show"])?;
    // 2: eth0    inet 10.0.0.1/24 …
    let words = said
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    let found = words.filter_map(|net| net.split('/').next()?.parse().ok());
    // (A link-local address needs its link.)
    let is_asked =
        |address: &IpAddr| !matches!(address, IpAddr::V6(own) if own.is_unicast_link_local());
    let mut found: Vec<IpAddr> = found.filter(is_asked).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn answer_all(name: &str, listeners: &[Listener], epoll: &Epoll, stop: &AtomicBool, pings: &Pings) {
    let mut events = [EpollEvent::empty(); 16];
    while !stop.load(Ordering::Relaxed) {
        let ready = epoll
            .wait(&mut events, EpollTimeout::from(50_u8))
            .unwrap_or(0);
        for event in &events[..ready] {
            let listener = usize::try_from(event.data()).ok();
            if let Some(listener) = listener.and_then(|number| listeners.get(number)) {
                answer(name, listener, pings);
            }
        }
    }
}

/// Answers one question. What goes wrong is the asker's to notice.
fn answer(name: &str, listener: &Listener, pings: &Pings) {
    let sees = |peer: IpAddr| format!("{name} sees {peer}");
    let mut buffer = [0; 256];
    match listener {
        Listener::Tcp(socket) => {
            if let Ok((mut stream, peer)) = socket.accept() {
                let _ = stream.write_all(sees(peer.ip()).as_bytes());
            }
        }
        Listener::Udp(socket) => {
            if let Ok((length, peer)) = socket.recv_from(&mut buffer)
                && buffer[..length] == *MARK
            {
                let _ = socket.send_to(sees(peer.ip()).as_bytes(), peer);
            }
        }
        Listener::Ping(socket, version) => {
            if let Ok((length, peer)) = socket.recv_from(&mut buffer)
                && let Some((kind, number)) = echo_of(&buffer[..length], version)
                && kind == version.echo[0]
            {
                locked(pings).insert(number, sees(peer.ip()));
            }
        }
    }
}

/// The probes that a text with alternatives names.
fn expanded(probes: &str) -> Vec<String> {
    let words: Vec<Vec<&str>> = probes
        .split(' ')
        .map(|word| word.split('|').collect())
        .collect();
    words.iter().fold(vec![String::new()], |all, choices| {
        let with = |start: &String| {
            let choices = choices.iter();
            let longer = choices.map(|word| format!("{start} {word}").trim_start().to_owned());
            longer.collect::<Vec<_>>()
        };
        all.iter().flat_map(with).collect()
    })
}

/// The two hosts behave the same, except for the differences, which must all exist.
pub(super) fn compare(by_hand: &Matrix, natbpf: &Matrix, known: &[Difference<'_>]) -> Result<()> {
    let mut expected = BTreeMap::new();
    for difference in known {
        ensure!(!difference.why.is_empty(), "{}: why?", difference.probes);
        for probe in expanded(difference.probes) {
            let outcomes = (difference.by_hand.to_owned(), difference.natbpf.to_owned());
            let twice = expected.insert(probe.clone(), outcomes);
            ensure!(twice.is_none(), "{probe} is in the table twice");
        }
    }
    ensure!(
        by_hand.keys().eq(natbpf.keys()),
        "the two were not asked the same"
    );
    let (mut wrong, mut all) = (String::new(), String::new());
    for ((probe, original), own) in by_hand.iter().zip(natbpf.values()) {
        let known = expected.remove(probe);
        let sign = if known.is_some() { "*" } else { " " };
        writeln!(all, "{sign} {probe}: {original} / {own}")?;
        let is_as_known = match &known {
            Some((by_hand, natbpf)) => {
                original != own && own == natbpf && (original == by_hand || by_hand == "*")
            }
            None => original == own,
        };
        if !is_as_known {
            writeln!(wrong, "{probe}: {original} / {own}")?;
        }
    }
    let never: Vec<_> = expected.keys().collect();
    ensure!(
        wrong.is_empty() && never.is_empty(),
        "by hand / natbpf differ, and not as the table says:\n{wrong}\
         in the table and not tried: {never:?}\nall, those of the table marked:\n{all}"
    );
    Ok(())
}

#[test]
fn a_matrix_is_compared_by_its_table() {
    let matrix = |second: &str| {
        let rows = [("a tcp b 1", "b sees a"), ("a tcp b 2", second)];
        Matrix::from(rows.map(|(probe, answer)| (probe.to_owned(), answer.to_owned())))
    };
    let (one, other) = (matrix("refused"), matrix("nothing"));
    let table = |probes, natbpf| {
        [Difference {
            probes,
            by_hand: "refused",
            natbpf,
            why: "it is meant",
        }]
    };
    assert!(compare(&one, &one, &[]).is_ok());
    assert!(compare(&one, &other, &[]).is_err());
    assert!(compare(&one, &other, &table("a tcp b 2", "nothing")).is_ok());
    assert!(compare(&one, &other, &table("a tcp b 2", "b sees a")).is_err());
    assert!(compare(&one, &other, &table("a tcp b 1|2", "nothing")).is_err());
    assert!(compare(&one, &one, &table("a tcp b 2", "nothing")).is_err());
    assert!(compare(&one, &other, &table("a tcp b|c 2", "nothing")).is_err());
    let any = |natbpf| {
        let [difference] = table("a tcp b 2", natbpf);
        [Difference {
            by_hand: "*",
            ..difference
        }]
    };
    assert!(compare(&one, &other, &any("nothing")).is_ok());
    assert!(compare(&one, &one, &any("refused")).is_err());
    assert_eq!(expanded("a|b tcp c 1|2").len(), 4);
}
