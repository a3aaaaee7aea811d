//! TOML tables whose parts have their place and their full name.
//!
//! This module walks the parsed tables itself instead of deserializing into structs. It therefore
//! finds every mistake at once, each with its place and its full key, and a value may have several
//! forms.

mod field;
mod name;

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use name::{name_fault, name_problem};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    diagnostic::{Fault, Report},
    suggest,
    template::Document,
};

/// A key that a table may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// A value as it would be written, for messages.
    pub(super) example: &'static str,
}

/// A [`Key`], in one line.
pub(super) const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

/// One table of the file.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    /// The kind of table, such as `uplink`; empty for the whole file.
    kind: &'static str,
    /// The name of an uplink, a network or a rule; empty for a table that has none.
    pub(super) name: Cow<'a, str>,
    /// The part of the named object, such as `dhcp`; empty for all of it.
    part: &'static str,
    /// Byte offset of its header.
    pub(super) at: usize,
    table: &'a DeTable<'a>,
    keys: &'static [Key],
}

/// One value of a [`Section`], or one item of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'s> {
    section: &'s Section<'s>,
    key: &'static Key,
    value: &'s Spanned<DeValue<'s>>,
}

/// Names are printed in tables and metrics.
const LONGEST_NAME: usize = 64;

/// How much of a wrong value a message repeats; at least a whole name.
const LONGEST_QUOTE: usize = 64;

/// How many unknown keys of a table are compared with a missing one.
const MOST_KEYS: usize = 1000;

/// How many unknown keys of a table are reported. Each is compared with the known ones.
const MOST_UNKNOWN_KEYS: usize = 20;

/// A piece of the file in backticks, shortened if it is long.
pub(super) fn quote(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    format!("`{}`", shortened(text))
}

/// Whether TOML allows the character in a key without quotes.
pub(super) fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// A path as messages write it.
pub(super) fn dotted(path: &[&str]) -> String {
    let parts: Vec<_> = path.iter().map(|part| dotted_part(part)).collect();
    parts.join(".")
}

