//! Sessions: the layout of `SESSIONS`, and how packets change an entry.
//!
//! A session has two entries, one per direction, each with the packet's addresses *before*
//! translation as its key and those *after* it in its value. The reverse of the addresses after
//! translation is the key of the other entry, so the two refer to each other without a further
//! field.
//!
//! A hairpinned session (guest to guest by an external address) has two more, for the egress hook,
//! where everything is already rewritten except the source address.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

use crate::{
    atomics::Shared,
    headers::{
        parsed::{NO_ACKNOWLEDGEMENT, Parsed},
        quoted::Quoted,
    },
    tables::{insert::InsertError, next_hops},
    wire::address::{Addr4, Addr6, Address, Endpoint, Port},
};

impl<A: Address> Quoted<A> {
    /// The key with which the quoted packet itself was looked up in `view`.
    #[inline(always)]
    pub fn key(&self, view: View, network: u16) -> SessionKey<A> {
        SessionKey {
            source: self.source.address,
            destination: self.destination.address,
            source_port: self.source.port,
            destination_port: self.destination.port,
            network,
            protocol: self.protocol,
            view: view as u8,
        }
    }

    /// The key of packets that answer the quoted one.
    #[inline(always)]
    pub fn answer_key(&self, view: View, network: u16) -> SessionKey<A> {
        self.key(view, network).reversed()
    }
}

impl<A: Address> Parsed<A> {
    /// The key of its session in `view`.
    #[inline(always)]
    pub fn key(&self, view: View, network: u16) -> SessionKey<A> {
        SessionKey {
            source: self.header.source,
            destination: self.header.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            network,
            protocol: self.header.protocol,
            view: view as u8,
        }
    }
}

/// Where a packet was seen: the same addresses have different meanings at different hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum View {
    /// On an uplink, as remotes see it.
    Outside = 0,
    /// In a network, as its guests see it.
    Inside = 1,
    /// Hairpinned: everything is rewritten except its source address.
    Between = 2,
}

/// Key of `SESSIONS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct SessionKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port; the identifier of an ICMP query, [`crate::family::Family::service`] in its
    /// answer.
    pub source_port: Port,
    /// Destination port; the identifier of an ICMP answer, [`crate::family::Family::service`] in a
    /// query.
    pub destination_port: Port,
    /// Number of the network from which the packet came; 0 in [`View::Outside`].
    pub network: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`View`].
    pub view: u8,
}

/// Value of `SESSIONS`, as it is written and read as a whole. A [`Session`] is the same memory
/// while packets change it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SessionRecord<A, Word = u32> {
    /// Source address after translation.
    pub source: A,
    /// Destination address after translation.
    pub destination: A,
    /// Source port after translation.
    pub source_port: Port,
    /// Destination port after translation.
    pub destination_port: Port,
    /// [`SessionKey::network`] of the other direction's entry.
    pub peer_network: u16,
    /// [`SessionKey::view`] of the other direction's entry.
    pub peer_view: u8,
    /// What the entry is.
    pub flags: SessionFlags,
    /// Number of the rule under which the session counts.
    pub rule: u32,
    /// When it was opened, in seconds of the monotonic clock.
    pub opened_s: u32,
    /// When a packet last passed this way, in seconds of the monotonic clock; [`DEAD`] once the
    /// entry is being removed, [`OPENING`] while its session is not complete.
    pub seen_s: Word,
    /// Bits of [`crate::session::tracking`]; the same in both directions.
    pub state: Word,
    /// The next hop of packets of this entry, a [`crate::tables::next_hops::Tag`].
    pub next_hop: Word,
    /// Datagrams that the XDP program has passed up, and when it last did, see
    /// [`Session::pass_up`]. XDP passes up all of TCP: for a connection, this is the last
    /// acknowledgement of this entry.
    pub xdp_passed_at: Word,
}

/// [`SessionRecord`] in the table, while packets on several CPUs read and change it.
pub type Session<A> = SessionRecord<A, Shared>;

bitflags! {
    /// Bits of [`SessionRecord::flags`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
    #[repr(transparent)]
    pub struct SessionFlags: u8 {
        /// This entry is the one that expiry checks, and that owns the others of its session.
        const PRIMARY = 1 << 0;
        /// Packets of this entry are sent by the session's initiator.
        const FROM_INITIATOR = 1 << 1;
        /// Packets of this entry count as `in`.
        const IN = 1 << 2;
        /// The session holds a reference to its external port's owner.
        const REFS_PORT = 1 << 3;
        /// The session holds a reference to a permit of its remote address.
        const REFS_PERMIT = 1 << 4;
        /// Guest to guest by an external address: there are entries in [`View::Between`].
        const HAIRPIN = 1 << 5;
        /// The host's own traffic: its port is claimed, but it does not count under a rule.
        const HOST = 1 << 6;
        /// The hairpinned session holds a reference to the owner of the port to which it was sent.
        const REFS_SERVER = 1 << 7;
    }
}

