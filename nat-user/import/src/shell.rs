//! Words and commands as a shell reads them, as far as possible without running anything.

use std::collections::BTreeMap;

/// How a command is joined to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// It runs in any case: a new line, `;` or `&`.
    Always,
    /// It runs if that succeeded: `&&`.
    And,
    /// It runs if that failed: `||`.
    Or,
    /// It reads what that prints: `|`.
    Pipe,
}

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) join: Join,
    /// Its words, without redirections and with known variables in place.
    pub(super) words: Vec<String>,
    /// A part whose value only a running shell knows, as it is written.
    pub(super) unknown: Option<String>,
    /// The word that ends the lines which it reads as its input (`<< WORD`).
    pub(super) here: Option<String>,
}

/// Variables that the file itself sets, each with its value if known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Variables(BTreeMap<String, Option<String>>);

impl Variables {
    /// Records an assignment; an unknown value makes the variable unknown.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) {
        self.0.insert(name.to_owned(), value.map(str::to_owned));
    }

    /// Records an assignment under a condition, which is assumed to be true if it `runs`. A
    /// variable that had another value is unknown from then on.
    pub(super) fn set_perhaps(&mut self, name: &str, value: Option<&str>, runs: bool) {
        let value = match self.0.get(name) {
            None if runs => value,
            Some(before) if before.as_deref() == value => value,
            _ => None,
        };
        self.set(name, value);
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_deref()
    }

    /// The value, or else the default of a variable that the file does not set.
    fn get_or<'a>(&'a self, name: &str, default: Option<&'a str>) -> Option<&'a str> {
        match self.0.get(name) {
            Some(value) => value.as_deref(),
            None => default,
        }
    }
}

/// The name and the value of an assignment.
pub(super) fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    is_name(name).then_some((name, value))
}

fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters
        .next()
        .is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && letters.all(|c| c == '_' || c.is_ascii_alphanumeric())
}

/// Cuts a line into words as iptables-restore does. Quotes protect blanks; a backslash escapes the
/// next character.
///
/// # Errors
/// The unclosed quote.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
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

/// How many bytes a line may have, before and after its variables have their values.
/// iptables-restore accepts 10,240.
pub(super) const LONGEST_LINE: usize = 64 << 10;

/// Cuts a line into the commands that a shell would run.
///
/// # Errors
/// The unclosed quote, or that the line is too long.
pub(super) fn commands(line: &str, variables: &Variables) -> Result<Vec<Command>, String> {
    let mut lexer = Lexer {
        rest: line,
        variables,
        commands: Vec::new(),
        command: Command::new(Join::Always),
        word: None,
        redirect: None,
        expanded: 0,
    };
    while let Some(c) = lexer.take() {
        lexer.character(c)?;
        lexer.check_length()?;
    }
    lexer.end_of_command(Join::Always);
    Ok(lexer.commands)
}

impl Command {
    const fn new(join: Join) -> Self {
        Self {
            join,
            words: Vec::new(),
            unknown: None,
            here: None,
        }
    }
}

/// The use of the word that is being read after an arrow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Redirect {
    File,
    Here,
}

struct Lexer<'a> {
    rest: &'a str,
    variables: &'a Variables,
    commands: Vec<Command>,
    command: Command,
    word: Option<String>,
    redirect: Option<Redirect>,
    /// How many bytes the values of variables have so far.
    expanded: usize,
}

