//! The notation: from text to TOML, or to errors in the common form.

use toml::{Spanned, de::DeTable};

use super::report::Fault;
use crate::text::words::{is_bare, quote, shortened};

/// After the first few, mistakes in notation are mostly consequences of those.
const MOST_SYNTAX_FAULTS: usize = 20;

/// Parses a whole file. Errors are in the order of the file.
pub(super) fn document(text: &str) -> Result<Spanned<DeTable<'_>>, (Fault, Vec<Fault>)> {
    let (table, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let errors = errors.iter().take(MOST_SYNTAX_FAULTS);
    let mut faults = errors.map(|error| syntax_fault(text, error));
    match faults.next() {
        None => Ok(table),
        Some(first) => Err((first, faults.collect())),
    }
}

/// An error of the TOML parser, in our form.
fn syntax_fault(text: &str, error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or_default();
    let (what, expected) = match error.message().split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected)),
        None => (error.message(), None),
    };
    let written = quote(text.get(span.clone()).unwrap_or_default());
    let (problem, remedy) = match what {
        "duplicate key" => (
            format!("{written} is used twice"),
            "a table or key may appear only once; rename or remove one".to_owned(),
        ),
        // The parser takes a bare word for the beginning of `true` or `false`.
        "invalid boolean" | "string values must be quoted" => (
            format!("{written} is not a value"),
            "put text into quotes, as in \"vmbr0\"".to_owned(),
        ),
        what => (
            format!("not valid TOML: {what}"),
            match expected {
                Some("nothing") | None => "see https://toml.io for the notation".to_owned(),
                Some(expected) => format!("expected {expected}"),
            },
        ),
    };
    Fault {
        at: span.start,
        key: key_at(text, span.start),
        problem,
        see: None,
        remedy,
    }
}

/// The full key at an offset, as far as lines alone can tell: the text cannot be parsed, so this
/// only reads the nearest header above and the beginning of the line.
fn key_at(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    if let Some(header) = header(line) {
        return header;
    }
    let header = text[..line_start].lines().rev().find_map(header);
    let key = line.split_once('=').map(|(key, _)| key.trim());
    let key = key.filter(|key| !key.is_empty() && key.chars().all(|c| is_bare(c) || c == '.'));
    match (header, key) {
        (Some(header), Some(key)) => format!("{header}.{}", shortened(key)),
        (Some(name), None) => name,
        (None, Some(key)) => shortened(key).into_owned(),
        (None, None) => String::new(),
    }
}

/// `uplink.wan` of the line `[uplink.wan]  # comment`.
fn header(line: &str) -> Option<String> {
    let inner = line.trim_start().strip_prefix('[')?.trim_start_matches('[');
    let name = inner.split([']', '#']).next()?.trim();
    (!name.is_empty()).then(|| shortened(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_names_the_key_it_is_about() {
        let key = |text: &str| document(text).unwrap_err().0.key;
        assert_eq!(
            key("[uplink.wan] # a\ninterface = vmbr0\n"),
            "uplink.wan.interface"
        );
        assert_eq!(key("[uplink.wan]\n[uplink.wan]\n"), "uplink.wan");
        assert_eq!(key("[[forward]]\nname = \"a\"\n\"odd key\" \n"), "forward");
        assert_eq!(key("\u{feff}= 1"), "");
    }
}
