//! Where natbpf means to differ from netfilter: every difference has one of these names, or the
//! test fails.
//!
//! A decision names what must have been sent, and what must have become of it on both hosts. What
//! natbpf makes of it is always one exact thing: nothing at all, or the packet translated as its
//! flow demands.

use std::net::Ipv4Addr;

use crate::differential::compare::{Came, Pair};
use crate::differential::generate::is_forwarded;
use crate::differential::model::{Cause, Direction, Flow, Kind, NATBPF, NFTABLES, Shape};
use crate::differential::twin::{GATEWAY, Manner, PUBLIC, Place};
use kit::flawed::{Flaw, SCTP, has_ports};
use kit::packets::RST;
use nat_common::wire::protocol::{TCP, UDP};

/// A difference that is meant.
pub(crate) struct Decision {
    pub(crate) name: &'static str,
    /// What natbpf does and netfilter does not, and why.
    pub(crate) why: &'static str,
    /// Whether it explains what became of a packet.
    explains: fn(&Case<'_>) -> bool,
}

/// A packet, and what became of it on both hosts.
struct Case<'a> {
    pair: &'a Pair<'a>,
    nftables: Came,
    natbpf: Came,
}

/// The first decision that explains a difference.
pub(crate) fn explain(pair: &Pair<'_>) -> Option<&'static Decision> {
    let case = Case {
        pair,
        nftables: pair.came(NFTABLES),
        natbpf: pair.came(NATBPF),
    };
    all().find(|decision| (decision.explains)(&case))
}

/// Every decision, those included that hosts with FORWARD rules alone show.
pub(crate) fn all() -> impl Iterator<Item = &'static Decision> {
    DECISIONS.iter().chain(BEHIND_FIREWALLS)
}

impl Case<'_> {
    fn flow(&self) -> &Flow {
        &self.pair.model.flows[self.pair.stimulus.flow]
    }

    fn is(&self, causes: &[Cause]) -> bool {
        causes.contains(&self.pair.stimulus.cause)
    }

    fn flaw(&self) -> Flaw {
        self.pair.stimulus.flaw
    }

    fn is_reset(&self) -> bool {
        self.pair
            .stimulus
            .flags()
            .is_some_and(|flags| flags & RST != 0)
    }

    /// Where it was sent, and its source address on natbpf's host.
    fn sender(&self) -> (Place, Ipv4Addr) {
        let (at, packet) = self.pair.model.sent(self.pair.stimulus, NATBPF);
        (at, packet.from.0)
    }

    /// What netfilter does with a packet that its connection tracking calls invalid: it lets it
    /// through unchanged, so that it leaves with its inside source, or is the host's, which drops
    /// it or answers with a reset.
    fn is_invalid_to_netfilter(&self) -> bool {
        let (at, _) = self.sender();
        match self.nftables {
            Came::Untranslated => at != Place::Net && self.leaves(),
            Came::Nothing => self.pair.model.manner.is_firewall() || !self.leaves(),
            Came::Answered => !self.leaves() && self.flow().protocol == TCP,
            Came::Translated | Came::Otherwise => false,
        }
    }

    /// Whether its flow is a question to a DNS server. It takes no port: others find the host
    /// there.
    fn is_question(&self) -> bool {
        let flow = self.flow();
        flow.protocol == UDP && flow.server.1 == 53
    }

    /// Whether it probes a port that netfilter has given to a guest, and that is forwarded.
    fn is_to_lent_port(&self) -> bool {
        let flow = self.flow();
        let is_forward = |side: usize| is_forwarded(flow.protocol, flow.shown(side).1);
        let expected = match self.is_question() && self.natbpf == Came::Answered {
            true => Came::Answered,
            false => Came::Nothing,
        };
        self.is(&[Cause::Probe])
            && is_forward(NFTABLES)
            && !is_forward(NATBPF)
            && self.natbpf == expected
    }

    /// Whether it probes the port of a question to a DNS server, and natbpf has moved that port
    /// because the host sends from the guest's own. netfilter leaves the question there, and the
    /// host's socket takes the probe. At natbpf's port the host has no socket.
    fn is_to_port_beside_hosts(&self) -> bool {
        let flow = self.flow();
        let is_hosts = |other: &Flow| {
            other.kind == Kind::Own
                && other.protocol == UDP
                && other.client.1 == flow.shown(NFTABLES).1
        };
        self.is(&[Cause::Probe])
            && self.is_question()
            && flow.shown(NATBPF).1 != flow.shown(NFTABLES).1
            && (self.nftables, self.natbpf) == (Came::Nothing, Came::Answered)
            && self.pair.model.flows.iter().any(is_hosts)
    }

    /// Whether it probes a forward's port, under which natbpf shows the forward's target, and
    /// netfilter does not.
    fn is_to_own_port(&self) -> bool {
        let flow = self.flow();
        let is_forward = |side: usize| is_forwarded(flow.protocol, flow.shown(side).1);
        self.is(&[Cause::Probe])
            && is_forward(NATBPF)
            && !is_forward(NFTABLES)
            && self.natbpf == Came::Translated
            && matches!(self.nftables, Came::Answered | Came::Nothing)
    }

    /// Whether it is for a forward, and from one to whom netfilter shows another flow under just
    /// this port, so that netfilter takes it for an answer on that flow.
    fn is_from_remote_of_lent_port(&self) -> bool {
        let flow = self.flow();
        let is_lent = |other: &Flow| {
            matches!(other.kind, Kind::Out | Kind::Hairpin)
                && other.protocol == flow.protocol
                && other.server == flow.client
                && other.shown_port[NFTABLES].is_some()
                && other.shown(NFTABLES) == flow.target
        };
        matches!(flow.kind, Kind::In | Kind::Hairpin)
            && self.pair.stimulus.direction == Direction::Request
            && is_forwarded(flow.protocol, flow.target.1)
            && self.pair.model.flows.iter().any(is_lent)
            && self.natbpf == Came::Translated
    }

    /// Whether the packet goes from a guest to the internet.
    fn leaves(&self) -> bool {
        let (at, packet) = self.pair.model.sent(self.pair.stimulus, NATBPF);
        let to = packet.to.0;
        at != Place::Net && to != PUBLIC && to != crate::differential::twin::SECOND
    }
}

