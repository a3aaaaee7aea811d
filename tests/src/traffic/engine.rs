//! The generator itself: all sessions, on one thread.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Host;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
};

use super::routes::{Protocol, Route};
use super::session::{Datagram, GREETING, Id, Key, Tcp, Udp};
use super::{Options, Totals};

/// Sessions that are opened in one go, so that no listener's queue is ever full.
const OPENED_AT_ONCE: usize = 24;
/// Datagrams that are sent in one go: what a busy machine has kept from being sent follows in
/// portions that the queues hold.
const SENT_AT_ONCE: u32 = 48;
/// What was not sent for longer than this is not made up for.
const MOST_DEBT: Duration = Duration::from_secs(3);
/// How often each connection sends something, both ways.
const TCP_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take before it counts as lost, and bytes of a connection before it
/// counts as stalled.
const UDP_LIMIT: Duration = Duration::from_secs(4);
const TCP_LIMIT: Duration = Duration::from_secs(12);
/// How long a session may take to be there.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How often time limits are looked after.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// What is sent this long before an interface goes, or after it has come back, may be lost with it.
const LOSS_BEFORE: Duration = Duration::from_millis(100);
/// Room in a server's socket, which serves many clients.
const SERVER_BUFFER: usize = 32 << 20;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be opened.
    Waiting,
    /// Opened; nothing has come back yet.
    Opening,
    /// Works.
    Open,
    /// Went wrong; has been reported.
    Broken,
}

#[derive(Debug)]
enum Ends {
    None,
    Udp(Udp),
    Tcp(Tcp),
}

#[derive(Debug)]
struct Slot {
    route: usize,
    incarnation: u32,
    state: State,
    ends: Ends,
    /// Where the client sends to.
    to: SocketAddrV4,
    /// The client, as the server sees it.
    seen: Option<SocketAddrV4>,
    /// Sends nothing by itself.
    paused: bool,
    since: Instant,
    /// When something right has last come to the client and to the server.
    heard: [Option<Instant>; 2],
}

/// Whose descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Client(Id),
    ServerEnd(Id),
    UdpServer(u32),
    Listener(u32),
    Newcomer(u32),
}

impl Token {
    fn encode(self) -> u64 {
        let of = |kind: u64, incarnation: u32, index: u32| {
            kind << 56 | u64::from(incarnation & 0xff_ffff) << 32 | u64::from(index)
        };
        match self {
            Self::Client(id) => of(0, id.incarnation, id.slot),
            Self::ServerEnd(id) => of(1, id.incarnation, id.slot),
            Self::UdpServer(n) => of(2, 0, n),
            Self::Listener(n) => of(3, 0, n),
            Self::Newcomer(n) => of(4, 0, n),
        }
    }

    fn decode(code: u64) -> Self {
        let id = Id {
            slot: code as u32,
            incarnation: (code >> 32) as u32 & 0xff_ffff,
        };
        match code >> 56 {
            0 => Self::Client(id),
            1 => Self::ServerEnd(id),
            2 => Self::UdpServer(id.slot),
            3 => Self::Listener(id.slot),
            _ => Self::Newcomer(id.slot),
        }
    }
}

/// A connection of which nobody has said yet whose it is.
#[derive(Debug)]
struct Newcomer {
    stream: TcpStream,
    peer: SocketAddrV4,
    greeting: Vec<u8>,
}

/// All sessions and their servers.
#[derive(Debug)]
pub(super) struct Engine {
    epoll: std::sync::Arc<Epoll>,
    routes: Vec<Route>,
    slots: Vec<Slot>,
    /// The numbers of the slots that send datagrams, and of those that send bytes.
    rounds: [Round; 2],
    udp_servers: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
    newcomers: HashMap<u32, Newcomer>,
    next_newcomer: u32,
    to_open: VecDeque<usize>,
    pub(super) first: Ipv4Addr,
    looked: Instant,
    started: Instant,
    pub(super) operation: String,
    losses: Vec<(Instant, Option<Instant>)>,
    pub(super) troubles: Vec<String>,
    pub(super) totals: Totals,
    pub(super) opened: BTreeMap<&'static str, u64>,
}