impl Lexer<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take_if(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn character(&mut self, c: char) -> Result<(), String> {
        match c {
            '\\' => {
                let next = self.take().ok_or("a backslash ends the line")?;
                self.push(next);
            }
            '\'' => self.single_quoted()?,
            '"' => self.double_quoted()?,
            '$' | '`' => self.expansion(c, false)?,
            '#' if self.word.is_none() => self.rest = "",
            '>' | '<' => self.arrow(c),
            '&' if self.rest.starts_with('>') => {}
            ';' => self.end_of_command(Join::Always),
            '&' if self.take_if("&") => self.end_of_command(Join::And),
            '&' => self.end_of_command(Join::Always),
            '|' if self.take_if("|") => self.end_of_command(Join::Or),
            '|' => self.end_of_command(Join::Pipe),
            c if c.is_whitespace() => self.end_of_word(),
            c => self.push(c),
        }
        Ok(())
    }

    fn end_of_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        match self.redirect.take() {
            None => self.command.words.push(word),
            Some(Redirect::File) => {}
            Some(Redirect::Here) => self.command.here = Some(word),
        }
    }

    fn end_of_command(&mut self, next: Join) {
        self.end_of_word();
        let command = std::mem::replace(&mut self.command, Command::new(next));
        if !command.words.is_empty() {
            self.commands.push(command);
        }
    }

    /// `>`, `2>`, `>>`, `2>&1`, `<`, `<<`.
    fn arrow(&mut self, c: char) {
        let is_number = |word: &String| word.chars().all(|c| c.is_ascii_digit());
        if self.word.as_ref().is_some_and(is_number) {
            self.word = None;
        }
        self.end_of_word();
        let is_here = c == '<' && self.take_if("<") && !self.take_if("<");
        while self.take_if(">") || self.take_if("&") || (is_here && self.take_if("-")) {}
        self.redirect = Some(match is_here {
            true => Redirect::Here,
            false => Redirect::File,
        });
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        let (inner, rest) = self.rest.split_once('\'').ok_or("a ' is not closed")?;
        self.word.get_or_insert_default().push_str(inner);
        self.rest = rest;
        Ok(())
    }

    fn double_quoted(&mut self) -> Result<(), String> {
        self.word.get_or_insert_default();
        loop {
            match self.take().ok_or("a \" is not closed")? {
                '"' => return Ok(()),
                '\\' => {
                    let next = self.take().ok_or("a \" is not closed")?;
                    if !['"', '\\', '$', '`'].contains(&next) {
                        self.push('\\');
                    }
                    self.push(next);
                }
                c @ ('$' | '`') => self.expansion(c, true)?,
                c => self.push(c),
            }
            self.check_length()?;
        }
    }

    /// Values of variables may contain values of variables, and double each time.
    fn check_length(&self) -> Result<(), String> {
        match self.expanded > LONGEST_LINE {
            true => Err("is too long once its variables have their values".to_owned()),
            false => Ok(()),
        }
    }

    /// The text after a `$`, or between two backquotes.
    fn expansion(&mut self, c: char, is_quoted: bool) -> Result<(), String> {
        if c == '`' {
            let (inner, rest) = self.rest.split_once('`').ok_or("a ` is not closed")?;
            self.rest = rest;
            self.unknown(format!("`{inner}`"));
            return Ok(());
        }
        if self.rest.starts_with('(') {
            return self.substitution();
        }
        if self.take_if("{") {
            let (inner, rest) = self.rest.split_once('}').ok_or("a ${ is not closed")?;
            self.rest = rest;
            let (name, default) = match inner.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inner, None),
            };
            match self.variables.get_or(name, default) {
                Some(value) if !value.contains(['$', '`']) => self.expand(value, is_quoted),
                _ => self.unknown(format!("${{{inner}}}")),
            }
            return Ok(());
        }
        let is_part = |c: char| c == '_' || c.is_ascii_alphanumeric();
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            match self.rest.chars().next() {
                Some(c @ ('@' | '*' | '#' | '?' | '!')) => {
                    self.take();
                    self.unknown(format!("${c}"));
                }
                _ => self.push('$'),
            }
            return Ok(());
        }
        self.rest = rest;
        match self.variables.get(name) {
            Some(value) => self.expand(value, is_quoted),
            None => self.unknown(format!("${name}")),
        }
        Ok(())
    }

    fn expand(&mut self, value: &str, is_quoted: bool) {
        self.expanded += value.len();
        for c in value.chars() {
            match c.is_whitespace() && !is_quoted {
                true => self.end_of_word(),
                false => self.push(c),
            }
        }
    }

    /// `$(…)`, up to the bracket that closes it.
    fn substitution(&mut self) -> Result<(), String> {
        let mut depth = 0;
        for (at, c) in self.rest.char_indices() {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            if depth == 0 {
                let (inner, rest) = self.rest.split_at(at + 1);
                self.rest = rest;
                self.unknown(format!("${inner}"));
                return Ok(());
            }
        }
        Err("a $( is not closed".to_owned())
    }

    fn unknown(&mut self, text: String) {
        self.word.get_or_insert_default().push_str(&text);
        // Where the output goes does not matter.
        if self.redirect.is_none() {
            self.command.unknown.get_or_insert(text);
        }
    }
}

