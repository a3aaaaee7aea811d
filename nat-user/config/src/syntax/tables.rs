//! The tables of a file, by their headers.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    name::{name_fault, name_problem},
    report::{Fault, Report},
    section::{Key, Section},
    value::{items, kind},
};
use crate::text::words::{dotted, quote};

impl<'a> Section<'a> {
    /// The table `[KEY]`, if it exists.
    pub(crate) fn table(
        &self,
        key: &'static str,
        keys: &'static [Key],
        report: &mut Report<'_>,
    ) -> Option<Section<'a>> {
        let (value, _) = self.entry(key)?;
        let table = expect_table(self.key_path(key), value, &format!("[{key}]"), report)?;
        Some(Section {
            kind: key,
            name: Cow::Borrowed(""),
            part: "",
            at: value.span().start,
            table,
            keys,
        })
    }

    /// The table `[KIND.NAME.PART]` of this one, if it exists.
    pub(crate) fn part(
        &self,
        part: &'static str,
        keys: &'static [Key],
        report: &mut Report<'_>,
    ) -> Option<Section<'a>> {
        let (value, _) = self.entry(part)?;
        let path = self.key_path(part);
        let shape = format!("[{path}]");
        let table = expect_table(path, value, &shape, report)?;
        Some(Section {
            part,
            at: value.span().start,
            table,
            keys,
            ..self.clone()
        })
    }

    /// Whether a table that is the value of a key has a key.
    pub(crate) fn has_in_part(&self, part: &str, key: &str) -> bool {
        let part = self
            .table
            .get(part)
            .and_then(|part| part.get_ref().as_table());
        part.is_some_and(|part| part.contains_key(key))
    }

    /// The tables `[KEY.NAME]`, in the order of the file.
    pub(crate) fn named_tables(
        &self,
        key: &'static str,
        keys: &'static [Key],
        report: &mut Report<'_>,
    ) -> Vec<Section<'a>> {
        let Some((value, _)) = self.entry(key) else {
            return Vec::new();
        };
        let shape = format!("[{key}.NAME]");
        let Some(tables) = expect_table(self.key_path(key), value, &shape, report) else {
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (name, value) in tables {
            let path = || dotted(&[key, name.get_ref()]);
            if name_problem(name.get_ref()).is_some() {
                report.error(name_fault(name.span().start, path(), name.get_ref()));
            }
            if let Some(table) = expect_table(path(), value, &shape, report) {
                sections.push(Section {
                    kind: key,
                    name: Cow::Borrowed(name.get_ref()),
                    part: "",
                    at: value.span().start,
                    table,
                    keys,
                });
            }
        }
        sections.sort_by_key(|section| section.at);
        sections
    }

    /// The tables `[[KEY]]`. Each gets its name from its key `name`, or from its position.
    pub(crate) fn rules(
        &self,
        key: &'static str,
        keys: &'static [Key],
        report: &mut Report<'_>,
    ) -> Vec<Section<'a>> {
        let Some((value, _)) = self.entry(key) else {
            return Vec::new();
        };
        let shape = format!("[[{key}]]");
        let mut sections = Vec::new();
        for (index, item) in items(value).into_iter().enumerate() {
            match item.get_ref() {
                // `[forward]` is a table, but not one of a list.
                DeValue::Table(table) if !std::ptr::eq(item, value) => {
                    let at = item.span().start;
                    sections.push(self.rule(key, index, (table, at), keys));
                }
                _ => report.error(wrong_shape(self.key_path(key), item, &shape)),
            }
        }
        report.errors(sections.iter().filter_map(Section::bad_name));
        report.errors(repeated_names(&sections));
        sections
    }

    /// One table of `[[KEY]]`.
    fn rule(
        &self,
        kind: &'static str,
        index: usize,
        (table, at): (&'a DeTable<'a>, usize),
        keys: &'static [Key],
    ) -> Section<'a> {
        Section {
            kind,
            name: rule_name(kind, index, table),
            part: "",
            at,
            table,
            keys,
        }
    }

    /// A fault for the key `name` of a rule if it cannot be one.
    fn bad_name(&self) -> Option<Fault> {
        let field = self.field("name")?;
        match field.string() {
            Ok(name) => name_problem(name)
                .map(|_| name_fault(field.value.span().start, self.key_path("name"), name)),
            Err(fault) => Some(fault),
        }
    }
}

