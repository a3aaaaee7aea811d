//! Findings about single lines of the file.

use std::collections::HashSet;

use nat_config::visible::visible;

use super::dump::Dump;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A rule of the nat table that the configuration does not express.
    Untranslated,
    /// Something is wrong in the original, or would be with the configuration.
    Warning,
    /// Information that needs no action.
    Note,
}

/// A remark about a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finding {
    /// Which of the files, from 0.
    pub file: usize,
    /// The line's number, from 1.
    pub line: usize,
    /// How much it matters.
    pub kind: Kind,
    /// The rule as it is written.
    pub text: String,
    /// Why it is not expressed, or what is wrong.
    pub reason: String,
}

impl Finding {
    /// The displayed message about a line of `file`.
    #[must_use]
    pub fn show(&self, file: &str) -> String {
        let kind = match self.kind {
            Kind::Untranslated => "",
            Kind::Warning => "warning: ",
            Kind::Note => "note: ",
        };
        let Self {
            line, text, reason, ..
        } = self;
        format!("{kind}{file}:{line}: {text}: {reason}")
    }
}

/// All remarks, and the rules that have been handled.
#[derive(Debug)]
pub(super) struct Findings<'d> {
    dump: &'d Dump,
    done: Vec<bool>,
    pub(super) list: Vec<Finding>,
    known: HashSet<Finding>,
    lines: HashSet<usize>,
}

impl<'d> Findings<'d> {
    pub(super) fn new(dump: &'d Dump) -> Self {
        Self {
            dump,
            done: vec![false; dump.rules.len()],
            list: Vec::new(),
            known: HashSet::new(),
            lines: HashSet::new(),
        }
    }

    /// The rule stands in the configuration.
    pub(super) fn done(&mut self, rule: usize) {
        self.done[rule] = true;
    }

    pub(super) fn is_done(&self, rule: usize) -> bool {
        self.done[rule]
    }

    /// Whether a line has a remark.
    pub(super) fn is_line_done(&self, line: usize) -> bool {
        self.lines.contains(&line)
    }

    pub(super) fn untranslated(&mut self, rule: usize, reason: impl Into<String>) {
        self.done[rule] = true;
        self.about(rule, Kind::Untranslated, reason.into());
    }

    pub(super) fn warning(&mut self, rule: usize, reason: impl Into<String>) {
        self.about(rule, Kind::Warning, reason.into());
    }

    pub(super) fn note(&mut self, rule: usize, reason: impl Into<String>) {
        self.done[rule] = true;
        self.about(rule, Kind::Note, reason.into());
    }

    fn about(&mut self, rule: usize, kind: Kind, reason: String) {
        let rule = &self.dump.rules[rule];
        self.line(rule.line, &rule.text, kind, reason);
    }

    pub(super) fn line(&mut self, line: usize, text: &str, kind: Kind, reason: String) {
        let finding = Finding {
            file: 0,
            line,
            kind,
            text: printable(text),
            reason,
        };
        if self.known.insert(finding.clone()) {
            self.lines.insert(line);
            self.list.push(finding);
        }
    }

    /// The warnings about a rule.
    pub(super) fn warnings_of(&self, rule: usize) -> impl Iterator<Item = &str> {
        let line = self.dump.rules[rule].line;
        let warnings = self.list.iter();
        let warnings = warnings.filter(move |f| f.line == line && f.kind == Kind::Warning);
        warnings.map(|finding| finding.reason.as_str())
    }

    /// In the order of the file, which is the `file`-th.
    pub(super) fn finish(mut self, file: usize) -> Vec<Finding> {
        self.list.iter_mut().for_each(|finding| finding.file = file);
        self.list
            .sort_by_key(|finding| (finding.line, finding.kind));
        self.list
    }
}

/// A line without control characters for terminals, or characters that TOML's comments forbid.
pub(super) fn printable(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}
