//! The committed inputs of the fuzz targets, as ordinary tests: what they are seeded with, and what
//! has once been a finding.

use std::{
    fs,
    path::{Path, PathBuf},
};

use invariants::{TARGETS, Target};

/// The files of a directory, in order; none if it does not exist.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str, target: Target) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let seeds = files(&fuzz.join("seeds").join(name));
    assert!(!seeds.is_empty(), "no seeds for {name}");
    for file in seeds
        .into_iter()
        .chain(files(&fuzz.join("regressions").join(name)))
    {
        // Shown if it fails.
        println!("{}", file.display());
        target(&fs::read(file).unwrap());
    }
}

#[test]
fn every_input_holds() {
    for (name, target) in TARGETS {
        replay(name, target);
    }
}

#[test]
fn every_fuzz_target_is_replayed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let names = files(&fuzz).into_iter().map(|file| {
        let name = file.file_stem().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    assert_eq!(
        names.collect::<Vec<_>>(),
        TARGETS.map(|(name, _)| name.to_owned())
    );
}
