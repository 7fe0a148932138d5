//! `docs/kbs.md` promises a test for each known weakness of Intel's service: the tests it names are there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails where something is missing")]

use std::{fs, path::Path};

const WEAKNESSES: usize = 40;

#[test]
fn every_weakness_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the repository");
    let page = fs::read_to_string(root.join("docs/kbs.md")).unwrap();
    let (_, table) = page.split_once("## Its forty known weaknesses").expect("the section");
    let rows: Vec<Vec<&str>> =
        table.lines().filter(|line| line.starts_with("| ")).map(|line| line.split('|').map(str::trim).collect()).collect();
    let rows: Vec<_> = rows.into_iter().filter(|row| row[1].parse::<usize>().is_ok()).collect();
    let numbers: Vec<usize> = rows.iter().map(|row| row[1].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=WEAKNESSES).collect::<Vec<_>>());
    for row in rows {
        let tests: Vec<&str> = row[4].split(", ").map(|test| test.trim_matches('`')).collect();
        for test in tests {
            let (file, name) = test.split_once("::").expect(test);
            let text = fs::read_to_string(root.join(file)).expect(test);
            assert!(text.contains(&format!("fn {name}(")), "{}: there is no {test}", row[1]);
        }
    }
}
