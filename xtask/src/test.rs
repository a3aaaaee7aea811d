//! `cargo xtask test`: every check and every test, and one line with the totals at the end.
//!
//! Tests are ordinary `cargo test` targets. What this adds: set-up, the checks, the program that
//! the tests run, a summary, the rule that a suite which ran nothing has failed, and the table of
//! the cases of docs/behaviour.md (see [`conformance`]): after all suites, or by itself.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use std::{fmt, io};

use anyhow::{Context, Result, bail};
use bpf_toolchain::Workspace;
use bpf_toolchain::process::{capture, line, show};
use clap::Args;
use serde_json::Value;

use crate::check::CHECKS;
use crate::command::{cargo, workspace};
use crate::conformance::{self, Case, Table, TestResult};
use crate::container;
use crate::fuzz::Fuzzer;
use crate::kernels::{self, KERNELS, Kernel, Kernels};
use crate::setup::{self, Needs};

/// The package with the tests of loaded programs and of whole hosts.
const TEST_PACKAGE: &str = "tests";
/// The suite that boots guests, and so needs a kernel for them.
const GUESTS: &str = "guests";
/// The suite that boots containers, and so needs a Debian for them.
const SYSTEMD: &str = "systemd";
/// The suite of hosts in namespaces. Its tests wait most of their time, so that several share a
/// processor.
const HOSTS: &str = "namespaces";
/// How many tests run at once, where nobody says otherwise.
const TEST_THREADS: &str = "RUST_TEST_THREADS";
/// What runs the tests of all cases.
const CONFORMANCE: &str = "conformance";

/// How long each fuzz target runs here in seconds; `cargo xtask fuzz` takes its time.
const FUZZ_S: u32 = 10;

/// What to test.
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// `check`, `unit`, `fuzz`, `kernels` (or one: `kernel-6.1`), or a file of tests/tests without
    /// its ending; by default all of them. `conformance` runs only the tests of the cases of
    /// docs/behaviour.md
    suites: Vec<String>,
    /// Name all tests of each case in the table, not only the failed ones
    #[arg(long)]
    names: bool,
    /// On older kernels, run all tests of programs and hosts, not only the selection
    #[arg(long)]
    all: bool,
    /// Arguments for the test programs, for instance a part of a test's name
    #[arg(last = true)]
    args: Vec<String>,
}

/// What came of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// The tests that failed, by name, or why the step itself did.
    complaints: Vec<String>,
    /// Every test that ran, with its modules.
    tests: Vec<TestResult>,
}

/// The steps made so far.
#[derive(Default)]
struct Report {
    steps: Vec<(String, f64, Outcome)>,
}

