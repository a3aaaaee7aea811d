//! The layers of the crates' modules: a module imports lower layers alone, and files that import
//! each other never form a circle.
//!
//! ARCHITECTURE.md says what each layer is for. The source is read as tokens, so imports count
//! wherever they stand: in `use`, in expressions, in the bodies of macros.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bpf_toolchain::Workspace;
use proc_macro2::TokenStream;

use self::paths::{Modules, Paths, child};

/// A layer, a module at the root of its crate, and the other layers that it may import.
type Layer = (&'static str, &'static [&'static str]);

/// How many files pass a name on, at most.
const MOST_PASSES: usize = 8;

/// The folder of a crate's source, and its layers, the lowest first. The name of the root itself is
/// empty.
struct Crate {
    source: &'static str,
    layers: &'static [Layer],
}

const CRATES: &[Crate] = &[
    Crate {
        source: "nat-common/src",
        layers: NAT_COMMON,
    },
    Crate {
        source: "nat-user/config/src",
        layers: NAT_CONFIG,
    },
];

const NAT_COMMON: &[Layer] = &[
    ("", &[]),
    ("atomics", &[]),
    ("verifier", &[]),
    ("drop_reason", &[]),
    ("wire", &[]),
    ("family", &["verifier", "wire"]),
    ("headers", &["drop_reason", "family", "verifier", "wire"]),
    ("tables", &["atomics", "drop_reason", "headers", "wire"]),
    (
        "translation",
        &["drop_reason", "family", "headers", "tables", "wire"],
    ),
    (
        "work",
        &["drop_reason", "headers", "tables", "translation", "wire"],
    ),
    (
        "session",
        &[
            "drop_reason",
            "family",
            "headers",
            "tables",
            "verifier",
            "wire",
            "work",
        ],
    ),
    ("nat64", &["drop_reason", "family", "verifier", "wire"]),
    (
        "pipeline",
        &[
            "atomics",
            "drop_reason",
            "family",
            "headers",
            "session",
            "tables",
            "translation",
            "verifier",
            "wire",
            "work",
        ],
    ),
];

/// The root passes a file through all layers.
const NAT_CONFIG: &[Layer] = &[
    ("text", &[]),
    ("syntax", &["text"]),
    ("model", &[]),
    ("values", &["model", "syntax", "text"]),
    ("tables", &["model", "syntax", "text", "values"]),
    ("checks", &["model", "syntax", "tables", "text", "values"]),
    ("compile", &["model"]),
    ("", &["checks", "model", "syntax", "tables", "text"]),
];

/// Crates without layers: none of their files import each other in a circle.
const WITHOUT_CIRCLES: &[&str] = &[
    "nat-user/findings/src",
    "nat-user/import/src",
    "nat-user/src",
    "nat-user/sys/src",
    "xtask/lab/src",
    "xtask/src",
    "xtask/toolchain/src",
];

/// Checks every crate.
///
/// # Errors
///
/// Every import that goes up, and every circle.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    for layered in CRATES {
        faults.extend(faults_of(
            layered.layers,
            &modules(workspace, layered.source)?,
        )?);
    }
    for source in WITHOUT_CIRCLES {
        let circle = circle(&files_imports(&modules(workspace, source)?));
        faults.extend(circle.map(|circle| format!("a circle of files in {source}: {circle}")));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The source of each module by its path from the crate's root, which is `""`. Tests in files of
/// their own are in no layer: they import what they test.
fn modules(workspace: &Workspace, source: &str) -> Result<Modules> {
    let mut modules = Modules::new();
    read_below(&workspace.root().join(source), "", &mut modules)
        .with_context(|| format!("read the modules below {source}"))?;
    Ok(modules)
}

fn read_below(folder: &Path, parent: &str, modules: &mut Modules) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().context("a name")?.to_string_lossy();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            read_below(&path, &child(parent, &name), modules)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let module = match &*name {
                "lib" | "main" | "mod" => parent.to_owned(),
                name => child(parent, name),
            };
            let tokens = fs::read_to_string(&path)?.parse::<TokenStream>();
            let tokens = tokens.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            modules.insert(module, tokens);
        }
    }
    Ok(())
}

