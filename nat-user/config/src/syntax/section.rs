//! TOML tables whose parts have their place and their full name.
//!
//! A [`Section`] is walked in place instead of being deserialized into a struct. Every mistake is
//! therefore found at once, each with its place and its full key, and a value may have several
//! forms.

use std::borrow::Cow;

use toml::de::DeTable;

use super::report::Fault;
use crate::text::words::{dotted, dotted_part};

/// A key that a table may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// A value as it would be written, for messages.
    pub(crate) example: &'static str,
}

/// A [`Key`], in one line.
pub(crate) const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

/// One table of the file.
#[derive(Debug, Clone)]
pub(crate) struct Section<'a> {
    /// The kind of table, such as `uplink`; empty for the whole file.
    pub(super) kind: &'static str,
    /// The name of an uplink, a network or a rule; empty for a table that has none.
    pub(crate) name: Cow<'a, str>,
    /// The part of the named object, such as `dhcp`; empty for all of it.
    pub(super) part: &'static str,
    /// Byte offset of its header.
    pub(crate) at: usize,
    pub(super) table: &'a DeTable<'a>,
    pub(super) keys: &'static [Key],
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(crate) fn root(table: &'a DeTable<'a>, keys: &'static [Key]) -> Self {
        Self {
            kind: "",
            name: Cow::Borrowed(""),
            part: "",
            at: 0,
            table,
            keys,
        }
    }

    /// A fault at a value, or at the table's header if the key is missing.
    pub(crate) fn fault(&self, name: &str, problem: &str, remedy: &str) -> Fault {
        match self.table.get(name) {
            Some(value) => Fault {
                at: value.span().start,
                ..self.fault_here(name, problem, remedy)
            },
            None => self.fault_here(name, problem, remedy),
        }
    }

    /// A fault about a key (or about the table itself, if `name` is empty) at the header.
    pub(crate) fn fault_here(&self, name: &str, problem: &str, remedy: &str) -> Fault {
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

    pub(super) fn key_path(&self, name: &str) -> String {
        match self.path() {
            path if path.is_empty() => dotted_part(name),
            path => format!("{path}.{}", dotted_part(name)),
        }
    }

    /// The dotted name of the table in messages; empty for the whole file.
    pub(crate) fn path(&self) -> String {
        match (&*self.name, self.part) {
            ("", _) => self.kind.to_owned(),
            (name, "") => dotted(&[self.kind, name]),
            (name, part) => dotted(&[self.kind, name, part]),
        }
    }
}