/// A name as a part of a dotted key: in quotes where TOML requires them, shortened if it is too
/// long for a name.
fn dotted_part(name: &str) -> String {
    let name = shortened(name);
    if !name.is_empty() && name.chars().all(is_bare) {
        return name.into_owned();
    }
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The beginning of a text, if it is too long for a message.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a DeTable<'a>, keys: &'static [Key]) -> Self {
        Self {
            kind: "",
            name: Cow::Borrowed(""),
            part: "",
            at: 0,
            table,
            keys,
        }
    }

    /// The table `[KEY]`, if it exists.
    pub(super) fn table(
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
    pub(super) fn part(
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

    /// The tables `[KEY.NAME]`, in the order of the file.
    pub(super) fn named_tables(
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
    pub(super) fn rules(
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
                    sections.push(rule(key, index, table, item.span().start, keys));
                }
                _ => report.error(wrong_shape(self.key_path(key), item, &shape)),
            }
        }
        report.errors(sections.iter().filter_map(Section::bad_name));
        report.errors(repeated_names(&sections));
        sections
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

    /// The first keys that this table does not know.
    pub(super) fn unknown_keys(&self) -> impl Iterator<Item = Fault> {
        let is_known = |name: &str| self.keys.iter().any(|key| key.name == name);
        let keys = self.table.keys();
        let mut unknown: Vec<_> = keys.filter(|key| !is_known(key.get_ref())).collect();
        unknown.sort_by_key(|key| key.span().start);
        unknown.truncate(MOST_UNKNOWN_KEYS);
        unknown.into_iter().map(|key| self.unknown_key(key))
    }

    fn unknown_key(&self, key: &Spanned<DeString<'_>>) -> Fault {
        let remedy = match self.meant_by(key.get_ref()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => {
                let known: Vec<_> = self
                    .keys
                    .iter()
                    .map(|key| format!("`{}`", key.name))
                    .collect();
                format!("the keys here are {}", known.join(", "))
            }
        };
        Fault {
            at: key.span().start,
            key: self.key_path(key.get_ref()),
            problem: format!("unknown key {}", quote(key.get_ref())),
            see: None,
            remedy,
        }
    }

    fn meant_by(&self, unknown: &str) -> Option<&'static str> {
        suggest::nearest(unknown, self.keys.iter().map(|key| key.name))
    }

    /// The value of a key, if it exists.
    pub(super) fn field<'s>(&'s self, name: &str) -> Option<Field<'s>> {
        let (value, key) = self.entry(name)?;
        Some(Field {
            section: self,
            key,
            value,
        })
    }

    fn entry(&self, name: &str) -> Option<(&'a Spanned<DeValue<'a>>, &'static Key)> {
        let key = self.key(name);
        Some((self.table.get(name)?, key))
    }

    /// Every key that the code reads is in the list of known keys.
    fn key(&self, name: &str) -> &'static Key {
        let key = self.keys.iter().find(|key| key.name == name);
        key.unwrap_or_else(|| unreachable!("`{name}` is not in the list of keys"))
    }

    /// The result of `check` for an optional value.
    pub(super) fn optional<'s, T>(
        &'s self,
        name: &str,
        check: impl FnOnce(Field<'s>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        self.field(name).map(check).transpose()
    }

    /// The result of `check` for a required value.
    pub(super) fn required<'s, T>(
        &'s self,
        name: &str,
        check: impl FnOnce(Field<'s>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self.field(name) {
            Some(field) => check(field),
            None => Err(self.missing(name)),
        }
    }

    /// The fault of a missing required key: if it is only mistyped, the fault of that key.
    fn missing(&self, name: &str) -> Fault {
        self.mistyped(name).unwrap_or_else(|| {
            let remedy = format!("write {name} = {}", self.key(name).example);
            self.fault_here(name, "is missing", &remedy)
        })
    }

    /// The fault of an unknown key that is probably a mistyped `name`.
    pub(super) fn mistyped(&self, name: &str) -> Option<Fault> {
        let meant = |key: &&Spanned<DeString<'_>>| {
            let written = key.get_ref().as_ref();
            self.keys.iter().all(|known| known.name != written)
                && self.meant_by(written) == Some(name)
        };
        self.table
            .keys()
            .take(MOST_KEYS)
            .find(meant)
            .map(|key| self.unknown_key(key))
    }

    /// A fault at a value, or at the table's header if the key is missing.
    pub(super) fn fault(&self, name: &str, problem: &str, remedy: &str) -> Fault {
        match self.table.get(name) {
            Some(value) => Fault {
                at: value.span().start,
                ..self.fault_here(name, problem, remedy)
            },
            None => self.fault_here(name, problem, remedy),
        }
    }

    /// A fault about a key (or about the table itself, if `name` is empty) at the header.
    pub(super) fn fault_here(&self, name: &str, problem: &str, remedy: &str) -> Fault {
        let key = if name.is_empty() {
            self.path()
        } else {
            self.key_path(name)
        };
        Fault {
            at: self.at,
            key,
            problem: problem.to_owned(),
            see: None,
            remedy: remedy.to_owned(),
        }
    }

    fn key_path(&self, name: &str) -> String {
        match self.path() {
            path if path.is_empty() => dotted_part(name),
            path => format!("{path}.{}", dotted_part(name)),
        }
    }

    /// The dotted name of the table in messages; empty for the whole file.
    pub(super) fn path(&self) -> String {
        match (&*self.name, self.part) {
            ("", _) => self.kind.to_owned(),
            (name, "") => dotted(&[self.kind, name]),
            (name, part) => dotted(&[self.kind, name, part]),
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

/// One table of `[[KEY]]`.
fn rule<'a>(
    kind: &'static str,
    index: usize,
    table: &'a DeTable<'a>,
    at: usize,
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

/// The items of a list; any other value is the only item.
fn items<'v>(value: &'v Spanned<DeValue<'v>>) -> Vec<&'v Spanned<DeValue<'v>>> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    }
}

/// The place of the value under a path such as `["uplink", "wan", "interface"]`, or of the nearest
/// table around it. A rule is identified by its name, which may come from its position.
pub(super) fn locate(document: &Document<'_>, path: &[&str]) -> usize {
    let mut value = None;
    let mut table = &document.table;
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

/// What a value is, in words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_quoted_in_part() {
        assert_eq!(quote("ü"), "`ü`");
        assert_eq!(quote(&"ü".repeat(200)), format!("`{}…`", "ü".repeat(64)));
    }

    #[test]
    fn names_stand_in_a_dotted_key_as_toml_writes_them() {
        assert_eq!(dotted_part("web-1_a"), "web-1_a");
        assert_eq!(dotted_part("a.b"), "\"a.b\"");
        assert_eq!(dotted_part("a\"b"), "\"a\\\"b\"");
        assert_eq!(dotted_part(""), "\"\"");
    }
}
