//! Messages about a configuration: place, key, problem and remedy.
//!
//! The checks work with byte offsets ([`Fault`]); [`Report`] collects what they find and turns it
//! into [`Diagnostic`]s with lines and columns at the end, in the order of the file.

use std::{
    cell::OnceCell,
    fmt::{self, Write},
    path::Path,
    sync::Arc,
};

use super::template::Places;

/// A place in the file. Both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character within the line.
    pub column: usize,
}

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

/// A [`Diagnostic`] whose place is still a byte offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Byte offset in the text.
    pub(super) at: usize,
    /// See [`Diagnostic::key`].
    pub(super) key: String,
    /// See [`Diagnostic::problem`].
    pub(super) problem: String,
    /// Byte offset of another place that the problem ends with; its line is added.
    pub(super) see: Option<usize>,
    /// See [`Diagnostic::remedy`].
    pub(super) remedy: String,
}

/// Collects what the checks find in one text.
#[derive(Debug)]
pub(super) struct Report<'t> {
    lines: Lines<'t>,
    places: Places,
    errors: Vec<Fault>,
    warnings: Vec<Fault>,
}

/// Finds line and column of byte offsets.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    text: &'t [u8],
    /// Offsets of the beginnings of lines; computed on first use, because most files have no
    /// mistake.
    starts: OnceCell<Vec<usize>>,
}

/// The byte order mark at the start of some files. It does not count as a column.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl ConfigError {
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
        Self {
            first: Box::new(first),
            others: Vec::new(),
        }
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

impl Fault {
    /// Adds another place of the file, with which the problem ends.
    pub(super) fn see(self, at: usize) -> Self {
        Self {
            see: Some(at),
            ..self
        }
    }
}

impl<'t> Report<'t> {
    /// `places` are those of values from templates.
    pub(super) fn new(text: &'t str, places: Places) -> Self {
        Self {
            lines: Lines::new(text.as_bytes()),
            places,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The value of a check that passed; the fault of one that failed is recorded as an error.
    pub(super) fn keep<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.errors.push(fault)).ok()
    }

    pub(super) fn error(&mut self, fault: Fault) {
        self.errors.push(fault);
    }

    pub(super) fn errors(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.errors.extend(faults);
    }

    pub(super) fn warn(&mut self, fault: Fault) {
        self.warnings.push(fault);
    }

    /// The warnings, or the errors if there are any; in the order of the file.
    pub(super) fn finish(mut self, file: &Arc<Path>) -> Result<Vec<Diagnostic>, ConfigError> {
        let errors = std::mem::take(&mut self.errors);
        let mut errors = self.in_order(errors, file).into_iter();
        match errors.next() {
            None => {
                let warnings = std::mem::take(&mut self.warnings);
                Ok(self.in_order(warnings, file))
            }
            Some(first) => Err(ConfigError {
                first: Box::new(first),
                others: errors.collect(),
            }),
        }
    }

    /// Refuses the file with these errors, without further checks.
    pub(super) fn refuse(self, first: Fault, others: Vec<Fault>, file: &Arc<Path>) -> ConfigError {
        let others = others.into_iter();
        ConfigError {
            first: Box::new(self.remark(first, file)),
            others: others.map(|fault| self.remark(fault, file)).collect(),
        }
    }

    /// The message for a fault.
    pub(super) fn remark(&self, fault: Fault, file: &Arc<Path>) -> Diagnostic {
        self.diagnostic(fault, 0, file)
    }

    /// In the order of the file. A fault in several instances of a template is reported for the
    /// first of them.
    fn in_order(&self, mut faults: Vec<Fault>, file: &Arc<Path>) -> Vec<Diagnostic> {
        // Stable, so that faults at one place stay in the order in which they were found.
        faults.sort_by_key(|fault| self.places.written(fault.at));
        // A mistyped key is found twice: as an unknown key and as the reason for a missing one.
        faults.dedup();
        let mut said: Vec<(Fault, usize)> = Vec::with_capacity(faults.len());
        for fault in faults {
            match said
                .iter_mut()
                .rev()
                .take_while(|(one, _)| self.is_at_same_place(one, &fault))
                .find(|(one, _)| self.is_same_in_another_instance(one, &fault))
            {
                Some((_, more)) => *more += 1,
                None => said.push((fault, 0)),
            }
        }
        let said = said.into_iter();
        said.map(|(fault, more)| self.diagnostic(fault, more, file))
            .collect()
    }

