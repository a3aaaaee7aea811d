//! Pieces of the file in messages.

use std::borrow::Cow;

/// How much of a wrong value a message repeats; at least a whole name.
const LONGEST_QUOTE: usize = 64;

/// A piece of the file in backticks, shortened if it is long.
pub(crate) fn quote(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    format!("`{}`", shortened(text))
}

/// Whether TOML allows the character in a key without quotes.
pub(crate) fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// A path as messages write it.
pub(crate) fn dotted(path: &[&str]) -> String {
    let parts: Vec<_> = path.iter().map(|part| dotted_part(part)).collect();
    parts.join(".")
}

/// A name as a part of a dotted key: in quotes where TOML requires them, shortened if it is too
/// long for a name.
pub(crate) fn dotted_part(name: &str) -> String {
    let name = shortened(name);
    if !name.is_empty() && name.chars().all(is_bare) {
        return name.into_owned();
    }
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The beginning of a text, if it is too long for a message.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
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