/// The table that a value must be; an error of `shape` if it is something else.
fn expect_table<'a>(
    path: String,
    value: &'a Spanned<DeValue<'a>>,
    shape: &str,
    report: &mut Report<'_>,
) -> Option<&'a DeTable<'a>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => {
            report.error(wrong_shape(path, value, shape));
            None
        }
    }
}

/// A value is where a table of the form `shape` is needed.
fn wrong_shape(path: String, value: &Spanned<DeValue<'_>>, shape: &str) -> Fault {
    Fault {
        at: value.span().start,
        key: path,
        problem: format!("must be {shape}, not {}", kind(value.get_ref())),
        see: None,
        remedy: format!("begin it with a line {shape}"),
    }
}

/// A rule's own name, or the one from its position. [`Section::bad_name`] reports an invalid name.
fn rule_name<'a>(kind: &str, index: usize, table: &'a DeTable<'a>) -> Cow<'a, str> {
    let written = table.get("name").and_then(|value| value.get_ref().as_str());
    match written.filter(|name| name_problem(name).is_none()) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("{kind}-{}", index + 1)),
    }
}

/// Rules of one kind that share a name. At least one of two has it in the file; the other may have
/// it from its position.
fn repeated_names(sections: &[Section<'_>]) -> Vec<Fault> {
    let named = |section: &&Section<'_>| section.field("name").is_some();
    let defaults = sections.iter().filter(|section| !named(section));
    let mut seen: HashMap<&str, usize> = defaults
        .map(|section| (&*section.name, section.at))
        .collect();
    let mut faults = Vec::new();
    for section in sections.iter().filter(named) {
        match seen.entry(&section.name) {
            Entry::Vacant(free) => {
                free.insert(section.at);
            }
            Entry::Occupied(taken) => {
                let problem = format!("another rule has the name {}", quote(&section.name));
                let remedy = "give each rule its own name (a rule without one is named by its \
                    position)";
                faults.push(section.fault("name", &problem, remedy).see(*taken.get()));
            }
        }
    }
    faults
}

/// The place of the value under a path such as `["uplink", "wan", "interface"]`, or of the nearest
/// table around it. A rule is identified by its name, which may come from its position.
pub(crate) fn locate(root: &DeTable<'_>, path: &[&str]) -> usize {
    let mut value = None;
    let mut table = root;
    for (index, part) in path.iter().enumerate() {
        let next = match (path.get(index.wrapping_sub(1)), value.map(Spanned::get_ref)) {
            (Some(kind), Some(DeValue::Array(rules))) => nth_rule(kind, rules, part),
            _ => table.get(*part),
        };
        let Some(next) = next else { break };
        value = Some(next);
        if let DeValue::Table(inner) = next.get_ref() {
            table = inner;
        }
    }
    value.map_or(0, |value| value.span().start)
}

/// The rule of a name among the tables `[[KIND]]`.
fn nth_rule<'v>(
    kind: &str,
    rules: &'v [Spanned<DeValue<'v>>],
    name: &str,
) -> Option<&'v Spanned<DeValue<'v>>> {
    let mut rules = rules.iter().enumerate();
    let is_meant = |index, table: &'v DeTable<'v>| rule_name(kind, index, table) == name;
    let found = rules.find(|(index, value)| {
        matches!(value.get_ref(), DeValue::Table(table) if is_meant(*index, table))
    });
    found.map(|(_, value)| value)
}
