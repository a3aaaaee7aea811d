//! What changes on the host: interfaces, IPv4 addresses, routes and neighbours, as the kernel tells
//! of it.
//!
//! Only the kind of a change is read, never its content: whoever is told reads anew all that it
//! needs, over its own connection. So nothing is lost that matters when messages are, and a
//! thousand changes cost one re-read. The socket must be drained while the consumer works, or it
//! overruns, which is no harm.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use rtnetlink::constants::{
    RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_LINK, RTMGRP_NEIGH,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;

/// What is told of: of neighbours also what bridges learn.
const GROUPS: u32 =
    RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_NEIGH;

/// Room for the headers of a datagram's messages, and for the bodies as well in most cases. What
/// does not fit is cut off and not missed.
const DATAGRAM: usize = 16 << 10;

/// Length of a message's header (`struct nlmsghdr`) in bytes.
const NLMSG_HEADER: usize = 16;

/// How long to wait after an error that cannot happen, so as not to turn in a tight loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// What has changed since the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Interfaces came, went or changed: state, name, MTU, master.
    LinkChanged,
    /// IPv4 addresses came or went.
    AddressChanged,
    /// Routes or rules for choosing one came or went.
    RouteChanged,
    /// Neighbours came, went or changed, or a bridge has learned where they are.
    NeighbourChanged,
    /// Messages were lost: anything may have changed.
    Overrun,
}

/// A subscription to the kernel's messages.
#[derive(Debug)]
pub struct Events {
    socket: AsyncFd<Socket>,
    datagram: Vec<u8>,
    pending: Pending,
}

/// Told of by the kernel, not yet told of by [`Events::next`].
#[derive(Debug, Default, PartialEq, Eq)]
struct Pending {
    links: bool,
    addresses: bool,
    routes: bool,
    neighbours: bool,
    overrun: bool,
}

