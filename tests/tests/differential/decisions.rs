//! Where natbpf means to differ from netfilter: every difference has one of these names, or the
//! test fails.

use std::net::Ipv4Addr;

use crate::differential::compare::{Came, Pair};
use crate::differential::model::{Cause, Direction, Kind, NATBPF, NFTABLES, Shape};
use crate::differential::packet::{Body, Flaw, RST, SCTP, TCP};
use crate::differential::twin::Manner;

/// A difference that is meant.
pub(crate) struct Decision {
    pub(crate) name: &'static str,
    /// What natbpf does and netfilter does not, and why.
    #[expect(dead_code, reason = "for who reads the table and for the summary")]
    pub(crate) why: &'static str,
    /// Whether it explains what became of a packet on nftables' host and on natbpf's.
    explains: fn(&Pair<'_>, Came, Came) -> bool,
}

/// The first decision that explains a difference.
pub(crate) fn explain(pair: &Pair<'_>) -> Option<&'static Decision> {
    let (nftables, natbpf) = (pair.came(NFTABLES), pair.came(NATBPF));
    DECISIONS
        .iter()
        .find(|decision| (decision.explains)(pair, nftables, natbpf))
}

pub(crate) const DECISIONS: &[Decision] = &[];
