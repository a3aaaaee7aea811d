//! Sets of ports.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::PortRange;

/// The ports of one address and protocol that earlier rules have, as ranges that do not touch.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// First port to last port.
    ranges: BTreeMap<u16, u16>,
}

impl Taken {
    /// Takes a range and returns its parts that were free.
    pub(super) fn take(&mut self, range: PortRange) -> Vec<PortRange> {
        let mut free = Vec::new();
        let mut next = u32::from(range.first);
        let before = self
            .ranges
            .range(..range.first)
            .next_back()
            .map(|(&first, _)| first);
        let start = before.unwrap_or(range.first);
        for (&first, &last) in self.ranges.range(start..=range.last) {
            if u32::from(first) > next {
                free.push(PortRange {
                    first: next as u16,
                    last: first - 1,
                });
            }
            next = next.max(u32::from(last) + 1);
        }
        if next <= u32::from(range.last) {
            free.push(PortRange {
                first: next as u16,
                last: range.last,
            });
        }
        for piece in &free {
            self.ranges.insert(piece.first, piece.last);
        }
        free
    }
}

/// A range without some ports.
pub(super) fn without(range: PortRange, ports: &BTreeSet<u16>) -> Vec<PortRange> {
    let mut taken = Taken::default();
    for &port in ports {
        taken.take(PortRange {
            first: port,
            last: port,
        });
    }
    taken.take(range)
}

/// Cuts a range of ports into prefixes: the first port of each and how many of its bits count.
pub(super) fn prefixes(range: PortRange) -> Vec<(u16, u32)> {
    let (mut first, last) = (u32::from(range.first), u32::from(range.last));
    let mut cut = Vec::new();
    while first <= last {
        let aligned = first.trailing_zeros().min(16);
        let fitting = (last - first + 1).ilog2();
        let free_bits = aligned.min(fitting);
        cut.push((first as u16, 16 - free_bits));
        first += 1 << free_bits;
    }
    cut
}