    fn is_at_same_place(&self, one: &Fault, other: &Fault) -> bool {
        self.places.written(one.at) == self.places.written(other.at)
    }

    /// Whether two faults at one place are about the same key of two instances.
    fn is_same_in_another_instance(&self, one: &Fault, other: &Fault) -> bool {
        let last_part = |fault: &'_ Fault| fault.key.rsplit('.').next().map(str::to_owned);
        let instance = self.places.instance(one.at);
        instance.is_some()
            && instance != self.places.instance(other.at)
            && last_part(one) == last_part(other)
    }

    /// `more` is the number of further instances of the template with the same fault.
    fn diagnostic(&self, fault: Fault, more: usize, file: &Arc<Path>) -> Diagnostic {
        let mut problem = fault.problem;
        if let Some(other) = fault.see {
            let line = self.position(other).line;
            problem += &match self.places.instance(other) {
                Some(instance) => format!(" (line {line}, {instance})"),
                None => format!(" (line {line})"),
            };
        }
        problem += &match (self.places.instance(fault.at), more) {
            (None, _) => String::new(),
            (Some(instance), 0) => format!(" (where {instance})"),
            (Some(instance), more) => format!(" (where {instance}, and {more} more)"),
        };
        Diagnostic {
            file: Arc::clone(file),
            position: Some(self.position(fault.at)),
            key: fault.key,
            problem,
            remedy: fault.remedy,
        }
    }

    fn position(&self, at: usize) -> Position {
        self.lines.position(self.places.written(at))
    }
}

impl<'t> Lines<'t> {
    /// Takes bytes, because a file that is not UTF-8 has lines and columns too.
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self {
            text,
            starts: OnceCell::new(),
        }
    }

    /// The place of a byte offset; one past the end is the end.
    pub(super) fn position(&self, at: usize) -> Position {
        let at = at.min(self.text.len());
        let starts = self.starts.get_or_init(|| self.line_starts());
        let line = starts.partition_point(|start| *start <= at);
        let start = line.checked_sub(1).map_or(0, |index| starts[index]);
        let before = &self.text[start..at];
        let before = match line {
            1 => before.strip_prefix(BYTE_ORDER_MARK).unwrap_or(before),
            _ => before,
        };
        Position {
            line,
            column: characters(before) + 1,
        }
    }

    fn line_starts(&self) -> Vec<usize> {
        let after_newlines = self.text.iter().enumerate();
        let after_newlines =
            after_newlines.filter_map(|(at, byte)| (*byte == b'\n').then_some(at + 1));
        std::iter::once(0).chain(after_newlines).collect()
    }
}

/// Characters in a piece of UTF-8 text; bytes that continue a character do not count.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str, at: usize) -> (usize, usize) {
        let position = Lines::new(text.as_bytes()).position(at);
        (position.line, position.column)
    }

    #[test]
    fn columns_count_characters_from_one() {
        assert_eq!(position("", 0), (1, 1));
        assert_eq!(position("ab\ncd", 2), (1, 3));
        assert_eq!(position("ab\ncd", 3), (2, 1));
        assert_eq!(position("ab\r\ncd", 5), (2, 2));
        assert_eq!(
            position("# grüße\n\"€\" = 1", "# grüße\n\"€\" =".len()),
            (2, 6)
        );
    }

    #[test]
    fn an_offset_past_the_end_is_the_end() {
        assert_eq!(position("a\n", 99), (2, 1));
    }

    #[test]
    fn a_byte_order_mark_is_no_column() {
        assert_eq!(position("\u{feff}a = 1", 7), (1, 5));
    }

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
