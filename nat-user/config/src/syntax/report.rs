//! Collecting messages.
//!
//! The checks work with byte offsets ([`Fault`]); [`Report`] collects what they find and turns it
//! into [`Diagnostic`]s with lines and columns at the end, in the order of the file.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::{
    diagnostic::{ConfigError, Diagnostic},
    places::Places,
};
use crate::text::lines::{Lines, Position};

/// A [`Diagnostic`] whose place is still a byte offset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Fault {
    /// Byte offset in the text.
    pub(crate) at: usize,
    /// See [`Diagnostic::key`].
    pub(crate) key: String,
    /// See [`Diagnostic::problem`].
    pub(crate) problem: String,
    /// Byte offset of another place that the problem ends with; its line is added.
    pub(crate) see: Option<usize>,
    /// See [`Diagnostic::remedy`].
    pub(crate) remedy: String,
}

impl Fault {
    /// Adds another place of the file, with which the problem ends.
    pub(crate) fn see(self, at: usize) -> Self {
        Self {
            see: Some(at),
            ..self
        }
    }
}

/// Collects what the checks find in one text.
#[derive(Debug)]
pub(crate) struct Report<'t> {
    lines: Lines<'t>,
    places: Places,
    errors: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl<'t> Report<'t> {
    /// `places` are those of values from templates.
    pub(crate) fn new(text: &'t str, places: Places) -> Self {
        Self {
            lines: Lines::new(text.as_bytes()),
            places,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The value of a check that passed; the fault of one that failed is recorded as an error.
    pub(crate) fn keep<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.errors.push(fault)).ok()
    }

    pub(crate) fn error(&mut self, fault: Fault) {
        self.errors.push(fault);
    }

    pub(crate) fn errors(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.errors.extend(faults);
    }

    pub(crate) fn warn(&mut self, fault: Fault) {
        self.warnings.push(fault);
    }

    /// The warnings, or the errors if there are any; in the order of the file.
    pub(crate) fn finish(mut self, file: &Arc<Path>) -> Result<Vec<Diagnostic>, ConfigError> {
        let errors = std::mem::take(&mut self.errors);
        let mut errors = self.in_order(errors, file).into_iter();
        match errors.next() {
            None => {
                let warnings = std::mem::take(&mut self.warnings);
                Ok(self.in_order(warnings, file))
            }
            Some(first) => Err(ConfigError::new(first, errors.collect())),
        }
    }

    /// Refuses the file with these errors, without further checks.
    pub(crate) fn refuse(self, first: Fault, others: Vec<Fault>, file: &Arc<Path>) -> ConfigError {
        let others = others.into_iter();
        let others = others.map(|fault| self.remark(fault, file));
        ConfigError::new(self.remark(first, file), others.collect())
    }

    /// The message for a fault.
    pub(crate) fn remark(&self, fault: Fault, file: &Arc<Path>) -> Diagnostic {
        self.diagnostic(fault, 0, file)
    }

    /// In the order of the file. A fault in several instances of a template is reported for the
    /// first of them.
    fn in_order(&self, mut faults: Vec<Fault>, file: &Arc<Path>) -> Vec<Diagnostic> {
        // Stable, so that faults at one place stay in the order in which they were found.
        faults.sort_by_key(|fault| self.places.written(fault.at));
        // A mistyped key is found twice: as an unknown key and as the reason for a missing one. So
        // is a fault of both families.
        let mut seen = HashSet::new();
        faults.retain(|fault| seen.insert(fault.clone()));
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
