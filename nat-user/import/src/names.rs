//! The names of rules.

use std::collections::BTreeSet;

use super::{
    family::short,
    part::Part,
    plan::{Origin, Source},
};

/// Gives every rule a name: from the rule's comment, or from its content.
pub(super) fn name(parts: &mut [Part<'_>]) {
    let mut taken: [Names; 4] = Default::default();
    for part in parts {
        name_part(part, &mut taken);
    }
}

fn name_part(part: &mut Part<'_>, [forwards, snats, nats, policies]: &mut [Names; 4]) {
    let Part {
        dump,
        topology,
        plan,
        ..
    } = part;
    let comment = |origin: &Origin| {
        let comments = origin
            .rules
            .iter()
            .filter_map(|rule| dump.rules[*rule].comment.as_deref());
        comments.map(slug).find(|name| !name.is_empty())
    };
    for forward in &mut plan.forwards {
        let about = || {
            let mut name = forward.protocols.join("-");
            match (&forward.ports[..], forward.address) {
                ([(first, last), ..], _) if first == last => name += &format!("-{first}"),
                ([(first, last), ..], _) => name += &format!("-{first}-{last}"),
                ([], Some(address)) => name += &format!("-{address}"),
                ([], None) => {}
            }
            name
        };
        forward.name = forwards.unique(comment(&forward.origin).unwrap_or_else(about));
    }
    for snat in &mut plan.snats {
        let about = match snat.source {
            Source::Network(network) => topology.networks[network].name.clone(),
            Source::Prefix(prefix) if prefix.prefix_len() == 0 => "all".to_owned(),
            Source::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => {
                prefix.addr().to_string()
            }
            Source::Prefix(prefix) => prefix.to_string(),
        };
        let own = comment(&snat.origin);
        snat.name = snats.unique(own.unwrap_or_else(|| format!("{about}-out")));
    }
    for nat in &mut plan.nats {
        nat.name = nats.unique(comment(&nat.origin).unwrap_or_else(|| short(&nat.address)));
    }
    for policy in &mut plan.policies {
        let about = std::mem::take(&mut policy.name);
        policy.name = policies.unique(comment(&policy.origin).unwrap_or(about));
    }
}

#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn unique(&mut self, name: String) -> String {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut candidates = std::iter::once(name.clone()).chain(numbered);
        let free = candidates
            .find(|name| !self.0.contains(name))
            .unwrap_or(name);
        self.0.insert(free.clone());
        free
    }
}

/// A comment as a name: without blanks, and not too long.
fn slug(comment: &str) -> String {
    let keep = |c: char| {
        if c.is_alphanumeric() || "._/".contains(c) {
            c
        } else {
            '-'
        }
    };
    let words: String = comment.chars().map(keep).collect();
    let words: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
    words.join("-").chars().take(40).collect()
}
