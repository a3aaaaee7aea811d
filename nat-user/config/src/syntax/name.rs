//! What a name of the configuration may look like.

use super::report::Fault;
use crate::text::words::quote;

/// Names are printed in tables and metrics.
const LONGEST_NAME: usize = 64;

/// Why a text cannot be a name.
pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.chars().nth(LONGEST_NAME).is_some() {
        Some("is longer than 64 characters")
    } else if name.chars().any(char::is_control) {
        Some("contains a control character")
    } else if name.chars().any(is_invisible) || name.trim().is_empty() {
        Some("contains an invisible character")
    } else {
        None
    }
}

/// Whether a character shows nothing: spaces other than the usual one, characters that only join or
/// direct others (Unicode's categories Zs, Zl, Zp and Cf), and letters without a shape.
fn is_invisible(c: char) -> bool {
    c != ' ' && c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

pub(super) fn name_fault(at: usize, key: String, name: &str) -> Fault {
    Fault {
        at,
        key,
        problem: format!(
            "the name {} {}",
            quote(name),
            name_problem(name).unwrap_or_default()
        ),
        see: None,
        remedy: "write 1 to 64 visible characters".to_owned(),
    }
}
