//! The names of the tests in the source tree, for the checks of documents that name them.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};

use crate::command::workspace;

/// The names of all test functions of the workspace, without their modules.
pub(crate) fn test_names() -> Result<BTreeSet<String>> {
    let root = workspace()?.root().to_owned();
    let mut names = BTreeSet::new();
    read_below(&root, &mut names).with_context(|| format!("read below {}", root.display()))?;
    Ok(names)
}

fn read_below(folder: &Path, names: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                read_below(&path, names)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            names.extend(tests_in(&fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

/// The function after each `#[test]`, with other attributes and comments in between.
fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ")
            && is_test
            && !line.starts_with("//")
        {
            let end = rest.find(['(', '<', ' ']).unwrap_or(rest.len());
            names.push(rest[..end].to_owned());
            is_test = false;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_functions_are_found() {
        let text = "fn helper() {}\n    #[test]\n    // not fn this\n    #[should_panic]\n    \
                    fn u1_one() {\nfn u2_helper() {}\n#[test]\nfn u3_three(a in 0..9) {";
        assert_eq!(tests_in(text), ["u1_one", "u3_three"]);
    }
}
