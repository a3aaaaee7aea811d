//! The keys of a table: known, missing, mistyped.

use toml::{
    Spanned,
    de::{DeString, DeValue},
};

use super::{
    field::Field,
    report::Fault,
    section::{Key, Section},
};
use crate::text::{suggest, words::quote};

/// How many unknown keys of a table are compared with a missing one.
const MOST_KEYS: usize = 1000;

/// How many unknown keys of a table are reported. Each is compared with the known ones.
const MOST_UNKNOWN_KEYS: usize = 20;

impl<'a> Section<'a> {
    /// The first keys that this table does not know.
    pub(crate) fn unknown_keys(&self) -> impl Iterator<Item = Fault> {
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
                let known = self.keys.iter().map(|key| format!("`{}`", key.name));
                let known: Vec<_> = known.collect();
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
    pub(crate) fn field<'s>(&'s self, name: &str) -> Option<Field<'s>> {
        let (value, key) = self.entry(name)?;
        Some(Field {
            section: self,
            key,
            value,
        })
    }

    pub(super) fn entry(&self, name: &str) -> Option<(&'a Spanned<DeValue<'a>>, &'static Key)> {
        let key = self.key(name);
        Some((self.table.get(name)?, key))
    }

    /// Every key that the code reads is in the list of known keys.
    fn key(&self, name: &str) -> &'static Key {
        let key = self.keys.iter().find(|key| key.name == name);
        key.unwrap_or_else(|| unreachable!("`{name}` is not in the list of keys"))
    }

    /// The result of `check` for an optional value.
    pub(crate) fn optional<'s, T>(
        &'s self,
        name: &str,
        check: impl FnOnce(Field<'s>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        self.field(name).map(check).transpose()
    }

    /// The result of `check` for a required value.
    pub(crate) fn required<'s, T>(
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
    pub(crate) fn mistyped(&self, name: &str) -> Option<Fault> {
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
}
