//! `cargo xtask test`: every check and every test, and one line with the totals at the end.
//!
//! Tests are ordinary `cargo test` targets. What this adds: set-up, the checks, the program that
//! the tests run, steps that run beside each other (see [`lanes`]), a summary, the rule that a
//! suite which ran nothing has failed, and the table of the cases of docs/behaviour.md (see
//! [`conformance`]): after all suites, or by itself.

mod lanes;
mod outcome;
mod report;
mod suites;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use bpf_toolchain::Workspace;
use bpf_toolchain::output;
use bpf_toolchain::process::show;
use clap::Args;

use crate::check::CHECKS;
use crate::command::{cargo, workspace};
use crate::conformance::{self, Table};
use crate::container;
use crate::fuzz::Fuzzer;
use crate::kernels::{self, Kernel, Kernels};
use crate::setup::{self, Needs};
use lanes::Lane;
use outcome::{Outcome, run_tests};
use report::{CONFORMANCE, Report};
use suites::{Selection, Suite, Suites};

/// The suite that boots guests, and so needs a kernel for them.
const GUESTS: &str = "guests";
/// The suite that boots containers, and so needs a Debian for them.
const SYSTEMD: &str = "systemd";
/// The suite of hosts in namespaces. Its tests mostly wait, so several share a processor.
const HOSTS: &str = "namespaces";
/// How many tests run at once by default.
const TEST_THREADS: &str = "RUST_TEST_THREADS";
/// The step that builds all programs and tests.
const BUILD: &str = "build";
/// The check that first builds its tool, in a target directory of the tool's own.
const DEPENDENCIES: &str = "dependencies";

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

impl TestArgs {
    /// Whether all suites run, and all their tests.
    fn is_everything(&self) -> bool {
        self.suites.is_empty() && self.args.is_empty()
    }

    /// Fails a suite in which no test ran, unless only a part of its tests was asked for.
    fn expect_tests(&self, outcome: Outcome) -> Outcome {
        match self.args.as_slice() {
            [] => outcome.must_have_run(),
            _ => outcome,
        }
    }
}

/// The command itself. The totals are its last line, whatever happens.
pub(crate) fn run(args: &TestArgs) -> ExitCode {
    let mut report = Report::default();
    let performed = match args.suites.iter().any(|suite| suite == CONFORMANCE) {
        true => perform_conformance(args, &mut report),
        false => perform(args, &mut report),
    };
    if let Err(error) = performed {
        report.fail(&error);
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
    check_and_build(&workspace, &wanted, args, report);
    if (wanted.tests.is_empty() && wanted.kernels.is_empty()) || report.has_failed(BUILD) {
        return Ok(());
    }
    let (beside_kernels, alone) = wanted.split_tests();
    for suite in alone {
        report.step(&suite.name, || test_suite(&workspace, suite, args));
    }
    let mut hosts = Lane::default();
    for suite in beside_kernels {
        hosts.add(&suite.name, || test_suite(&workspace, suite, args));
    }
    let image = OnceLock::new();
    let mut lanes = vec![hosts];
    // With a part of a test's name, only when they are asked for: booting takes its time.
    if args.args.is_empty() || !args.suites.is_empty() {
        for &kernel in &wanted.kernels {
            let (workspace, image) = (&workspace, &image);
            let mut lane = Lane::default();
            lane.add(&format!("kernel {}", kernel.version), move || {
                match image.get_or_init(|| Kernels::prepare(workspace)) {
                    Ok(image) => test_kernel(image, kernel, args),
                    Err(error) => Outcome::failure(format!("{error:#}")),
                }
            });
            lanes.push(lane);
        }
    }
    report.run_lanes(lanes);
    if report.passed() + report.failed() == 0 {
        bail!("no test has this in its name: {}", args.args.join(" "));
    }
    if args.is_everything() {
        show_cases(&workspace, args, report)?;
    }
    Ok(())
}

/// Runs the checks and builds everything. Crates with their own target directory are built in
/// parallel: rustc often has work for only one processor.
fn check_and_build(
    workspace: &Workspace,
    wanted: &Selection<'_>,
    args: &TestArgs,
    report: &mut Report,
) {
    let (mut here, mut elsewhere) = (Lane::default(), Lane::default());
    for (name, check) in CHECKS.iter().filter(|_| wanted.check) {
        let lane = match *name == DEPENDENCIES {
            true => &mut elsewhere,
            false => &mut here,
        };
        lane.add(name, || check(workspace).into());
    }
    // A part of a test's name is none of a fuzz target's.
    if wanted.fuzz && args.args.is_empty() {
        elsewhere.add("fuzz", || fuzz(workspace));
    }
    if !wanted.tests.is_empty() || !wanted.kernels.is_empty() {
        here.add(BUILD, || build(workspace));
    }
    report.run_lanes(vec![here, elsewhere]);
}

/// Shows the table of cases. Failed tests have been counted; a case that nothing tries has not.
fn show_cases(workspace: &Workspace, args: &TestArgs, report: &mut Report) -> Result<()> {
    let table = Table::new(conformance::cases(workspace)?, &report.tests());
    print_table(&table, args.names);
    report.step(CONFORMANCE, || Outcome {
        failed: table.untested().count(),
        complaints: table
            .untested()
            .map(|id| format!("{id}: no test"))
            .collect(),
        ..Outcome::default()
    });
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
    report.step(BUILD, || build(&workspace));
    if report.has_failed(BUILD) {
        return Ok(());
    }
    let suites = Suites::of(&workspace)?;
    for suite in suites.select(&[])?.tests {
        report.step(&suite.name, || {
            run_suite(&workspace, suite, &conformance::filters(&cases), &[])
        });
    }
    let table = report.count_cases(cases);
    print_table(&table, args.names);
    Ok(())
}

/// Builds the tests, and the programs too: tests of whole hosts run them.
fn build(workspace: &Workspace) -> Outcome {
    show(cargo(workspace, "build").arg("--all-targets")).into()
}

fn print_table(table: &Table, with_names: bool) {
    match with_names {
        true => println!("\n{table:#}"),
        false => println!("\n{table}"),
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

/// Runs tests on an older kernel.
fn test_kernel(image: &Kernels, kernel: Kernel, args: &TestArgs) -> Outcome {
    let mut outcome = Outcome::default();
    let result = image.run(kernel, args.all, &args.args, |line| {
        output::print(line);
        outcome.read(line);
    });
    if let Err(error) = result {
        outcome.count_tests();
        outcome.add(Outcome::failure(format!("{error:#}")));
    }
    args.expect_tests(outcome)
}

/// Runs one suite with what its tests need.
fn test_suite(workspace: &Workspace, suite: &Suite, args: &TestArgs) -> Outcome {
    let outcome = match variables(workspace, &suite.name) {
        Ok(variables) => run_suite(workspace, suite, &args.args, &variables),
        Err(error) => Outcome::failure(format!("{error:#}")),
    };
    args.expect_tests(outcome)
}

/// The environment of a suite's tests.
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
    suite: &Suite,
    args: &[String],
    variables: &[(&str, PathBuf)],
) -> Outcome {
    let mut outcome = Outcome::default();
    for targets in &suite.targets {
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
