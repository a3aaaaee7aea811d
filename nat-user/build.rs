//! Puts the BPF objects beside the compiled sources, as `$OUT_DIR/nat-ebpf.o` and
//! `$OUT_DIR/nat-ebpf6.o`.
//!
//! They are built here from `nat-ebpf`, or taken from the file that `NATBPF_BPF_OBJECT` names and
//! `nat-ebpf6` beside it.

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bpf_toolchain::{OBJECT_VARIABLE, ObjectBuild, Toolchain, Workspace, check_object};

/// What the objects are made of, from the workspace's root.
const SOURCES: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "nat-ebpf/Cargo.toml",
    "nat-ebpf/src",
    "nat-common/Cargo.toml",
    "nat-common/src",
];

fn main() -> ExitCode {
    match provide_objects() {
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

/// The programs of `nat-ebpf`, each an object.
const PROGRAMS: [&str; 2] = ["nat-ebpf", "nat-ebpf6"];

/// Copies the objects to where the sources include them from, and returns what they were made from.
fn provide_objects() -> Result<Vec<PathBuf>, String> {
    let workspace = Workspace::of_build_script().map_err(|error| format!("{error:#}"))?;
    let (objects, inputs) = match env::var_os(OBJECT_VARIABLE) {
        Some(named) => prebuilt(&workspace.root().join(named))?,
        None => build(&workspace)?,
    };
    let directory = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for (program, object) in PROGRAMS.iter().zip(&objects) {
        let output = directory.join(format!("{program}.o"));
        fs::copy(object, &output).map_err(|error| {
            format!("copy {} to {}: {error}", object.display(), output.display())
        })?;
    }
    Ok(inputs)
}

/// The objects that a packager has built before: the first is named, and the others are beside it.
fn prebuilt(object: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), String> {
    let extension = object.extension().unwrap_or_default();
    let beside = |program| object.with_file_name(program).with_extension(extension);
    let others = PROGRAMS.iter().skip(1).map(beside);
    let objects: Vec<_> = iter::once(object.to_owned()).chain(others).collect();
    for object in &objects {
        check_object(object).map_err(|error| {
            format!(
                "{OBJECT_VARIABLE} must name a BPF object built from nat-ebpf, with nat-ebpf6 \
                 beside it: {error:#}"
            )
        })?;
    }
    Ok((objects.clone(), objects))
}

/// The objects built from this workspace's sources.
fn build(workspace: &Workspace) -> Result<(Vec<PathBuf>, Vec<PathBuf>), String> {
    let toolchain = Toolchain::find(workspace)
        .map_err(|missing| format!("{missing}\nrun: cargo xtask setup"))?;
    let mut inputs: Vec<_> = SOURCES
        .iter()
        .map(|name| workspace.root().join(name))
        .collect();
    inputs.extend(toolchain.files());
    let object = |program| {
        let build = ObjectBuild {
            workspace,
            package: "nat-ebpf",
            program,
            toolchain: &toolchain,
            target_dir: workspace.bpf_target(),
        };
        build.build().map_err(|error| format!("{error:#}"))
    };
    let objects = PROGRAMS.into_iter().map(object).collect::<Result<_, _>>()?;
    Ok((objects, inputs))
}