fn layer_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// What is wrong with the imports of these modules.
fn faults_of(layers: &[Layer], modules: &Modules) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut imports = BTreeMap::new();
    for (module, tokens) in modules {
        let mut paths = Paths::default();
        paths.read(module, tokens.clone());
        let targets: BTreeSet<String> = (paths.found.iter())
            .map(|path| module_of(path, modules))
            .filter(|target| target != module)
            .collect();
        let layer = layer_of(module);
        let Some((_, allowed)) = layers.iter().find(|(name, _)| *name == layer) else {
            bail!("{module} is in no layer: name it in xtask/src/layers.rs and ARCHITECTURE.md");
        };
        for target in &targets {
            let below = layer_of(target);
            // An item at the root itself is above no other.
            if !target.is_empty() && below != layer && !allowed.contains(&below) {
                faults.push(format!(
                    "{module} imports {target}: `{layer}` may not import `{below}`"
                ));
            }
        }
        imports.insert(module.clone(), targets);
    }
    add_folders(&mut imports);
    faults.extend(circle(&imports).map(|circle| format!("a circle of imports: {circle}")));
    Ok(faults)
}

/// A folder's own file is above the others in it.
fn add_folders(imports: &mut BTreeMap<String, BTreeSet<String>>) {
    let modules: Vec<String> = imports.keys().cloned().collect();
    for module in modules {
        if let Some((folder, _)) = module.rsplit_once("::")
            && let Some(targets) = imports.get_mut(folder)
        {
            targets.insert(module);
        }
    }
}

/// The files that each file of a crate imports. A name that a file only passes on belongs to the
/// file that it comes from.
fn files_imports(modules: &Modules) -> BTreeMap<String, BTreeSet<String>> {
    let mut names = BTreeMap::new();
    let mut found = BTreeMap::new();
    for (module, tokens) in modules {
        let mut paths = Paths::with_children(modules);
        paths.read(module, tokens.clone());
        names.extend(paths.names);
        found.insert(module.clone(), paths.found);
    }
    let target = |path: &Vec<String>| {
        let mut path = path.clone();
        for _ in 0..MOST_PASSES {
            let module = module_of(&path, modules);
            let len = module.split("::").filter(|name| !name.is_empty()).count();
            let named = (path.get(len)).and_then(|name| names.get(&(module, name.clone())));
            match named {
                Some(origin) if *origin != path[..=len] => {
                    path.splice(..=len, origin.iter().cloned());
                }
                _ => break,
            }
        }
        module_of(&path, modules)
    };
    let files = found.into_iter().map(|(module, paths)| {
        let mut targets: BTreeSet<String> = paths.iter().map(target).collect();
        targets.remove(&module);
        (module, targets)
    });
    files.collect()
}

/// The longest start of a path that is a module.
fn module_of(path: &[String], modules: &Modules) -> String {
    (0..=path.len())
        .rev()
        .map(|len| path[..len].join("::"))
        .find(|module| modules.contains_key(module))
        .unwrap_or_default()
}

