//! The numbers that stand in the maps for the names of the configuration.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use nat_config::compile::Numbering;
use serde::{Deserialize, Serialize};

/// A kind of rule; names are unique within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleKind {
    /// `[[snat]]`.
    Snat,
    /// `[[forward]]`.
    Forward,
    /// `[[nat]]`.
    Nat,
    /// `[[policy]]`.
    Policy,
    /// The default policy of a network; it has the network's name.
    Default,
}

/// How many kinds of rules there are.
const RULE_KINDS: usize = 5;

/// The numbers that represent the configuration's names in maps.
///
/// A name keeps its number while the data plane lives, and no number is reused: sessions and
/// counters refer to it, also after their rule is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "StoredNumbers", into = "StoredNumbers")]
pub struct Numbers {
    /// Uplinks, from 1.
    pub uplinks: BTreeMap<String, u16>,
    /// Networks, from 1.
    pub networks: BTreeMap<String, u16>,
    /// The rule with number `n` is at `n - 1`.
    rules: Vec<RuleEntry>,
    by_name: [HashMap<String, u32>; RULE_KINDS],
}

/// A rule that is or was configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// Its number, from 1.
    pub number: u32,
    /// Its kind.
    pub kind: RuleKind,
    /// Its name.
    pub name: String,
    /// Whether it is configured now.
    pub is_active: bool,
    /// A hash of its content, without its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<u64>,
}

/// What a rule of a configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its kind.
    pub kind: RuleKind,
    /// Its name, which may be its position.
    pub name: String,
    /// A hash of all but the name.
    pub says: u64,
}

/// [`Numbers`] as the file has them.
#[derive(Clone, Serialize, Deserialize)]
struct StoredNumbers {
    uplinks: BTreeMap<String, u16>,
    networks: BTreeMap<String, u16>,
    rules: Vec<RuleEntry>,
}

impl Numbers {
    /// For maps that contain rules up to this number whose names are lost: these numbers are never
    /// reused.
    #[must_use]
    pub fn after_lost(highest: u32) -> Self {
        let mut numbers = Self::default();
        for number in 1..=highest {
            // No name in a configuration has parentheses.
            numbers.rule(RuleKind::Snat, &format!("(lost {number})"));
        }
        numbers.set_active(|_, _| false);
        numbers
    }

    /// The number of an uplink, from 1.
    ///
    /// # Panics
    /// When more than 65,535 different names have been asked for.
    pub fn uplink(&mut self, name: &str) -> u16 {
        number_of(&mut self.uplinks, name)
    }

    /// The number of a network, from 1; 0 in maps means none.
    ///
    /// # Panics
    /// When more than 65,535 different names have been asked for.
    pub fn network(&mut self, name: &str) -> u16 {
        number_of(&mut self.networks, name)
    }

    /// The number of a rule, from 1, and the rule is configured from now on; 0 in maps means none.
    ///
    /// # Panics
    /// When more than 4,294,967,295 different names have been asked for.
    pub fn rule(&mut self, kind: RuleKind, name: &str) -> u32 {
        if let Some(number) = self.find_rule(kind, name) {
            self.rules[number as usize - 1].is_active = true;
            return number;
        }
        let number = u32::try_from(self.rules.len() + 1).expect("fewer than 2^32 rules");
        self.rules.push(RuleEntry {
            number,
            kind,
            name: name.to_owned(),
            is_active: true,
            says: None,
        });
        self.by_name[kind as usize].insert(name.to_owned(), number);
        number
    }

    /// Matches the rules of a configuration with those that have numbers: by name and content, else
    /// by content, else by name. A rule that is found under another name gets the new one.
    pub fn recognise(&mut self, said: &[Said]) {
        let mut found: Vec<Option<usize>> = Vec::with_capacity(said.len());
        let mut taken = HashSet::new();
        let by_name = |one: &Said| Some(self.find_rule(one.kind, &one.name)? as usize - 1);
        for one in said {
            let place = by_name(one).filter(|place| self.rules[*place].says == Some(one.says));
            taken.extend(place);
            found.push(place);
        }
        let mut by_words: HashMap<(RuleKind, u64), Vec<usize>> = HashMap::new();
        for (place, rule) in self.rules.iter().enumerate().rev() {
            if let Some(says) = rule
                .says
                .filter(|_| rule.is_active && !taken.contains(&place))
            {
                by_words.entry((rule.kind, says)).or_default().push(place);
            }
        }
        for (one, found) in said
            .iter()
            .zip(&mut found)
            .filter(|(_, found)| found.is_none())
        {
            *found = by_words.get_mut(&(one.kind, one.says)).and_then(Vec::pop);
            taken.extend(*found);
        }
        let mut renamed = Vec::new();
        for (one, place) in said.iter().zip(found) {
            renamed.extend(
                place
                    .filter(|place| self.rules[*place].name != one.name)
                    .map(|p| (p, one)),
            );
        }
        // All old names are removed before any new one is added: two rules may have exchanged
        // theirs.
        for (place, one) in &renamed {
            self.by_name[one.kind as usize].remove(&self.rules[*place].name);
        }
        for (place, one) in renamed {
            if let Some(former) = self.find_rule(one.kind, &one.name) {
                self.retire(one.kind, former);
            }
            self.rules[place].name.clone_from(&one.name);
            self.by_name[one.kind as usize].insert(one.name.clone(), self.rules[place].number);
        }
    }

