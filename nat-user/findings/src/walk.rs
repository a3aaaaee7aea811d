//! The outcome for a flow in the chains that it enters.
//!
//! [`filter`] and [`translation`] report only what is certain: a rule set is its owner's decision,
//! and false warnings teach people to ignore all of them.

use crate::{
    fits::{Fit, Flow},
    rules::{Ruleset, Verdict},
};

/// A rule, or the policy of a chain, by the places in a [`Ruleset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) chain: usize,
    /// `None` is the policy.
    pub(super) rule: Option<usize>,
}

/// The outcome for a flow in a filtering chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of it passes.
    Passes,
    /// All of it is dropped, the last of it here.
    Dropped(Place),
    /// Uncertain.
    Mixed,
}

/// How deep chains may call each other: the kernel takes 16 for nftables.
const DEPTH_MAX: u32 = 64;

/// How many rules may be checked, over all walks: a status must not take a second.
pub(super) struct Budget(u64);

impl Budget {
    const RULES: u64 = 2_000_000;

    pub(super) fn new() -> Self {
        Self(Self::RULES)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }

    fn spend(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

/// The outcome for a flow in a base chain.
pub(super) fn filter(rules: &Ruleset, chain: usize, flow: &Flow, budget: &mut Budget) -> Fate {
    let mut walk = Walk {
        rules,
        flow,
        budget,
        some_pass: false,
        some_drop: false,
    };
    let drops = rules.chains[chain].base.is_some_and(|base| base.drops);
    let end = match walk.chain(chain, 0) {
        End::Returned if drops => End::Dropped(Place { chain, rule: None }),
        End::Returned => End::Passed,
        end => end,
    };
    match end {
        // An incomplete walk has no result.
        _ if walk.budget.is_spent() => Fate::Mixed,
        End::Dropped(place) if !walk.some_pass => Fate::Dropped(place),
        End::Passed if !walk.some_drop => Fate::Passes,
        _ => Fate::Mixed,
    }
}

/// A walk of a flow through filtering chains.
struct Walk<'a> {
    rules: &'a Ruleset,
    flow: &'a Flow<'a>,
    budget: &'a mut Budget,
    some_pass: bool,
    some_drop: bool,
}

/// The outcome of one chain for the packets that reach its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Dropped(Place),
    Returned,
}

impl Walk<'_> {
    fn chain(&mut self, chain: usize, depth: u32) -> End {
        if depth > DEPTH_MAX {
            self.some_pass = true;
            return End::Returned;
        }
        let mut some_returned = false;
        for (number, rule) in self.rules.chains[chain].rules.iter().enumerate() {
            if !self.budget.spend() {
                return End::Returned;
            }
            let fit = rule.fit(self.flow);
            if fit == Fit::None {
                continue;
            }
            let place = Place {
                chain,
                rule: Some(number),
            };
            let Some(end) = self.follow(&rule.verdict, place, depth) else {
                continue;
            };
            if fit == Fit::All {
                return self.settle(end, some_returned);
            }
            match end {
                End::Passed => self.some_pass = true,
                End::Dropped(_) => self.some_drop = true,
                End::Returned => some_returned = true,
            }
        }
        End::Returned
    }

    /// The outcome of a verdict; `None` if the packet continues with the next rule.
    fn follow(&mut self, verdict: &Verdict, place: Place, depth: u32) -> Option<End> {
        let call = |walk: &mut Self, name: &str| match walk.rules.target(place.chain, name) {
            Some(target) => walk.chain(target, depth + 1),
            None => End::Returned,
        };
        match verdict {
            Verdict::Accept | Verdict::Elsewhere => Some(End::Passed),
            Verdict::Drop => Some(End::Dropped(place)),
            Verdict::Return => Some(End::Returned),
            Verdict::Goto(name) => Some(call(self, name)),
            Verdict::Jump(name) => match call(self, name) {
                End::Returned => None,
                end => Some(end),
            },
            // A translated packet counts as accepted: such rules are in separate tables.
            Verdict::SourceNat | Verdict::DestinationNat => Some(End::Passed),
            Verdict::Continue => None,
        }
    }

    /// The end of a chain from which some packets have returned before.
    fn settle(&mut self, end: End, some_returned: bool) -> End {
        if !some_returned {
            return end;
        }
        match end {
            End::Passed => self.some_pass = true,
            End::Dropped(_) => self.some_drop = true,
            End::Returned => {}
        }
        End::Returned
    }
}

/// The first rule that certainly translates some packets of a flow, in a base chain. A rule is
/// certain if no condition before it is unknown.
pub(super) fn translation(
    rules: &Ruleset,
    chain: usize,
    flow: &Flow,
    verdict: &Verdict,
    budget: &mut Budget,
) -> Option<Place> {
    let mut search = Search {
        rules,
        flow,
        verdict,
        budget,
    };
    match search.chain(chain, 0) {
        Found::At(place) => Some(place),
        Found::Ended | Found::Nothing => None,
    }
}

/// A search for a rule that translates.
struct Search<'a> {
    rules: &'a Ruleset,
    flow: &'a Flow<'a>,
    verdict: &'a Verdict,
    budget: &'a mut Budget,
}

enum Found {
    At(Place),
    /// All packets, or an unknown part of them, have left the chains before.
    Ended,
    /// Packets come to the chain's end, or have returned.
    Nothing,
}

impl Search<'_> {
    fn chain(&mut self, chain: usize, depth: u32) -> Found {
        if depth > DEPTH_MAX {
            return Found::Ended;
        }
        for (number, rule) in self.rules.chains[chain].rules.iter().enumerate() {
            if !self.budget.spend() {
                return Found::Ended;
            }
            let fit = rule.fit(self.flow);
            let is_sure = matches!(fit, Fit::All | Fit::Some);
            let (called, is_goto) = match &rule.verdict {
                _ if fit == Fit::None => continue,
                verdict if verdict == self.verdict && is_sure => {
                    let rule = Some(number);
                    return Found::At(Place { chain, rule });
                }
                Verdict::Jump(name) if is_sure => (name, false),
                Verdict::Goto(name) if is_sure => (name, true),
                Verdict::Return if fit == Fit::All => return Found::Nothing,
                Verdict::Accept | Verdict::Drop | Verdict::Elsewhere if fit == Fit::All => {
                    return Found::Ended;
                }
                // Some packets continue; if it is unknown which, nothing is certain any more.
                Verdict::Accept | Verdict::Return | Verdict::Goto(_) if fit == Fit::Unknown => {
                    return Found::Ended;
                }
                _ => continue,
            };
            let Some(target) = self.rules.target(chain, called) else {
                continue;
            };
            match self.chain(target, depth + 1) {
                Found::At(place) => return Found::At(place),
                Found::Ended if fit == Fit::All => return Found::Ended,
                Found::Nothing if fit == Fit::All && is_goto => return Found::Nothing,
                Found::Ended | Found::Nothing => {}
            }
        }
        Found::Nothing
    }
}