impl Events {
    /// Subscribes in the calling thread's network namespace. Must be called from within a tokio
    /// runtime. Subscribe first and read the state then, and no change falls in between.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn subscribe() -> Result<Self> {
        let socket = open().context("subscribe to changes of the host")?;
        Ok(Self {
            socket,
            datagram: Vec::with_capacity(DATAGRAM),
            pending: Pending::default(),
        })
    }

    /// Waits for a change. Changes of one kind since the last call are one event.
    ///
    /// Cancelling it (`select!`) loses nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Err(error) = self.drain() {
                log::warn!("receive changes of the host: {error}");
                self.pending.overrun = true;
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
            if let Some(event) = self.pending.take() {
                return event;
            }
            match self.socket.readable().await {
                Ok(mut guard) => guard.retain_ready(),
                Err(error) => {
                    log::warn!("wait for changes of the host: {error}");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    /// Reads all that is there, without waiting.
    fn drain(&mut self) -> io::Result<()> {
        let Self {
            socket,
            datagram,
            pending,
        } = self;
        loop {
            datagram.clear();
            match socket.try_io(tokio::io::Interest::READABLE, |socket| {
                socket.recv(datagram, 0)
            }) {
                Ok(_) => pending.note(datagram),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => pending.overrun = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Pending {
    /// Takes note of the messages of a datagram (RFC 3549 section 2.2: each begins with its
    /// length and its type, and the next begins on a multiple of four).
    fn note(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Some((header, _)) = rest.split_first_chunk::<6>() {
            let [l0, l1, l2, l3, t0, t1] = *header;
            match u16::from_ne_bytes([t0, t1]) {
                libc::RTM_NEWLINK | libc::RTM_DELLINK => self.links = true,
                libc::RTM_NEWADDR | libc::RTM_DELADDR => self.addresses = true,
                libc::RTM_NEWROUTE | libc::RTM_DELROUTE | libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                    self.routes = true;
                }
                libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                    // The message's first byte, behind the header.
                    let family = rest.get(NLMSG_HEADER).copied();
                    self.neighbours |= family != Some(libc::AF_INET6 as u8);
                }
                _ => {}
            }
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            let next = length.checked_next_multiple_of(4).filter(|at| *at > 0);
            match next.and_then(|at| rest.get(at..)) {
                Some(next) => rest = next,
                None => return,
            }
        }
    }

    fn take(&mut self) -> Option<Event> {
        if self.overrun {
            *self = Self::default();
            return Some(Event::Overrun);
        }
        if std::mem::take(&mut self.links) {
            return Some(Event::LinkChanged);
        }
        if std::mem::take(&mut self.addresses) {
            return Some(Event::AddressChanged);
        }
        if std::mem::take(&mut self.routes) {
            return Some(Event::RouteChanged);
        }
        std::mem::take(&mut self.neighbours).then_some(Event::NeighbourChanged)
    }
}

fn open() -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    socket.set_non_blocking(true)?;
    // SAFETY: a `Socket` owns its file descriptor, keeps it open until it is dropped and always
    // gives out the same one; nothing takes the socket out of the `AsyncFd`.
    let registered = unsafe { AsyncFd::register(socket) };
    Ok(registered?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_namespace, ip};

    async fn next(events: &mut Events) -> Event {
        tokio::time::timeout(Duration::from_secs(5), events.next())
            .await
            .expect("an event")
    }

    /// All events until there are no more for a while.
    async fn all(events: &mut Events) -> Vec<Event> {
        let mut all = Vec::new();
        let quiet = Duration::from_millis(300);
        while let Ok(event) = tokio::time::timeout(quiet, events.next()).await {
            all.push(event);
        }
        all
    }

    async fn nothing_more(events: &mut Events) {
        assert_eq!(all(events).await, []);
    }

    #[test]
    fn a_burst_of_changes_is_one_event_of_each_kind() {
        use Event::{AddressChanged, LinkChanged, NeighbourChanged, RouteChanged};
        in_namespace(async || {
            let mut events = Events::subscribe().unwrap();
            ip("link add vmbr1 type bridge");
            ip("link set vmbr1 up");
            for host in 1..20 {
                ip(&format!("addr add 172.22.161.{host}/24 dev vmbr1"));
            }
            // A bridge has learned its own address, and addresses have routes.
            let burst = [LinkChanged, AddressChanged, RouteChanged, NeighbourChanged];
            assert_eq!(all(&mut events).await, burst);
            ip("addr del 172.22.161.7/24 dev vmbr1");
            assert_eq!(all(&mut events).await, [AddressChanged, RouteChanged]);
            ip("link del vmbr1");
            assert_eq!(next(&mut events).await, LinkChanged);
        });
    }

    #[test]
    fn what_next_hops_depend_on_is_told_of() {
        use Event::{LinkChanged, NeighbourChanged, RouteChanged};
        in_namespace(async || {
            ip("link add vmbr1 type bridge");
            ip("link add tap1 type veth peer name tap1-guest");
            ip("link set tap1 master vmbr1 up");
            ip("link set tap1-guest up");
            ip("link set vmbr1 up");
            ip("addr add 172.22.161.254/24 dev vmbr1");
            let mut events = Events::subscribe().unwrap();
            for (command, expected) in [
                (
                    "neigh add 172.22.161.170 lladdr 02:00:00:00:00:01 dev vmbr1",
                    NeighbourChanged,
                ),
                (
                    "neigh change 172.22.161.170 lladdr 02:00:00:00:00:02 dev vmbr1",
                    NeighbourChanged,
                ),
                ("route add 10.1.0.0/16 via 172.22.161.170", RouteChanged),
                (
                    "route change 10.1.0.0/16 via 172.22.161.170 mtu 1300",
                    RouteChanged,
                ),
                ("rule add to 10.2.0.0/16 table 100", RouteChanged),
                ("link set tap1 type bridge_slave isolated on", LinkChanged),
                ("link set vmbr1 mtu 1400", LinkChanged),
            ] {
                all(&mut events).await;
                ip(command);
                let told = all(&mut events).await;
                assert!(told.contains(&expected), "{command}: {told:?}");
            }
        });
    }

    #[test]
    fn an_event_wakes_the_one_who_waits() {
        in_namespace(async || {
            let mut events = Events::subscribe().unwrap();
            let (event, ()) = tokio::join!(next(&mut events), async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                ip("link add vmbr1 type bridge");
            });
            assert_eq!(event, Event::LinkChanged);
        });
    }

    #[test]
    fn lost_messages_are_told_of() {
        in_namespace(async || {
            let mut events = Events::subscribe().unwrap();
            events.socket.get_ref().set_rx_buf_sz(4096).unwrap();
            ip("link add vmbr1 type bridge");
            for mtu in 1000..1020 {
                ip(&format!("link set vmbr1 mtu {mtu}"));
            }
            // At once, not after the pause for errors that cannot happen.
            let event = tokio::time::timeout(PAUSE_AFTER_ERROR / 2, events.next()).await;
            assert_eq!(event, Ok(Event::Overrun));
            nothing_more(&mut events).await;
            ip("addr add 172.22.161.1/24 dev vmbr1");
            assert_eq!(next(&mut events).await, Event::AddressChanged);
        });
    }

    #[test]
    fn cut_and_odd_datagrams_are_read_within_their_bounds() {
        let message = |length: u32, kind: u16| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(16, 0);
            bytes
        };
        let mut two = message(14, libc::RTM_NEWADDR);
        two.extend(message(4096, libc::RTM_DELLINK));
        for (datagram, links, addresses) in [
            (vec![], false, false),
            (vec![0; 5], false, false),
            (message(0, libc::RTM_NEWLINK), true, false),
            (message(u32::MAX - 3, libc::RTM_NEWADDR), false, true),
            (message(16, libc::RTM_NEWROUTE), false, false),
            (two, true, true),
        ] {
            let mut pending = Pending::default();
            pending.note(&datagram);
            assert_eq!((pending.links, pending.addresses), (links, addresses));
        }
    }
}
