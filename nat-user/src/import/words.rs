//! The words of a line, as iptables-save quotes them and as a shell would read them.

/// Cuts a line into words. Quotes hold blanks; a backslash keeps the next character as it is.
///
/// # Errors
/// What is not closed.
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let next = characters.next().ok_or("a backslash ends the line")?;
                word.get_or_insert_default().push(next);
            }
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("a {quote} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_blanks_and_backslashes_hold_quotes() {
        let words = split(r#"-m comment --comment "it's \"web\" 1" -s '10.0.0.0/8' """#).unwrap();
        let expected = [
            "-m",
            "comment",
            "--comment",
            "it's \"web\" 1",
            "-s",
            "10.0.0.0/8",
            "",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_not_closed_is_said() {
        assert_eq!(split("--comment \"x").unwrap_err(), "a \" is not closed");
        assert!(split("x \\").is_err());
    }
}
