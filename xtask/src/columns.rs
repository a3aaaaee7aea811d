//! The width of comments, which rustfmt leaves as they are: no line is wider than code may be.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bpf_toolchain::Workspace;

/// `max_width` in `rustfmt.toml`.
const COLUMNS: usize = 100;

/// The folders of all crates.
const CRATES: [&str; 5] = ["nat-common", "nat-ebpf", "nat-user", "tests", "xtask"];

/// Checks the comments of all crates.
///
/// # Errors
///
/// Every line of a comment that is too wide.
fn check(workspace: &Workspace) -> Result<()> {
    let mut wide = Vec::new();
    for folder in CRATES {
        let folder = workspace.root().join(folder);
        check_below(&folder, &mut wide).with_context(|| format!("read {}", folder.display()))?;
    }
    ensure!(
        wide.is_empty(),
        "comments are wider than {COLUMNS} columns; break these lines:\n{}",
        wide.join("\n")
    );
    Ok(())
}

fn check_below(folder: &Path, wide: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            // What cargo has built of a crate outside of the workspace.
            if !path.ends_with("target") {
                check_below(&path, wide)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let source = fs::read_to_string(&path)?;
            wide.extend(wide_comments(&source).map(|line| format!("{}:{line}", path.display())));
        }
    }
    Ok(())
}

/// Numbers of the lines that hold a comment alone and are too wide.
fn wide_comments(source: &str) -> impl Iterator<Item = usize> {
    (1..).zip(source.lines()).filter_map(|(number, line)| {
        let is_wide = line.chars().count() > COLUMNS;
        (is_wide && line.trim_start().starts_with("//")).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::workspace;

    #[test]
    fn no_comment_is_wider_than_code() -> Result<()> {
        check(&workspace()?)
    }

    #[test]
    fn a_comment_is_wide_from_101_characters_on() {
        let fits = format!("    //! {}", "ä".repeat(COLUMNS - 8));
        let wide = format!("{fits}.");
        let text = format!("let text = \"{}\";", "a".repeat(COLUMNS));
        let source = [fits, text, wide].join("\n");
        assert_eq!(wide_comments(&source).collect::<Vec<_>>(), [3]);
    }
}
