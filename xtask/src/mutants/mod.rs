//! `cargo xtask mutants`: which errors in `nat-common` would no test notice?
//!
//! cargo-mutants makes one small error at a time (a *mutant*: another operator, another result, a
//! missing branch) in a copy of the workspace and runs the tests of `nat-common`, which need
//! neither root nor the kernel. A mutant that passes all of them *survives*: a test is missing, or
//! the mutant is accepted, with a reason, in [`accepted::FILE`].

pub(crate) mod accepted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use bpf_toolchain::Workspace;
use bpf_toolchain::process::{capture, line};
use clap::Args;
use serde_json::Value;

use crate::cargo_tool::CargoTool;
use crate::command::workspace;
use accepted::{Accepted, Mutant};

const MUTANTS: CargoTool = CargoTool {
    subcommand: "mutants",
    version: "27.1.0",
    unoptimised: false,
};
/// The package whose code is changed and whose tests are run.
const PACKAGE: &str = "nat-common";
/// The cargo profile of the tests: the root `Cargo.toml` has it.
const PROFILE: &str = "mutants";
/// Random input is the same for each mutant, what fails is not made smaller, and of the orders in
/// which two CPUs may do something some are tried.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("NATBPF_RACES", "100"),
    ("PROPTEST_RNG_SEED", "1"),
    ("PROPTEST_MAX_SHRINK_ITERS", "0"),
    ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true"),
];
/// How long the tests of a mutant may take at least, in seconds. Without it cargo-mutants allows
/// five times what they take without a mutant, which on a machine that becomes busy is not enough:
/// a mutant would count as killed although all tests pass.
const LEAST_TIMEOUT_S: &str = "60";
/// Exit codes of cargo-mutants with which its results are complete: all killed, some survived, some
/// tests did not end.
const COMPLETE: [i32; 3] = [0, 2, 3];

/// Which mutants.
#[derive(Args, Debug)]
pub(crate) struct MutantsArgs {
    /// Only mutants of lines that differ from this revision
    #[arg(long, value_name = "REVISION")]
    in_diff: Option<String>,
    /// Only one part of them: 0/8 to 7/8 together are all
    #[arg(long, value_name = "N/M")]
    shard: Option<String>,
    /// Only mutants whose description matches this regular expression
    #[arg(long, value_name = "REGEX")]
    matching: Option<String>,
    /// How many mutants are tested at the same time
    #[arg(short, long, default_value_t = 2)]
    jobs: usize,
}

