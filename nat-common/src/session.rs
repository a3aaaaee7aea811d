//! Sessions: the layout of `SESSIONS` and what changes in an entry while packets pass.
//!
//! A session has two entries, one per direction, each under the packet's addresses *before*
//! translation, each holding the addresses *after* it. The reverse of the addresses after
//! translation is the key of the other entry, so the two name each other without a further field.
//!
//! A hairpinned session (guest to guest by an external address) has two more, for the hook at
//! which a packet leaves with everything rewritten but its source address.

use crate::{
    address::{Addr4, Address, Endpoint, Port},
    shared::Shared,
};

/// Where a packet was seen: the same addresses mean different things at different hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum View {
    /// On an uplink, as remotes see it.
    Outside = 0,
    /// In a network, as its guests see it.
    Inside = 1,
    /// Hairpinned: everything is rewritten but its source address.
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
    /// Source port; the identifier of an ICMP query, [`crate::icmp::service`] in its answer.
    pub source_port: Port,
    /// Destination port; the identifier of an ICMP answer, [`crate::icmp::service`] in a query.
    pub destination_port: Port,
    /// Number of the network that the packet came from; 0 in [`View::Outside`].
    pub network: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`View`].
    pub view: u8,
}

/// Value of `SESSIONS`, as it is written and read as a whole. [`Session`] is the same memory while
/// packets change it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SessionRecord<A> {
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
    /// Bits of [`flags`].
    pub flags: u8,
    /// Number of the rule that the session counts under.
    pub rule: u32,
    /// When it was opened, in seconds of the monotonic clock.
    pub opened_s: u32,
    /// When a packet last passed this way, in seconds of the monotonic clock; [`DEAD`] once the
    /// entry is being removed.
    pub seen_s: u32,
    /// Bits of [`crate::tcp`]; the same in both directions.
    pub state: u32,
    /// Where packets of this entry are sent, a [`crate::next_hop::Tag`].
    pub next_hop: u32,
    /// When the XDP program last left a packet of this entry to the kernel, in units of
    /// [`PASSED_NS`]; 0 if it has sent one itself since.
    pub passed: u32,
}

/// Bits of [`SessionRecord::flags`].
pub mod flags {
    /// This entry is the one of its session's that expiry looks at, and that owns the rest.
    pub const PRIMARY: u8 = 1 << 0;
    /// Packets of this entry are sent by the session's initiator.
    pub const FROM_INITIATOR: u8 = 1 << 1;
    /// Packets of this entry count as `in`.
    pub const IN: u8 = 1 << 2;
    /// The session holds a reference to its external port's owner.
    pub const HOLDS_PORT: u8 = 1 << 3;
    /// The session holds a reference to a permit of its remote address.
    pub const HOLDS_PERMIT: u8 = 1 << 4;
    /// Guest to guest by an external address: there are entries in [`super::View::Between`].
    pub const HAIRPIN: u8 = 1 << 5;
    /// The host's own traffic: it is claimed, not counted under a rule.
    pub const HOST: u8 = 1 << 6;
    /// The hairpinned session holds a reference to the owner of the port that it was sent to.
    pub const HOLDS_SERVER: u8 = 1 << 7;
}

/// [`SessionRecord::seen_s`] of an entry that is being removed.
pub const DEAD: u32 = u32::MAX;

/// Unit of [`SessionRecord::passed`] in nanoseconds.
pub const PASSED_NS: u64 = 1 << 10;

/// [`SessionRecord::passed`] of an entry that XDP has not seen yet.
pub const JUST_OPENED: u32 = u32::MAX;

/// [`SessionRecord`] in a table, while packets on several CPUs read and change it.
#[derive(Debug)]
#[repr(C)]
pub struct Session<A> {
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
    /// Bits of [`flags`].
    pub flags: u8,
    /// Number of the rule that the session counts under.
    pub rule: u32,
    /// When it was opened.
    pub opened_s: u32,
    /// See [`SessionRecord::seen_s`].
    pub seen_s: Shared,
    /// See [`SessionRecord::state`].
    pub state: Shared,
    /// See [`SessionRecord::next_hop`].
    pub next_hop: Shared,
    /// See [`SessionRecord::passed`].
    pub passed: Shared,
}

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

    /// The key of packets the other way between the same two endpoints, in the same view.
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

impl<A: Address> SessionRecord<A> {
    /// The source after translation.
    #[inline(always)]
    pub fn source_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.source, self.source_port)
    }
}

impl<A: Address> Session<A> {
    /// The source after translation.
    #[inline(always)]
    pub fn source_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.source, self.source_port)
    }

    /// The destination after translation.
    #[inline(always)]
    pub fn destination_endpoint(&self) -> Endpoint<A> {
        Endpoint::new(self.destination, self.destination_port)
    }

    /// Whether a bit of [`flags`] is set.
    #[inline(always)]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
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

    /// Notes that a packet passed at `now_s`, and says what that means. Writes at most once a second.
    ///
    /// Expiry takes the entry by exchanging exactly the time that it has judged, so of a packet
    /// and an expiry that meet, one sees the other.
    #[inline(always)]
    pub fn touch(&self, now_s: u32) -> Touch {
        let seen_s = self.seen_s.load();
        if seen_s == now_s {
            return Touch::Again;
        }
        // Of two packets that both write, either may win; only expiry writes DEAD.
        if seen_s == DEAD || self.seen_s.exchange_if(seen_s, now_s) == DEAD {
            return Touch::Dead;
        }
        // Sessions do not all have their turn in the same second.
        let round = |time_s: u32| time_s.wrapping_add(self.opened_s) / REFRESH_S;
        if round(seen_s) == round(now_s) {
            Touch::Again
        } else {
            Touch::Refresh
        }
    }

    /// Takes the entry out of use if no packet has passed since `seen_s`.
    #[inline(always)]
    pub fn kill(&self, seen_s: u32) -> bool {
        self.seen_s.exchange_if(seen_s, DEAD) == seen_s
    }
}

/// What a packet finds that notes its passing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// The entry is being removed, which makes it as good as absent.
    Dead,
    /// It is the first packet in [`REFRESH_S`]: it goes the kernel's way.
    Refresh,
    /// Any other.
    Again,
}

/// How often a packet of each direction goes the kernel's way in seconds, so that connection
/// tracking, neighbours and bridges know that the session lives, and it learns anew where the kernel
/// sends it. Less than the 30 s for which connection tracking keeps what was not answered
/// (`nf_conntrack_udp_timeout`).
pub const REFRESH_S: u32 = 16;

/// IPv4 key of `SESSIONS`.
pub type SessionKey4 = SessionKey<Addr4>;
/// IPv4 value of `SESSIONS`.
pub type SessionRecord4 = SessionRecord<Addr4>;

crate::map_layout!(SessionKey4, 16);
crate::map_layout!(SessionRecord4, 40);
const _: () = assert!(size_of::<Session<Addr4>>() == size_of::<SessionRecord4>());
