//! What stands in the documents is right.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The ```` ```toml ```` blocks of a page; those that are `added` with the first one before them.
fn configurations(page: &str) -> Vec<String> {
    let blocks = |kind: &str| {
        let fence = format!("```{kind}\n");
        let blocks = page.split(&fence).skip(1);
        let blocks = blocks.filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()));
        blocks.collect::<Vec<_>>()
    };
    let mut found = blocks("toml");
    for added in blocks("toml added") {
        let first = found.first().expect("something to add to");
        found.push(format!("{first}{added}"));
    }
    found
}

#[test]
fn every_recipe_and_the_readme_hold_a_configuration_without_warnings() {
    let recipes = fs::read_dir(root().join("docs/recipes")).unwrap();
    let mut pages: Vec<PathBuf> = recipes.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(pages.len(), 5, "one page for each of the five hosts");
    pages.push(root().join("README.md"));
    pages.push(root().join("docs/import.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let configurations = configurations(&text);
        assert!(!configurations.is_empty(), "{}", page.display());
        for configuration in configurations {
            match nat_config::parse(&configuration, &page) {
                Ok(loaded) => {
                    let warnings: Vec<String> =
                        loaded.warnings.iter().map(ToString::to_string).collect();
                    assert!(warnings.is_empty(), "{warnings:?}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn the_examples_of_ipv6_are_configurations() {
    let page = root().join("docs/ipv6.md");
    let examples = configurations(&fs::read_to_string(&page).unwrap());
    assert_eq!(examples.len(), 6);
    for example in examples {
        let loaded = nat_config::parse(&example, &page);
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert!(loaded.config.ipv6.is_some(), "{example}");
        for warning in loaded.warnings {
            let text = warning.to_string();
            assert!(text.contains("publishes every port"), "{text}");
        }
    }
}

#[test]
fn every_reason_for_a_drop_is_explained() {
    let page = fs::read_to_string(root().join("docs/behaviour.md")).unwrap();
    for reason in nat_common::drop_reason::DropReason::ALL {
        let row = format!("\n| `{}` | ", reason.name());
        assert!(page.contains(&row), "{} is not", reason.name());
    }
}
