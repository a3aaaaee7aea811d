//! Connections: greeting, and bytes in both directions.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::sockets::{Token, watch};
use super::{Ends, Engine, State};
use crate::traffic::session::{GREETING, Id};

/// A connection that has not been identified yet.
#[derive(Debug)]
pub(super) struct Newcomer {
    stream: TcpStream,
    peer: SocketAddrV4,
    greeting: Vec<u8>,
}

impl Engine {
    /// The client is connected, or could not be.
    pub(super) fn greet_server(&mut self, slot: usize, id: Id) {
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

    pub(super) fn serve_end(&mut self, id: Id, at_server: bool) {
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

    pub(super) fn accept(&mut self, listener: usize) {
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
    pub(super) fn greet(&mut self, number: u32) {
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

    pub(super) fn send_bytes(&mut self, slot: usize, now: Instant) {
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

    /// Segments of all connections by rule: into the inside network, and out of it.
    pub(in crate::traffic) fn segments(&self) -> io::Result<BTreeMap<&'static str, [u64; 2]>> {
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
