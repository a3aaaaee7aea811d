//! Where natbpf means to differ from netfilter's NAT of IPv6: every difference has one of these
//! names, or the test fails.

use super::compare::{Came, Pair};
use super::flows::{Cause, ESP};
use super::twin::Place;

/// A difference that is meant.
pub(super) struct Decision {
    pub(super) name: &'static str,
    /// What natbpf does and netfilter does not, and why.
    pub(super) why: &'static str,
    explains: fn(&Case<'_>) -> bool,
}

struct Case<'a> {
    pair: &'a Pair<'a>,
    cause: Cause,
    /// What netfilter and natbpf made of it.
    came: [Came; 2],
    /// Whether it was sent outside.
    is_from_outside: bool,
}

/// The first decision that explains a difference.
pub(super) fn explain(pair: &Pair<'_>) -> Option<&'static Decision> {
    let case = Case {
        pair,
        cause: pair.step.cause,
        came: [pair.came(0), pair.came(1)],
        is_from_outside: pair.model.whole(pair.step, 1).0 == Place::Net,
    };
    DECISIONS.iter().find(|decision| (decision.explains)(&case))
}

pub(super) const DECISIONS: &[Decision] = &[
    Decision {
        name: "TheFirstFragmentOpens",
        why: "A later fragment of a protocol without ports opens no session: if it comes before \
              the first one of its flow, it is dropped. netfilter waits for the whole packet.",
        explains: |case| {
            let flow = &case.pair.model.flows[case.pair.step.flow];
            case.cause == Cause::Regular
                && case.pair.step.is_reversed
                && flow.protocol == ESP
                && case.came == [Came::Translated, Came::Otherwise]
        },
    },
    Decision {
        name: "InvalidIsDroppedNotLeaked",
        why: "What netfilter calls invalid leaves with its inside source; natbpf drops what it \
              cannot translate, so that no inside address is ever seen outside.",
        explains: |case| {
            matches!(case.cause, Cause::ErrorAboutNothing | Cause::Flawed)
                && !case.is_from_outside
                && case.came == [Came::Untranslated, Came::Nothing]
        },
    },
    Decision {
        name: "ChecksumsAreTheReceivers",
        why: "natbpf corrects a checksum by what it changes, so that a wrong one stays wrong for \
              the receiver to see, and does not read the whole packet.",
        explains: |case| case.cause == Cause::Flawed && case.came[1] == Came::Translated,
    },
    Decision {
        name: "UnsolicitedGetsNoAnswer",
        why: "A guest's port is not the host's: the host does not answer there, neither with a \
              reset nor with an ICMPv6 error (RFC 5382 REQ-4).",
        explains: |case| case.cause == Cause::Probe && case.came == [Came::Answered, Came::Nothing],
    },
    Decision {
        name: "InsideIsNotReachedDirectly",
        why: "An inside address that is translated towards an uplink is not reached from there but \
              by what stands for it: netfilter lets everybody in who has a route.",
        explains: |case| {
            case.cause == Cause::ToInside
                && matches!(
                    case.came[0],
                    Came::Translated | Came::Untranslated | Came::Answered
                )
                && case.came[1] == Came::Nothing
        },
    },
    Decision {
        name: "InsideSourcesComeFromInside",
        why: "A packet from outside with an inside or an impossible source is a forgery (RFC 6092 \
              REC-3 and REC-6).",
        explains: |case| {
            case.cause == Cause::Spoofed && case.is_from_outside && case.came[1] == Came::Nothing
        },
    },
    Decision {
        name: "TheHostsErrorsAreTheHosts",
        why: "An ICMPv6 error of the host's own comes from the host's own address; netfilter makes \
              it come from the one that the packet was sent to.",
        explains: |case| {
            case.cause == Cause::LastHop
                && case.came == [Came::Answered; 2]
                && case.pair.differs_in_source()
        },
    },
];
