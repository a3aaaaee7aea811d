//! Why a packet was dropped.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet was dropped. Numbers are stable: new ones are only ever added at the end.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum DropReason {
            $($(#[$doc])* $variant = $number,)*
        }

        impl DropReason {
            /// All reasons in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in `natbpf stats`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

drop_reasons! {
    /// A header is cut off or contradicts itself.
    Malformed = 0, "malformed";
    /// A source that no packet may have (RFC 1812 section 5.3.7).
    MartianSource = 1, "martian_source";
    /// A packet from outside with an inside source.
    InternalSource = 2, "internal_source";
    /// The mapping's filter does not let this remote send.
    Filtered = 3, "filtered";
    /// To an external address that the host does not hold, and nobody asked for it.
    Unsolicited = 4, "unsolicited";
    /// The session table or another table of the data plane is full.
    TableFull = 5, "table_full";
    /// No external port is free.
    PortsExhausted = 6, "ports_exhausted";
    /// Protocol without ports, and another guest already talks to that remote.
    RemoteInUse = 7, "remote_in_use";
    /// From an inside address, belongs to no session and cannot open one: it must not leak.
    NoSession = 8, "no_session";
    /// An ICMP error whose checksum is wrong.
    BadChecksum = 9, "bad_checksum";
    /// A later fragment whose first one has not been seen.
    FragmentUnknown = 10, "fragment_unknown";
    /// The session or mapping was being removed at that very moment.
    Ending = 11, "ending";
    /// Rewriting failed: the packet could not be made writable.
    RewriteFailed = 12, "rewrite_failed";
    /// The uplink has no address to hide behind.
    NoAddress = 13, "no_address";
    /// Fragments of one packet contradict each other.
    FragmentOverlap = 14, "fragment_overlap";
    /// A first fragment that does not hold the whole transport header, or one that would replace
    /// it.
    FragmentTiny = 15, "fragment_tiny";
    /// A fragment that ends behind the longest packet that there is.
    FragmentOversized = 16, "fragment_oversized";
    /// A fragment that was kept, and the first one never came.
    FragmentExpired = 17, "fragment_expired";
    /// A fragment that could not be kept: its sender has as many as it may, or it is too long.
    FragmentsFull = 18, "fragments_full";
    /// The guest has as many sessions as `sessions_per_guest` lets it have.
    GuestSessions = 19, "guest_sessions";
    /// The guest has as many external ports as `ports_per_guest` lets it have.
    GuestPorts = 20, "guest_ports";
    /// From or to port 0, which nobody can answer (RFC 6335 section 6).
    PortZero = 21, "port_zero";
    /// Source and destination are the same.
    SameEndpoints = 22, "same_endpoints";
    /// A broadcast or multicast source.
    BroadcastSource = 23, "broadcast_source";
    /// A guest's packet with an address that is not its own.
    Spoofed = 24, "spoofed";
    /// A policy does not let the flow be opened.
    Policy = 25, "policy";
    /// A fragment of which every block has come already.
    FragmentDuplicate = 26, "fragment_duplicate";
    /// Another VLAN tag behind a priority tag (VLAN 0): the kernel would receive what no hook has
    /// seen.
    HiddenByTags = 27, "hidden_by_tags";
    /// From an uplink to an inside address that is translated towards it.
    DirectToInside = 28, "direct_to_inside";
    /// A device is asked to fill a checksum in where none is, over addresses or ports.
    FalseOffload = 29, "false_offload";
    /// An uplink is away, and the packet would leave by an interface that the daemon has not looked
    /// at.
    UplinkAway = 30, "uplink_away";
    /// Sessions that were opened from outside take all of the table that is theirs.
    OutsideSessions = 31, "outside_sessions";
}

/// How many reasons there are.
pub const DROP_REASONS: u32 = DropReason::ALL.len() as u32;

impl DropReason {
    /// Whether the packet was fine, and there was just no room for its session.
    #[inline(always)]
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::TableFull
                | Self::PortsExhausted
                | Self::RemoteInUse
                | Self::NoAddress
                | Self::GuestSessions
                | Self::GuestPorts
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_reasons_stand_at_their_numbers() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