/// What is before the first space of a line.
pub(super) fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<(Join, String)> {
        let commands = commands(line, &Variables::default()).unwrap();
        let text = |command: Command| (command.join, command.words.join(" "));
        commands.into_iter().map(text).collect()
    }

    #[test]
    fn quotes_hold_blanks_and_backslashes_hold_quotes() {
        let line = r#"-m comment --comment "it's \"web\" 1" -s '10.0.0.0/8' """#;
        let expected = [
            "-m",
            "comment",
            "--comment",
            "it's \"web\" 1",
            "-s",
            "10.0.0.0/8",
            "",
        ];
        assert_eq!(words(line).unwrap(), expected);
        let commands = commands(line, &Variables::default()).unwrap();
        assert_eq!(commands[0].words, expected);
    }

    #[test]
    fn an_unclosed_quote_is_named() {
        assert_eq!(words("--comment \"x").unwrap_err(), "a \" is not closed");
        assert!(words("x \\").is_err());
        for line in ["a 'b", "a \"b", "a $(b", "a `b", "a ${b", "a \\"] {
            assert!(commands(line, &Variables::default()).is_err(), "{line}");
        }
    }

    #[test]
    fn operators_separate_commands() {
        let expected = [
            (Join::Always, "a 1"),
            (Join::Always, "b"),
            (Join::And, "c"),
            (Join::Or, "true"),
            (Join::Pipe, "d"),
            (Join::Always, "e"),
        ];
        let expected = expected.map(|(join, text)| (join, text.to_owned()));
        assert_eq!(texts("a 1; b && c||true | d & e # f; g"), expected);
        assert_eq!(texts("a 'x; y' \"p && q\"").len(), 1);
    }

    #[test]
    fn comments_and_redirections_are_no_words() {
        for line in [
            "a b # web",
            "a b 2>/dev/null",
            "a b >/dev/null 2>&1 #ssh",
            "a b &> /dev/null",
            "a >> \"$LOG\" b",
            "a b < /dev/null",
        ] {
            let commands = commands(line, &Variables::default()).unwrap();
            assert_eq!(commands[0].words, ["a", "b"], "{line}");
            assert_eq!(commands[0].unknown, None, "{line}");
            assert_eq!(commands.len(), 1, "{line}");
        }
        assert_eq!(texts("a b#c")[0].1, "a b#c");
    }

    #[test]
    fn variables_that_are_set_are_put_in_place() {
        let mut variables = Variables::default();
        variables.set("WAN", Some("eth0"));
        variables.set("ARGS", Some("-p tcp"));
        let line = "-i $WAN ${WAN} \"$WAN\" '$WAN' $ARGS \"$ARGS\" ${X:-eth1}.5";
        let [command] = &commands(line, &variables).unwrap()[..] else {
            panic!()
        };
        let expected = [
            "-i", "eth0", "eth0", "eth0", "$WAN", "-p", "tcp", "-p tcp", "eth1.5",
        ];
        assert_eq!(command.words, expected);
        assert_eq!(command.unknown, None);
    }

    #[test]
    fn values_of_a_running_shell_are_named() {
        for (line, unknown) in [
            ("a $LAN", "$LAN"),
            ("a ${LAN%0}", "${LAN%0}"),
            ("a \"$(hostname -I)\"", "$(hostname -I)"),
            ("a `hostname`", "`hostname`"),
            ("a $1", "$1"),
            ("a $@", "$@"),
        ] {
            let commands = commands(line, &Variables::default()).unwrap();
            assert_eq!(commands[0].unknown.as_deref(), Some(unknown), "{line}");
        }
    }

    #[test]
    fn lines_that_a_command_reads_end_with_its_word() {
        let commands = commands("iptables-restore -n <<'EOF' && x", &Variables::default()).unwrap();
        assert_eq!(commands[0].here.as_deref(), Some("EOF"));
        assert_eq!(commands[0].words, ["iptables-restore", "-n"]);
        assert_eq!(commands.len(), 2);
    }

    #[test]
    fn assignments_have_names() {
        assert_eq!(assignment("WAN=eth0"), Some(("WAN", "eth0")));
        assert_eq!(assignment("--dport=80"), None);
        assert_eq!(assignment("2=3"), None);
    }
}
