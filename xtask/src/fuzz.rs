//! `cargo xtask fuzz`: the targets of `tests/fuzz`, each on random input for some time.
//!
//! The instrumentation is an LLVM pass, which stable rustc has too, so neither cargo-fuzz nor a
//! nightly toolchain is needed; libFuzzer itself comes with the crate libfuzzer-sys.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bpf_toolchain::Workspace;
use bpf_toolchain::output::{print, say};
use bpf_toolchain::process::{capture, line, show};
use clap::Args;

use crate::command::{cargo, workspace};
use crate::setup::{self, Needs};

/// What libFuzzer needs to know of the code: which edges are taken, and what is compared.
const RUSTFLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// One input may take this long in seconds, before it is a finding.
const INPUT_TIMEOUT_S: u32 = 20;
/// Lines of a failed run that are shown.
const LINES_SHOWN: usize = 30;

/// What to fuzz.
#[derive(Args, Debug)]
pub(crate) struct FuzzArgs {
    /// Files of tests/fuzz/fuzz_targets without their ending; all of them if none is named
    targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// The command itself: every target runs, even after a failure.
pub(crate) fn run(args: &FuzzArgs) -> Result<ExitCode> {
    setup::ensure(Needs::Tests)?;
    let fuzzer = Fuzzer::build(&workspace()?)?;
    let mut code = ExitCode::SUCCESS;
    for target in fuzzer.select(&args.targets)? {
        if let Err(error) = fuzzer.run(target, args.seconds) {
            println!("{target}: FAILED: {error:#}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// The targets, built.
pub(crate) struct Fuzzer {
    /// tests/fuzz.
    sources: PathBuf,
    /// Where the programs, their logs and what they have found worth keeping are.
    output: PathBuf,
    programs: PathBuf,
    targets: Vec<String>,
}

impl Fuzzer {
    /// Builds all targets.
    ///
    /// # Errors
    /// When one does not compile; the messages are shown by then.
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let sources = workspace.root().join("tests/fuzz");
        let output = workspace.target().join("fuzz");
        let host = host()?;
        let mut build = cargo(workspace, "build");
        build.arg("--manifest-path").arg(sources.join("Cargo.toml"));
        // With a target named, build scripts and macros are left without instrumentation.
        build.args(["--release", "--target", &host, "--target-dir"]);
        build.arg(&output);
        build.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"));
        show(&mut build)?;
        Ok(Self {
            targets: targets(&sources.join("fuzz_targets"))?,
            programs: output.join(host).join("release"),
            sources,
            output,
        })
    }

    /// All targets.
    pub(crate) fn targets(&self) -> &[String] {
        &self.targets
    }

    fn select<'a>(&'a self, names: &'a [String]) -> Result<&'a [String]> {
        if let Some(name) = names.iter().find(|name| !self.targets.contains(name)) {
            bail!(
                "there is no target {name:?}; there are: {}",
                self.targets.join(" ")
            );
        }
        Ok(if names.is_empty() {
            &self.targets
        } else {
            names
        })
    }

    /// Runs a target on all inputs there are and then on random ones, for so long.
    ///
    /// # Errors
    /// When it has found something: then with what, and where the input is.
    pub(crate) fn run(&self, target: &str, seconds: u32) -> Result<()> {
        say(&format!("fuzzing {target} for {seconds} s"));
        let start = Instant::now();
        let log = self.output.join(format!("{target}.log"));
        let mut command = self.command(target, seconds)?;
        let output = File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let status = command
            // The message says what; a trace is had by running the input alone.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("the log")?)
            .stderr(output)
            .status()
            .with_context(|| format!("start `{}`", line(&command)))?;
        let mut text = Vec::new();
        File::open(&log)?.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let runs = runs(&text);
        match runs {
            Some(runs) if status.success() => {
                let elapsed_s = start.elapsed().as_secs();
                print(&format!("{target}: ok, {runs} inputs in {elapsed_s} s"));
                Ok(())
            }
            _ => bail!(
                "`{}` ended with {status}:\n{}",
                line(&command),
                finding(&text)
            ),
        }
    }

    fn command(&self, target: &str, seconds: u32) -> Result<Command> {
        let corpus = self.output.join("corpus").join(target);
        let artifacts = self.sources.join("artifacts").join(target);
        for dir in [&corpus, &artifacts] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let mut command = Command::new(self.programs.join(target));
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_TIMEOUT_S}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()));
        let words = self.sources.join(format!("dictionaries/{target}"));
        if words.is_file() {
            command.arg(format!("-dict={}", words.display()));
        }
        // What is new goes to the first directory.
        command.arg(corpus);
        let committed = ["seeds", "regressions"].map(|kind| self.sources.join(kind).join(target));
        command.args(committed.iter().filter(|dir| dir.is_dir()));
        Ok(command)
    }
}

/// The target triple of this machine.
fn host() -> Result<String> {
    let version = capture(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV: no host")?.to_owned())
}

/// The names of the targets, in order.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "rs")
            && let Some(name) = path.file_stem()
        {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    if targets.is_empty() {
        bail!("{} holds no target", dir.display());
    }
    targets.sort();
    Ok(targets)
}

/// How many inputs libFuzzer says at its end that it has tried.
fn runs(log: &str) -> Option<u64> {
    let done = log.lines().find_map(|line| line.strip_prefix("Done "))?;
    done.split(' ')
        .next()?
        .parse()
        .ok()
        .filter(|&runs| runs > 0)
}

/// What a log says of a finding: from the panic on, or else its end.
fn finding(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let panic = lines.iter().position(|line| line.contains(" panicked at "));
    let start = panic.unwrap_or(lines.len().saturating_sub(LINES_SHOWN));
    let mut shown: Vec<&str> = lines[start..].iter().take(LINES_SHOWN).copied().collect();
    let written = lines
        .iter()
        .find(|line| line.contains("Test unit written to"));
    shown.extend(written.filter(|line| !shown.contains(line)));
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_counted_by_its_last_words() {
        assert_eq!(
            runs("#2 INITED\nDone 4711 runs in 11 second(s)\n"),
            Some(4711)
        );
        assert_eq!(runs("Done 0 runs in 11 second(s)\n"), None);
        assert_eq!(runs("#2 INITED\n"), None);
    }

    #[test]
    fn a_finding_is_the_panic_and_its_input() {
        let noise = "#17 NEW cov: 3\n".repeat(50);
        let log = format!(
            "{noise}thread 'x' panicked at a.rs:1:\nleft is not right\n{noise}\
             artifact_prefix='a/'; Test unit written to a/crash-1\n"
        );
        let finding = finding(&log);
        assert!(finding.starts_with("thread 'x' panicked"), "{finding}");
        assert!(finding.ends_with("a/crash-1"), "{finding}");
    }

    #[test]
    fn every_target_has_seeds() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
        for target in targets(&sources.join("fuzz_targets")).unwrap() {
            let seeds = fs::read_dir(sources.join("seeds").join(&target));
            assert!(
                seeds.is_ok_and(|mut seeds| seeds.next().is_some()),
                "{target}"
            );
        }
    }
}
