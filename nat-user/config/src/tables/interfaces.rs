//! An interface has one role: an uplink's, a network's, or that of a port of one bridge.

use std::collections::{HashMap, hash_map::Entry};

use crate::{
    syntax::{Fault, Field, Report, Section},
    text::words::quote,
};

/// Reports every interface that appears twice in the file, at the second place.
pub(crate) fn roles(uplinks: &[Section<'_>], networks: &[Section<'_>], report: &mut Report<'_>) {
    let uplinks = uplinks
        .iter()
        .flat_map(|section| uses(section, "uplink", "interface"));
    let own = networks
        .iter()
        .flat_map(|section| uses(section, "network", "interface"));
    let ports = networks
        .iter()
        .flat_map(|section| uses(section, "network", "ports"));
    let mut uses: Vec<_> = uplinks.chain(own).chain(ports).collect();
    uses.sort_by_key(|one| one.field.at());

    let mut taken: HashMap<&str, &Use<'_>> = HashMap::new();
    for one in &uses {
        match taken.entry(one.interface) {
            Entry::Vacant(free) => {
                free.insert(one);
            }
            Entry::Occupied(before) => report.error(one.conflict(before.get())),
        }
    }
}

/// One place that names an interface.
#[derive(Debug)]
struct Use<'s> {
    interface: &'s str,
    field: Field<'s>,
    /// Such as "the interface of uplink `wan`".
    role: String,
}

/// The interfaces under one key. Values other than strings have been reported before.
fn uses<'s>(section: &'s Section<'s>, kind: &str, key: &str) -> Vec<Use<'s>> {
    let role = match key {
        "interface" => format!("the interface of {kind} {}", quote(&section.name)),
        _ => format!("a port of {kind} {}", quote(&section.name)),
    };
    let fields = section.field(key).map(Field::items).unwrap_or_default();
    let names = fields
        .into_iter()
        .filter_map(|field| Some((field, field.string().ok()?)));
    names
        .map(|(field, interface)| Use {
            interface,
            field,
            role: role.clone(),
        })
        .collect()
}

impl Use<'_> {
    fn conflict(&self, before: &Use<'_>) -> Fault {
        let problem = format!("{} is {} already", quote(self.interface), before.role);
        let remedy = "an interface has only one role; name another interface here";
        self.field.fault(problem, remedy).see(before.field.at())
    }
}