/// The command itself. The totals are its last line, whatever happens.
pub(crate) fn run(args: &TestArgs) -> ExitCode {
    let mut report = Report::default();
    let performed = match args.suites.iter().any(|suite| suite == CONFORMANCE) {
        true => perform_conformance(args, &mut report),
        false => perform(args, &mut report),
    };
    if let Err(error) = performed {
        report.steps.push((
            "xtask".to_owned(),
            0.0,
            Outcome::failure(format!("{error:#}")),
        ));
    }
    println!("\n{report}");
    if report.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn perform(args: &TestArgs, report: &mut Report) -> Result<()> {
    let workspace = workspace()?;
    let suites = Suites::of(&workspace)?;
    let wanted = suites.select(&args.suites)?;
    setup::ensure(Needs::Tests)?;
    if wanted.check {
        for (name, check) in CHECKS {
            report.step(name, || check(&workspace).into());
        }
    }
    // A part of a test's name is none of a fuzz target's.
    if wanted.fuzz && args.args.is_empty() {
        report.step("fuzz", || fuzz(&workspace));
    }
    if wanted.tests.is_empty() && wanted.kernels.is_empty() {
        return Ok(());
    }
    if !build(&workspace, report) {
        return Ok(());
    }
    for (name, targets) in &wanted.tests {
        report.step(name, || {
            let outcome = match variables(&workspace, name) {
                Ok(variables) => run_suite(&workspace, targets, &args.args, &variables),
                Err(error) => Outcome::failure(format!("{error:#}")),
            };
            if args.args.is_empty() {
                outcome.must_have_run()
            } else {
                outcome
            }
        });
    }
    // With a part of a test's name, only when they are asked for: booting takes its time.
    if !wanted.kernels.is_empty() && (args.args.is_empty() || !args.suites.is_empty()) {
        test_kernels(&workspace, &wanted.kernels, args, report)?;
    }
    if report.passed() + report.failed() == 0 {
        bail!("no test has this in its name: {}", args.args.join(" "));
    }
    if args.suites.is_empty() && args.args.is_empty() {
        // Failed tests have been counted; a case that nothing tries has not.
        let table = Table::new(conformance::cases(&workspace)?, &report.tests());
        print_table(&table, args.names);
        report.step(CONFORMANCE, || Outcome {
            failed: table.untested().count(),
            complaints: table
                .untested()
                .map(|id| format!("{id}: no test"))
                .collect(),
            ..Outcome::default()
        });
    }
    Ok(())
}

/// Runs the tests of the cases alone, and counts cases instead of tests.
fn perform_conformance(args: &TestArgs, report: &mut Report) -> Result<()> {
    if args.suites.len() > 1 || !args.args.is_empty() {
        bail!("conformance runs the tests of all cases: it goes with no other suite and no filter");
    }
    let workspace = workspace()?;
    let cases = conformance::cases(&workspace)?;
    setup::ensure(Needs::Tests)?;
    if !build(&workspace, report) {
        return Ok(());
    }
    let suites = Suites::of(&workspace)?;
    for (name, targets) in suites.select(&[])?.tests {
        report.step(&name, || {
            run_suite(&workspace, targets, &conformance::filters(&cases), &[])
        });
    }
    report.count_cases(cases, args.names);
    Ok(())
}

fn build(workspace: &Workspace, report: &mut Report) -> bool {
    report.step("build", || {
        // The programs too: tests of whole hosts run them.
        show(cargo(workspace, "build").arg("--all-targets")).into()
    })
}

fn print_table(table: &Table, with_names: bool) {
    match with_names {
        true => println!("\n{table:#}"),
        false => println!("\n{table}"),
    }
}

/// The suites that exist, each with cargo's arguments for it: one call of cargo per group.
struct Suites(Vec<(String, Vec<Vec<String>>)>);

/// The suites that were asked for.
#[derive(Debug)]
struct Selection<'a> {
    check: bool,
    fuzz: bool,
    kernels: Vec<Kernel>,
    tests: Vec<(String, &'a [Vec<String>])>,
}

impl Suites {
    /// Finds the integration tests that the workspace has at present.
    fn of(workspace: &Workspace) -> Result<Self> {
        let mut ask = cargo(workspace, "metadata");
        let metadata = capture(ask.args(["--no-deps", "--format-version=1"]))?;
        Self::from_metadata(&serde_json::from_str(&metadata).context("read cargo metadata")?)
    }

    fn from_metadata(metadata: &Value) -> Result<Self> {
        let mut unit = vec!["--lib".to_owned(), "--bins".to_owned()];
        let mut whole = BTreeMap::new();
        for package in metadata["packages"]
            .as_array()
            .context("cargo metadata: no packages")?
        {
            let tests = package["targets"].as_array().into_iter().flatten();
            for test in tests.filter(|target| target["kind"][0] == "test") {
                let name = test["name"]
                    .as_str()
                    .context("cargo metadata: a test without name")?;
                let target = ["--test".to_owned(), name.to_owned()];
                if package["name"] == TEST_PACKAGE {
                    whole.insert(name.to_owned(), vec![target.to_vec()]);
                } else {
                    unit.extend(target);
                }
            }
        }
        let mut suites = vec![("unit".to_owned(), vec![unit, vec!["--doc".to_owned()]])];
        // Programs come before the hosts that need them: what fails there fails here, clearer.
        suites.extend(whole.remove_entry("programs"));
        suites.extend(whole);
        Ok(Self(suites))
    }

    /// The suites with these names, or all of them.
    fn select(&self, names: &[String]) -> Result<Selection<'_>> {
        let mut known = ["check", "fuzz", "kernels"].map(str::to_owned).to_vec();
        known.extend(KERNELS.map(kernel_suite));
        known.extend(self.0.iter().map(|(name, _)| name.clone()));
        if let Some(name) = names.iter().find(|name| !known.contains(name)) {
            bail!("there is no suite {name:?}; there are: {}", known.join(" "));
        }
        let is_named = |suite: &str| names.iter().any(|name| name == suite);
        let wanted = |suite: &str| names.is_empty() || is_named(suite);
        let tests = self.0.iter().filter(|(name, _)| wanted(name));
        let tests = tests
            .map(|(name, targets)| (name.clone(), targets.as_slice()))
            .collect();
        Ok(Selection {
            check: wanted("check"),
            fuzz: wanted("fuzz"),
            kernels: KERNELS
                .into_iter()
                .filter(|kernel| wanted("kernels") || is_named(&kernel_suite(*kernel)))
                .collect(),
            tests,
        })
    }
}