/// [`SessionRecord::seen_s`] of an entry that is being removed.
pub const DEAD: u32 = u32::MAX;

/// [`SessionRecord::seen_s`] of the entry that was added first, while the other one does not exist
/// yet.
pub const OPENING: u32 = u32::MAX - 1;

/// Unit of the clock in [`SessionRecord::xdp_passed_at`] in nanoseconds.
pub const PASSED_NS: u64 = 1 << 10;

/// Bits of [`SessionRecord::xdp_passed_at`] that count the datagrams on their way from XDP to the
/// traffic control hook.
const UNDER_WAY: u32 = UNCOUNTED - 1;

/// Bit of [`SessionRecord::xdp_passed_at`]: uncounted datagrams may be on their way. The next one
/// is counted, and arrives after them.
const UNCOUNTED: u32 = 1 << 11;

/// The position of the clock in [`SessionRecord::xdp_passed_at`].
const CLOCK: u32 = 12;

/// [`SessionRecord::xdp_passed_at`] of an entry that XDP has not seen yet, or whose segments have
/// acknowledged nothing.
pub const JUST_OPENED: u32 = UNCOUNTED;

/// The table of sessions.
pub trait Sessions<A: Address> {
    /// Looks a session's entry up.
    fn session(&self, key: &SessionKey<A>) -> Option<&Session<A>>;
    /// Adds a session's entry.
    fn add_session(
        &self,
        key: &SessionKey<A>,
        record: &SessionRecord<A>,
    ) -> Result<(), InsertError>;
    /// Removes a session's entry.
    fn remove_session(&self, key: &SessionKey<A>);
    /// The most recorded flows of the host.
    fn host_sessions(&self) -> u32;
}

const _: () = assert!(JUST_OPENED == NO_ACKNOWLEDGEMENT);

/// How long a datagram may be on its way from XDP to the traffic control hook, in units of
/// [`PASSED_NS`]. One that has not arrived by then is lost.
const LOST: u32 = 200;

impl<A: Address> SessionKey<A> {
    /// The source as an endpoint.
    #[inline(always)]
    pub fn source_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.source, self.source_port)
    }

    /// The destination as an endpoint.
    #[inline(always)]
    pub fn destination_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.destination, self.destination_port)
    }

    /// Whether the entry with this key is added first and removed last in a session with these two
    /// keys. Of two different keys, one precedes the other, and [`View::Outside`] precedes all
    /// other views.
    #[inline(always)]
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        if self.view != other.view {
            return self.view < other.view;
        }
        if self.network != other.network {
            return self.network < other.network;
        }
        if self.source != other.source {
            return self.source.distance_to(other.source) != 0;
        }
        if self.source_port != other.source_port {
            return self.source_port.number() < other.source_port.number();
        }
        if self.destination != other.destination {
            return self.destination.distance_to(other.destination) != 0;
        }
        self.destination_port.number() < other.destination_port.number()
    }

    /// The key of packets in the opposite direction between the same endpoints, in the same view.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }
}

impl<A: Address, Word> SessionRecord<A, Word> {
    /// The source after translation.
    #[inline(always)]
    pub fn source_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.source, self.source_port)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl<A: Address> SessionRecord<A> {
    /// The same in a table in memory of the host.
    #[must_use]
    pub fn in_table(&self) -> Session<A> {
        SessionRecord {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            peer_network: self.peer_network,
            peer_view: self.peer_view,
            flags: self.flags,
            rule: self.rule,
            opened_s: self.opened_s,
            seen_s: Shared::new(self.seen_s),
            state: Shared::new(self.state),
            next_hop: Shared::new(self.next_hop),
            xdp_passed_at: Shared::new(self.xdp_passed_at),
        }
    }
}

