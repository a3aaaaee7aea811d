//! Datagrams: sending, answering, and what is lost.

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::{Ends, Engine, State};
use crate::traffic::session::{Datagram, Id, Sent};

/// What is sent this long before an interface goes, or after it has come back, may be lost with it.
const LOSS_BEFORE: Duration = Duration::from_millis(100);

impl Engine {
    pub(super) fn send_datagram(&mut self, slot: usize, now: Instant) {
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
            udp.unanswered.push_back(Sent {
                number: udp.sent,
                at: now,
                answered: None,
            });
            udp.sent += 1;
            let way = self.routes[this.route].counter();
            self.totals.datagrams.entry(way.0).or_default()[way.1] += 1;
        }
    }

    pub(super) fn serve_datagrams(&mut self, server: usize) {
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
        let mut waiting = udp.unanswered.iter_mut();
        if let Some(sent) = waiting.find(|sent| sent.number == read.number) {
            sent.answered = Some(now);
        }
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

    pub(super) fn read_answers(&mut self, slot: usize) {
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
        let before = waiting
            .iter()
            .take_while(|sent| sent.number < number)
            .count();
        let lost: Vec<_> = waiting.drain(..before).collect();
        if waiting.front().is_some_and(|sent| sent.number == number) {
            waiting.pop_front();
            udp.answers += 1;
            self.totals.answers += 1;
            self.hear(slot, false, now);
        } else {
            self.trouble(slot, &format!("answer {number}: twice, or late"));
        }
        for sent in lost {
            self.lose(slot, sent);
        }
    }

    pub(super) fn lose(&mut self, slot: usize, sent: Sent) {
        let may_be_lost = |at| self.losses.iter().any(|loss| may_be_lost(*loss, at));
        if may_be_lost(sent.at) || sent.answered.is_some_and(may_be_lost) {
            self.totals.lost += 1;
            return;
        }
        let ago = |at: Instant| format!("{:.3} s ago", at.elapsed().as_secs_f64());
        let lost = match sent.answered {
            Some(at) => format!("its answer, sent {}, is lost", ago(at)),
            None => "it is lost".to_owned(),
        };
        let what = format!("datagram {}, sent {}: {lost}", sent.number, ago(sent.at));
        self.trouble(slot, &what);
    }

    /// From now on, until [`Engine::end_loss`], datagrams may be lost.
    pub(in crate::traffic) fn begin_loss(&mut self) {
        self.losses.push((Instant::now(), None));
    }

    /// Datagrams that are sent later than `rest` from now must arrive again.
    pub(in crate::traffic) fn end_loss(&mut self, rest: Duration) {
        if let Some(loss) = self.losses.last_mut() {
            loss.1 = Some(Instant::now() + rest);
        }
    }
}

/// Whether what was sent then may be lost.
fn may_be_lost((from, until): (Instant, Option<Instant>), sent: Instant) -> bool {
    sent + LOSS_BEFORE >= from && until.is_none_or(|until| sent <= until)
}
