//! Changes on the host that the kernel reports: interfaces, addresses, routes, neighbours, and
//! anything that holds packets back at an interface.
//!
//! Only the kind of a change is read, never its content: the consumer reads everything that it
//! needs again, over its own connection. Lost messages therefore do no harm, and a thousand changes
//! cost one re-read. If the sockets are not drained while the consumer works, they overrun, which
//! is harmless.

use std::{io, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context, Result};
use futures_util::future::select_all;
use rtnetlink::{
    constants::{
        RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_LINK, RTMGRP_NEIGH,
        RTMGRP_TC,
    },
    sys::{
        Socket, SocketAddr,
        protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
    },
};
use tokio::io::unix::AsyncFd;

use super::xdp_features;

const GROUPS: u32 = RTMGRP_LINK
    | RTMGRP_IPV4_IFADDR
    | RTMGRP_IPV4_ROUTE
    | RTMGRP_IPV4_RULE
    | RTMGRP_TC
    | IPV4_NETCONF;

/// Group 24, `RTNLGRP_IPV4_NETCONF` (`include/uapi/linux/rtnetlink.h`), as a bit.
const IPV4_NETCONF: u32 = 1 << 23;
/// What is heard of IPv6 (`RTNLGRP_IPV6_IFADDR`, `_ROUTE`, `_RULE`, `_NETCONF` in
/// `include/uapi/linux/rtnetlink.h`).
const IPV6_GROUPS: [u32; 4] = [9, 11, 19, 25];
/// `RTM_NEWNETCONF` (`include/uapi/linux/rtnetlink.h`).
const RTM_NEWNETCONF: u16 = 80;

/// Changes of tables of nftables (`NFNLGRP_NFTABLES`), and the upper byte of their messages' types
/// (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES_GROUP: u32 = 7;
const NFTABLES: u8 = 10;
/// Of tables, chains and rules; what follows (`NFT_MSG_NEWSET` and more) is about other objects.
const NFTABLES_RULES: std::ops::RangeInclusive<u8> = 0..=8;
/// Families whose chains may stand at an interface (`NFPROTO_INET`, `NFPROTO_NETDEV`,
/// `NFPROTO_BRIDGE`).
const NFTABLES_FAMILIES: [u8; 3] = [1, 5, 7];

/// Length of a netlink message's header in bytes. The address family follows in those that have
/// one.
const HEADER: usize = 16;

/// Room for the headers of a datagram's messages, and for the bodies as well in most cases. What
/// does not fit is cut off and not missed.
const DATAGRAM: usize = 16 << 10;

/// How many messages about neighbours are read at a time, because guests decide how many there are.
const NEIGHBOURS_AT_ONCE: usize = 256;

/// How long to wait after an unexpected error, to avoid a busy loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// What has changed since the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Interfaces came, went or changed: state, name, MTU, master, options of bridges and ports,
    /// what their drivers can do with XDP.
    LinkChanged,
    /// Addresses came or went, or IPv6 addresses changed: deprecated, probed, duplicate.
    AddressChanged,
    /// Routes, or the rules that choose between their tables, came, went or changed.
    RouteChanged,
    /// Neighbours, or entries of bridges' forwarding databases, came, went or
    /// changed.
    NeighbourChanged,
    /// Queues, filters or chains at interfaces came, went or changed.
    PolicingChanged,
    /// Settings of interfaces changed that the kernel reports: `forwarding`, `rp_filter`,
    /// `proxy_arp`.
    SettingChanged,
    /// Messages were lost: anything may have changed.
    Overrun,
}

/// A subscription to the kernel's messages.
#[derive(Debug)]
pub struct Events {
    subscriptions: Vec<Subscription>,
    datagram: Vec<u8>,
    pending: Pending,
    hears_neighbours: bool,
    hears_ipv6: bool,
}

/// The sources of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// rtnetlink(7), for everything except neighbours.
    Route,
    /// rtnetlink(7), for neighbours. It is separate, so that a flood of these loses no other
    /// messages.
    Neighbours,
    /// The generic family `netdev`.
    Drivers,
    /// nftables.
    Nftables,
}

