//! natbpf's development commands: `cargo xtask help` lists them.
//!
//! Each command is a module. None of them ships; what ships is built from `nat-user`.

mod bench;
mod build;
mod cargo_tool;
mod check;
#[cfg(test)]
mod columns;
mod command;
#[cfg(test)]
mod compliance;
mod conformance;
mod container;
mod fuzz;
mod kernels;
mod lab;
#[cfg(test)]
mod layers;
mod mutants;
mod run;
mod setup;
mod soak;
#[cfg(test)]
mod sources;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Set up, build, run and test natbpf
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Install the tools for building and testing; changes nothing the second time
    Setup,
    /// Build natbpf, and print where it is
    Build(build::BuildArgs),
    /// Show natbpf at work in a lab of network namespaces, or run it on this host with -c FILE
    Run(run::RunArgs),
    /// Create the lab's hosts and keep them for experiments
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Check format, lints for the host and the BPF target, dependencies and documentation
    Check,
    /// Measure natbpf against nftables in the lab
    Bench(bench::BenchArgs),
    /// Run the fuzz targets of tests/fuzz on random input
    Fuzz(fuzz::FuzzArgs),
    /// Make small errors in nat-common, one at a time, and show those that no test detects
    Mutants(mutants::MutantsArgs),
    /// Run random operations on a host with natbpf under traffic, and check every byte of it
    Soak(soak::SoakArgs),
    /// Run all checks and tests, or only the named ones
    Test(test::TestArgs),
}

fn main() -> ExitCode {
    let task = Task::parse();
    match find_tools_first().and_then(|()| perform(task)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes all child processes call the tools that set-up has unpacked instead of the system's.
fn find_tools_first() -> Result<()> {
    let path = setup::path()?;
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("PATH", path) };
    Ok(())
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::run()?,
        Task::Build(args) => build::run(&args)?,
        Task::Run(args) => run::run(args)?,
        Task::Lab(command) => lab::run(command)?,
        Task::Bench(args) => bench::run(&args)?,
        Task::Fuzz(args) => return fuzz::run(&args),
        Task::Mutants(args) => return mutants::run(&args),
        Task::Soak(args) => soak::run(&args)?,
        Task::Check => return check::run(),
        Task::Test(args) => return Ok(test::run(&args)),
    }
    Ok(ExitCode::SUCCESS)
}
