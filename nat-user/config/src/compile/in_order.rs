//! Numbers outside of any kernel.

use std::collections::HashMap;

use super::ruleset::Numbering;

/// Numbers in the order in which names are requested, for a rule set outside of any kernel.
#[derive(Debug, Clone, Default)]
pub struct InOrder {
    uplinks: HashMap<String, u16>,
    networks: HashMap<String, u16>,
    rules: HashMap<(&'static str, String), u32>,
}

impl InOrder {
    fn rule(&mut self, kind: &'static str, name: &str) -> u32 {
        let next = self.rules.len() as u32 + 1;
        *self.rules.entry((kind, name.to_owned())).or_insert(next)
    }
}

impl Numbering for InOrder {
    fn uplink(&mut self, name: &str) -> u16 {
        number(&mut self.uplinks, name)
    }

    fn network(&mut self, name: &str) -> u16 {
        number(&mut self.networks, name)
    }

    fn snat(&mut self, name: &str) -> u32 {
        self.rule("snat", name)
    }

    fn forward(&mut self, name: &str) -> u32 {
        self.rule("forward", name)
    }

    fn nat(&mut self, name: &str) -> u32 {
        self.rule("nat", name)
    }

    fn policy(&mut self, name: &str) -> u32 {
        self.rule("policy", name)
    }

    fn default_of(&mut self, network: &str) -> u32 {
        self.rule("default", network)
    }
}

fn number(numbers: &mut HashMap<String, u16>, name: &str) -> u16 {
    let next = numbers.len() as u16 + 1;
    *numbers.entry(name.to_owned()).or_insert(next)
}