#[derive(Debug)]
struct Subscription {
    source: Source,
    socket: AsyncFd<Socket>,
}

/// Reported by the kernel, not yet by [`Events::next`].
#[derive(Debug, Default, PartialEq, Eq)]
struct Pending {
    links: bool,
    addresses: bool,
    routes: bool,
    neighbours: bool,
    policing: bool,
    settings: bool,
    overrun: bool,
}

impl Events {
    /// Subscribes in the calling thread's network namespace, to changes of both families. Must be
    /// called from within a tokio runtime. Subscribe first and read the state afterwards, so that
    /// no change is missed.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn subscribe() -> Result<Self> {
        let mut subscriptions = Vec::new();
        for (source, groups) in [(Source::Route, GROUPS), (Source::Neighbours, RTMGRP_NEIGH)] {
            let socket = open(groups).context("subscribe to changes of the host")?;
            subscriptions.push(Subscription { source, socket });
        }
        // A kernel may lack either: then it has nothing to report, or the daemon checks from time
        // to time.
        for (source, socket) in [
            (Source::Drivers, xdp_features::subscribe()),
            (Source::Nftables, open_nftables().map(Some)),
        ] {
            match socket.and_then(|socket| socket.map(register).transpose()) {
                Ok(socket) => {
                    subscriptions.extend(socket.map(|socket| Subscription { source, socket }));
                }
                Err(error) => log::debug!("subscribe to changes, {source:?}: {error}"),
            }
        }
        let mut events = Self {
            subscriptions,
            datagram: Vec::with_capacity(DATAGRAM),
            pending: Pending::default(),
            hears_neighbours: true,
            hears_ipv6: false,
        };
        events.hear_ipv6(true);
        Ok(events)
    }

    /// Whether changes of IPv6 are reported. Without rules for it, they would only cost time.
    pub fn hear_ipv6(&mut self, hears: bool) {
        if self.hears_ipv6 == hears {
            return;
        }
        self.hears_ipv6 = hears;
        for Subscription { source, socket } in &mut self.subscriptions {
            let chosen = match source {
                Source::Route => choose_groups(socket.get_mut(), hears),
                Source::Neighbours => choose_neighbours(socket.get_ref(), hears),
                Source::Drivers | Source::Nftables => continue,
            };
            if let Err(error) = chosen {
                log::warn!("choose messages about IPv6: {error}");
            }
        }
    }

    /// Whether [`Self::next`] reports neighbours. Changes in the meantime are reported once it does
    /// again.
    pub fn hear_neighbours(&mut self, hears: bool) {
        self.hears_neighbours = hears;
    }

    /// Waits for a change. Changes of one kind since the last call are one event. Events on which
    /// others depend come first: interfaces, addresses, routes, neighbours, policing, settings.
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
            if let Err(error) = self.readable().await {
                log::warn!("wait for changes of the host: {error}");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }

    /// Waits until a socket has something to read.
    async fn readable(&self) -> io::Result<()> {
        let sockets = self.subscriptions.iter();
        let heard = sockets.filter(|one| self.hears_neighbours || !one.is_of_neighbours());
        let sockets = heard.map(|one| &one.socket);
        let any = select_all(sockets.map(|socket| Box::pin(socket.readable())));
        any.await.0?.retain_ready();
        Ok(())
    }

    /// Reads everything available, without waiting.
    fn drain(&mut self) -> io::Result<()> {
        let Self {
            subscriptions,
            datagram,
            pending,
            hears_neighbours,
            ..
        } = self;
        for one in subscriptions {
            let most = match one.is_of_neighbours() {
                true if *hears_neighbours => NEIGHBOURS_AT_ONCE,
                true => 0,
                false => usize::MAX,
            };
            let Subscription { source, socket } = one;
            for _ in 0..most {
                datagram.clear();
                let received = socket.try_io(tokio::io::Interest::READABLE, |socket| {
                    socket.recv(datagram, 0)
                });
                match received {
                    Ok(_) => pending.note(*source, datagram),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        pending.lose(*source);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

impl Subscription {
    fn is_of_neighbours(&self) -> bool {
        self.source == Source::Neighbours
    }
}

impl Pending {
    /// Records the messages of a datagram (RFC 3549 section 2.2: each begins with its length and
    /// its type, and the next begins on a multiple of four).
    fn note(&mut self, source: Source, datagram: &[u8]) {
        let mut rest = datagram;
        while let Some((header, _)) = rest.split_first_chunk::<6>() {
            let [l0, l1, l2, l3, t0, t1] = *header;
            let kind = u16::from_ne_bytes([t0, t1]);
            match source {
                Source::Route | Source::Neighbours => self.note_route(kind),
                Source::Drivers => self.links |= xdp_features::is_change(rest),
                Source::Nftables => self.policing |= is_policing(kind, rest),
            }
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
            let next = length.checked_next_multiple_of(4).filter(|at| *at > 0);
            match next.and_then(|at| rest.get(at..)) {
                Some(next) => rest = next,
                None => return,
            }
        }
    }

    fn note_route(&mut self, kind: u16) {
        match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.links = true,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.addresses = true,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE | libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                self.routes = true;
            }
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => self.neighbours = true,
            libc::RTM_NEWQDISC
            | libc::RTM_DELQDISC
            | libc::RTM_NEWTFILTER
            | libc::RTM_DELTFILTER => self.policing = true,
            RTM_NEWNETCONF => self.settings = true,
            _ => {}
        }
    }

    /// Messages were lost.
    fn lose(&mut self, source: Source) {
        match source {
            Source::Route => self.overrun = true,
            Source::Neighbours => self.neighbours = true,
            Source::Drivers => self.links = true,
            Source::Nftables => self.policing = true,
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
        if std::mem::take(&mut self.neighbours) {
            return Some(Event::NeighbourChanged);
        }
        if std::mem::take(&mut self.policing) {
            return Some(Event::PolicingChanged);
        }
        std::mem::take(&mut self.settings).then_some(Event::SettingChanged)
    }
}

/// Whether a message of nftables is about rules that may apply at an interface. The family follows
/// the header (`struct nfgenmsg`).
fn is_policing(kind: u16, message: &[u8]) -> bool {
    let [message_type, subsystem] = kind.to_le_bytes();
    let family = message.get(HEADER);
    subsystem == NFTABLES
        && NFTABLES_RULES.contains(&message_type)
        && family.is_none_or(|family| NFTABLES_FAMILIES.contains(family))
}

fn open(groups: u32) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    register(socket)
}

fn choose_groups(socket: &mut Socket, hears_ipv6: bool) -> io::Result<()> {
    IPV6_GROUPS
        .into_iter()
        .try_for_each(|group| match hears_ipv6 {
            true => socket.add_membership(group),
            false => socket.drop_membership(group),
        })
}

/// Makes the kernel filter out messages about IPv6, whose neighbours have no separate group, or
/// lets them pass (socket filters of classic BPF, `linux/filter.h`).
fn choose_neighbours(socket: &Socket, hears_ipv6: bool) -> io::Result<()> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        instruction(
            libc::BPF_LD | libc::BPF_B | libc::BPF_ABS,
            0,
            0,
            HEADER as u32,
        ),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::AF_INET6 as u32,
        ),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            if hears_ipv6 { u32::MAX } else { 0 },
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option's value is a `sock_fprog` of that length, whose program outlives the call;
    // the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_nftables() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.add_membership(NFTABLES_GROUP)?;
    Ok(socket)
}

fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    socket.set_non_blocking(true)?;
    // SAFETY: a `Socket` owns its file descriptor, keeps it open until it is dropped and always
    // gives out the same one; nothing takes the socket out of the `AsyncFd`.
    let registered = unsafe { AsyncFd::register(socket) };
    Ok(registered?)
}

#[cfg(test)]
mod tests;
