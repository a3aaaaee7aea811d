//! Puts the BPF object beside the compiled sources, as `$OUT_DIR/nat-ebpf.o`.
//!
//! It is built here from `nat-ebpf`, or taken from the file that `NATBPF_BPF_OBJECT` names.

use std::{env, fs, path::PathBuf, process::ExitCode};

use bpf_toolchain::{OBJECT_VARIABLE, ObjectBuild, Toolchain, Workspace, check_object};

/// What the object is made of, from the workspace's root.
const SOURCES: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "nat-ebpf/Cargo.toml",
    "nat-ebpf/src",
    "nat-common/Cargo.toml",
    "nat-common/src",
];

fn main() -> ExitCode {
    match provide_object() {
        Ok(inputs) => {
            // Only now: cargo shows what a failed script printed, and runs it again anyway.
            println!("cargo:rerun-if-env-changed={OBJECT_VARIABLE}");
            for input in inputs {
                println!("cargo:rerun-if-changed={}", input.display());
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Copies the object to where the sources include it from, and returns what it was made from.
fn provide_object() -> Result<Vec<PathBuf>, String> {
    let workspace = Workspace::of_build_script().map_err(|error| format!("{error:#}"))?;
    let (object, inputs) = match env::var_os(OBJECT_VARIABLE) {
        Some(named) => prebuilt(workspace.root().join(named))?,
        None => build(&workspace)?,
    };
    let output = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("nat-ebpf.o");
    match fs::copy(&object, &output) {
        Ok(_) => Ok(inputs),
        Err(error) => Err(format!(
            "copy {} to {}: {error}",
            object.display(),
            output.display()
        )),
    }
}

/// The object that a packager has built before.
fn prebuilt(object: PathBuf) -> Result<(PathBuf, Vec<PathBuf>), String> {
    check_object(&object).map_err(|error| {
        format!("{OBJECT_VARIABLE} must name a BPF object built from nat-ebpf: {error:#}")
    })?;
    Ok((object.clone(), vec![object]))
}

/// The object built from this workspace's sources.
fn build(workspace: &Workspace) -> Result<(PathBuf, Vec<PathBuf>), String> {
    let toolchain = Toolchain::find(workspace)
        .map_err(|missing| format!("{missing}\nrun: cargo xtask setup"))?;
    let mut inputs: Vec<_> = SOURCES
        .iter()
        .map(|name| workspace.root().join(name))
        .collect();
    inputs.extend(toolchain.files());
    let target_dir = workspace.bpf_target();
    let build = ObjectBuild {
        workspace,
        package: "nat-ebpf",
        toolchain: &toolchain,
        target_dir,
    };
    let object = build.build().map_err(|error| format!("{error:#}"))?;
    Ok((object, inputs))
}