/// The command itself: fails if a mutant survives that is not accepted, or if an accepted one does
/// not exist.
pub(crate) fn run(args: &MutantsArgs) -> Result<ExitCode> {
    let workspace = workspace()?;
    let tool = Tool::install(&workspace)?;
    let accepted = Accepted::read(&workspace)?;
    let all = tool.list()?;
    let stale = accepted.stale(&all);
    for entry in &stale {
        println!(
            "stale: no mutant is described by this entry of {}:\n{entry}",
            accepted::FILE
        );
    }
    let results = tool.test(args)?;
    // Results are places in a file: they are read as they were when the mutants were made.
    ensure!(
        tool.list()? == all,
        "the sources of {PACKAGE} changed while its mutants were tested: run this again, and leave \
         them as they are until it ends"
    );
    let report = Report::new(results, &accepted);
    print!("{report}");
    match stale.is_empty() && report.survivors.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// cargo-mutants, installed.
struct Tool {
    workspace: Workspace,
    program: PathBuf,
}

impl Tool {
    /// Finds it below the target directory, or builds it there.
    fn install(workspace: &Workspace) -> Result<Self> {
        Ok(Self {
            workspace: workspace.clone(),
            program: MUTANTS.install(workspace)?,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.workspace.root());
        command.args(["mutants", "--package", PACKAGE]);
        // Each copy of the workspace has its own target directory.
        command.env_remove("CARGO_TARGET_DIR");
        command
    }

    /// All mutants that there are.
    fn list(&self) -> Result<Vec<Mutant>> {
        let list = capture(self.command().args(["--list", "--json"]))?;
        let list: Value = serde_json::from_str(&list).context("read the list of mutants")?;
        let mut sources = Sources::new(self.workspace.root());
        let mutants = list.as_array().context("the list of mutants")?;
        mutants
            .iter()
            .map(|mutant| sources.mutant(mutant))
            .collect()
    }

    /// Tests those that are asked for.
    fn test(&self, args: &MutantsArgs) -> Result<Vec<(Mutant, Fate)>> {
        let output = self.workspace.target().join("mutants");
        let results = output.join("mutants.out/outcomes.json");
        fs::create_dir_all(&output).with_context(|| format!("make {}", output.display()))?;
        let _ = fs::remove_file(&results);
        let mut command = self.command();
        command.args(["--profile", PROFILE, "--no-times"]);
        command.args(["--minimum-test-timeout", LEAST_TIMEOUT_S, "--output"]);
        command
            .arg(&output)
            .arg("--jobs")
            .arg(args.jobs.to_string());
        if let Some(revision) = &args.in_diff {
            let diff = output.join("diff");
            fs::write(&diff, self.diff(revision)?)
                .with_context(|| format!("write {}", diff.display()))?;
            command.arg("--in-diff").arg(diff);
        }
        if let Some(shard) = &args.shard {
            command.args(["--shard", shard]);
        }
        if let Some(regex) = &args.matching {
            command.args(["--re", regex]);
        }
        command.envs(ENVIRONMENT).args(["--", "--tests"]);
        let status = command
            .status()
            .with_context(|| format!("start `{}`", line(&command)))?;
        if !status.code().is_some_and(|code| COMPLETE.contains(&code)) {
            bail!(
                "`{}` failed ({status}); its output is above",
                line(&command)
            );
        }
        match fs::read_to_string(&results) {
            Ok(text) => outcomes(&text, &mut Sources::new(self.workspace.root())),
            // Where no line with a mutant has changed it writes nothing.
            Err(_) => Ok(Vec::new()),
        }
    }

    /// The difference to a revision, in the form that cargo-mutants reads, independent of git's
    /// settings.
    fn diff(&self, revision: &str) -> Result<String> {
        let mut git = Command::new("git");
        git.current_dir(self.workspace.root());
        git.args(["diff", "--no-color", "--no-ext-diff"]);
        git.args([
            "--src-prefix=a/",
            "--dst-prefix=b/",
            revision,
            "--",
            PACKAGE,
        ]);
        capture(&mut git)
    }
}

/// The source files that mutants refer to.
struct Sources {
    root: PathBuf,
    last: (String, Vec<String>),
}

impl Sources {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            last: Default::default(),
        }
    }

    /// Reads a mutant as cargo-mutants describes it.
    fn mutant(&mut self, value: &Value) -> Result<Mutant> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let file = text(&value["file"]).context("a mutant without a file")?;
        let name = text(&value["name"]).context("a mutant without a name")?;
        let (place, change) = name.split_once(": ").context("a mutant without a place")?;
        let function = text(&value["function"]["function_name"]).unwrap_or_default();
        let code = match value["genre"].as_str() {
            Some("FnValue") => String::new(),
            _ => self.code(&file, &value["span"])?,
        };
        Ok(Mutant {
            place: place.to_owned(),
            change: change.to_owned(),
            file,
            function,
            code,
        })
    }

    /// The first changed line, with marks around the change.
    fn code(&mut self, file: &str, span: &Value) -> Result<String> {
        if self.last.0 != file {
            let path = self.root.join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            self.last = (file.to_owned(), text.lines().map(str::to_owned).collect());
        }
        let number = |end: &str, what: &str| span[end][what].as_u64().unwrap_or(0) as usize;
        let (first, last) = (number("start", "line"), number("end", "line"));
        let line = first
            .checked_sub(1)
            .and_then(|index| self.last.1.get(index));
        let line: Vec<char> = line
            .context("a mutant behind its file's end")?
            .chars()
            .collect();
        let start = number("start", "column").saturating_sub(1).min(line.len());
        let end = match last == first {
            true => number("end", "column")
                .saturating_sub(1)
                .clamp(start, line.len()),
            false => line.len(),
        };
        let part = |range: &[char]| range.iter().collect::<String>();
        let (before, changed, after) = (&line[..start], &line[start..end], &line[end..]);
        let marked = format!("{}«{}»{}", part(before), part(changed), part(after));
        Ok(marked.trim().to_owned())
    }
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A test failed.
    Killed,
    /// The tests did not end.
    TimedOut,
    /// All tests passed.
    Survived,
    /// It does not compile.
    Unviable,
}

/// Reads the results of cargo-mutants.
fn outcomes(text: &str, sources: &mut Sources) -> Result<Vec<(Mutant, Fate)>> {
    let all: Value = serde_json::from_str(text).context("read the results of cargo-mutants")?;
    let mut results = Vec::new();
    for outcome in all["outcomes"].as_array().into_iter().flatten() {
        let mutant = &outcome["scenario"]["Mutant"];
        // The other scenario is the unmodified code.
        if mutant.is_null() {
            continue;
        }
        let fate = match outcome["summary"].as_str().unwrap_or_default() {
            "CaughtMutant" => Fate::Killed,
            "Timeout" => Fate::TimedOut,
            "MissedMutant" => Fate::Survived,
            "Unviable" => Fate::Unviable,
            other => bail!("cargo-mutants says {other:?} of {}", mutant["name"]),
        };
        results.push((sources.mutant(mutant)?, fate));
    }
    Ok(results)
}

/// What is said at the end.
#[derive(Debug, Default)]
struct Report {
    killed: usize,
    timed_out: usize,
    unviable: usize,
    accepted: Vec<(Mutant, String)>,
    survivors: Vec<Mutant>,
    /// Accepted ones that a test kills.
    needless: Vec<Mutant>,
}

