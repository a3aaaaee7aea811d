//! Changes on the host that the kernel reports: interfaces, IPv4 addresses, routes, neighbours, and
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
    /// IPv4 addresses came or went.
    AddressChanged,
    /// IPv4 routes, or the rules that choose between their tables, came, went or changed.
    RouteChanged,
    /// Neighbours of IPv4 addresses, or entries of bridges' forwarding databases, came, went or
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
    /// Subscribes in the calling thread's network namespace. Must be called from within a tokio
    /// runtime. Subscribe first and read the state afterwards, so that no change is missed.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn subscribe() -> Result<Self> {
        let mut subscriptions = Vec::new();
        for (source, groups) in [(Source::Route, GROUPS), (Source::Neighbours, RTMGRP_NEIGH)] {
            let socket = open(groups).context("subscribe to changes of the host")?;
            if source == Source::Neighbours {
                ignore_ipv6(socket.get_ref()).context("choose messages about neighbours")?;
            }
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
        Ok(Self {
            subscriptions,
            datagram: Vec::with_capacity(DATAGRAM),
            pending: Pending::default(),
            hears_neighbours: true,
        })
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
                Source::Route | Source::Neighbours => self.note_route(kind, rest),
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

    fn note_route(&mut self, kind: u16, message: &[u8]) {
        match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => self.links = true,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.addresses = true,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE | libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                self.routes = true;
            }
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => self.neighbours |= !is_ipv6(message),
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

/// Whether a message is about IPv6, whose neighbours have no separate group. A message that is cut
/// off before its family may be about anything.
fn is_ipv6(message: &[u8]) -> bool {
    message.get(HEADER).copied().map(i32::from) == Some(libc::AF_INET6)
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

/// Makes the kernel filter out messages about IPv6, whose neighbours have no separate group (socket
/// filters of classic BPF, `linux/filter.h`).
fn ignore_ipv6(socket: &Socket) -> io::Result<()> {
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
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
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
mod tests {
    use nat_sys::testing::{bridge, filter_vlans, in_namespace, ip, tool, without_ipv6};

    use super::*;

    /// The next event except settings: each new interface has some.
    async fn next(events: &mut Events) -> Event {
        tokio::time::timeout(Duration::from_secs(5), other_than_settings(events))
            .await
            .expect("an event")
    }

    async fn other_than_settings(events: &mut Events) -> Event {
        loop {
            match events.next().await {
                Event::SettingChanged => {}
                event => return event,
            }
        }
    }

    async fn nothing_more(events: &mut Events) {
        let other = other_than_settings(events);
        let waited = tokio::time::timeout(Duration::from_millis(300), other).await;
        assert!(waited.is_err(), "unexpected {waited:?}");
    }

    #[test]
    fn settings_changed_by_others_are_an_event() {
        in_namespace(async || {
            ip("link add vmbr1 type bridge");
            let mut events = Events::subscribe().unwrap();
            for (key, value) in [
                ("ip_forward", "1"),
                ("conf/vmbr1/forwarding", "0"),
                ("ip_forward", "0"),
            ] {
                let path = format!("/proc/sys/net/ipv4/{key}");
                std::fs::write(path, value).unwrap();
                assert_eq!(
                    events.next().await,
                    Event::SettingChanged,
                    "{key} = {value}"
                );
                quiet(&mut events).await;
            }
        });
    }

    /// Carriers come up asynchronously.
    async fn quiet(events: &mut Events) {
        let patience = Duration::from_millis(500);
        while tokio::time::timeout(patience, events.next()).await.is_ok() {}
    }

    #[test]
    fn a_burst_of_changes_is_one_event_of_each_kind() {
        in_namespace(async || {
            let mut events = Events::subscribe().unwrap();
            ip("link add vmbr1 type bridge");
            for host in 1..20 {
                ip(&format!("addr add 172.22.161.{host}/24 dev vmbr1"));
            }
            assert_eq!(next(&mut events).await, Event::LinkChanged);
            assert_eq!(next(&mut events).await, Event::AddressChanged);
            // The kernel routes to each address.
            assert_eq!(next(&mut events).await, Event::RouteChanged);
            // The bridge has its own MAC in its forwarding database.
            assert_eq!(next(&mut events).await, Event::NeighbourChanged);
            nothing_more(&mut events).await;
            ip("addr del 172.22.161.7/24 dev vmbr1");
            assert_eq!(next(&mut events).await, Event::AddressChanged);
            assert_eq!(next(&mut events).await, Event::RouteChanged);
            nothing_more(&mut events).await;
            ip("link del vmbr1");
            assert_eq!(next(&mut events).await, Event::LinkChanged);
        });
    }

    #[test]
    fn changes_of_next_hops_are_events() {
        in_namespace(async || {
            without_ipv6();
            let mut events = Events::subscribe().unwrap();
            ip("link add vmbr1 type bridge");
            for number in 1..=2 {
                ip(&format!(
                    "link add name tap{number} type veth peer name guest{number}"
                ));
                ip(&format!("link set tap{number} master vmbr1 up"));
                ip(&format!("link set guest{number} up"));
            }
            ip("link set vmbr1 up");
            ip("addr add 172.22.161.254/24 dev vmbr1");
            quiet(&mut events).await;
            let neighbour = "172.22.161.10 dev vmbr1 nud permanent lladdr";
            for (command, event) in [
                (
                    "ip neigh add NEIGHBOUR 02:00:00:00:01:0a",
                    Event::NeighbourChanged,
                ),
                (
                    "ip neigh change NEIGHBOUR 02:00:00:00:01:0b",
                    Event::NeighbourChanged,
                ),
                (
                    "bridge fdb add 02:00:00:00:01:0b dev tap1 master static",
                    Event::NeighbourChanged,
                ),
                (
                    "bridge fdb replace 02:00:00:00:01:0b dev tap2 master static",
                    Event::NeighbourChanged,
                ),
                ("bridge link set dev tap2 isolated on", Event::LinkChanged),
                ("bridge link set dev tap2 locked on", Event::LinkChanged),
                ("bridge link set dev tap2 state 0", Event::LinkChanged),
                (
                    "ip route add 10.0.0.0/8 via 172.22.161.10 mtu 1300",
                    Event::RouteChanged,
                ),
                ("ip rule add from 10.0.0.0/8 table 7", Event::RouteChanged),
            ] {
                let command = command.replace("NEIGHBOUR", neighbour);
                match command.split_once(' ') {
                    Some(("ip", arguments)) => ip(arguments),
                    Some(("bridge", arguments)) => bridge(arguments),
                    _ => unreachable!("{command}"),
                };
                assert_eq!(next(&mut events).await, event, "{command}");
                nothing_more(&mut events).await;
            }
            if filter_vlans("vmbr1") {
                assert_eq!(next(&mut events).await, Event::LinkChanged);
            }
        });
    }

    #[test]
    fn shapers_at_an_interface_are_an_event() {
        in_namespace(async || {
            without_ipv6();
            ip("link add name tap1 type veth peer name guest");
            ip("link set tap1 up");
            let mut events = Events::subscribe().unwrap();
            quiet(&mut events).await;
            for command in [
                "tc qdisc add dev tap1 root tbf rate 1mbit burst 20k latency 50ms",
                "tc qdisc del dev tap1 root",
                "tc qdisc add dev tap1 clsact",
                "tc filter add dev tap1 ingress protocol all bpf bytecode 1,6_0_0_0",
                "nft add table netdev guard",
                "nft add chain netdev guard c { type filter hook ingress device tap1 priority 0; }",
                "nft add rule netdev guard c drop",
                "nft delete table netdev guard",
            ] {
                tool(command);
                assert_eq!(next(&mut events).await, Event::PolicingChanged, "{command}");
                nothing_more(&mut events).await;
            }
            // Rules about routed packets apply anyway.
            tool("nft add table ip filter");
            tool("nft add chain ip filter forward { type filter hook forward priority 0; }");
            tool("nft add rule ip filter forward drop");
            nothing_more(&mut events).await;
        });
    }

    #[test]
    fn a_peer_that_stops_accepting_frames_is_an_event() {
        in_namespace(async || {
            without_ipv6();
            ip("link add name tap1 type veth peer name guest");
            ip("link set tap1 up");
            ip("link set guest up");
            let mut events = Events::subscribe().unwrap();
            quiet(&mut events).await;
            for turn in ["on", "off"] {
                tool(&format!("ethtool -K guest gro {turn}"));
                assert_eq!(next(&mut events).await, Event::LinkChanged, "{turn}");
                nothing_more(&mut events).await;
            }
        });
    }

    #[test]
    fn ipv6_neighbours_are_no_event() {
        in_namespace(async || {
            ip("link add name uplink type veth peer name isp");
            let mut events = Events::subscribe().unwrap();
            ip("neigh add fd00::7 lladdr 02:00:00:00:00:07 dev uplink");
            ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev uplink");
            assert_eq!(next(&mut events).await, Event::NeighbourChanged);
            ip("neigh change fd00::7 lladdr 02:00:00:00:00:08 dev uplink");
            nothing_more(&mut events).await;
        });
    }

    #[test]
    fn a_storm_of_neighbours_hides_nothing_else_and_is_a_few_events() {
        in_namespace(async || {
            without_ipv6();
            ip("link add vmbr1 type bridge");
            ip("link add name tap1 type veth peer name guest1");
            ip("link set tap1 master vmbr1 up");
            ip("link set guest1 up");
            ip("link set vmbr1 up");
            let mut events = Events::subscribe().unwrap();
            quiet(&mut events).await;
            let batch = tempfile::NamedTempFile::new().unwrap();
            let lines: String = (0..4096_u32)
                .map(|number| {
                    let [_, _, a, b] = number.to_be_bytes();
                    format!("fdb add 06:00:00:00:{a:02x}:{b:02x} dev tap1 master dynamic\n")
                })
                .collect();
            std::fs::write(batch.path(), lines).unwrap();
            events.hear_neighbours(false);
            bridge(&format!("-batch {}", batch.path().display()));
            ip("addr add 172.22.161.1/24 dev vmbr1");
            loop {
                match next(&mut events).await {
                    // Carriers come up asynchronously.
                    Event::LinkChanged | Event::RouteChanged => {}
                    event => break assert_eq!(event, Event::AddressChanged),
                }
            }
            quiet(&mut events).await;
            events.hear_neighbours(true);
            let mut told = 0;
            let patience = Duration::from_millis(300);
            while let Ok(event) = tokio::time::timeout(patience, events.next()).await {
                assert_eq!(event, Event::NeighbourChanged);
                told += 1;
            }
            assert!((1..64).contains(&told), "4096 changes are {told} events");
        });
    }

    #[test]
    fn an_event_wakes_the_waiter() {
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
    fn lost_messages_are_reported() {
        in_namespace(async || {
            let mut events = Events::subscribe().unwrap();
            let socket = &events.subscriptions[0].socket;
            socket.get_ref().set_rx_buf_sz(4096).unwrap();
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
        let message = |length: u32, kind: u16, size: usize| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(size, 0);
            bytes
        };
        let mut two = message(14, libc::RTM_NEWADDR, 16);
        two.extend(message(4096, libc::RTM_DELLINK, 16));
        let neighbour = |family: i32| {
            let mut bytes = message(28, libc::RTM_DELNEIGH, 28);
            bytes[HEADER] = u8::try_from(family).unwrap();
            bytes
        };
        let cut = neighbour(libc::AF_INET6)[..HEADER].to_vec();
        for (datagram, noted) in [
            (vec![], ""),
            (vec![0; 5], ""),
            (message(0, libc::RTM_NEWLINK, 16), "links"),
            (message(u32::MAX - 3, libc::RTM_NEWADDR, 16), "addresses"),
            (message(16, libc::RTM_NEWROUTE, 16), "routes"),
            (message(16, libc::RTM_DELRULE, 16), "routes"),
            (message(16, libc::RTM_NEWQDISC, 16), "policing"),
            (message(16, libc::RTM_NEWTCLASS, 16), ""),
            (neighbour(libc::AF_INET), "neighbours"),
            (neighbour(libc::AF_BRIDGE), "neighbours"),
            (neighbour(libc::AF_INET6), ""),
            (cut, "neighbours"),
            (two, "links addresses"),
        ] {
            let mut pending = Pending::default();
            pending.note(Source::Route, &datagram);
            let noted = Pending {
                links: noted.contains("links"),
                addresses: noted.contains("addresses"),
                routes: noted.contains("routes"),
                neighbours: noted.contains("neighbours"),
                policing: noted.contains("policing"),
                settings: false,
                overrun: false,
            };
            assert_eq!(pending, noted, "{datagram:?}");
        }
    }

    #[test]
    fn events_that_others_depend_on_come_first() {
        let mut pending = Pending {
            links: true,
            addresses: true,
            routes: true,
            neighbours: true,
            policing: true,
            settings: true,
            overrun: false,
        };
        let order: Vec<_> = std::iter::from_fn(|| pending.take()).collect();
        assert_eq!(
            order,
            [
                Event::LinkChanged,
                Event::AddressChanged,
                Event::RouteChanged,
                Event::NeighbourChanged,
                Event::PolicingChanged,
                Event::SettingChanged,
            ]
        );
    }
}
