//! Lines and columns of byte offsets.

use std::cell::OnceCell;

/// A place in the file. Both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character within the line.
    pub column: usize,
}

/// Finds line and column of byte offsets.
#[derive(Debug)]
pub(crate) struct Lines<'t> {
    text: &'t [u8],
    /// Offsets of the beginnings of lines; computed on first use, because most files have no
    /// mistake.
    starts: OnceCell<Vec<usize>>,
}

/// The byte order mark at the start of some files. It does not count as a column.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<'t> Lines<'t> {
    /// Takes bytes, because a file that is not UTF-8 has lines and columns too.
    pub(crate) fn new(text: &'t [u8]) -> Self {
        Self {
            text,
            starts: OnceCell::new(),
        }
    }

    /// The place of a byte offset; one past the end is the end.
    pub(crate) fn position(&self, at: usize) -> Position {
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
}