/// Slots that take turns in sending.
#[derive(Debug)]
struct Round {
    slots: Vec<usize>,
    next: usize,
    due: Instant,
    interval: Duration,
}

impl Round {
    fn new(slots: Vec<usize>, interval: Duration) -> Self {
        Self {
            slots,
            next: 0,
            due: Instant::now(),
            interval,
        }
    }

    /// The slots whose turn it is.
    fn take(&mut self, now: Instant) -> Vec<usize> {
        let mut taken = Vec::new();
        if let Some(oldest) = now.checked_sub(MOST_DEBT) {
            self.due = self.due.max(oldest);
        }
        while self.due <= now && taken.len() < SENT_AT_ONCE as usize && !self.slots.is_empty() {
            taken.push(self.slots[self.next]);
            self.next = (self.next + 1) % self.slots.len();
            self.due += self.interval;
        }
        taken
    }
}

impl Engine {
    pub(super) fn new(routes: Vec<Route>, plan: &[usize], options: &Options) -> Result<Self> {
        let now = Instant::now();
        let slots: Vec<Slot> = plan.iter().map(|route| Slot::new(*route, now)).collect();
        let of = |protocol| -> Vec<usize> {
            let all = 0..slots.len();
            all.filter(|n| routes[slots[*n].route].protocol == protocol)
                .collect()
        };
        // Each datagram is answered: two packets.
        let udp_interval = Duration::from_secs(2) / options.packets_per_second.max(1);
        let tcp = of(Protocol::Tcp);
        let tcp_interval = TCP_INTERVAL / tcp.len().max(1) as u32;
        let mut engine = Self {
            epoll: std::sync::Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?),
            rounds: [
                Round::new(of(Protocol::Udp), udp_interval),
                Round::new(tcp, tcp_interval),
            ],
            udp_servers: Vec::new(),
            listeners: Vec::new(),
            newcomers: HashMap::new(),
            next_newcomer: 0,
            to_open: (0..slots.len()).collect(),
            first: options.first,
            looked: now,
            started: now,
            operation: "start".to_owned(),
            losses: Vec::new(),
            troubles: Vec::new(),
            totals: Totals::default(),
            opened: BTreeMap::new(),
            routes,
            slots,
        };
        engine.start_servers()?;
        Ok(engine)
    }

    fn start_servers(&mut self) -> Result<()> {
        let mut known = BTreeSet::new();
        for route in self.routes.clone() {
            if !known.insert((route.protocol, route.service)) {
                continue;
            }
            let address = route.service.to_string();
            match route.protocol {
                Protocol::Udp => {
                    let server = route.server.udp(&address)?;
                    server.set_nonblocking(true).context("not to wait")?;
                    setsockopt(&server, sockopt::RcvBufForce, &SERVER_BUFFER).context("room")?;
                    setsockopt(&server, sockopt::SndBuf, &(SERVER_BUFFER / 8)).context("room")?;
                    let token = Token::UdpServer(self.udp_servers.len() as u32);
                    watch(&self.epoll, &server, token, EpollFlags::EPOLLIN)?;
                    self.udp_servers.push(server);
                }
                Protocol::Tcp => {
                    let listener = route.server.tcp_listen(&address)?;
                    listener.set_nonblocking(true).context("not to wait")?;
                    let token = Token::Listener(self.listeners.len() as u32);
                    watch(&self.epoll, &listener, token, EpollFlags::EPOLLIN)?;
                    self.listeners.push(listener);
                }
            }
        }
        Ok(())
    }

    /// What becomes ready, for waiting without holding all this.
    pub(super) fn epoll(&self) -> std::sync::Arc<Epoll> {
        self.epoll.clone()
    }

    /// Notes what is wrong, with the time and the operation before.
    fn trouble(&mut self, slot: usize, what: &str) {
        let Self {
            slots,
            routes,
            started,
            operation,
            ..
        } = self;
        let (at, route) = (slots[slot].since, &routes[slots[slot].route]);
        let name = slots[slot].key(route).map_or_else(
            || format!("{:?} to {}", route.protocol, slots[slot].to),
            |key| key.to_string(),
        );
        let line = format!(
            "{:.3} s, after \"{operation}\": session {slot} ({name}, rule {}, open for {:.1} s): {what}",
            started.elapsed().as_secs_f64(),
            route.rule,
            at.elapsed().as_secs_f64()
        );
        self.troubles.push(line);
    }

    fn give_up_on(&mut self, slot: usize, what: &str) {
        if self.slots[slot].state != State::Broken {
            self.trouble(slot, what);
            self.slots[slot].state = State::Broken;
        }
    }

    /// What the descriptors in `events` are ready for.
    pub(super) fn serve(&mut self, events: &[EpollEvent]) {
        for event in events {
            match Token::decode(event.data()) {
                Token::Client(id) => self.serve_client(id),
                Token::ServerEnd(id) => self.serve_end(id, true),
                Token::UdpServer(n) => self.serve_datagrams(n as usize),
                Token::Listener(n) => self.accept(n as usize),
                Token::Newcomer(n) => self.greet(n),
            }
        }
    }

    /// What is due by the clock.
    ///
    /// # Errors
    /// When sockets cannot be made.
    pub(super) fn tick(&mut self) -> Result<()> {
        let now = Instant::now();
        self.open_some(now)?;
        for slot in self.rounds[0].take(now) {
            self.send_datagram(slot, now);
        }
        for slot in self.rounds[1].take(now) {
            self.send_bytes(slot, now);
        }
        if now - self.looked > LOOK_INTERVAL {
            self.looked = now;
            self.look_after_limits(now);
        }
        Ok(())
    }

    fn open_some(&mut self, now: Instant) -> Result<()> {
        let count = OPENED_AT_ONCE.min(self.to_open.len());
        let mut by_host: BTreeMap<String, (Host, Vec<usize>)> = BTreeMap::new();
        for slot in self.to_open.drain(..count) {
            let host = &self.routes[self.slots[slot].route].client;
            let entry = by_host.entry(host.name().to_owned());
            entry.or_insert((host.clone(), Vec::new())).1.push(slot);
        }
        for (host, slots) in by_host.into_values() {
            let wanted: Vec<(Protocol, SocketAddrV4)> = slots
                .iter()
                .map(|slot| &self.routes[self.slots[*slot].route])
                .map(|route| (route.protocol, route.to(self.first)))
                .collect();
            let opened = host.enter(|| wanted.into_iter().map(open).collect::<Vec<_>>())?;
            for (slot, opened) in slots.into_iter().zip(opened) {
                let (to, ends) = opened.with_context(|| format!("a socket on {}", host.name()))?;
                self.take_on(slot, to, ends, now)?;
            }
        }
        Ok(())
    }

    fn take_on(&mut self, slot: usize, to: SocketAddrV4, fd: Opened, now: Instant) -> Result<()> {
        let this = &mut self.slots[slot];
        let id = Id {
            slot: slot as u32,
            incarnation: this.incarnation,
        };
        let token = Token::Client(id);
        this.ends = match fd {
            Opened::Udp(socket) => {
                watch(&self.epoll, &socket, token, EpollFlags::EPOLLIN)?;
                Ends::Udp(Udp {
                    socket,
                    sent: 0,
                    unanswered: VecDeque::new(),
                    next_at_server: 0,
                    answers: 0,
                })
            }
            Opened::Tcp(stream) => {
                // Writable: that is when it is connected.
                watch(&self.epoll, &stream, token, EpollFlags::EPOLLOUT)?;
                Ends::Tcp(Tcp::new(stream, id))
            }
        };
        this.to = to;
        this.state = State::Opening;
        this.since = now;
        let rule = self.routes[this.route].rule;
        *self.opened.entry(rule).or_default() += 1;
        Ok(())
    }

    fn current(&self, id: Id) -> Option<usize> {
        let slot = id.slot as usize;
        let incarnation = self.slots.get(slot)?.incarnation;
        (incarnation == id.incarnation).then_some(slot)
    }

    fn serve_client(&mut self, id: Id) {
        let Some(slot) = self.current(id) else {
            return;
        };
        match &mut self.slots[slot].ends {
            Ends::None => {}
            Ends::Udp(_) => self.read_answers(slot),
            Ends::Tcp(tcp) if !tcp.greeted => self.greet_server(slot, id),
            Ends::Tcp(_) => self.serve_end(id, false),
        }
    }

    /// The client is connected, or could not be.
    fn greet_server(&mut self, slot: usize, id: Id) {
        let Ends::Tcp(tcp) = &mut self.slots[slot].ends else {
            return;
        };
        let greeted = match tcp.client.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) => io::Write::write_all(&mut tcp.client, &id.greeting()),
        };
        tcp.greeted = true;
        let watched = EpollEvent::new(EpollFlags::EPOLLIN, Token::Client(id).encode());
        let result = greeted.and_then(|()| {
            Ok(self
                .epoll
                .modify(tcp.client.as_fd(), &mut watched.clone())?)
        });
        if let Err(error) = result {
            let _ = self.epoll.delete(tcp.client.as_fd());
            self.give_up_on(slot, &format!("not connected: {error}"));
        }
    }

    fn serve_end(&mut self, id: Id, at_server: bool) {
        let Some(slot) = self.current(id) else {
            return;
        };
        let now = Instant::now();
        let this = &mut self.slots[slot];
        let Ends::Tcp(tcp) = &mut this.ends else {
            return;
        };
        match tcp.receive(at_server, now) {
            Ok(length) => {
                self.totals.bytes += length;
                if length > 0 {
                    self.hear(slot, at_server, now);
                }
            }
            Err(what) => {
                for end in std::iter::once(&tcp.client).chain(&tcp.server) {
                    let _ = self.epoll.delete(end.as_fd());
                }
                let end = if at_server { "server" } else { "client" };
                self.give_up_on(slot, &format!("at the {end}: {what}"));
            }
        }
    }

    fn hear(&mut self, slot: usize, at_server: bool, now: Instant) {
        let this = &mut self.slots[slot];
        this.heard[usize::from(at_server)] = Some(now);
        if this.state == State::Opening && this.heard.iter().all(Option::is_some) {
            this.state = State::Open;
            self.totals.sessions += 1;
        }
    }

    fn accept(&mut self, listener: usize) {
        while let Ok((stream, SocketAddr::V4(peer))) = self.listeners[listener].accept() {
            let number = self.next_newcomer;
            self.next_newcomer = number.wrapping_add(1);
            let token = Token::Newcomer(number);
            let ready = stream.set_nonblocking(true).is_ok()
                && watch(&self.epoll, &stream, token, EpollFlags::EPOLLIN).is_ok();
            if ready {
                let newcomer = Newcomer {
                    stream,
                    peer,
                    greeting: Vec::new(),
                };
                self.newcomers.insert(number, newcomer);
            }
        }
    }

    /// Learns whose connection it is.
    fn greet(&mut self, number: u32) {
        let Some(newcomer) = self.newcomers.get_mut(&number) else {
            return;
        };
        let mut rest = [0; GREETING];
        let rest = &mut rest[newcomer.greeting.len()..];
        match io::Read::read(&mut newcomer.stream, rest) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Ok(length) if length > 0 => newcomer.greeting.extend(&rest[..length]),
            // Its session is given up, or will be when nothing comes.
            _ => drop(self.newcomers.remove(&number)),
        }
        let Some(newcomer) = self.newcomers.get(&number) else {
            return;
        };
        let Some(greeting) = newcomer.greeting.first_chunk() else {
            return;
        };
        let id = Id::greeted(greeting).and_then(|id| Some((id, self.current(id)?)));
        let Some(Newcomer { stream, peer, .. }) = self.newcomers.remove(&number) else {
            return;
        };
        let Some((id, slot)) = id else {
            return;
        };
        let token = Token::ServerEnd(id).encode();
        let mut watched = EpollEvent::new(EpollFlags::EPOLLIN, token);
        let moved = self.epoll.modify(stream.as_fd(), &mut watched);
        let Ends::Tcp(tcp) = &mut self.slots[slot].ends else {
            return;
        };
        tcp.server = Some(stream);
        match moved {
            Ok(()) => self.see(slot, peer),
            Err(error) => self.give_up_on(slot, &error.to_string()),
        }
        self.send_bytes(slot, Instant::now());
    }

    /// The server sees the client at this address.
    fn see(&mut self, slot: usize, peer: SocketAddrV4) {
        let expected = match (self.slots[slot].seen, self.slots[slot].local()) {
            (Some(before), _) => Some(before),
            (None, local) if !self.route(slot).is_masquerade() => local,
            _ => None,
        };
        if let Some(expected) = expected.filter(|expected| *expected != peer) {
            let what = format!("the server sees the client at {peer}, not at {expected}");
            self.trouble(slot, &what);
        } else if expected.is_none() && *peer.ip() != self.first {
            let what = format!(
                "the server sees the client at {peer}, not at {}",
                self.first
            );
            self.trouble(slot, &what);
        }
        self.slots[slot].seen = Some(peer);
    }

    fn route(&self, slot: usize) -> &Route {
        &self.routes[self.slots[slot].route]
    }

    fn send_bytes(&mut self, slot: usize, now: Instant) {
        let this = &mut self.slots[slot];
        let Ends::Tcp(tcp) = &mut this.ends else {
            return;
        };
        if this.paused || !matches!(this.state, State::Opening | State::Open) {
            return;
        }
        for from_server in [false, true] {
            if let Err(error) = tcp.send(from_server, now) {
                self.give_up_on(slot, &error.to_string());
                return;
            }
        }
    }

    fn send_datagram(&mut self, slot: usize, now: Instant) {
        let this = &mut self.slots[slot];
        let Ends::Udp(udp) = &mut this.ends else {
            return;
        };
        if this.paused || !matches!(this.state, State::Opening | State::Open) {
            return;
        }
        let mut buffer = Datagram::BUFFER;
        let datagram = Datagram {
            id: Id {
                slot: slot as u32,
                incarnation: this.incarnation,
            },
            answer: false,
            number: udp.sent,
        };
        let length = datagram.write(&mut buffer);
        let send = || udp.socket.send(&buffer[..length]);
        let mut result = send();
        if result.is_err()
            && self
                .losses
                .last()
                .is_some_and(|loss| may_be_lost(*loss, now))
        {
            // What an error said of a datagram before.
            result = send();
        } else if let Err(error) = &result {
            let what = format!("datagram {}: {error}", datagram.number);
            self.trouble(slot, &what);
            return;
        }
        if result.is_ok() {
            udp.unanswered.push_back((udp.sent, now));
            udp.sent += 1;
            let way = self.routes[this.route].counter();
            self.totals.datagrams.entry(way.0).or_default()[way.1] += 1;
        }
    }

    fn serve_datagrams(&mut self, server: usize) {
        let mut buffer = [0; 2048];
        while let Ok((length, SocketAddr::V4(peer))) =
            self.udp_servers[server].recv_from(&mut buffer)
        {
            let read = Datagram::read(&buffer[..length]);
            let slot = read.as_ref().ok().and_then(|read| self.current(read.id));
            match (read, slot) {
                (Err(what), _) => self.troubles.push(format!("from {peer}: {what}")),
                // Of a session that has been given up.
                (Ok(_), None) => {}
                (Ok(read), Some(slot)) => self.answer(server, slot, read, peer),
            }
        }
    }

    fn answer(&mut self, server: usize, slot: usize, read: Datagram, peer: SocketAddrV4) {
        let now = Instant::now();
        if self.slots[slot].seen != Some(peer) {
            self.see(slot, peer);
        }
        let Ends::Udp(udp) = &mut self.slots[slot].ends else {
            return;
        };
        if read.answer || read.number < udp.next_at_server {
            let next = udp.next_at_server;
            let what = format!("datagram {} after {next}: twice, or late", read.number);
            self.trouble(slot, &what);
            return;
        }
        udp.next_at_server = read.number + 1;
        self.hear(slot, true, now);
        let answer = Datagram {
            answer: true,
            ..read
        };
        let mut buffer = Datagram::BUFFER;
        let length = answer.write(&mut buffer);
        match self.udp_servers[server].send_to(&buffer[..length], peer) {
            Ok(_) => {
                let (rule, side) = self.route(slot).counter();
                self.totals.datagrams.entry(rule).or_default()[1 - side] += 1;
            }
            Err(_)
                if self
                    .losses
                    .last()
                    .is_some_and(|loss| may_be_lost(*loss, now)) => {}
            Err(error) => self.trouble(slot, &format!("answer {}: {error}", read.number)),
        }
    }

    fn read_answers(&mut self, slot: usize) {
        let now = Instant::now();
        let mut buffer = [0; 2048];
        loop {
            let Ends::Udp(udp) = &mut self.slots[slot].ends else {
                return;
            };
            let length = match udp.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_)
                    if self
                        .losses
                        .last()
                        .is_some_and(|loss| may_be_lost(*loss, now)) =>
                {
                    return;
                }
                Err(error) => {
                    return self.trouble(slot, &format!("waiting for an answer: {error}"));
                }
            };
            match Datagram::read(&buffer[..length]) {
                Ok(read) if read.answer && self.current(read.id) == Some(slot) => {
                    self.read_answer(slot, read.number, now);
                }
                Ok(read) => self.trouble(slot, &format!("another session's: {read:?}")),
                Err(what) => self.trouble(slot, &what),
            }
        }
    }

    /// An answer has come: what was sent before and has none will get none.
    fn read_answer(&mut self, slot: usize, number: u64, now: Instant) {
        let Ends::Udp(udp) = &mut self.slots[slot].ends else {
            return;
        };
        let waiting = &mut udp.unanswered;
        let before = waiting.iter().take_while(|(n, _)| *n < number).count();
        let lost: Vec<_> = waiting.drain(..before).collect();
        if waiting.front().is_some_and(|(n, _)| *n == number) {
            waiting.pop_front();
            udp.answers += 1;
            self.totals.answers += 1;
            self.hear(slot, false, now);
        } else {
            self.trouble(slot, &format!("answer {number}: twice, or late"));
        }
        for (number, sent) in lost {
            self.lose(slot, number, sent);
        }
    }

    fn lose(&mut self, slot: usize, number: u64, sent: Instant) {
        if self.losses.iter().any(|loss| may_be_lost(*loss, sent)) {
            self.totals.lost += 1;
            return;
        }
        let reached = match &self.slots[slot].ends {
            Ends::Udp(udp) if udp.next_at_server > number => "its answer",
            _ => "it",
        };
        let ago = sent.elapsed().as_secs_f64();
        let what = format!("datagram {number}, sent {ago:.3} s ago: {reached} is lost");
        self.trouble(slot, &what);
    }

    fn look_after_limits(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            let this = &mut self.slots[slot];
            if this.state == State::Opening && now - this.since > OPEN_LIMIT {
                let what = format!("not open after {OPEN_LIMIT:?}");
                self.give_up_on(slot, &what);
                continue;
            }
            if !matches!(this.state, State::Opening | State::Open) {
                continue;
            }
            match &mut this.ends {
                Ends::Udp(udp) => {
                    let late = |(_, sent): &&(u64, Instant)| now - *sent > UDP_LIMIT;
                    let count = udp.unanswered.iter().take_while(late).count();
                    let lost: Vec<_> = udp.unanswered.drain(..count).collect();
                    for (number, sent) in lost {
                        self.lose(slot, number, sent);
                    }
                }
                Ends::Tcp(tcp) => {
                    let stalled = tcp.streams.iter().any(|stream| {
                        stream.read != stream.written
                            && stream.moved.is_some_and(|at| now - at > TCP_LIMIT)
                    });
                    if stalled {
                        let [out, back] = &tcp.streams;
                        let what = format!(
                            "stalled for {TCP_LIMIT:?}: {} of {} bytes there, {} of {} back",
                            out.read, out.written, back.read, back.written
                        );
                        self.give_up_on(slot, &what);
                    }
                }
                Ends::None => {}
            }
        }
    }

    /// From now on, until [`Engine::end_loss`], datagrams may be lost.
    pub(super) fn begin_loss(&mut self) {
        self.losses.push((Instant::now(), None));
    }

    /// Datagrams that are sent later than `rest` from now must arrive again.
    pub(super) fn end_loss(&mut self, rest: Duration) {
        if let Some(loss) = self.losses.last_mut() {
            loss.1 = Some(Instant::now() + rest);
        }
    }

    /// The sessions that match: their numbers.
    pub(super) fn select(&self, matches: impl Fn(&Selected) -> bool) -> Vec<usize> {
        let all = 0..self.slots.len();
        all.filter(|n| {
            let route = self.route(*n);
            matches(&Selected {
                rule: route.rule,
                needs_first: route.needs_first(),
            })
        })
        .collect()
    }

    pub(super) fn pause(&mut self, slots: &[usize], paused: bool) {
        for slot in slots {
            self.slots[*slot].paused = paused;
        }
    }

    /// How many of these have something on its way, or are not open yet.
    pub(super) fn busy(&self, slots: &[usize]) -> usize {
        let busy = |slot: &&usize| {
            let slot = &self.slots[**slot];
            match &slot.ends {
                _ if slot.state == State::Broken => false,
                _ if slot.state != State::Open => true,
                Ends::None => true,
                Ends::Udp(udp) => !udp.unanswered.is_empty(),
                Ends::Tcp(tcp) => tcp.streams.iter().any(|way| way.read != way.written),
            }
        };
        slots.iter().filter(busy).count()
    }

    /// Gives these sessions up and opens others in their place.
    pub(super) fn replace(&mut self, slots: &[usize]) {
        for slot in slots {
            self.close(*slot);
            self.slots[*slot] = Slot {
                incarnation: (self.slots[*slot].incarnation + 1) & 0xff_ffff,
                ..Slot::new(self.slots[*slot].route, Instant::now())
            };
            self.to_open.push_back(*slot);
        }
    }

    fn close(&mut self, slot: usize) {
        match std::mem::replace(&mut self.slots[slot].ends, Ends::None) {
            Ends::None => {}
            Ends::Udp(udp) => drop(self.epoll.delete(udp.socket.as_fd())),
            Ends::Tcp(tcp) => {
                for end in std::iter::once(&tcp.client).chain(&tcp.server) {
                    let _ = self.epoll.delete(end.as_fd());
                }
                tcp.abort();
            }
        }
    }

    /// The sessions that natbpf must know, with their numbers and rules.
    pub(super) fn keys(&self) -> BTreeMap<Key, (usize, &'static str)> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, slot)| slot.state == State::Open)
            .filter_map(|(n, slot)| {
                let route = &self.routes[slot.route];
                Some((slot.key(route)?, (n, route.rule)))
            })
            .collect()
    }

    /// Sessions in which nothing has come to one of the ends since then, though it should have.
    pub(super) fn silent_since(&self, then: Instant) -> Vec<usize> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, slot)| !slot.paused)
            .filter(|(_, slot)| slot.heard.iter().any(|at| at.is_none_or(|at| at < then)))
            .map(|(n, _)| n)
            .collect()
    }

    /// A session by its number, for messages.
    pub(super) fn describe(&self, slot: usize) -> String {
        let this = &self.slots[slot];
        let route = self.route(slot);
        let key = this.key(route);
        let key = key.map_or_else(|| format!("to {}", this.to), |key| key.to_string());
        format!(
            "session {slot} ({key}, rule {}, {:?})",
            route.rule, this.state
        )
    }

    pub(super) fn key(&self, slot: usize) -> Option<Key> {
        self.slots[slot].key(self.route(slot))
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Segments of all connections by rule: into the inside network, and out of it.
    pub(super) fn segments(&self) -> io::Result<BTreeMap<&'static str, [u64; 2]>> {
        let mut segments: BTreeMap<_, [u64; 2]> = BTreeMap::new();
        for slot in &self.slots {
            if let Ends::Tcp(tcp) = &slot.ends {
                let (rule, side) = self.routes[slot.route].counter();
                let [client, server] = tcp.segments()?;
                let sum = segments.entry(rule).or_default();
                sum[side] += client;
                // The kernel answers a SYN before there is a socket to count it by.
                sum[1 - side] += server + 1;
            }
        }
        Ok(segments)
    }
}

