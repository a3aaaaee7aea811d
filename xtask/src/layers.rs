//! The layers of the crates' modules: a module imports lower layers alone, and files that import
//! each other never form a circle.
//!
//! ARCHITECTURE.md says what each layer is for. The source is read as tokens, so imports count
//! wherever they stand: in `use`, in expressions, in the bodies of macros.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bpf_toolchain::Workspace;
use proc_macro2::{TokenStream, TokenTree};

/// A layer, a module at the root of its crate, and the other layers that it may import.
type Layer = (&'static str, &'static [&'static str]);

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
    ("family", &["wire"]),
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
            "headers",
            "tables",
            "verifier",
            "wire",
            "work",
        ],
    ),
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

/// Checks every crate that has layers.
///
/// # Errors
///
/// Every import that goes up, and every circle.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    for layered in CRATES {
        let source = workspace.root().join(layered.source);
        let modules = modules(&source)
            .with_context(|| format!("read the modules below {}", source.display()))?;
        faults.extend(faults_of(layered.layers, &modules)?);
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The source of each module by its path from the crate's root, which is `""`. Tests in files of
/// their own are in no layer: they import what they test.
fn modules(source: &Path) -> Result<BTreeMap<String, TokenStream>> {
    let mut modules = BTreeMap::new();
    read_below(source, "", &mut modules)?;
    Ok(modules)
}

fn read_below(
    folder: &Path,
    parent: &str,
    modules: &mut BTreeMap<String, TokenStream>,
) -> Result<()> {
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
                "lib" | "mod" => parent.to_owned(),
                name => child(parent, name),
            };
            let tokens = fs::read_to_string(&path)?.parse::<TokenStream>();
            let tokens = tokens.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            modules.insert(module, tokens);
        }
    }
    Ok(())
}

fn child(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        parent => format!("{parent}::{name}"),
    }
}

fn layer_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// What is wrong with the imports of these modules.
fn faults_of(layers: &[Layer], modules: &BTreeMap<String, TokenStream>) -> Result<Vec<String>> {
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

/// The longest start of a path that is a module.
fn module_of(path: &[String], modules: &BTreeMap<String, TokenStream>) -> String {
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

/// The paths from the crate's root that a module names.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
}

impl Paths {
    fn read(&mut self, module: &str, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let word = match &tokens[at] {
                TokenTree::Ident(word) => word.to_string(),
                TokenTree::Group(group) => {
                    let inner = match (at.checked_sub(2).map(|at| &tokens[at]), at.checked_sub(1)) {
                        (Some(TokenTree::Ident(word)), Some(name)) if word == "mod" => {
                            child(module, &tokens[name].to_string())
                        }
                        _ => module.to_owned(),
                    };
                    self.read(&inner, group.stream());
                    at += 1;
                    continue;
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            at += 1;
            let own = || {
                module
                    .split("::")
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
            };
            let start: Option<Vec<String>> = match word.as_str() {
                "crate" => Some(Vec::new()),
                "self" => Some(own().collect()),
                "super" => {
                    let mut path: Vec<String> = own().collect();
                    path.pop();
                    Some(path)
                }
                _ => None,
            };
            if let Some(start) = start.filter(|_| is_colons(&tokens[at..])) {
                self.follow(start, &tokens[at..]);
                while is_colons(&tokens[at..]) {
                    at += 3;
                }
            }
        }
    }

    /// Follows a path behind its start, into every branch.
    fn follow(&mut self, mut path: Vec<String>, mut tokens: &[TokenTree]) {
        while is_colons(tokens) {
            match &tokens[2..] {
                [TokenTree::Ident(word), ..] if word == "super" => drop(path.pop()),
                [TokenTree::Ident(word), ..] if word == "self" => {}
                [TokenTree::Ident(word), ..] => path.push(word.to_string()),
                [TokenTree::Group(group), ..] => {
                    let branches: Vec<TokenTree> = group.stream().into_iter().collect();
                    for branch in branches.split(|tree| is_punct(tree, ',')) {
                        self.branch(&path, branch);
                    }
                    return;
                }
                _ => break,
            }
            tokens = &tokens[3..];
        }
        self.found.push(path);
    }

    fn branch(&mut self, path: &[String], branch: &[TokenTree]) {
        let mut path = path.to_vec();
        match branch {
            [] => {}
            [TokenTree::Ident(word), rest @ ..] => {
                if word != "self" {
                    path.push(word.to_string());
                }
                self.follow(path, rest);
            }
            _ => self.found.push(path),
        }
    }
}

fn is_colons(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [a, b, _, ..] if is_punct(a, ':') && is_punct(b, ':'))
}

fn is_punct(tree: &TokenTree, punct: char) -> bool {
    matches!(tree, TokenTree::Punct(found) if found.as_char() == punct)
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
}
