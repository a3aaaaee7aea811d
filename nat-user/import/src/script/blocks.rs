//! The blocks around a line of a script: conditions, loops and functions.

use crate::dump::Status;

/// Why lines do not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Off {
    /// They undo rules.
    Undoes,
    /// A condition has another outcome; `is_doubtful` says whether that is only likely.
    Otherwise { is_doubtful: bool },
}

/// An open block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    kind: Kind,
    /// Why its lines do not run, unless they do.
    off: Option<Off>,
    /// Whether it is only likely that they run.
    is_doubtful: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The commands after `if`; the last one decides.
    If,
    /// Behind `then` or `else`.
    Branch,
    Loop,
    Case,
    /// `{`, or `(`.
    Group,
    /// A function, before the brace that opens its body.
    Function,
    /// A function's body.
    Body,
}

/// All blocks that are open, the innermost last.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<Block>);

impl Blocks {
    pub(super) fn depth(&self) -> usize {
        self.0.len()
    }

    /// Why a line here does not run, if so.
    pub(super) fn off(&self) -> Option<Off> {
        self.0.iter().find_map(|block| block.off)
    }

    /// Whether a line here runs only under a condition that cannot be known.
    pub(super) fn is_doubtful(&self) -> bool {
        self.0.iter().any(|block| block.is_doubtful)
    }

    /// Whether a line here runs only when a function is called.
    pub(super) fn is_in_function(&self) -> bool {
        let is_function = |block: &Block| matches!(block.kind, Kind::Function | Kind::Body);
        self.0.iter().any(is_function)
    }

    /// Whether a line here runs as if it were in no block.
    pub(super) fn is_plain(&self) -> bool {
        self.0.iter().all(|block| block.kind == Kind::Group)
    }

    /// Handles the words at the beginning of a command that open or close blocks; returns how many.
    pub(super) fn take(&mut self, words: &[String]) -> usize {
        if let Some((name, count)) = function(words) {
            self.open(Kind::Function, is_undoing(name).then_some(Off::Undoes));
            if words[count - 1].ends_with('{') {
                self.body();
            }
            return count;
        }
        let Some(word) = words.first() else { return 0 };
        match word.as_str() {
            "if" => self.open(Kind::If, None),
            "for" | "select" | "while" | "until" => self.open_doubtful(Kind::Loop),
            "case" => self.open_doubtful(Kind::Case),
            "{" | "(" => self.brace(),
            "then" => self.change(|block| block.kind = Kind::Branch),
            "do" => {}
            "elif" => self.change(|block| {
                block.kind = Kind::If;
                block.off = None;
                block.is_doubtful = false;
            }),
            "else" => self.change(|block| {
                let is_doubtful = block.is_doubtful;
                let otherwise = Off::Otherwise { is_doubtful };
                let runs = block.off.is_some() && !is_doubtful;
                block.off = (!runs).then_some(otherwise);
                block.kind = Kind::Branch;
            }),
            "fi" | "done" | "esac" | "}" | ")" => drop(self.0.pop()),
            _ => return 0,
        }
        1
    }

    fn open(&mut self, kind: Kind, off: Option<Off>) {
        self.0.push(Block {
            kind,
            off,
            is_doubtful: false,
        });
    }

    fn open_doubtful(&mut self, kind: Kind) {
        self.open(kind, None);
        self.change(|block| block.is_doubtful = true);
    }

    /// A brace opens a block, or the body of the function before it.
    fn brace(&mut self) {
        let is_body = self
            .0
            .last()
            .is_some_and(|last| last.kind == Kind::Function);
        match is_body {
            true => self.body(),
            false => self.open(Kind::Group, None),
        }
    }

    fn body(&mut self) {
        self.change(|block| block.kind = Kind::Body);
    }

    fn change(&mut self, change: impl FnOnce(&mut Block)) {
        if let Some(last) = self.0.last_mut() {
            change(last);
        }
    }

    /// The result of a command: after `if` it decides.
    pub(super) fn decide(&mut self, status: Status) {
        if self.0.last().is_some_and(|last| last.kind == Kind::If) {
            self.change(|block| {
                let otherwise = Off::Otherwise { is_doubtful: false };
                block.off = (status == Status::Failure).then_some(otherwise);
                block.is_doubtful = status == Status::Unknown;
            });
        }
    }

    /// `start)`, `stop)`: whether the lines of this branch of a `case` run.
    pub(super) fn pattern(&mut self, words: &[String]) {
        let pattern = words.iter().find_map(|word| word.strip_suffix(')'));
        if let (Some(last), Some(pattern)) = (self.0.last_mut(), pattern)
            && last.kind == Kind::Case
        {
            last.off = is_undoing(pattern).then_some(Off::Undoes);
        }
    }
}

/// The name of the function that a command begins to define, and how many words this takes:
/// `name()`, `name ()`, `function name`, with or without the brace behind it.
fn function(words: &[String]) -> Option<(&str, usize)> {
    let (is_marked, behind) = match words {
        [first, rest @ ..] if first == "function" => (true, rest),
        words => (false, words),
    };
    let mut words = behind.iter().map(String::as_str);
    let mut count = usize::from(is_marked) + 1;
    let first = words.next()?;
    let bare = first.trim_end_matches('{');
    let name = bare.strip_suffix("()");
    if let Some(name) = name {
        // (`name=()` is an empty list.)
        return (!name.is_empty() && !name.ends_with('=')).then_some((name, count));
    }
    let next = words.next().unwrap_or_default();
    if bare == first && matches!(next, "()" | "(){") {
        return Some((first, count + 1));
    }
    if bare == first && next == "(" && words.next().is_some_and(|word| word.starts_with(')')) {
        count += 2;
        return Some((first, count));
    }
    is_marked.then_some((bare, count))
}

/// Names of functions and branches that remove rules.
fn is_undoing(name: &str) -> bool {
    let name = name.to_lowercase();
    [
        "stop", "down", "clear", "remove", "delete", "release", "unload", "off",
    ]
    .iter()
    .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn every_way_to_write_a_function_opens_one_block() {
        for header in [
            "name() {",
            "name(){",
            "name () {",
            "name (){",
            "name ( ) {",
            "function name {",
            "function name() {",
            "function name () {",
            "function name(){",
        ] {
            let mut blocks = Blocks::default();
            let mut all = &words(header)[..];
            while !all.is_empty() {
                let count = blocks.take(all);
                assert_ne!(count, 0, "{header}: {all:?}");
                all = &all[count..];
            }
            assert_eq!(blocks.depth(), 1, "{header}");
            assert!(blocks.is_in_function() && !blocks.is_plain(), "{header}");
            assert_eq!(blocks.take(&words("}")), 1);
            assert_eq!(blocks.depth(), 0, "{header}");
        }
        for none in ["iptables -A", "()", "a (b", "a=() b"] {
            assert_eq!(Blocks::default().take(&words(none)), 0, "{none}");
        }
    }

    #[test]
    fn the_brace_of_a_function_may_be_in_the_next_line() {
        let mut blocks = Blocks::default();
        blocks.take(&words("stop()"));
        blocks.take(&words("{"));
        assert_eq!((blocks.depth(), blocks.off()), (1, Some(Off::Undoes)));
        blocks.take(&words("}"));
        assert_eq!((blocks.depth(), blocks.off()), (0, None));
    }
}
