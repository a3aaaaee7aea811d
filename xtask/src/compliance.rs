//! docs/rfc-compliance.md is checked against the RFCs' lists of requirements, and against the tests
//! that exist: what it claims must at least be tried.

use std::fs;

use crate::command::workspace;
use crate::sources;

const DOCUMENT: &str = "docs/rfc-compliance.md";
const VERDICTS: [&str; 3] = ["meets", "does not meet", "not applicable"];

/// The requirements of each RFC, by number and letter; of RFCs without numbers, the sections
/// that hold some, with a letter where there are several.
const REQUIREMENTS: [(&str, &str, &str); 11] = [
    (
        "RFC 4787",
        "REQ-",
        "1 2 3 3a 4 5 5a 5b 5c 6 6a 7 8 8a 9 9a 10 10a 11 12 12a 12b 13 13a 14 14a",
    ),
    ("RFC 5382", "REQ-", "1 2 2a 3 3a 3b 4 4a 5 5a 6 7 8 8a 9 10"),
    (
        "RFC 5508",
        "REQ-",
        "1 1a 2 2a 3 3a 3b 3c 3d 4 4a 4b 4c 5 5a 5b 5c 6 7 7a 8 9 10a 10b 10c 10d 10e 10f 11",
    ),
    ("RFC 7857", "", "2 2.1 2.2 3 4 5 6 7 7.1 8 9 10 11 12"),
    (
        "RFC 6888",
        "REQ-",
        "1 2 3 4 4A 4B 4C 5 6 7 8 9 10 11A 11B 11C 11D 12 13 14 15",
    ),
    (
        "RFC 4890",
        "",
        "4.3.1 4.3.1a 4.3.2 4.3.2a 4.3.3 4.3.4 4.3.5 4.4.1 4.4.4",
    ),
    (
        "RFC 6092",
        "REC-",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 \
         31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50",
    ),
    (
        "RFC 6146",
        "",
        "3 3.1 3.4 3.4a 3.4b 3.5 3.5.1 3.5.1.1 3.5.2.2 3.5.2.2a 3.5.3 3.5.4 3.8 5.2 5.3 \
         5.4",
    ),
    (
        "RFC 6296",
        "",
        "3.1 3.2 3.2a 3.3 3.4 3.5 3.7 4.1 4.2 4.3 6 7",
    ),
    (
        "RFC 7915",
        "",
        "1.4 4 4a 4.1 4.1a 4.1b 4.1c 4.1d 4.2 4.2a 4.2b 4.3 4.5 4.5a 4.5b 4.5c 5 5.1 5.1a \
         5.1b 5.1.1 5.2 5.2a 5.3 5.4 5.5 6 6a",
    ),
    (
        "RFC 8200",
        "",
        "4 4.1 4.4 4.5 4.5a 4.5b 4.5c 4.7 5 6 8.1 8.1a 8.3",
    ),
];

/// A row of one of the tables.
struct Row<'a> {
    number: &'a str,
    level: &'a str,
    verdict: &'a str,
    why: &'a str,
    tests: Vec<&'a str>,
}

fn row(line: &str) -> Option<Row<'_>> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let [_, number, _, level, verdict, why, tests, _] = cells[..] else {
        return None;
    };
    let tests = tests.split(',').map(|test| test.trim().trim_matches('`'));
    (number != "number" && !number.starts_with('-')).then(|| Row {
        number,
        level,
        verdict,
        why,
        tests: tests.filter(|test| !test.is_empty()).collect(),
    })
}

fn text() -> String {
    let path = workspace().unwrap().root().join(DOCUMENT);
    fs::read_to_string(path).unwrap()
}

/// The chapter about one RFC.
fn chapter<'a>(text: &'a str, rfc: &str) -> &'a str {
    let chapters = text.split("\n## ").skip(1);
    let mut found = chapters.filter(|chapter| chapter.starts_with(rfc));
    let chapter = found.next().unwrap_or_else(|| panic!("{rfc} is missing"));
    assert!(found.next().is_none(), "{rfc} is there twice");
    chapter
}

#[test]
fn every_requirement_has_its_row_in_order() {
    let text = text();
    for (rfc, prefix, numbers) in REQUIREMENTS {
        let expected: Vec<String> = numbers
            .split(' ')
            .map(|number| format!("{prefix}{number}"))
            .collect();
        let rows = chapter(&text, rfc).lines().filter_map(row);
        let found: Vec<&str> = rows.map(|row| row.number).collect();
        assert_eq!(found, expected, "{rfc}");
    }
}

#[test]
fn every_table_row_of_the_page_is_understood() {
    let text = text();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let is_head = line.starts_with("| number") || line.starts_with("| ---");
        assert!(is_head || row(line).is_some(), "not six cells: {line}");
    }
    assert_eq!(text.matches("\n## ").count(), REQUIREMENTS.len());
}

#[test]
fn every_verdict_is_one_of_three_and_has_its_grounds() {
    let names = sources::test_names().unwrap();
    for (rfc, ..) in REQUIREMENTS {
        for row in chapter(&text(), rfc).lines().filter_map(row) {
            let number = row.number;
            assert!(VERDICTS.contains(&row.verdict), "{rfc} {number}: verdict");
            let levels = ["MUST", "SHOULD", "RECOMMENDED", "MAY"];
            let is_level = |word: &str| levels.contains(&word.trim().trim_end_matches(" NOT"));
            assert!(row.level.split(',').all(is_level), "{rfc} {number}: level");
            match row.verdict {
                "meets" => assert!(!row.tests.is_empty(), "{rfc} {number}: no test"),
                _ => assert!(!row.why.is_empty(), "{rfc} {number}: no reason"),
            }
            for test in row.tests {
                assert!(
                    names.contains(test),
                    "{rfc} {number}: no test is named {test}"
                );
            }
        }
    }
}
