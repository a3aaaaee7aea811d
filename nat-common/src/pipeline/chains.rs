//! Finding the policy that decides on a flow.

use crate::{
    tables::{
        Tables,
        policies::{CHAINS, ChainKey, MAX_POLICIES, Side, action, side},
    },
    wire::address::Address,
    work::judging::Judging,
};

/// Finds out what policies say of a flow: [`Judging::action`] and [`Judging::rule`].
#[inline(always)]
pub(crate) fn judge<A: Address, T: Tables<A>>(tables: &T, judging: &mut Judging<A>) {
    let total = find_chains(tables, judging);
    judging.chain = 0;
    judging.position = 0;
    judging.order = u32::MAX;
    judging.action = u32::from(action::NONE);
    judging.rule = 0;
    if total == 0 {
        return;
    }
    crate::verifier::settle(judging);
    // A turn for each entry, and one for the end of each chain.
    tables.repeat(total + CHAINS as u32, |_| step(tables, judging));
    crate::verifier::settle(judging);
}

/// Looks up the chains of the two sides; how many entries they have together. (Apart from the rest:
/// the stack has no room for both.)
#[inline(never)]
fn find_chains<A: Address, T: Tables<A>>(tables: &T, judging: &mut Judging<A>) -> u32 {
    // The host is not any: what is said of all does not concern it.
    let any = |side: Side| {
        if side == side::HOST {
            side::HOST
        } else {
            side::ANY
        }
    };
    let (from, to) = (judging.from, judging.to);
    let (any_from, any_to) = (any(from), any(to));
    let mut total = 0;
    let mut look = |slot: usize, from: Side, to: Side, is_new: bool| {
        let key = ChainKey {
            generation: judging.generation,
            from,
            to,
            reserved: 0,
        };
        let chain = if is_new { tables.chain(&key) } else { None };
        let chain = chain.copied().unwrap_or_default();
        judging.chains[slot] = chain;
        total += chain.count.min(MAX_POLICIES);
    };
    look(0, from, to, true);
    look(1, from, any_to, any_to != to);
    look(2, any_from, to, any_from != from);
    look(3, any_from, any_to, any_from != from && any_to != to);
    total
}

/// Looks at one entry; whether to go on.
#[inline(always)]
fn step<A: Address, T: Tables<A>>(tables: &T, judging: &mut Judging<A>) -> bool {
    let Some(chain) = judging.chains.get(judging.chain as usize).copied() else {
        return false;
    };
    let position = judging.position;
    if position < chain.count {
        let index = chain.first.wrapping_add(position);
        let policy = tables.policy(u32::from(judging.generation), index);
        // Within a chain they are in order: what comes later cannot be better.
        if let Some(policy) = policy.filter(|policy| policy.order < judging.order) {
            if judging.matches(policy) {
                judging.order = policy.order;
                judging.action = u32::from(policy.action);
                judging.rule = policy.rule;
            } else {
                judging.position = position + 1;
                return true;
            }
        }
    }
    judging.chain += 1;
    judging.position = 0;
    judging.chain < CHAINS as u32
}