/// A circle of modules, each importing the next one, if there is one.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    let mut without: BTreeMap<&String, BTreeSet<&String>> = imports
        .iter()
        .map(|(module, targets)| (module, targets.iter().filter(|t| !t.is_empty()).collect()))
        .collect();
    // Who imports nothing that is left is in no circle.
    loop {
        let done: BTreeSet<&String> = (without.iter())
            .filter(|(_, targets)| targets.is_empty())
            .map(|(module, _)| *module)
            .collect();
        if done.is_empty() {
            break;
        }
        without.retain(|module, _| !done.contains(module));
        for targets in without.values_mut() {
            targets.retain(|target| !done.contains(target));
        }
    }
    let mut way = vec![*without.keys().next()?];
    loop {
        let next = *without.get(way.last()?)?.first()?;
        if let Some(start) = way.iter().position(|module| *module == next) {
            let names: Vec<&str> = way[start..].iter().map(|module| module.as_str()).collect();
            return Some(format!("{} → {next}", names.join(" → ")));
        }
        way.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::workspace;

    const LAYERS: &[Layer] = &[("", &[]), ("low", &[]), ("high", &["low"])];

    fn faults(modules: &[(&str, &str)]) -> Result<Vec<String>> {
        let modules = modules
            .iter()
            .map(|(name, source)| Ok(((*name).to_owned(), source.parse()?)))
            .collect::<Result<_, proc_macro2::LexError>>();
        faults_of(
            LAYERS,
            &modules.map_err(|error| anyhow::anyhow!("{error}"))?,
        )
    }

    #[test]
    fn no_module_imports_a_higher_layer_and_no_imports_form_a_circle() -> Result<()> {
        check(&workspace()?)
    }

    #[test]
    fn an_import_of_a_lower_layer_passes() -> Result<()> {
        let found = faults(&[
            ("", "mod low; mod high;"),
            ("low", ""),
            ("high", "use crate::low::X;"),
        ])?;
        assert_eq!(found, Vec::<String>::new());
        Ok(())
    }

    #[test]
    fn an_upward_import_is_found_anywhere() -> Result<()> {
        for source in [
            "use crate::high::X;",
            "use crate::{a, high::{self, X}};",
            "use super::high;",
            "fn f() { crate::high::f() }",
            "m! { crate::high::X }",
            "mod tests { use super::super::high::X; }",
        ] {
            let found = faults(&[("", ""), ("low", source), ("high", "")])?;
            assert_eq!(
                found,
                ["low imports high: `low` may not import `high`"],
                "{source}"
            );
        }
        Ok(())
    }

    #[test]
    fn files_of_a_layer_that_import_each_other_are_a_circle() -> Result<()> {
        let found = faults(&[
            ("", ""),
            ("low", "pub mod a; pub mod b;"),
            ("low::a", "use crate::low::b::X;"),
            ("low::b", "use super::a::Y;"),
        ])?;
        assert_eq!(found, ["a circle of imports: low::a → low::b → low::a"]);
        Ok(())
    }

    #[test]
    fn a_module_that_no_layer_names_is_refused() {
        assert!(faults(&[("", ""), ("new", "")]).is_err());
    }

    fn circle_of(files: &[(&str, &str)]) -> Result<Option<String>> {
        let modules = files
            .iter()
            .map(|(name, source)| Ok(((*name).to_owned(), source.parse()?)))
            .collect::<Result<_, proc_macro2::LexError>>();
        let modules = modules.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(circle(&files_imports(&modules)))
    }

    #[test]
    fn files_of_a_crate_that_import_each_other_are_a_circle() -> Result<()> {
        for (folder, other) in [
            ("use a::A; struct F;", "use super::F;"),
            ("fn f() { a::A }", "use crate::x::F;"),
            ("m! { self::a::A }", "fn f() { super::F }"),
        ] {
            let found = circle_of(&[("", "mod x;"), ("x", folder), ("x::a", other)])?;
            assert_eq!(found.as_deref(), Some("x → x::a → x"), "{folder}");
        }
        Ok(())
    }

    #[test]
    fn a_name_that_a_folder_passes_on_belongs_to_the_file_it_comes_from() -> Result<()> {
        let found = |other| {
            circle_of(&[
                ("", "mod x;"),
                (
                    "x",
                    "mod a; mod b; pub use a::{A, Long as L}; pub use b::B;",
                ),
                ("x::a", "use std::b::B;"),
                ("x::b", other),
            ])
        };
        assert_eq!(found("use super::{A, L};")?, None);
        let back = circle_of(&[
            ("", ""),
            ("x", "pub use a::A; pub use b::B;"),
            ("x::a", "use super::B;"),
            ("x::b", "use super::A;"),
        ])?;
        assert_eq!(back.as_deref(), Some("x::a → x::b → x::a"));
        Ok(())
    }
}
