//! The paths in a module's source.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};

/// The source of each module by its path from the crate's root.
pub(super) type Modules = BTreeMap<String, TokenStream>;

/// The paths from the crate's root that a module names.
#[derive(Default)]
pub(super) struct Paths<'m> {
    pub(super) found: Vec<Vec<String>>,
    /// What the names that a module imports stand for.
    pub(super) names: BTreeMap<(String, String), Vec<String>>,
    /// Modules whose names begin paths in their parents, as in `use child::Name`.
    children: Option<&'m Modules>,
    /// The module whose `use` is read.
    importing: Option<String>,
}

impl<'m> Paths<'m> {
    pub(super) fn with_children(modules: &'m Modules) -> Self {
        Self {
            children: Some(modules),
            ..Self::default()
        }
    }

    pub(super) fn read(&mut self, module: &str, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let word = match &tokens[at] {
                TokenTree::Ident(word) => word.to_string(),
                // `pub(in path)` imports nothing.
                TokenTree::Group(_) if is_word(&tokens[..at], "pub") => {
                    at += 1;
                    continue;
                }
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
                other => {
                    if is_punct(other, ';') {
                        self.importing = None;
                    }
                    at += 1;
                    continue;
                }
            };
            if word == "use" {
                self.importing = Some(module.to_owned());
            }
            let is_first = (at.checked_sub(1).map(|before| &tokens[before]))
                .is_none_or(|before| !is_punct(before, ':') && !is_punct(before, '.'));
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
                name if is_first && self.is_child(module, name) => {
                    Some(own().chain([name.to_owned()]).collect())
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

    fn is_child(&self, module: &str, name: &str) -> bool {
        (self.children).is_some_and(|modules| modules.contains_key(&child(module, name)))
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
        self.end(path, tokens);
    }

    /// Notes a path, and the name under which a `use` imports it.
    fn end(&mut self, path: Vec<String>, rest: &[TokenTree]) {
        let name = match rest {
            [TokenTree::Ident(word), TokenTree::Ident(name), ..] if word == "as" => {
                Some(name.to_string())
            }
            _ => path.last().cloned(),
        };
        if let (Some(module), Some(name)) = (&self.importing, name) {
            self.names.insert((module.clone(), name), path.clone());
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

pub(super) fn child(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        parent => format!("{parent}::{name}"),
    }
}

/// Whether a word is right before.
fn is_word(before: &[TokenTree], word: &str) -> bool {
    matches!(before, [.., TokenTree::Ident(last)] if last == word)
}

fn is_colons(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [a, b, _, ..] if is_punct(a, ':') && is_punct(b, ':'))
}

fn is_punct(tree: &TokenTree, punct: char) -> bool {
    matches!(tree, TokenTree::Punct(found) if found.as_char() == punct)
}
