//! Messages about a configuration: place, key, problem and remedy.

use std::{
    fmt::{self, Write},
    path::Path,
    sync::Arc,
};

use crate::text::lines::Position;

/// One remark about a configuration. Displays in one line:
/// `FILE:LINE:COLUMN: KEY: problem; remedy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub file: Arc<Path>,
    /// Where in the file; `None` if it concerns the whole file.
    pub position: Option<Position>,
    /// The key in full, such as `forward.web.ports`; empty if it concerns the whole file.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to write or do instead.
    pub remedy: String,
}

/// Why a configuration is refused: at least one error, in the order of the file.
///
/// Displays the first one, because later ones are often its consequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    first: Box<Diagnostic>,
    others: Vec<Diagnostic>,
}

impl ConfigError {
    pub(super) fn new(first: Diagnostic, others: Vec<Diagnostic>) -> Self {
        Self {
            first: Box::new(first),
            others,
        }
    }

    /// The first error in the file.
    #[must_use]
    pub fn first(&self) -> &Diagnostic {
        &self.first
    }

    /// Every error, in the order of the file. Later ones may be consequences of earlier ones.
    pub fn all(&self) -> impl Iterator<Item = &Diagnostic> {
        std::iter::once(&*self.first).chain(&self.others)
    }
}

impl From<Diagnostic> for ConfigError {
    fn from(first: Diagnostic) -> Self {
        Self::new(first, Vec::new())
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(formatter)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = OneLine(formatter);
        write!(out, "{}", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(out, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(out, ": {}", self.key)?;
        }
        write!(out, ": {}; {}", self.problem, self.remedy)
    }
}

/// Escapes characters that would break the line or disturb a terminal.
struct OneLine<'f, 'b>(&'f mut fmt::Formatter<'b>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                write!(self.0, "{}", c.escape_default())
            } else {
                self.0.write_char(c)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_is_one_line_whatever_is_in_it() {
        let diagnostic = Diagnostic {
            file: Path::new("odd\nname.toml").into(),
            position: None,
            key: String::new(),
            problem: "a\tb\u{1b}[31m".to_owned(),
            remedy: "c\u{2028}d".to_owned(),
        };
        let expected = r"odd\nname.toml: a\tb\u{1b}[31m; c\u{2028}d";
        assert_eq!(diagnostic.to_string(), expected);
    }
}
