//! What came of one step, read from the output of its test programs.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};
use bpf_toolchain::output;
use bpf_toolchain::process::line;

use crate::conformance::TestResult;

/// What came of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) ignored: usize,
    /// The tests that failed, by name, or why the step itself did.
    pub(super) complaints: Vec<String>,
    /// Every test that ran, with its modules.
    pub(super) tests: Vec<TestResult>,
}

impl Outcome {
    pub(super) fn failure(complaint: String) -> Self {
        Self {
            failed: 1,
            complaints: vec![complaint],
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.complaints.extend(other.complaints);
        self.tests.extend(other.tests);
    }

    /// Takes in one line of a test program's output.
    pub(super) fn read(&mut self, line: &str) {
        if let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        {
            // Behind the name may stand " - should panic".
            let name = name.split(' ').next().unwrap_or(name);
            if verdict.trim_end() == "FAILED" {
                self.complaints.push(name.to_owned());
                self.tests.push((name.to_owned(), false));
            } else if verdict.trim_end() == "ok" {
                self.tests.push((name.to_owned(), true));
            }
        } else if let Some(totals) = line.strip_prefix("test result: ") {
            let count = |what: &str| count_before(totals, what).unwrap_or(0);
            self.passed += count(" passed;");
            self.failed += count(" failed;");
            self.ignored += count(" ignored;");
        }
    }

    /// Counts the tests that ran, where their program did not come to say how many.
    pub(super) fn count_tests(&mut self) {
        let passed = self.tests.iter().filter(|(_, passed)| *passed).count();
        self.failed = self.failed.max(self.tests.len() - passed);
        self.passed = self.passed.max(passed);
    }

    /// What failed without being a test: a build, a crash.
    pub(super) fn broken(&self) -> Option<Self> {
        let failed_tests = self.tests.iter().filter(|(_, passed)| !passed).count();
        let failed = self.failed.saturating_sub(failed_tests);
        (failed > 0).then(|| Self {
            failed,
            complaints: self.complaints.clone(),
            ..Self::default()
        })
    }

    /// A suite in which nothing ran proves nothing.
    pub(super) fn must_have_run(mut self) -> Self {
        if self.passed + self.failed == 0 {
            self.add(Self::failure("no test ran".to_owned()));
        }
        self
    }
}

impl From<Result<()>> for Outcome {
    fn from(result: Result<()>) -> Self {
        result
            .err()
            .map_or_else(Self::default, |error| Self::failure(format!("{error:#}")))
    }
}

/// The number before `what`.
fn count_before(text: &str, what: &str) -> Option<usize> {
    let (before, _) = text.split_once(what)?;
    before.rsplit(' ').next()?.parse().ok()
}

/// Runs `cargo test`, passes its output on as it comes, and counts.
pub(super) fn run_tests(command: &mut Command) -> Result<Outcome> {
    let text = line(command);
    let label = output::label();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    if label.is_some() {
        command.stderr(Stdio::piped());
    }
    let child = command.spawn();
    let mut child = child.with_context(|| format!("start `{text}`"))?;
    if let (Some(stderr), Some(label)) = (child.stderr.take(), label) {
        thread::spawn(move || output::pass_on(stderr, &label));
    }
    let mut lines = BufReader::new(child.stdout.take().context("the tests' output")?);
    let mut outcome = Outcome::default();
    let mut bytes = Vec::new();
    while lines.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        output::print(text.strip_suffix('\n').unwrap_or(&text));
        outcome.read(&text);
        bytes.clear();
    }
    let status = child.wait()?;
    if !status.success() && outcome.failed == 0 {
        outcome.add(Outcome::failure(format!(
            "`{text}` failed ({status}) outside of its tests"
        )));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests\n\
        test u1_masquerade ... ok\n\
        test u2_forward ... FAILED\n\
        test slow ... ignored\n\
        \n\
        test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n";

    fn read(output: &str) -> Outcome {
        let mut outcome = Outcome::default();
        output.lines().for_each(|line| outcome.read(line));
        outcome
    }

    #[test]
    fn results_are_counted_and_failures_named() {
        let outcome = read(&OUTPUT.repeat(2));
        assert_eq!((outcome.passed, outcome.failed, outcome.ignored), (2, 2, 2));
        assert_eq!(outcome.complaints, ["u2_forward", "u2_forward"]);
    }

    #[test]
    fn every_test_that_ran_is_remembered() {
        let outcome = read(&format!("{OUTPUT}test t1_x - should panic ... ok\n"));
        let expected = [
            ("u1_masquerade", true),
            ("u2_forward", false),
            ("t1_x", true),
        ];
        assert_eq!(
            outcome.tests,
            expected.map(|(name, passed)| (name.to_owned(), passed))
        );
    }

    #[test]
    fn coloured_results_are_counted() {
        let outcome = read("test result: \u{1b}[32mok\u{1b}[m. 12 passed; 0 failed; 0 ignored;");
        assert_eq!((outcome.passed, outcome.failed), (12, 0));
    }

    #[test]
    fn tests_of_a_program_that_did_not_end_are_counted() {
        let mut outcome = read(&format!("{OUTPUT}test a ... ok\ntest b ... FAILED\n"));
        outcome.count_tests();
        assert_eq!((outcome.passed, outcome.failed), (2, 2));
    }

    #[test]
    fn a_suite_without_tests_has_failed() {
        assert_eq!(read("").must_have_run().failed, 1);
        assert_eq!(read(OUTPUT).must_have_run().failed, 1);
    }

    #[test]
    fn a_crash_of_a_test_program_is_a_failure() {
        let script = "echo 'test a ... ok'; kill -SEGV $$";
        let outcome = run_tests(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!((outcome.passed, outcome.failed), (0, 1));
    }

    #[test]
    fn tests_under_a_label_are_counted_as_without() {
        let script = "echo 'test a ... ok'; echo progress >&2; echo 'test b ... FAILED'; \
                      echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101";
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let outcome = output::labelled("kernel 6.1", || run_tests(&mut command)).unwrap();
        assert_eq!((outcome.passed, outcome.failed), (1, 1));
        assert_eq!(outcome.complaints, ["b"]);
    }
}
