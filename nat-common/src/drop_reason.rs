//! Why a packet was dropped.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet was dropped. Numbers are stable: new ones are added at the end.
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
    /// To an external address that the host does not hold, without a session or a rule.
    Unsolicited = 4, "unsolicited";
    /// The session table or another table of the data plane is full.
    TableFull = 5, "table_full";
    /// No external port is free.
    PortsExhausted = 6, "ports_exhausted";
    /// Protocol without ports, and another guest already talks to that remote.
    RemoteInUse = 7, "remote_in_use";
    /// From an inside address, belongs to no session and cannot open one: it must not leave
    /// untranslated.
    NoSession = 8, "no_session";
    /// An ICMP error whose checksum is wrong.
    BadChecksum = 9, "bad_checksum";
    /// A later fragment whose first fragment has not arrived.
    FragmentUnknown = 10, "fragment_unknown";
    /// Another CPU was removing the session or mapping at the same moment.
    Ending = 11, "ending";
    /// Rewriting failed: the packet could not be made writable.
    RewriteFailed = 12, "rewrite_failed";
    /// The uplink has no address to translate to.
    NoAddress = 13, "no_address";
    /// Fragments of one packet contradict each other.
    FragmentOverlap = 14, "fragment_overlap";
    /// A first fragment that does not contain the whole transport header, or a later one that would
    /// overwrite it.
    FragmentTiny = 15, "fragment_tiny";
    /// A fragment that ends beyond the longest possible packet.
    FragmentOversized = 16, "fragment_oversized";
    /// A queued fragment whose first fragment never arrived.
    FragmentExpired = 17, "fragment_expired";
    /// A fragment that could not be queued: its sender has reached its limit, or the fragment is
    /// too long.
    FragmentsFull = 18, "fragments_full";
    /// The guest has reached `sessions_per_guest`.
    GuestSessions = 19, "guest_sessions";
    /// The guest has reached `ports_per_guest`.
    GuestPorts = 20, "guest_ports";
    /// From or to port 0, which cannot be answered (RFC 6335 section 6).
    PortZero = 21, "port_zero";
    /// Source and destination are the same.
    SameEndpoints = 22, "same_endpoints";
    /// A broadcast or multicast source.
    BroadcastSource = 23, "broadcast_source";
    /// A guest's packet with an address that is not its own.
    Spoofed = 24, "spoofed";
    /// A policy refuses the flow.
    Policy = 25, "policy";
    /// A fragment whose blocks have all arrived before.
    FragmentDuplicate = 26, "fragment_duplicate";
    /// Another VLAN tag behind a priority tag (VLAN 0): the kernel would receive what no hook has
    /// seen.
    HiddenByTags = 27, "hidden_by_tags";
    /// From an uplink to an inside address that is translated towards it.
    DirectToInside = 28, "direct_to_inside";
    /// The packet asks a device to write a checksum over addresses or ports.
    FalseOffload = 29, "false_offload";
    /// An uplink is missing, and the packet would leave by an interface that the daemon has not
    /// checked yet.
    UplinkAway = 30, "uplink_away";
    /// Sessions opened from outside have used up their part of the table.
    OutsideSessions = 31, "outside_sessions";
    /// NAT64: the other family has nothing like it, or it may not be reached this way.
    Untranslatable = 32, "untranslatable";
    /// A guest acts as an IPv6 router or DHCPv6 server, or hides what it sends.
    RogueRa = 33, "rogue_ra";
    /// An IPv6 packet with more nodes to visit, whose checksum covers the last of them: it cannot
    /// be translated.
    RoutingHeader = 34, "routing_header";
    /// NPTv6: no address of the other prefix stands for this one (RFC 6296 sections 3.4, 3.7).
    NoCounterpart = 35, "no_counterpart";
}

/// How many reasons there are.
pub const DROP_REASONS: u32 = DropReason::ALL.len() as u32;

impl DropReason {
    /// Whether the packet was valid and only lacked room for its session.
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
                | Self::NoCounterpart
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
