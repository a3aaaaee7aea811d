//! Finding the policy that decides on a flow.

use crate::{
    family::Family,
    tables::{
        Tables,
        policies::{CHAINS, ChainKey, MAX_POLICIES, Side, action, side},
    },
    work::policy_match::PolicyMatch,
};

/// Finds the policy for a flow: [`PolicyMatch::action`] and [`PolicyMatch::rule`].
#[inline(always)]
pub(crate) fn judge<A: Family, T: Tables<A>>(tables: &T, policy_match: &mut PolicyMatch<A>) {
    let total = find_chains(tables, policy_match);
    policy_match.chain = 0;
    policy_match.position = 0;
    policy_match.order = u32::MAX;
    policy_match.action = u32::from(action::NONE);
    policy_match.rule = 0;
    if total == 0 {
        return;
    }
    crate::verifier::verifier_barrier(policy_match);
    // One iteration for each entry, and one for the end of each chain.
    tables.repeat(total + CHAINS as u32, |_| step(tables, policy_match));
    crate::verifier::verifier_barrier(policy_match);
}

/// Looks up the chains of the two sides and returns how many entries they have together. (A
/// separate function, because the stack has no room for both.)
#[inline(never)]
fn find_chains<A: Family, T: Tables<A>>(tables: &T, policy_match: &mut PolicyMatch<A>) -> u32 {
    // "Any" does not include the host: a policy for all sides does not apply to it.
    let any = |side: Side| {
        if side == side::HOST {
            side::HOST
        } else {
            side::ANY
        }
    };
    let (from, to) = (policy_match.from, policy_match.to);
    let (any_from, any_to) = (any(from), any(to));
    let mut total = 0;
    let mut look = |slot: usize, from: Side, to: Side, is_new: bool| {
        let key = ChainKey {
            generation: policy_match.generation,
            from,
            to,
            reserved: 0,
        };
        let chain = if is_new { tables.chain(&key) } else { None };
        let chain = chain.copied().unwrap_or_default();
        policy_match.chains[slot] = chain;
        total += chain.count.min(MAX_POLICIES);
    };
    look(0, from, to, true);
    look(1, from, any_to, any_to != to);
    look(2, any_from, to, any_from != from);
    look(3, any_from, any_to, any_from != from && any_to != to);
    total
}

/// Checks one entry and returns whether to continue.
#[inline(always)]
fn step<A: Family, T: Tables<A>>(tables: &T, policy_match: &mut PolicyMatch<A>) -> bool {
    let Some(chain) = policy_match
        .chains
        .get(policy_match.chain as usize)
        .copied()
    else {
        return false;
    };
    let position = policy_match.position;
    if position < chain.count {
        let index = chain.first.wrapping_add(position);
        let policy = tables.policy(u32::from(policy_match.generation), index);
        // A chain is in order, so a later entry cannot decide.
        if let Some(policy) = policy.filter(|policy| policy.order < policy_match.order) {
            if policy_match.matches(policy) {
                policy_match.order = policy.order;
                policy_match.action = u32::from(policy.action);
                policy_match.rule = policy.rule;
            } else {
                policy_match.position = position + 1;
                return true;
            }
        }
    }
    policy_match.chain += 1;
    policy_match.position = 0;
    policy_match.chain < CHAINS as u32
}