/// Those that only hosts with FORWARD rules show.
const BEHIND_FIREWALLS: &[Decision] = &[Decision {
    name: "FirewallsSeeWhatIsTranslated",
    why: "natbpf translates also what connection tracking calls invalid, so that the FORWARD chain \
          drops it; \
          netfilter leaves it to the host, which resets it.",
    explains: |case| {
        case.pair.model.manner.is_firewall()
            && case.is(&[
                Cause::NoHandshake,
                Cause::OffWindow,
                Cause::NearReset,
                Cause::WrongState,
                Cause::Late,
                Cause::Probe,
                Cause::Flawed,
            ])
            && (case.nftables, case.natbpf) == (Came::Answered, Came::Nothing)
            && !case.leaves()
            && (case.is_invalid_to_netfilter() || case.flaw() == Flaw::Trailing)
    },
}];

/// All others.
pub(crate) const DECISIONS: &[Decision] = &[
    Decision {
        name: "InvalidIsDroppedNotLeaked",
        why: "What netfilter calls invalid leaves with its inside source; natbpf drops what it \
              cannot translate, so that no inside address is ever seen outside.",
        explains: |case| {
            case.nftables == Came::Untranslated
                && case.natbpf == Came::Nothing
                && case.leaves()
                && (case.is(&[
                    Cause::AnswerToNothing,
                    Cause::ErrorAboutNothing,
                    Cause::ErrorTooShort,
                ]) || case.is(&[Cause::NoHandshake]) && case.is_reset()
                    || case.is(&[Cause::Flawed])
                        && matches!(case.flaw(), Flaw::Cut(_) | Flaw::InnerLength)
                    || case.is(&[Cause::Flawed])
                        && case.flaw() == Flaw::Checksum
                        && case.pair.stimulus.is_error())
        },
    },
    Decision {
        name: "InsideIsNotReachedDirectly",
        why: "An inside address that is translated towards an uplink is not reached from there but \
              by what \
              stands for it: netfilter lets everybody in who has a route.",
        explains: |case| {
            case.is(&[Cause::ToInside])
                && matches!(case.nftables, Came::Translated | Came::Answered)
                && case.natbpf == Came::Nothing
        },
    },
    Decision {
        name: "SequenceNumbersAreNotFollowed",
        why: "natbpf leaves it to the ends to judge a segment by its numbers (RFC 7857 section \
              2.1): it passes, translated.",
        explains: |case| {
            case.is(&[Cause::OffWindow, Cause::NearReset])
                && case.natbpf == Came::Translated
                && case.is_invalid_to_netfilter()
        },
    },
    Decision {
        name: "AnySegmentOfAFlowPasses",
        why: "natbpf keeps no state machine of TCP but for its timeouts: the ends judge segments \
              that do not fit the connection.",
        explains: |case| {
            case.is(&[Cause::WrongState, Cause::Late])
                && case.natbpf == Came::Translated
                && case.is_invalid_to_netfilter()
        },
    },
    Decision {
        name: "AnySegmentButAResetOpens",
        why: "A flow may be older than the NAT: every segment but a reset opens a session, as an \
              ACK does for netfilter.",
        explains: |case| {
            let flow = case.flow();
            let is_to_forward = is_forwarded(flow.protocol, flow.shown(NATBPF).1);
            (case.is(&[Cause::NoHandshake]) || case.is(&[Cause::Probe]) && is_to_forward)
                && !case.is_reset()
                && case.natbpf == Came::Translated
                && case.is_invalid_to_netfilter()
        },
    },
    Decision {
        name: "ChecksumsAreTheReceivers",
        why: "natbpf corrects a checksum by what it changes, so that a wrong one stays wrong for \
              the receiver to see, and does not read the whole packet.",
        explains: |case| {
            case.is(&[Cause::Flawed])
                && case.flaw() == Flaw::Checksum
                && !case.pair.stimulus.is_error()
                && case.natbpf == Came::Translated
                && case.is_invalid_to_netfilter()
        },
    },
    Decision {
        name: "DatagramsEndWhereTheySay",
        why: "A datagram may be shorter than its IP packet; netfilter sums all of the packet up \
              and finds it wrong, while natbpf and the ends go by UDP's own length.",
        explains: |case| {
            case.is(&[Cause::Flawed])
                && case.flaw() == Flaw::Trailing
                && case.natbpf == Came::Translated
                && (case.is_invalid_to_netfilter()
                    || case.nftables == Came::Answered && !case.leaves())
        },
    },
    Decision {
        name: "UnsolicitedGetsNoAnswer",
        why: "A guest's port is not the host's: the host does not answer there, neither with a \
              reset nor with an ICMP error (RFC 5382 REQ-4).",
        explains: |case| {
            case.is(&[Cause::Probe])
                && (case.nftables, case.natbpf) == (Came::Answered, Came::Nothing)
        },
    },
    Decision {
        name: "PortsOfForwardsAreNotLent",
        why: "natbpf gives no guest a port that is forwarded; netfilter keeps a guest's own port \
              even then, and what others send there reaches the forward's guest. The forward's own \
              target has that port towards all remotes. Nor does a guest get a port from which the \
              host sends.",
        explains: |case| {
            case.is_to_lent_port()
                || case.is_to_own_port()
                || case.is_from_remote_of_lent_port()
                || case.is_to_port_beside_hosts()
        },
    },
    Decision {
        name: "FilteringIsByAddress",
        why: "By default an address that a guest has sent to may send to it from every port \
              (RFC 4787 REQ-8).",
        explains: |case| {
            let Shape::Probe(from, _) = case.pair.stimulus.shape else {
                return false;
            };
            let (model, flow) = (case.pair.model, case.flow());
            model.manner == Manner::Default
                && model.has_sent_to(flow.protocol, flow.client, from.0)
                && case.natbpf == Came::Translated
        },
    },
    Decision {
        name: "InsideSourcesComeFromInside",
        why: "A packet from outside with a source of the inside network is a forgery.",
        explains: |case| {
            let (at, source) = case.sender();
            case.is(&[Cause::Spoofed])
                && at == Place::Net
                && source.octets()[..3] == GATEWAY.octets()[..3]
                && case.natbpf == Came::Nothing
        },
    },
    Decision {
        name: "PrivateSourcesBehindGuestsAreHidden",
        why: "A private address that is in no network is that of a guest behind a guest: the rule \
              of \
              the network by which it comes hides it, so that no inside address is seen outside.",
        explains: |case| {
            let (at, source) = case.sender();
            case.is(&[Cause::Spoofed])
                && at != Place::Net
                && source.is_private()
                && (case.nftables, case.natbpf) == (Came::Untranslated, Came::Translated)
        },
    },
    Decision {
        name: "ReservedSourcesAreNobodys",
        why: "240.0.0.0/4 is nobody's address (RFC 1812 section 5.3.7); Linux takes it for one.",
        explains: |case| {
            let (at, source) = case.sender();
            let as_netfilter = match at {
                Place::Net => Came::Translated,
                Place::Vm1 | Place::Vm2 | Place::Host => Came::Untranslated,
            };
            case.is(&[Cause::Spoofed])
                && source.octets()[0] >= 240
                && !source.is_broadcast()
                && (case.nftables, case.natbpf) == (as_netfilter, Came::Nothing)
        },
    },
    Decision {
        name: "PortZeroIsNobodys",
        why: "Nobody can answer to port 0 (RFC 6335 section 6): natbpf translates nothing from \
              there, netfilter does.",
        explains: |case| {
            let flow = case.flow();
            matches!(flow.protocol, TCP | UDP)
                && flow.client.1 == 0
                && case.pair.stimulus.direction == Direction::Request
                && case.natbpf == Came::Nothing
        },
    },
    Decision {
        name: "FragmentsAreNotCollected",
        why: "natbpf translates fragments as they come; netfilter waits for the whole packet.",
        explains: |case| {
            case.is(&[Cause::FirstFragmentOnly])
                && (case.nftables, case.natbpf) == (Came::Nothing, Came::Translated)
        },
    },
    Decision {
        name: "CopiesBehindAWholePacketPass",
        why: "A fragment that comes once more when its packet is whole may be the first of another \
              packet, and goes on as such; netfilter waits for the others.",
        explains: |case| {
            case.pair.stimulus.is_doubled
                && case.pair.stimulus.dress.fragments > 1
                && case.nftables == Came::Translated
                && case.pair.came_with_copies(NATBPF)
        },
    },
    Decision {
        name: "TheHostsErrorsAreTheHosts",
        why: "An ICMP error of the host's own comes from the host's own address; netfilter makes \
              it come from the one that the packet was sent to.",
        explains: |case| {
            let kind = case.flow().kind;
            let target = case.flow().target.0;
            case.is(&[Cause::LastHop])
                && (case.nftables, case.natbpf) == (Came::Answered, Came::Answered)
                && match kind {
                    Kind::Hairpin => case.pair.source(NATBPF) == Some(GATEWAY),
                    Kind::In => target != PUBLIC && case.pair.source(NATBPF) == Some(PUBLIC),
                    Kind::Out | Kind::Host | Kind::Own => false,
                }
        },
    },
    Decision {
        name: "RedirectsAreForOneLink",
        why: "Redirects are about the sender's own link, and source quench is obsolete (RFC \
              6633): natbpf translates neither.",
        explains: |case| case.is(&[Cause::OtherError]) && case.natbpf == Came::Nothing,
    },
    Decision {
        name: "EightBytesAreQuoted",
        why: "An ICMP error has at least eight bytes of the packet that it is about (RFC 792): \
              one with less is about nothing.",
        explains: |case| {
            case.is(&[Cause::ErrorTooShort])
                && !has_ports(case.flow().protocol)
                && (case.nftables, case.natbpf) == (Came::Translated, Came::Nothing)
        },
    },
    Decision {
        name: "OneGuestForARemoteWithoutPorts",
        why: "natbpf knows no ports of SCTP: of two flows with one remote it refuses the second.",
        explains: |case| {
            case.is(&[Cause::Regular])
                && case.pair.stimulus.direction == Direction::Request
                && case.flow().protocol == SCTP
                && case.pair.model.remote_is_in_use(case.pair.stimulus.flow)
                && case.nftables == Came::Translated
                && matches!(case.natbpf, Came::Nothing | Came::Answered)
        },
    },
    Decision {
        name: "RefusedGuestsAreTold",
        why: "A guest whose flow is refused gets an ICMP error, as often as its rate allows; \
              netfilter drops the packet without a word.",
        explains: |case| {
            case.is(&[Cause::Regular])
                && case.pair.stimulus.direction == Direction::Request
                && case.flow().kind == Kind::Out
                && !has_ports(case.flow().protocol)
                && case.pair.model.remote_is_in_use(case.pair.stimulus.flow)
                && (case.nftables, case.natbpf) == (Came::Nothing, Came::Answered)
        },
    },
];