    /// Removes the name from a rule that is gone, because another rule has it now.
    fn retire(&mut self, kind: RuleKind, number: u32) {
        let rule = &mut self.rules[number as usize - 1];
        let names = &mut self.by_name[kind as usize];
        names.remove(&rule.name);
        // No name in a configuration has parentheses.
        let mut name = format!("{} (removed)", rule.name);
        if names.contains_key(&name) {
            name = format!("{} (removed, {number})", rule.name);
        }
        names.insert(name.clone(), number);
        rule.name = name;
    }

    /// Records the content of the rules that have numbers.
    pub fn describe(&mut self, said: &[Said]) {
        for one in said {
            if let Some(number) = self.find_rule(one.kind, &one.name) {
                self.rules[number as usize - 1].says = Some(one.says);
            }
        }
    }

    /// Records which rules are configured now.
    pub fn set_active(&mut self, is_active: impl Fn(RuleKind, &str) -> bool) {
        for rule in &mut self.rules {
            rule.is_active = is_active(rule.kind, &rule.name);
        }
    }

    /// The number of a rule that has one.
    #[must_use]
    pub fn find_rule(&self, kind: RuleKind, name: &str) -> Option<u32> {
        self.by_name[kind as usize].get(name).copied()
    }

    /// All rules that are or were configured, in the order of their numbers.
    #[must_use]
    pub fn rules(&self) -> &[RuleEntry] {
        &self.rules
    }

    /// How many rules have a number, which is also the highest one.
    #[must_use]
    pub fn rule_count(&self) -> u32 {
        self.rules.last().map_or(0, |rule| rule.number)
    }

    /// The rule with this number.
    #[must_use]
    pub fn rule_by_number(&self, number: u32) -> Option<&RuleEntry> {
        self.rules.get((number as usize).checked_sub(1)?)
    }

    /// The name of the rule with this number, empty if there is none.
    #[must_use]
    pub fn rule_name(&self, number: u32) -> &str {
        self.rule_by_number(number).map_or("", |rule| &rule.name)
    }

    /// Whether a rule of any kind has or had this name.
    #[must_use]
    pub fn knows_rule(&self, name: &str) -> bool {
        self.by_name.iter().any(|names| names.contains_key(name))
    }
}

impl Numbering for Numbers {
    fn uplink(&mut self, name: &str) -> u16 {
        self.uplink(name)
    }

    fn network(&mut self, name: &str) -> u16 {
        self.network(name)
    }

    fn snat(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Snat, name)
    }

    fn forward(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Forward, name)
    }

    fn nat(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Nat, name)
    }

    fn policy(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Policy, name)
    }

    fn default_of(&mut self, network: &str) -> u32 {
        self.rule(RuleKind::Default, network)
    }
}

fn number_of(numbers: &mut BTreeMap<String, u16>, name: &str) -> u16 {
    if let Some(&number) = numbers.get(name) {
        return number;
    }
    // Names are never removed, so this is the first number that was never used.
    let number = u16::try_from(numbers.len() + 1).expect("fewer than 65,536 names");
    numbers.insert(name.to_owned(), number);
    number
}

impl TryFrom<StoredNumbers> for Numbers {
    type Error = String;

    fn try_from(stored: StoredNumbers) -> Result<Self, String> {
        let StoredNumbers {
            uplinks,
            networks,
            rules,
        } = stored;
        for (kind, numbers) in [("uplinks", &uplinks), ("networks", &networks)] {
            let mut given: Vec<u16> = numbers.values().copied().collect();
            given.sort_unstable();
            if !given.into_iter().map(usize::from).eq(1..=numbers.len()) {
                return Err(format!(
                    "the numbers of {kind} are not 1 to {}",
                    numbers.len()
                ));
            }
        }
        let mut by_name: [HashMap<_, _>; RULE_KINDS] = Default::default();
        for (rule, number) in rules.iter().zip(1..) {
            let is_new = by_name[rule.kind as usize]
                .insert(rule.name.clone(), number)
                .is_none();
            if rule.number != number || !is_new {
                return Err(format!(
                    "rule number {} is out of order or appears twice",
                    rule.number
                ));
            }
        }
        Ok(Self {
            uplinks,
            networks,
            rules,
            by_name,
        })
    }
}

impl From<Numbers> for StoredNumbers {
    fn from(numbers: Numbers) -> Self {
        let Numbers {
            uplinks,
            networks,
            rules,
            ..
        } = numbers;
        Self {
            uplinks,
            networks,
            rules,
        }
    }
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Snat => "snat",
            Self::Forward => "forward",
            Self::Nat => "nat",
            Self::Policy => "policy",
            Self::Default => "default",
        })
    }
}
