//! Chains that jump to each other, made into one list of rules for each hook, in the order in
//! which they are tried.

use super::{
    condition::{Condition, Foreign, Rest},
    dump::{Dump, Table},
    rule::Action,
};

/// A rule as reached by one path through the chains.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// Its position in [`Dump::rules`].
    pub(super) rule: usize,
    /// The rule of the built-in chain that led to it: itself, or a jump.
    pub(super) through: usize,
    /// The complete condition for the rule; earlier steps may take packets before.
    pub(super) condition: Condition,
    pub(super) action: Action,
}

impl Step {
    /// Whether a matching packet stops here.
    pub(super) fn ends(&self) -> bool {
        !matches!(
            self.action,
            Action::Count | Action::Pass(_) | Action::Unknown(_)
        )
    }
}

/// No real chains are deeper.
const DEEPEST: usize = 64;

/// No real chains expand to more steps. Chains that each jump twice to the next one would soon fill
/// all memory, and every step is compared with those before it.
const MOST_STEPS: usize = 20_000;
/// How many parts the conditions of all steps may have.
const MOST_PARTS: usize = 400_000;
/// How often the packets of a RETURN may be compared with a later rule.
const MOST_COMPARISONS: usize = 20_000_000;

/// The steps from a built-in chain of a table.
///
/// # Errors
/// When there are more than can be compared in a few seconds.
pub(super) fn steps(dump: &Dump, table: &str, hook: &str) -> Result<Vec<Step>, String> {
    let mut walk = Walk {
        dump,
        table: dump.tables.get(table),
        steps: Vec::new(),
        way: Vec::new(),
        through: 0,
        parts: 0,
        comparisons: 0,
    };
    walk.chain(hook, &Condition::default());
    if walk.is_too_much() {
        return Err(format!(
            "{hook} of table {table} leads to more than {MOST_STEPS} rules, counted once for each \
             path to them, or to as many conditions: import the rules in parts"
        ));
    }
    Ok(walk.steps)
}

struct Walk<'d> {
    dump: &'d Dump,
    table: Option<&'d Table>,
    steps: Vec<Step>,
    /// The chains that lead to the current rule.
    way: Vec<String>,
    through: usize,
    parts: usize,
    comparisons: usize,
}

impl Walk<'_> {
    /// Walks through a chain under the condition that led to it.
    fn chain(&mut self, chain: &str, path: &Condition) {
        let is_built_in = self.way.is_empty();
        self.way.push(chain.to_owned());
        let rules = self.table.and_then(|table| table.chains.get(chain));
        // The packets that have left the chain by RETURN.
        let mut left = Vec::new();
        for &position in rules.into_iter().flatten() {
            if self.is_too_much() {
                break;
            }
            self.comparisons += left.len();
            let rule = &self.dump.rules[position];
            if is_built_in {
                self.through = position;
            }
            let condition = without(&path.and(&rule.condition), &left);
            let mut action = rule.action.clone();
            match &rule.action {
                Action::Return if !is_built_in => {
                    self.push(position, condition.clone(), Action::Count);
                    left.extend(Some(condition).filter(opens));
                    continue;
                }
                Action::Return => action = Action::Accept,
                Action::Run { chain, is_goto } => match self.why_not(chain) {
                    Some(reason) => action = Action::Unknown(reason),
                    None => {
                        self.push(position, condition.clone(), Action::Count);
                        self.chain(chain, &condition);
                        if *is_goto {
                            left.extend(Some(condition).filter(opens));
                        }
                        continue;
                    }
                },
                _ => {}
            }
            self.push(position, condition, action);
        }
        self.way.pop();
    }

    /// Why a jump to a chain leads nowhere.
    fn why_not(&self, chain: &String) -> Option<String> {
        let is_known = |table: &Table| table.chains.contains_key(chain);
        if !self.table.is_some_and(is_known) {
            return Some(format!(
                "the file has no chain {chain}, and it is no target that natbpf knows"
            ));
        }
        if self.way.contains(chain) {
            return Some(format!(
                "leads back to chain {chain}, from which it came, and iptables refuses such a rule"
            ));
        }
        if self.way.len() > DEEPEST {
            return Some(format!(
                "is more than {DEEPEST} chains away from the first one: natbpf reads no further"
            ));
        }
        None
    }

    fn is_too_much(&self) -> bool {
        self.steps.len() > MOST_STEPS
            || self.parts > MOST_PARTS
            || self.comparisons > MOST_COMPARISONS
    }

    fn push(&mut self, rule: usize, condition: Condition, action: Action) {
        self.parts += condition.parts();
        self.steps.push(Step {
            rule,
            through: self.through,
            condition,
            action,
        });
    }
}

/// Whether it matches packets that open connections.
fn opens(condition: &Condition) -> bool {
    !condition.is_about_answers()
}

