//! The generator itself: all sessions, on one thread.

mod connections;
mod control;
mod datagrams;
mod sockets;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Host;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{setsockopt, sockopt};

use super::routes::{Protocol, Route};
use super::session::{Id, Key, Sent, Tcp, Udp};
use super::{Options, Totals};
use connections::Newcomer;
use sockets::{Opened, Round, Token, open, watch};

/// Sessions that are opened in one go, so that no listener's queue is ever full.
const OPENED_AT_ONCE: usize = 24;
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

    /// Records a fault, with the time and the operation before.
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
            "{:.3} s, after \"{operation}\": session {slot} ({name}, rule {}, open for {:.1} s): \
             {what}",
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

    fn hear(&mut self, slot: usize, at_server: bool, now: Instant) {
        let this = &mut self.slots[slot];
        this.heard[usize::from(at_server)] = Some(now);
        if this.state == State::Opening && this.heard.iter().all(Option::is_some) {
            this.state = State::Open;
            self.totals.sessions += 1;
        }
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
                    let late = |sent: &&Sent| now - sent.at > UDP_LIMIT;
                    let count = udp.unanswered.iter().take_while(late).count();
                    let lost: Vec<_> = udp.unanswered.drain(..count).collect();
                    for sent in lost {
                        self.lose(slot, sent);
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
