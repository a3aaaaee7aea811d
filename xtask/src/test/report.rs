//! What came of all steps, and the table of them at the end.

use std::fmt;
use std::time::Instant;

use super::outcome::Outcome;
use crate::conformance::{Case, Table, TestResult};

/// What runs the tests of all cases.
pub(super) const CONFORMANCE: &str = "conformance";

/// The steps made so far.
pub(super) struct Report {
    begun: Instant,
    pub(super) steps: Vec<Step>,
}

/// A step that is over.
#[derive(Default)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) seconds: f64,
    /// Whether other steps ran at the same time.
    pub(super) is_beside_others: bool,
    pub(super) outcome: Outcome,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            steps: Vec::new(),
        }
    }
}

impl Report {
    /// Makes one step, with a line before it and its time taken.
    pub(super) fn step(&mut self, name: &str, make: impl FnOnce() -> Outcome) {
        eprintln!("\n==> {name}");
        let start = Instant::now();
        let outcome = make();
        self.steps.push(Step {
            name: name.to_owned(),
            seconds: start.elapsed().as_secs_f64(),
            is_beside_others: false,
            outcome,
        });
    }

    /// Adds a failure outside of all steps.
    pub(super) fn fail(&mut self, error: &anyhow::Error) {
        self.steps.push(Step {
            name: "xtask".to_owned(),
            outcome: Outcome::failure(format!("{error:#}")),
            ..Step::default()
        });
    }

    /// Whether a step of this name failed.
    pub(super) fn has_failed(&self, name: &str) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| step.name == name && step.outcome.failed > 0)
    }

    pub(super) fn tests(&self) -> Vec<TestResult> {
        let steps = self.steps.iter();
        steps
            .flat_map(|step| step.outcome.tests.iter().cloned())
            .collect()
    }

    /// Leaves the cases and what broke as all that counts.
    pub(super) fn count_cases(&mut self, cases: Vec<Case>) -> Table {
        let table = Table::new(cases, &self.tests());
        for step in &mut self.steps {
            step.outcome = step.outcome.broken().unwrap_or_default();
        }
        self.steps.retain(|step| step.outcome.failed > 0);
        self.steps.push(Step {
            name: CONFORMANCE.to_owned(),
            outcome: Outcome {
                passed: table.passed(),
                failed: table.failed(),
                ..Outcome::default()
            },
            ..Step::default()
        });
        table
    }

    pub(super) fn passed(&self) -> usize {
        self.steps.iter().map(|step| step.outcome.passed).sum()
    }

    pub(super) fn failed(&self) -> usize {
        self.steps.iter().map(|step| step.outcome.failed).sum()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            seconds,
            is_beside_others,
            outcome,
        } = self;
        let verdict = if outcome.failed == 0 { "ok" } else { "FAILED" };
        write!(f, "{name:<20} {verdict:<6} {seconds:>7.1} s")?;
        if outcome.passed > 0 {
            write!(f, "  {} passed", outcome.passed)?;
        }
        if outcome.ignored > 0 {
            write!(f, "  {} ignored", outcome.ignored)?;
        }
        if *is_beside_others {
            write!(f, "  (beside others)")?;
        }
        writeln!(f)?;
        for complaint in &outcome.complaints {
            writeln!(f, "    {}", complaint.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{step}")?;
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        writeln!(f, "{:<27} {seconds:>7.1} s", "from begin to end")?;
        write!(f, "{} passed, {} failed", self.passed(), self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    const OUTPUT: &str = "test u1_masquerade ... ok\n\
        test u2_forward ... FAILED\n\
        test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n";

    fn read(output: &str) -> Outcome {
        let mut outcome = Outcome::default();
        output.lines().for_each(|line| outcome.read(line));
        outcome
    }

    #[test]
    fn cases_are_counted_instead_of_tests_and_crashes_beside_them() {
        let list = "| U1 | one |\n| U2 | two |\n| U3 | three |\n| U4 | four |";
        let cases = conformance::parse(list).unwrap();
        let mut report = Report::default();
        report.step("unit", || read(&OUTPUT.repeat(2)));
        report.step("programs", || {
            let mut outcome = read("test u3_x ... ok\ntest result: ok. 1 passed; 0 failed;");
            outcome.add(Outcome::failure("crashed".to_owned()));
            outcome
        });
        report.count_cases(cases);
        // U2 failed, U4 has no test, and a suite crashed.
        assert_eq!((report.passed(), report.failed()), (2, 3));
        assert!(report.to_string().contains("crashed"));
    }

    #[test]
    fn the_totals_stand_alone_on_the_last_line() {
        let mut report = Report::default();
        report.step("unit", || read(OUTPUT));
        report.step("fmt", || Err(anyhow::anyhow!("not formatted")).into());
        assert_eq!(
            report.to_string().lines().last(),
            Some("1 passed, 2 failed")
        );
    }
}
