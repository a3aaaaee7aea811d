//! Text of other programs and guests, such as names of leases, comments of rules and error
//! messages, in a form that is safe for terminals and logs.

use std::{borrow::Cow, fmt::Write as _};

/// The text with escapes for characters that are invisible or that a terminal obeys: control
/// characters, and characters that hide or reverse their neighbours. Line breaks and tabs stay.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_visible(c) {
            shown.push(c);
        } else {
            // Writing to a string does not fail.
            let _ = write!(shown, "{}", c.escape_unicode());
        }
    }
    Cow::Owned(shown)
}

fn is_visible(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        // Joiners, marks and overrides of direction, separators of lines, invisible operators,
        // tags.
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => false,
        c => !c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(visible("a\u{1b}[2Jb\u{9b}"), "a\\u{1b}[2Jb\\u{9b}");
        assert_eq!(
            visible("x\u{202e}y\u{200b}\r\0"),
            "x\\u{202e}y\\u{200b}\\u{d}\\u{0}"
        );
    }

    #[test]
    fn ordinary_text_stays() {
        let text = "web1 \"Größe\"\tärger\nzwei 日本";
        assert!(matches!(visible(text), Cow::Borrowed(same) if same == text));
    }
}