impl<A: Address> Session<A> {
    /// The destination after translation.
    #[inline(always)]
    pub fn destination_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.destination, self.destination_port)
    }

    /// Whether it has a flag.
    #[inline(always)]
    pub fn has(&self, flag: SessionFlags) -> bool {
        self.flags.contains(flag)
    }

    /// The key of the other direction's entry.
    #[inline(always)]
    pub fn peer_key(&self, protocol: u8) -> SessionKey<A> {
        SessionKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            network: self.peer_network,
            protocol,
            view: self.peer_view,
        }
    }

    /// Records that a packet passed at `now_s`, and returns what that means. Writes at most once a
    /// second.
    ///
    /// The first packet in [`REFRESH_S`] removes the next hop. Only a packet that the kernel sends
    /// after that gives the entry another one.
    ///
    /// Expiry takes the entry by exchanging exactly the time that it has checked, so if a packet
    /// and expiry meet, one sees the other.
    #[inline(always)]
    pub fn touch(&self, now_s: u32) -> Touch {
        let seen_s = self.seen_s.load();
        if seen_s == now_s {
            return Touch::Again;
        }
        let before = match seen_s {
            DEAD | OPENING => DEAD,
            _ => self.seen_s.exchange_if(seen_s, now_s),
        };
        // Sessions do not all refresh in the same second.
        let round = |time_s: u32| time_s.wrapping_add(self.opened_s) / REFRESH_S;
        if before == DEAD {
            Touch::Dead
        } else if before != seen_s || round(seen_s) == round(now_s) {
            // (Of two packets that both write, the other one has won and is the refresh.)
            Touch::Again
        } else {
            self.next_hop.store(next_hops::NONE);
            Touch::Refresh
        }
    }

    /// Records the acknowledgement of a segment of this entry.
    #[inline(always)]
    pub fn acknowledge(&self, acknowledged: u32) {
        if acknowledged != JUST_OPENED && self.xdp_passed_at.load() != acknowledged {
            self.xdp_passed_at.store(acknowledged);
        }
    }

    /// The last acknowledgement of this entry.
    #[inline(always)]
    pub fn acknowledged(&self) -> Option<u32> {
        match self.xdp_passed_at.load() {
            JUST_OPENED => None,
            acknowledged => Some(acknowledged),
        }
    }

    /// Whether packets may use it: it is not being removed, and the other direction's entry exists.
    #[inline(always)]
    pub fn is_usable(&self) -> bool {
        self.seen_s.load() < OPENING
    }

    /// Records that XDP passes up a datagram at `now`, in units of [`PASSED_NS`].
    #[inline(always)]
    pub fn pass_up(&self, now: u32) {
        let passed = self.xdp_passed_at.load();
        // If the count overflows, the datagrams count as uncounted.
        let under_way = match passed & (UNCOUNTED | UNDER_WAY) {
            counted if counted < UNCOUNTED => counted + 1,
            _ => 1,
        };
        // Added atomically, because another CPU may subtract from the count at the same time.
        let next = now << CLOCK | under_way;
        self.xdp_passed_at.fetch_add(next.wrapping_sub(passed));
    }

    /// Records that this many datagrams have arrived at the traffic control hook, if XDP passed
    /// them up.
    #[inline(always)]
    pub fn arrive(&self, datagrams: impl FnOnce() -> u32) {
        let under_way = self.xdp_passed_at.load() & UNDER_WAY;
        if under_way != 0 {
            let arrived = datagrams();
            let arrived = if arrived < under_way {
                arrived
            } else {
                under_way
            };
            self.xdp_passed_at.fetch_add(arrived.wrapping_neg());
        }
    }

    /// Whether a datagram that XDP sends now overtakes none that it has passed up: all of them have
    /// arrived at the traffic control hook, or are lost.
    #[inline(always)]
    pub fn is_caught_up(&self, clock: impl Fn() -> u32) -> bool {
        let passed = self.xdp_passed_at.load();
        if passed & (UNCOUNTED | UNDER_WAY) == 0 {
            return true;
        }
        let elapsed = clock().wrapping_sub(passed >> CLOCK) << CLOCK >> CLOCK;
        let is_caught_up = passed & UNCOUNTED == 0 && elapsed > LOST;
        if is_caught_up {
            self.xdp_passed_at.store(passed & !UNDER_WAY);
        }
        is_caught_up
    }

    /// Takes the entry out of use if no packet has passed since `seen_s`.
    #[inline(always)]
    pub fn kill(&self, seen_s: u32) -> bool {
        self.seen_s.exchange_if(seen_s, DEAD) == seen_s
    }
}

/// The result of recording a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// The entry cannot be used and counts as absent.
    Dead,
    /// It is the first packet in [`REFRESH_S`]: it takes the slow path, and the entry has no next
    /// hop.
    Refresh,
    /// Any other.
    Again,
}

/// How often a packet of each direction takes the slow path, in seconds. Connection tracking,
/// neighbours and bridges then know that the session lives, and the session learns its next hop
/// again. Less than the 30 s after which connection tracking forgets an unanswered flow
/// (`nf_conntrack_udp_timeout`).
pub const REFRESH_S: u32 = 16;

/// IPv4 key of `SESSIONS`.
pub type SessionKey4 = SessionKey<Addr4>;

/// IPv4 value of `SESSIONS`.
pub type SessionRecord4 = SessionRecord<Addr4>;

crate::map_layouts!(SessionKey, 16, 40);
crate::map_layouts!(SessionRecord, 40, 64);
const _: () = assert!(size_of::<Session<Addr4>>() == size_of::<SessionRecord4>());

impl<A: Address> SessionKey<A> {
    pub(crate) const EMPTY: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        network: 0,
        protocol: 0,
        view: 0,
    };
}

impl<A: Address> SessionRecord<A> {
    pub(crate) const EMPTY: Self = Self {
        source: A::UNSPECIFIED,
        destination: A::UNSPECIFIED,
        source_port: Port::ZERO,
        destination_port: Port::ZERO,
        peer_network: 0,
        peer_view: 0,
        flags: SessionFlags::empty(),
        rule: 0,
        opened_s: 0,
        seen_s: 0,
        state: 0,
        next_hop: 0,
        xdp_passed_at: 0,
    };
}