/// Runs every fuzz target for a short time, and counts it as a test.
fn fuzz(workspace: &Workspace) -> Outcome {
    let fuzzer = match Fuzzer::build(workspace) {
        Ok(fuzzer) => fuzzer,
        Err(error) => return Outcome::failure(format!("{error:#}")),
    };
    let mut outcome = Outcome::default();
    for target in fuzzer.targets() {
        match fuzzer.run(target, FUZZ_S) {
            Ok(()) => outcome.passed += 1,
            Err(error) => outcome.add(Outcome::failure(format!("{target}: {error:#}"))),
        }
    }
    outcome.must_have_run()
}

/// The name of the suite on one of the older kernels.
fn kernel_suite(kernel: Kernel) -> String {
    format!("kernel-{}", kernel.version)
}

/// Runs tests on older kernels.
fn test_kernels(
    workspace: &Workspace,
    kernels: &[Kernel],
    args: &TestArgs,
    report: &mut Report,
) -> Result<()> {
    let prepared = Kernels::prepare(workspace)?;
    for &kernel in kernels {
        report.step(&format!("kernel {}", kernel.version), || {
            let mut outcome = Outcome::default();
            let result = prepared.run(kernel, args.all, &args.args, |line| {
                println!("{line}");
                outcome.read(line);
            });
            if let Err(error) = result {
                outcome.count_tests();
                outcome.add(Outcome::failure(format!("{error:#}")));
            }
            match args.args.as_slice() {
                [] => outcome.must_have_run(),
                _ => outcome,
            }
        });
    }
    Ok(())
}

/// What a suite's tests are told of.
fn variables(workspace: &Workspace, suite: &str) -> Result<Vec<(&'static str, PathBuf)>> {
    match suite {
        GUESTS => kernels::for_guests(workspace).context("a kernel for the guests"),
        SYSTEMD => {
            let debian = container::for_systemd(workspace).context("a Debian for containers")?;
            Ok([debian, threads()].concat())
        }
        HOSTS => Ok(threads()),
        _ => Ok(Vec::new()),
    }
}

/// The number of tests that run at once in a suite whose tests mostly wait.
fn threads() -> Vec<(&'static str, PathBuf)> {
    if std::env::var_os(TEST_THREADS).is_some() {
        return Vec::new();
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from) * 2;
    vec![(TEST_THREADS, threads.to_string().into())]
}

/// Runs one suite's test programs, all of them even if one fails.
fn run_suite(
    workspace: &Workspace,
    groups: &[Vec<String>],
    args: &[String],
    variables: &[(&str, PathBuf)],
) -> Outcome {
    let mut outcome = Outcome::default();
    for targets in groups {
        let mut command = cargo(workspace, "test");
        command.envs(variables.iter().map(|(name, path)| (name, path)));
        command
            .arg("--no-fail-fast")
            .args(targets)
            .arg("--")
            .args(args);
        match run_tests(&mut command) {
            Ok(part) => outcome.add(part),
            Err(error) => outcome.add(Outcome::failure(format!("{error:#}"))),
        }
    }
    outcome
}