impl Report {
    fn new(results: Vec<(Mutant, Fate)>, accepted: &Accepted) -> Self {
        let mut report = Self::default();
        for (mutant, fate) in results {
            let reason = accepted.reason(&mutant).map(str::to_owned);
            match (fate, reason) {
                (Fate::Unviable, _) => report.unviable += 1,
                (Fate::Survived, Some(reason)) => report.accepted.push((mutant, reason)),
                (Fate::Survived, None) => report.survivors.push(mutant),
                (Fate::Killed | Fate::TimedOut, reason) => {
                    report.killed += 1;
                    report.timed_out += usize::from(fate == Fate::TimedOut);
                    if reason.is_some() {
                        report.needless.push(mutant);
                    }
                }
            }
        }
        report
    }

    /// Of the mutants that compile, how many are killed, in percent.
    fn score(&self) -> f64 {
        let alive = self.accepted.len() + self.survivors.len();
        let viable = self.killed + alive;
        100.0 * self.killed as f64 / viable.max(1) as f64
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (mutant, reason) in &self.accepted {
            writeln!(
                f,
                "accepted: {}: {}\n    {reason}",
                mutant.place, mutant.change
            )?;
        }
        for mutant in &self.needless {
            writeln!(
                f,
                "accepted, but a test kills it: {}: {}",
                mutant.place, mutant.change
            )?;
        }
        for mutant in &self.survivors {
            writeln!(f, "SURVIVED: {}: {}", mutant.place, mutant.change)?;
            writeln!(f, "{}", accepted::entry(mutant, "why no test can kill it"))?;
        }
        let (accepted, survived) = (self.accepted.len(), self.survivors.len());
        writeln!(
            f,
            "{} mutants: {} killed ({} by a timeout), {} do not compile, {accepted} accepted, \
             {survived} survived; score {:.1} %",
            self.killed + self.unviable + accepted + survived,
            self.killed,
            self.timed_out,
            self.unviable,
            self.score()
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources() -> Sources {
        let code = "    let is_new = a == b && c == d;";
        Sources {
            root: PathBuf::from("/nonexistent"),
            last: ("a.rs".to_owned(), vec![String::new(), code.to_owned()]),
        }
    }

    fn described(genre: &str, column: u64) -> Value {
        let position = |column: u64| json!({"line": 2, "column": column});
        json!({
            "file": "a.rs",
            "name": format!("a.rs:2:{column}: replace == with != in f"),
            "genre": genre,
            "function": {"function_name": "f"},
            "span": {"start": position(column), "end": position(column + 2)},
        })
    }

    fn mutant(column: u64) -> Mutant {
        sources()
            .mutant(&described("BinaryOperator", column))
            .unwrap()
    }

    #[test]
    fn a_mutant_is_known_by_its_code_not_by_its_line() {
        let mutant = mutant(20);
        assert_eq!(mutant.place, "a.rs:2:20");
        assert_eq!(mutant.change, "replace == with != in f");
        assert_eq!(mutant.code, "let is_new = a «==» b && c == d;");
        let other = self::mutant(30);
        assert_eq!(other.change, mutant.change);
        assert_eq!(other.code, "let is_new = a == b && c «==» d;");
    }

    #[test]
    fn a_mutant_of_a_whole_function_is_known_by_its_name() {
        let mutant = sources().mutant(&described("FnValue", 5)).unwrap();
        assert_eq!((mutant.function.as_str(), mutant.code.as_str()), ("f", ""));
    }

    #[test]
    fn results_are_read_and_the_tests_of_the_code_as_it_is_left_out() {
        let outcome = |summary: &str| {
            json!({
                "scenario": {"Mutant": described("BinaryOperator", 20)},
                "summary": summary,
            })
        };
        let baseline = json!({"scenario": "Baseline", "summary": "Success"});
        let of = |outcomes: Value| super::outcomes(&outcomes.to_string(), &mut sources());
        let all = json!({"outcomes": [
            baseline, outcome("CaughtMutant"), outcome("Timeout"), outcome("MissedMutant"),
            outcome("Unviable"),
        ]});
        let fates: Vec<Fate> = of(all).unwrap().into_iter().map(|(_, fate)| fate).collect();
        assert_eq!(
            fates,
            [Fate::Killed, Fate::TimedOut, Fate::Survived, Fate::Unviable]
        );
        assert!(of(json!({"outcomes": [outcome("Failure")]})).is_err());
    }

    #[test]
    fn the_score_counts_compiling_mutants_and_accepted_ones_do_not_survive() {
        let accepted = Accepted::parse(&accepted::entry(&mutant(20), "equal either way")).unwrap();
        let results = vec![
            (mutant(20), Fate::Survived),
            (mutant(30), Fate::Survived),
            (mutant(30), Fate::Killed),
            (mutant(30), Fate::TimedOut),
            (mutant(30), Fate::Unviable),
        ];
        let report = Report::new(results, &accepted);
        assert_eq!(report.accepted.len(), 1);
        assert_eq!(report.survivors, [mutant(30)]);
        let text = report.to_string();
        assert!(text.contains("score 50.0 %"), "{text}");
        assert!(
            text.contains("5 mutants: 2 killed (1 by a timeout)"),
            "{text}"
        );
        let results = vec![(mutant(20), Fate::Killed)];
        assert_eq!(Report::new(results, &accepted).needless, [mutant(20)]);
    }
}
