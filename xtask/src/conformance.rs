//! The cases of docs/behaviour.md, and what the tests that are named by them say.
//!
//! A test proves a case when its name begins with the case's id: `u1_udp_both_ways`; with several
//! ids it proves several, as `s1_s2_bad_sources_are_dropped` does. The ids of IPv6's cases begin
//! with a digit, which no name can: `n6_1_a_router_is_answered` proves 6N1.

use std::collections::BTreeMap;
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};
use bpf_toolchain::Workspace;

/// Where the cases stand.
pub(crate) const DOCUMENT: &str = "docs/behaviour.md";

/// The letters of the families of cases; a test's name with another one is only a name.
const FAMILIES: &str = "UTIFPMOSXL";

/// The letters of IPv6's cases.
const FAMILIES_IPV6: &str = "RNFMPEGCDLX";

/// With what the ids of IPv6's cases begin.
const IPV6: char = '6';

/// One observable behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// `U1`, for example.
    pub(crate) id: String,
    what: String,
}

/// A test's name, and whether it passed.
pub(crate) type TestResult = (String, bool);

/// All cases with what the tests say.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

#[derive(Debug)]
struct Row {
    case: Case,
    tests: Vec<TestResult>,
}

/// The cases that the project's document lists, in its order.
pub(crate) fn cases(workspace: &Workspace) -> Result<Vec<Case>> {
    let path = workspace.root().join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Every row of a table whose first cell is an id is a case.
pub(crate) fn parse(text: &str) -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(id), Some(what)) = (cells.next(), cells.next()) else {
            continue;
        };
        if !is_id(id) {
            continue;
        }
        ensure!(!what.is_empty(), "case {id} says nothing");
        if cases.iter().any(|case| case.id == id) {
            bail!("case {id} is there twice");
        }
        cases.push(Case {
            id: id.to_owned(),
            what: what.to_owned(),
        });
    }
    ensure!(!cases.is_empty(), "no cases");
    Ok(cases)
}

fn is_id(word: &str) -> bool {
    let (families, word) = match word.strip_prefix(IPV6) {
        Some(rest) => (FAMILIES_IPV6, rest),
        None => (FAMILIES, word),
    };
    let mut letters = word.chars();
    letters.next().is_some_and(|first| families.contains(first)) && is_number(letters.as_str())
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|letter| letter.is_ascii_digit())
}

/// The ids with which a test's name begins. Names come with or without the modules before them.
pub(crate) fn ids_of(test: &str) -> Vec<String> {
    let name = test.rsplit("::").next().unwrap_or(test);
    let mut words = name.split('_').peekable();
    let mut ids = Vec::new();
    while let Some(word) = words.next() {
        if !word.starts_with(|first: char| first.is_ascii_lowercase()) {
            break;
        }
        let word = word.to_uppercase();
        let number = words.peek().copied().filter(|next| is_number(next));
        let id = match (word.strip_suffix(IPV6), number) {
            (Some(letter), Some(number)) => format!("{IPV6}{letter}{number}"),
            _ => word,
        };
        if !is_id(&id) {
            break;
        }
        if id.starts_with(IPV6) {
            words.next();
        }
        ids.push(id);
    }
    ids
}

/// What the tests of all cases have in their names, to run no others.
pub(crate) fn filters(cases: &[Case]) -> Vec<String> {
    cases.iter().map(|case| name_of(&case.id)).collect()
}

/// How the name of a case's test begins.
fn name_of(id: &str) -> String {
    let id = id.to_lowercase();
    match id.strip_prefix(IPV6).and_then(|id| id.split_at_checked(1)) {
        Some((letter, number)) => format!("{letter}{IPV6}_{number}_"),
        None => format!("{id}_"),
    }
}

impl Table {
    /// Puts results beside the cases that they are about.
    pub(crate) fn new(cases: Vec<Case>, results: &[TestResult]) -> Self {
        let mut by_id: BTreeMap<String, Vec<TestResult>> = BTreeMap::new();
        for result in results {
            for id in ids_of(&result.0) {
                by_id.entry(id).or_default().push(result.clone());
            }
        }
        let rows = cases.into_iter().map(|case| Row {
            tests: by_id.remove(&case.id).unwrap_or_default(),
            case,
        });
        Self(rows.collect())
    }

    /// How many cases are proven.
    pub(crate) fn passed(&self) -> usize {
        self.0.iter().filter(|row| row.passes()).count()
    }

    /// How many are not.
    pub(crate) fn failed(&self) -> usize {
        self.0.len() - self.passed()
    }

    /// The cases for which no test has run.
    pub(crate) fn untested(&self) -> impl Iterator<Item = &str> {
        let rows = self.0.iter().filter(|row| row.tests.is_empty());
        rows.map(|row| row.case.id.as_str())
    }
}

