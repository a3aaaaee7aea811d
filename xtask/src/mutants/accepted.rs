//! Mutants that no test on the host kills, each with its reason.
//!
//! An entry names a mutant by file, function, change and line of code, not by a line's number: it
//! stays valid while that code exists.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use bpf_toolchain::Workspace;
use toml::{Table, Value};

/// One small error in the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// Where it is now: file, line and column.
    pub(super) place: String,
    /// The file, from the workspace's root on.
    pub(super) file: String,
    /// The function with its type; empty outside of functions.
    pub(super) function: String,
    /// What is changed.
    pub(super) change: String,
    /// The line of code, with the changed part between « and »; empty if that is a function's whole
    /// body.
    pub(super) code: String,
}

/// The file with all entries, from the workspace's root on.
pub(crate) const FILE: &str = "tests/mutants/accepted.toml";
/// The name of each entry's table.
const TABLE: &str = "mutant";

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    file: String,
    function: String,
    change: String,
    code: String,
    reason: String,
}

/// All entries.
#[derive(Debug)]
pub(crate) struct Accepted(Vec<Entry>);

impl Accepted {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or an entry is incomplete, out of order, twice there, or without a
    /// reason.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.root().join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).context(FILE)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse()?;
        if let Some(key) = table.keys().find(|key| *key != TABLE) {
            bail!("unknown key {key:?}: there are only [[{TABLE}]] entries");
        }
        let entries = table.get(TABLE).and_then(Value::as_array);
        let entries: Result<Vec<Entry>> = entries.into_iter().flatten().map(Entry::read).collect();
        let entries = entries?;
        for pair in entries.windows(2) {
            if pair[0].key() >= pair[1].key() {
                bail!(
                    "not in order of file, function, change and code, or twice:\n{}",
                    pair[1]
                );
            }
        }
        Ok(Self(entries))
    }

    /// Why a mutant is accepted, if it is.
    pub(super) fn reason(&self, mutant: &Mutant) -> Option<&str> {
        let entry = self.0.iter().find(|entry| entry.names(mutant));
        entry.map(|entry| entry.reason.as_str())
    }

    /// Entries that name no mutant.
    pub(super) fn stale(&self, mutants: &[Mutant]) -> Vec<String> {
        let names_one = |entry: &&Entry| !mutants.iter().any(|mutant| entry.names(mutant));
        let stale: BTreeSet<&Entry> = self.0.iter().filter(names_one).collect();
        stale.into_iter().map(Entry::to_string).collect()
    }
}

/// The entry that would accept a mutant.
pub(super) fn entry(mutant: &Mutant, reason: &str) -> String {
    let Mutant {
        file,
        function,
        change,
        code,
        ..
    } = mutant.clone();
    let reason = reason.to_owned();
    Entry {
        file,
        function,
        change,
        code,
        reason,
    }
    .to_string()
}

impl Entry {
    fn read(value: &Value) -> Result<Self> {
        let table = value.as_table().context("an entry that is no table")?;
        const KEYS: [&str; 5] = ["file", "function", "change", "code", "reason"];
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            bail!("unknown key {key:?} in\n{table}");
        }
        let [file, function, change, code, reason] = KEYS.map(|key| {
            let text = table.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        });
        if file.is_empty() || change.is_empty() || reason.is_empty() {
            bail!("an entry needs file, change and reason:\n{table}");
        }
        Ok(Self {
            file,
            function,
            change,
            code,
            reason,
        })
    }

    fn key(&self) -> [&str; 4] {
        [&self.file, &self.function, &self.change, &self.code]
    }

    fn names(&self, mutant: &Mutant) -> bool {
        self.key() == [&mutant.file, &mutant.function, &mutant.change, &mutant.code]
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "[[{TABLE}]]")?;
        for (key, text) in [
            ("file", &self.file),
            ("function", &self.function),
            ("change", &self.change),
            ("code", &self.code),
            ("reason", &self.reason),
        ] {
            if !text.is_empty() {
                writeln!(f, "{key} = {}", Value::from(text.as_str()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::workspace;

    const ENTRY: &str = "[[mutant]]\nfile = \"a.rs\"\nfunction = \"f\"\n\
         change = \"replace == with != in f\"\ncode = 'a «==» \"b\"'\nreason = \"equal\"\n";

    fn mutant(code: &str) -> Mutant {
        Mutant {
            place: "a.rs:7:1".to_owned(),
            file: "a.rs".to_owned(),
            function: "f".to_owned(),
            change: "replace == with != in f".to_owned(),
            code: code.to_owned(),
        }
    }

    #[test]
    fn the_file_is_in_order_and_speaks_of_code_that_exists() {
        let workspace = workspace().unwrap();
        for entry in Accepted::read(&workspace).unwrap().0 {
            let text = fs::read_to_string(workspace.root().join(&entry.file)).unwrap();
            let name = entry.function.rsplit("::").next().unwrap_or_default();
            assert!(
                text.contains(&format!("fn {name}")) || name.is_empty(),
                "{entry}"
            );
            let code = entry.code.replace(['«', '»'], "");
            assert!(
                text.lines()
                    .any(|line| line.trim() == code || code.is_empty()),
                "{entry}"
            );
        }
    }

    #[test]
    fn a_mutant_is_accepted_by_all_that_the_entry_says() {
        let accepted = Accepted::parse(ENTRY).unwrap();
        assert_eq!(accepted.reason(&mutant("a «==» \"b\"")), Some("equal"));
        assert_eq!(accepted.reason(&mutant("a «==» c")), None);
        assert_eq!(entry(&mutant("a «==» \"b\""), "equal"), ENTRY);
    }

    #[test]
    fn an_entry_without_its_mutant_is_stale() {
        let accepted = Accepted::parse(ENTRY).unwrap();
        assert!(accepted.stale(&[mutant("a «==» \"b\"")]).is_empty());
        assert_eq!(accepted.stale(&[mutant("a «==» c")]), [ENTRY]);
    }

    #[test]
    fn entries_without_reason_twice_or_with_unknown_keys_are_refused() {
        let (before, _) = ENTRY.split_once("reason").unwrap();
        for (text, complaint) in [
            (before.to_owned(), "needs"),
            (ENTRY.repeat(2), "twice"),
            (format!("{ENTRY}line = \"7\"\n"), "\"line\""),
            ("[[mutants]]".to_owned(), "\"mutants\""),
        ] {
            let error = format!("{:#}", Accepted::parse(&text).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }
}