/// What a session is selected by.
pub(super) struct Selected {
    pub(super) rule: &'static str,
    pub(super) needs_first: bool,
}

impl Slot {
    fn new(route: usize, now: Instant) -> Self {
        Self {
            route,
            incarnation: 0,
            state: State::Waiting,
            ends: Ends::None,
            to: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            seen: None,
            paused: false,
            since: now,
            heard: [None; 2],
        }
    }

    fn local(&self) -> Option<SocketAddrV4> {
        let address = match &self.ends {
            Ends::None => return None,
            Ends::Udp(udp) => udp.socket.local_addr(),
            Ends::Tcp(tcp) => tcp.client.local_addr(),
        };
        match address {
            Ok(SocketAddr::V4(address)) => Some(address),
            _ => None,
        }
    }

    fn key(&self, route: &Route) -> Option<Key> {
        let (local, seen) = (self.local()?, self.seen?);
        Some(match route.is_masquerade() {
            true => Key {
                protocol: route.protocol,
                internal: local,
                external: seen,
                remote: self.to,
            },
            false => Key {
                protocol: route.protocol,
                internal: route.service,
                external: self.to,
                remote: local,
            },
        })
    }
}

impl Route {
    /// Under which rule, and on which side of it (0 into the inside network, 1 out of it), what
    /// the client sends is counted.
    fn counter(&self) -> (&'static str, usize) {
        (self.rule, usize::from(self.is_masquerade()))
    }
}

/// A client's socket.
enum Opened {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// Makes a client's socket, in the namespace that it is in.
fn open((protocol, to): (Protocol, SocketAddrV4)) -> io::Result<(SocketAddrV4, Opened)> {
    if protocol == Protocol::Udp {
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        return Ok((to, Opened::Udp(socket)));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok((to, Opened::Tcp(TcpStream::from(fd)))),
        Err(error) => Err(error.into()),
    }
}

fn watch(epoll: &Epoll, what: impl AsFd, token: Token, flags: EpollFlags) -> Result<()> {
    let event = EpollEvent::new(flags, token.encode());
    epoll.add(what, event).context("watch a socket")
}

/// Whether what was sent then may be lost.
fn may_be_lost((from, until): (Instant, Option<Instant>), sent: Instant) -> bool {
    sent + LOSS_BEFORE >= from && until.is_none_or(|until| sent <= until)
}
