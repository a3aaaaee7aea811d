//! The suites that exist, and those that were asked for.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bpf_toolchain::Workspace;
use bpf_toolchain::process::capture;
use serde_json::Value;

use crate::command::cargo;
use crate::kernels::{KERNELS, Kernel};

/// The package with the tests of loaded programs and of whole hosts.
const TEST_PACKAGE: &str = "tests";

/// Suites that run beside the emulated kernels: they use a third to one of two processors, and what
/// they assert does not depend on load. All other suites run alone: `namespaces` and `unit` keep
/// both processors busy, `programs` measures time.
const BESIDE_KERNELS: [&str; 6] = [
    "churn",
    "differential",
    "oracles",
    "soak",
    "systemd",
    "upheaval",
];

/// A suite: its name, and cargo's arguments for it, one call of cargo per group.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) targets: Vec<Vec<String>>,
}

/// The suites that exist.
pub(super) struct Suites(Vec<Suite>);

/// The suites that were asked for.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    pub(super) check: bool,
    pub(super) fuzz: bool,
    pub(super) kernels: Vec<Kernel>,
    pub(super) tests: Vec<&'a Suite>,
}

impl<'a> Selection<'a> {
    /// The suites that run beside the older kernels, and those that run alone, before them.
    pub(super) fn split_tests(&self) -> (Vec<&'a Suite>, Vec<&'a Suite>) {
        let is_beside = |suite: &&Suite| BESIDE_KERNELS.contains(&suite.name.as_str());
        self.tests.iter().copied().partition(is_beside)
    }
}

impl Suite {
    fn new(name: &str, targets: Vec<Vec<String>>) -> Self {
        Self {
            name: name.to_owned(),
            targets,
        }
    }
}

impl Suites {
    /// Finds the integration tests that the workspace has at present.
    pub(super) fn of(workspace: &Workspace) -> Result<Self> {
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
                    whole.insert(name.to_owned(), Suite::new(name, vec![target.to_vec()]));
                } else {
                    unit.extend(target);
                }
            }
        }
        let mut suites = vec![Suite::new("unit", vec![unit, vec!["--doc".to_owned()]])];
        // Programs come before the hosts that need them: what fails there fails here, clearer.
        suites.extend(whole.remove("programs"));
        suites.extend(whole.into_values());
        Ok(Self(suites))
    }

    /// The suites with these names, or all of them.
    pub(super) fn select(&self, names: &[String]) -> Result<Selection<'_>> {
        let mut known = ["check", "fuzz", "kernels"].map(str::to_owned).to_vec();
        known.extend(KERNELS.map(kernel_suite));
        known.extend(self.0.iter().map(|suite| suite.name.clone()));
        if let Some(name) = names.iter().find(|name| !known.contains(name)) {
            bail!("there is no suite {name:?}; there are: {}", known.join(" "));
        }
        let is_named = |suite: &str| names.iter().any(|name| name == suite);
        let wanted = |suite: &str| names.is_empty() || is_named(suite);
        let tests = self.0.iter().filter(|suite| wanted(&suite.name)).collect();
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

/// The name of the suite on one of the older kernels.
fn kernel_suite(kernel: Kernel) -> String {
    format!("kernel-{}", kernel.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites() -> Suites {
        let metadata = serde_json::json!({"packages": [
            {"name": "tests", "targets": [
                {"kind": ["lib"], "name": "tests"},
                {"kind": ["test"], "name": "namespaces"},
                {"kind": ["test"], "name": "programs"},
                {"kind": ["test"], "name": "soak"},
            ]},
            {"name": "nat-user", "targets": [{"kind": ["test"], "name": "cli"}]},
        ]});
        Suites::from_metadata(&metadata).unwrap()
    }

    #[test]
    fn all_suites_are_run_if_none_is_named() {
        let suites = suites();
        let all = suites.select(&[]).unwrap();
        let names: Vec<_> = all.tests.iter().map(|suite| suite.name.as_str()).collect();
        assert!(all.check && all.fuzz && all.kernels.len() == KERNELS.len());
        assert_eq!(names, ["unit", "programs", "namespaces", "soak"]);
        assert_eq!(
            all.tests[0].targets[0],
            ["--lib", "--bins", "--test", "cli"]
        );
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
    #[test]
    fn suites_that_keep_processors_free_run_beside_the_kernels_and_all_others_alone() {
        let suites = suites();
        let (beside, alone) = suites.select(&[]).unwrap().split_tests();
        let names = |suites: Vec<&Suite>| -> Vec<_> {
            suites.iter().map(|suite| suite.name.clone()).collect()
        };
        assert_eq!(names(beside), ["soak"]);
        assert_eq!(names(alone), ["unit", "programs", "namespaces"]);
    }

    #[test]
    fn every_suite_beside_the_kernels_exists() {
        let suites = Suites::of(&crate::command::workspace().unwrap()).unwrap();
        for name in BESIDE_KERNELS {
            assert!(suites.0.iter().any(|suite| suite.name == name), "{name}");
        }
    }
}