/// Runs `cargo test`, passes its output on as it comes, and counts.
fn run_tests(command: &mut Command) -> Result<Outcome> {
    let text = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{text}`"))?;
    let mut output = BufReader::new(child.stdout.take().context("the tests' output")?);
    let mut outcome = Outcome::default();
    let mut bytes = Vec::new();
    while output.read_until(b'\n', &mut bytes)? > 0 {
        io::stdout().write_all(&bytes)?;
        outcome.read(&String::from_utf8_lossy(&bytes));
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

impl Outcome {
    fn failure(complaint: String) -> Self {
        Self {
            failed: 1,
            complaints: vec![complaint],
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.complaints.extend(other.complaints);
        self.tests.extend(other.tests);
    }

    /// Takes in one line of a test program's output.
    fn read(&mut self, line: &str) {
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
    fn count_tests(&mut self) {
        let passed = self.tests.iter().filter(|(_, passed)| *passed).count();
        self.failed = self.failed.max(self.tests.len() - passed);
        self.passed = self.passed.max(passed);
    }

    /// What failed without being a test: a build, a crash.
    fn broken(&self) -> Option<Self> {
        let failed_tests = self.tests.iter().filter(|(_, passed)| !passed).count();
        let failed = self.failed.saturating_sub(failed_tests);
        (failed > 0).then(|| Self {
            failed,
            complaints: self.complaints.clone(),
            ..Self::default()
        })
    }

    /// A suite in which nothing ran proves nothing.
    fn must_have_run(mut self) -> Self {
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

/// The number that stands before `what`.
fn count_before(text: &str, what: &str) -> Option<usize> {
    let (before, _) = text.split_once(what)?;
    before.rsplit(' ').next()?.parse().ok()
}

impl Report {
    /// Makes one step, with a line before it and its time taken; true if it did not fail.
    fn step(&mut self, name: &str, make: impl FnOnce() -> Outcome) -> bool {
        eprintln!("\n==> {name}");
        let start = Instant::now();
        let outcome = make();
        let good = outcome.failed == 0;
        self.steps
            .push((name.to_owned(), start.elapsed().as_secs_f64(), outcome));
        good
    }

    fn tests(&self) -> Vec<TestResult> {
        let steps = self.steps.iter();
        steps
            .flat_map(|(_, _, outcome)| outcome.tests.iter().cloned())
            .collect()
    }

    /// Shows the cases, and leaves them and what broke as all that counts.
    fn count_cases(&mut self, cases: Vec<Case>, with_names: bool) {
        let table = Table::new(cases, &self.tests());
        print_table(&table, with_names);
        for (_, _, outcome) in &mut self.steps {
            *outcome = outcome.broken().unwrap_or_default();
        }
        self.steps.retain(|(_, _, outcome)| outcome.failed > 0);
        let outcome = Outcome {
            passed: table.passed(),
            failed: table.failed(),
            ..Outcome::default()
        };
        self.steps.push((CONFORMANCE.to_owned(), 0.0, outcome));
    }

    fn passed(&self) -> usize {
        self.steps
            .iter()
            .map(|(_, _, outcome)| outcome.passed)
            .sum()
    }

    fn failed(&self) -> usize {
        self.steps
            .iter()
            .map(|(_, _, outcome)| outcome.failed)
            .sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, seconds, outcome) in &self.steps {
            let verdict = if outcome.failed == 0 { "ok" } else { "FAILED" };
            write!(f, "{name:<20} {verdict:<6} {seconds:>7.1} s")?;
            if outcome.passed > 0 {
                write!(f, "  {} passed", outcome.passed)?;
            }
            if outcome.ignored > 0 {
                write!(f, "  {} ignored", outcome.ignored)?;
            }
            writeln!(f)?;
            for complaint in &outcome.complaints {
                writeln!(f, "    {}", complaint.replace('\n', "\n    "))?;
            }
        }
        write!(f, "{} passed, {} failed", self.passed(), self.failed())
    }
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
        report.count_cases(cases, false);
        // U2 failed, U4 has no test, and a suite crashed.
        assert_eq!((report.passed(), report.failed()), (2, 3));
        assert!(report.to_string().contains("crashed"));
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
    fn the_totals_stand_alone_on_the_last_line() {
        let mut report = Report::default();
        report.step("unit", || read(OUTPUT));
        report.step("fmt", || Err(anyhow::anyhow!("not formatted")).into());
        assert_eq!(
            report.to_string().lines().last(),
            Some("1 passed, 2 failed")
        );
    }

    fn suites() -> Suites {
        let metadata = serde_json::json!({"packages": [
            {"name": "tests", "targets": [
                {"kind": ["lib"], "name": "tests"},
                {"kind": ["test"], "name": "namespaces"},
                {"kind": ["test"], "name": "programs"},
            ]},
            {"name": "nat-user", "targets": [{"kind": ["test"], "name": "cli"}]},
        ]});
        Suites::from_metadata(&metadata).unwrap()
    }

    #[test]
    fn all_suites_are_run_if_none_is_named() {
        let suites = suites();
        let all = suites.select(&[]).unwrap();
        let names: Vec<_> = all.tests.iter().map(|(name, _)| name.as_str()).collect();
        assert!(all.check && all.fuzz && all.kernels.len() == KERNELS.len());
        assert_eq!(names, ["unit", "programs", "namespaces"]);
        assert_eq!(all.tests[0].1[0], ["--lib", "--bins", "--test", "cli"]);
    }

    #[test]
    fn only_the_named_suites_are_run() {
        let suites = suites();
        let some = suites.select(&["programs".to_owned()]).unwrap();
        assert!(!some.check && !some.fuzz);
        assert!(some.tests.len() == 1 && some.kernels.is_empty());
        let old = ["kernel-6.1".to_owned()];
        let old = suites.select(&old).unwrap();
        assert!(old.tests.is_empty() && old.kernels.len() == 1);
        let error = suites
            .select(&["program".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"program\"") && error.contains("namespaces"),
            "{error}"
        );
    }
}
