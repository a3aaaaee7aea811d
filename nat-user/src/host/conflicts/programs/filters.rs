//! Filters of `tc` at the hooks that natbpf uses. From Linux 6.6 on they run after all programs that are
//! attached by links.

use std::collections::BTreeSet;

use aya::programs::TcAttachType;
use serde_json::Value;

use super::{Hook, passed_by};
use crate::{
    dataplane::attach::{self, Mechanism},
    host::conflicts::{
        Finding,
        tools::{self, Outcome},
    },
};

/// On so many hooks they are asked for: a host may have hundreds of guests with filters.
const HOOKS_MAX: usize = 32;

/// Filters that the fast path passes by.
pub(super) fn find(hooks: &[Hook]) -> Vec<Finding> {
    let Some(queues) = shown(&["qdisc", "show"]) else {
        return Vec::new();
    };
    let has_filters = |queue: &&Value| matches!(queue["kind"].as_str(), Some("clsact" | "ingress"));
    let devices: BTreeSet<&str> = (queues.iter().filter(has_filters))
        .filter_map(|queue| queue["dev"].as_str())
        .collect();
    let asked = hooks.iter().filter(|hook| hook.is_passed_by);
    let asked = asked.filter(|hook| devices.contains(hook.interface.as_str()));
    asked.take(HOOKS_MAX).filter_map(of_hook).collect()
}

fn of_hook(hook: &Hook) -> Option<Finding> {
    let side = match hook.side {
        TcAttachType::Ingress => "ingress",
        _ => "egress",
    };
    let filters = shown(&["filter", "show", "dev", &hook.interface, side])?;
    let mut names: Vec<String> = filters.iter().filter_map(name).collect();
    names.dedup();
    if names.is_empty() {
        return None;
    }
    Some(passed_by(hook, &format!("filter {}", names.join(", "))))
}

/// What a filter is called by people. A filter stands in the list more than once.
fn name(filter: &Value) -> Option<String> {
    let (kind, preference) = (filter["kind"].as_str()?, filter["pref"].as_u64()?);
    let is_ours = Mechanism::of_kernel() == Mechanism::Netlink
        && kind == "bpf"
        && preference == u64::from(attach::PRIORITY);
    (!is_ours).then(|| format!("{kind} (pref {preference})"))
}

/// What `tc` shows, as a list.
fn shown(arguments: &[&str]) -> Option<Vec<Value>> {
    let text = match tools::run("tc", &[&["-json"], arguments].concat()) {
        Outcome::Said(text) => text,
        outcome => {
            log::debug!("tc shows nothing: {outcome:?}");
            return None;
        }
    };
    match serde_json::from_str(text.trim()).ok()? {
        Value::Array(list) => Some(list),
        _ => None,
    }
}
