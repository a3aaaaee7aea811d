//! The width of lines that rustfmt leaves as they are, such as comments and string literals.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bpf_toolchain::Workspace;

/// `max_width` in `rustfmt.toml`.
const COLUMNS: usize = 100;

/// The folders of all crates.
const CRATES: [&str; 5] = ["nat-common", "nat-ebpf", "nat-user", "tests", "xtask"];

/// Checks the sources of all crates.
///
/// # Errors
///
/// Every line that is too wide.
fn check(workspace: &Workspace) -> Result<()> {
    let mut wide = Vec::new();
    for folder in CRATES {
        let folder = workspace.root().join(folder);
        check_below(&folder, &mut wide).with_context(|| format!("read {}", folder.display()))?;
    }
    ensure!(
        wide.is_empty(),
        "lines are wider than {COLUMNS} columns; break these:\n{}",
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
            wide.extend(wide_lines(&source).map(|line| format!("{}:{line}", path.display())));
        }
    }
    Ok(())
}

/// Numbers of the lines that are too wide.
fn wide_lines(source: &str) -> impl Iterator<Item = usize> {
    let lines = (1..).zip(source.lines());
    lines.filter_map(|(number, line)| (line.chars().count() > COLUMNS).then_some(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::workspace;

    #[test]
    fn no_line_is_wider_than_rustfmt_allows() -> Result<()> {
        check(&workspace()?)
    }

    #[test]
    fn a_line_is_too_wide_from_101_characters_on() {
        let fits = format!("    //! {}", "ä".repeat(COLUMNS - 8));
        let wide = format!("{fits}.");
        let text = format!("let text = \"{}\";", "a".repeat(COLUMNS));
        let source = [fits, text, wide].join("\n");
        assert_eq!(wide_lines(&source).collect::<Vec<_>>(), [2, 3]);
    }
}