/// A condition without the packets that earlier ones have taken.
fn without(condition: &Condition, taken: &[Condition]) -> Condition {
    let mut rest = condition.clone();
    for taken in taken {
        match rest.without(taken) {
            Rest::All => {}
            Rest::Some(some) => rest = *some,
            Rest::Nothing => rest.destinations = super::ranges::Addresses::empty(),
            Rest::Unclear if rest.foreign.iter().any(|known| known.text == "RETURN") => {}
            Rest::Unclear => rest.foreign.push(Foreign {
                text: "RETURN".to_owned(),
                reason: "an earlier rule with RETURN exempts a part that natbpf cannot express"
                    .to_owned(),
            }),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{family::Family, script};

    const DOCKER: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A PREROUTING -p udp -j ACCEPT\n\
        -A DOCKER -i docker0 -j RETURN\n\
        -A DOCKER -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80\n\
        COMMIT\n";

    #[test]
    fn a_return_becomes_a_condition_of_later_rules_in_its_chain() {
        let dump = script::read(Family::V4, DOCKER, "rules").unwrap();
        let steps = steps(&dump, "nat", "PREROUTING").unwrap();
        let rules: Vec<usize> = steps.iter().map(|step| step.rule).collect();
        assert_eq!(rules, [0, 2, 3, 1]);
        let dnat = &steps[2].condition;
        assert_eq!(dnat.input.is_not, ["docker0"]);
        assert_eq!(dnat.is_local, Some(true));
        assert!(
            steps[3].condition.input.is_any(),
            "back in the calling chain it is gone"
        );
    }

    #[test]
    fn packets_returning_from_goto_stop() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:a - [0:0]\n:b - [0:0]\n\
            -A PREROUTING -j a\n-A a -i eth0 -g b\n-A a -j ACCEPT\nCOMMIT\n";
        let steps = steps(
            &script::read(Family::V4, text, "rules").unwrap(),
            "nat",
            "PREROUTING",
        )
        .unwrap();
        assert_eq!(steps.last().unwrap().condition.input.is_not, ["eth0"]);
    }

    fn unknown(steps: &[Step]) -> Vec<&str> {
        let reason = |step| match step {
            &Step {
                action: Action::Unknown(ref reason),
                ..
            } => Some(reason.as_str()),
            _ => None,
        };
        steps.iter().filter_map(reason).collect()
    }

    #[test]
    fn a_loop_ends() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:a - [0:0]\n-A PREROUTING -j a\n\
            -A PREROUTING -j a\n-A a -j PREROUTING\n-A a -j a\n";
        let steps = steps(
            &script::read(Family::V4, text, "rules").unwrap(),
            "nat",
            "PREROUTING",
        )
        .unwrap();
        assert_eq!(steps.len(), 6);
        assert_eq!(unknown(&steps).len(), 4);
        assert!(unknown(&steps)[0].contains("leads back to chain PREROUTING"));
    }

    #[test]
    fn chains_are_followed_so_far_and_no_further() {
        let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j c0\n".to_owned();
        for chain in 0..100_000 {
            text += &format!(":c{chain} - [0:0]\n-A c{chain} -j c{}\n", chain + 1);
        }
        let steps = steps(
            &script::read(Family::V4, &text, "rules").unwrap(),
            "nat",
            "PREROUTING",
        )
        .unwrap();
        assert_eq!(steps.len(), DEEPEST + 1);
        assert!(unknown(&steps)[0].contains("no further"));
    }

    #[test]
    fn chains_that_unfold_without_end_are_refused() {
        let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j c0\n".to_owned();
        for chain in 0..30 {
            let next = chain + 1;
            text += &format!(":c{chain} - [0:0]\n-A c{chain} -j c{next}\n-A c{chain} -j c{next}\n");
        }
        let dump = script::read(Family::V4, &text, "rules").unwrap();
        let error = steps(&dump, "nat", "PREROUTING").unwrap_err();
        assert!(error.contains("in parts"), "{error}");
    }

    #[test]
    fn conditions_that_grow_without_end_are_refused() {
        let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j c0\n".to_owned();
        let marks = |n: usize| "-m mark --mark 1 ".repeat(n);
        for chain in 0..60 {
            let next = format!("-j c{}", chain + 1);
            text += &format!(":c{chain} - [0:0]\n-A c{chain} {}{next}\n", marks(200));
        }
        text += &format!("-A c59 {}-j ACCEPT\n", marks(1)).repeat(1_000);
        let dump = script::read(Family::V4, &text, "rules").unwrap();
        assert!(steps(&dump, "nat", "PREROUTING").is_err());
    }

    #[test]
    fn many_returns_are_refused_before_they_take_minutes() {
        let mut text = "*nat\n:c - [0:0]\n-A PREROUTING -j c\n".to_owned();
        for port in 1..15_000 {
            text += &format!("-A c -p tcp --dport {port} -j RETURN\n");
        }
        let dump = script::read(Family::V4, &text, "rules").unwrap();
        assert!(steps(&dump, "nat", "PREROUTING").is_err());
    }
}
