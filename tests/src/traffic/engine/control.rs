//! Requests of tests to the sessions.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use super::{Ends, Engine, Slot, State};
use crate::traffic::session::{Key, Tcp};

/// What a session is selected by.
pub(in crate::traffic) struct Selected {
    pub(in crate::traffic) rule: &'static str,
    pub(in crate::traffic) needs_first: bool,
}

impl Engine {
    /// The sessions that match: their numbers.
    pub(in crate::traffic) fn select(&self, matches: impl Fn(&Selected) -> bool) -> Vec<usize> {
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

    pub(in crate::traffic) fn pause(&mut self, slots: &[usize], paused: bool) {
        for slot in slots {
            self.slots[*slot].paused = paused;
        }
    }

    /// How many of these have something on its way, or are not open yet.
    pub(in crate::traffic) fn busy(&self, slots: &[usize]) -> usize {
        let busy = |slot: &&usize| {
            let slot = &self.slots[**slot];
            match &slot.ends {
                _ if slot.state == State::Broken => false,
                _ if slot.state != State::Open => true,
                Ends::None => true,
                Ends::Udp(udp) => !udp.unanswered.is_empty(),
                Ends::Tcp(tcp) => {
                    tcp.streams.iter().any(|way| way.read != way.written) || is_unacknowledged(tcp)
                }
            }
        };
        slots.iter().filter(busy).count()
    }

    /// Gives these sessions up and opens others in their place.
    pub(in crate::traffic) fn replace(&mut self, slots: &[usize]) {
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
    pub(in crate::traffic) fn keys(&self) -> BTreeMap<Key, (usize, &'static str)> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, slot)| slot.state == State::Open)
            .filter_map(|(n, slot)| {
                let route = &self.routes[slot.route];
                Some((slot.key(route)?, (n, route.rule)))
            })
            .collect()
    }

    /// Sessions in which nothing has come to one of the ends since then, though it should have.
    pub(in crate::traffic) fn silent_since(&self, then: Instant) -> Vec<usize> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, slot)| !slot.paused)
            .filter(|(_, slot)| slot.heard.iter().any(|at| at.is_none_or(|at| at < then)))
            .map(|(n, _)| n)
            .collect()
    }

    /// A session by its number, for messages.
    pub(in crate::traffic) fn describe(&self, slot: usize) -> String {
        let this = &self.slots[slot];
        let route = self.route(slot);
        let key = this.key(route);
        let key = key.map_or_else(|| format!("to {}", this.to), |key| key.to_string());
        format!(
            "session {slot} ({key}, rule {}, {:?})",
            route.rule, this.state
        )
    }

    pub(in crate::traffic) fn key(&self, slot: usize) -> Option<Key> {
        self.slots[slot].key(self.route(slot))
    }

    pub(in crate::traffic) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// Whether an end waits for the other's kernel to acknowledge what it has sent: all may have been
/// read, and the acknowledgement still be on its way.
fn is_unacknowledged(tcp: &Tcp) -> bool {
    let ends = [Some(&tcp.client), tcp.server.as_ref()];
    ends.into_iter().flatten().any(|end| {
        let mut unsent = 0_i32;
        // SAFETY: writes an integer, how many bytes have not been acknowledged (tcp(7), SIOCOUTQ).
        let result = unsafe { libc::ioctl(end.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
        result == 0 && unsent > 0
    })
}