impl Row {
    /// What nothing has tried is not proven.
    fn passes(&self) -> bool {
        !self.tests.is_empty() && self.tests.iter().all(|(_, passed)| *passed)
    }

    fn count(&self) -> String {
        match self.tests.len() {
            0 => "no test".to_owned(),
            1 => "1 test".to_owned(),
            many => format!("{many} tests"),
        }
    }
}

/// A line for each case, with the names of its failed tests below it; with `{:#}`, the names of
/// all.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.0 {
            let verdict = if row.passes() { "pass" } else { "fail" };
            let (id, what) = (&row.case.id, &row.case.what);
            let count = format!("({})", row.count());
            writeln!(f, "{id:<3} {verdict}  {count:<10}  {what}")?;
            for (test, passed) in &row.tests {
                if !passed {
                    writeln!(f, "    FAILED {test}")?;
                } else if f.alternate() {
                    writeln!(f, "    ok     {test}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::workspace;
    use crate::sources;

    const TEXT: &str = "# Title\n\n| id | case | expected |\n| --- | --- | --- |\n\
        | U1 | UDP both ways | the payload is intact |\n| U10 | another | so |\n";

    fn results(tests: &[(&str, bool)]) -> Vec<TestResult> {
        let owned = |&(name, passed): &(&str, bool)| (name.to_owned(), passed);
        tests.iter().map(owned).collect()
    }

    fn table(tests: &[(&str, bool)]) -> Table {
        Table::new(parse(TEXT).unwrap(), &results(tests))
    }

    #[test]
    fn a_name_begins_with_the_ids_of_its_cases() {
        assert_eq!(ids_of("namespaces::udp::u1_both_ways"), ["U1"]);
        assert_eq!(ids_of("s1_s2_bad_sources"), ["S1", "S2"]);
        assert_eq!(ids_of("u10_another"), ["U10"]);
        assert_eq!(ids_of("n6_1_a_router_is_answered"), ["6N1"]);
        assert_eq!(ids_of("e6_1_e6_12_headers"), ["6E1", "6E12"]);
        assert_eq!(ids_of("u6_no_checksum"), ["U6"]);
        assert_eq!(ids_of("f6_overlap_f6_1"), ["F6"]);
        for other in ["udp_u1", "v4_only", "u_1", "u1x_y", "x"] {
            assert!(ids_of(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_case_selects_its_tests_by_the_start_of_their_names() {
        let text = "| U1 | UDP | so |\n| 6N12 | neighbours | so |\n";
        assert_eq!(filters(&parse(text).unwrap()), ["u1_", "n6_12_"]);
    }

    #[test]
    fn a_case_passes_when_all_of_its_tests_do() {
        let good = table(&[("a::u1_x", true), ("b::u1_y", true), ("u10_z", true)]);
        assert_eq!((good.passed(), good.failed()), (2, 0));
        assert_eq!(
            good.to_string(),
            "U1  pass  (2 tests)   UDP both ways\nU10 pass  (1 test)    another\n"
        );
        let bad = table(&[("a::u1_x", true), ("b::u1_y", false), ("u10_z", true)]);
        assert_eq!((bad.passed(), bad.failed()), (1, 1));
        assert!(bad.to_string().contains("\n    FAILED b::u1_y\n"));
        assert!(format!("{bad:#}").contains("\n    ok     a::u1_x\n"));
    }

    #[test]
    fn a_case_without_a_test_has_failed() {
        let table = table(&[("u1_x", true)]);
        assert_eq!((table.passed(), table.failed()), (1, 1));
        assert_eq!(table.untested().collect::<Vec<_>>(), ["U10"]);
        assert!(table.to_string().contains("U10 fail  (no test)"));
    }

    #[test]
    fn a_list_without_cases_or_with_one_twice_is_refused() {
        assert!(parse("| id | case |").is_err());
        assert!(parse(&TEXT.repeat(2)).is_err());
        assert!(parse("| U1 |  | so |").is_err());
    }

    #[test]
    fn every_id_in_a_tests_name_is_a_case_and_every_case_has_a_test() {
        let cases = cases(&workspace().unwrap()).unwrap();
        let tests = sources::test_names().unwrap();
        let mut unknown = Vec::new();
        let mut untested: Vec<&str> = cases.iter().map(|case| case.id.as_str()).collect();
        for test in &tests {
            for id in ids_of(test) {
                untested.retain(|case| *case != id);
                if !cases.iter().any(|case| case.id == id) {
                    unknown.push(test);
                }
            }
        }
        assert!(unknown.is_empty(), "not in {DOCUMENT}: {unknown:?}");
        assert!(untested.is_empty(), "without a test: {untested:?}");
    }
}
