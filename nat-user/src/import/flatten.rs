//! Chains that jump to each other, made into one list of rules for each hook, in the order in
//! which they are tried.

use super::condition::{Condition, Foreign, Rest};
use super::dump::{Dump, Table};
use super::rule::Action;

/// A rule as it is met on one way through the chains.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// Its position in [`Dump::rules`].
    pub(super) rule: usize,
    /// The rule of the built-in chain that led to it: itself, or a jump.
    pub(super) through: usize,
    /// All that must be true for a packet to be taken by it; earlier steps may take it before.
    pub(super) condition: Condition,
    pub(super) action: Action,
}

impl Step {
    /// Whether a packet that matches goes no further.
    pub(super) fn ends(&self) -> bool {
        !matches!(
            self.action,
            Action::Count | Action::Pass(_) | Action::Unknown(_)
        )
    }
}

/// No chain of a kernel's rules is as deep as this: a loop, which only a made-up file can have.
const DEEPEST: usize = 64;

/// The steps from a built-in chain of a table.
pub(super) fn steps(dump: &Dump, table: &str, hook: &str) -> Vec<Step> {
    let mut walk = Walk {
        dump,
        table: dump.tables.get(table),
        steps: Vec::new(),
        through: 0,
    };
    walk.chain(hook, &Condition::default(), 0);
    walk.steps
}

struct Walk<'d> {
    dump: &'d Dump,
    table: Option<&'d Table>,
    steps: Vec<Step>,
    through: usize,
}

impl Walk<'_> {
    /// Walks through a chain under the condition that led to it.
    fn chain(&mut self, chain: &str, path: &Condition, depth: usize) {
        let rules = self.table.and_then(|table| table.chains.get(chain));
        // What has left the chain by RETURN.
        let mut left = Vec::new();
        for &position in rules.into_iter().flatten() {
            let rule = &self.dump.rules[position];
            if depth == 0 {
                self.through = position;
            }
            let condition = without(&path.and(&rule.condition), &left);
            let mut action = rule.action.clone();
            match &rule.action {
                Action::Return if depth > 0 => {
                    self.push(position, condition.clone(), Action::Count);
                    left.extend(Some(condition).filter(opens));
                    continue;
                }
                Action::Return => action = Action::Accept,
                Action::Run { chain, is_goto } => {
                    let is_known = self
                        .table
                        .is_some_and(|table| table.chains.contains_key(chain));
                    if is_known && depth < DEEPEST {
                        self.push(position, condition.clone(), Action::Count);
                        self.chain(chain, &condition, depth + 1);
                        if *is_goto {
                            left.extend(Some(condition).filter(opens));
                        }
                        continue;
                    }
                    action = Action::Unknown(format!(
                        "the file has no chain {chain}, and natbpf nothing of that name"
                    ));
                }
                _ => {}
            }
            self.push(position, condition, action);
        }
    }

    fn push(&mut self, rule: usize, condition: Condition, action: Action) {
        self.steps.push(Step {
            rule,
            through: self.through,
            condition,
            action,
        });
    }
}

/// Whether packets that open something are among those that match.
fn opens(condition: &Condition) -> bool {
    !condition.is_about_answers()
}

/// A condition without what others have taken away before.
fn without(condition: &Condition, taken: &[Condition]) -> Condition {
    let mut rest = condition.clone();
    for taken in taken {
        match rest.without(taken) {
            Rest::All => {}
            Rest::Some(some) => rest = *some,
            Rest::Nothing => rest.destinations = super::ranges::Addresses::empty(),
            Rest::Unclear => rest.foreign.push(Foreign {
                text: "RETURN".to_owned(),
                reason: "a rule with RETURN before it takes a part away that natbpf has no \
                         words for"
                    .to_owned(),
            }),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A PREROUTING -p udp -j ACCEPT\n\
        -A DOCKER -i docker0 -j RETURN\n\
        -A DOCKER -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80\n\
        COMMIT\n";

    #[test]
    fn a_return_is_a_condition_of_what_follows_in_its_chain() {
        let dump = Dump::read(DOCKER).unwrap();
        let steps = steps(&dump, "nat", "PREROUTING");
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
    fn what_comes_back_from_goto_does_not_go_on() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:a - [0:0]\n:b - [0:0]\n\
            -A PREROUTING -j a\n-A a -i eth0 -g b\n-A a -j ACCEPT\nCOMMIT\n";
        let steps = steps(&Dump::read(text).unwrap(), "nat", "PREROUTING");
        assert_eq!(steps.last().unwrap().condition.input.is_not, ["eth0"]);
    }

    #[test]
    fn a_loop_ends() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:a - [0:0]\n-A PREROUTING -j a\n-A a -j a\n";
        let steps = steps(&Dump::read(text).unwrap(), "nat", "PREROUTING");
        assert!(matches!(steps.last().unwrap().action, Action::Unknown(_)));
    }
}
