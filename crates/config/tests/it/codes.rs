//! Codes of errors: each has one place in the sources and one entry in the list that people look it up in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every string `"AREA-nnn"`: however an advice comes by its code, it is written like this.
fn codes_of(text: &str) -> Vec<String> {
    text.match_indices('"').filter_map(|(at, _)| code_at(text.get(at + 1..)?, '"')).collect()
}

/// `WAL-003` at the beginning of a text, followed by `end`.
fn code_at(text: &str, end: char) -> Option<String> {
    let code = text.get(..text.find(end)?)?;
    let (area, number) = code.split_once('-')?;
    let good = (2..=5).contains(&area.len())
        && area.bytes().all(|b| b.is_ascii_uppercase())
        && number.len() == 3
        && number.bytes().all(|b| b.is_ascii_digit());
    good.then(|| code.to_owned())
}

/// The crate a file is in.
fn crate_of(file: &Path) -> String {
    let below = file.strip_prefix(root().join("crates")).expect("it was found there");
    below.components().next().map(|name| name.as_os_str().display().to_string()).unwrap_or_default()
}

#[test]
fn every_code_is_in_the_list_once() {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join("crates")).expect("there are crates") {
        sources(&entry.expect("it can be listed").path().join("src"), &mut files);
    }
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.ends_with("tests.rs") && crate_of(file) != "testkit") {
        let text = fs::read_to_string(file).expect("it can be read");
        // Codes in a module's own tests are not the product's.
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for code in codes_of(product) {
            used.entry(code).or_default().insert(crate_of(file));
        }
    }
    let shared: Vec<_> = used.iter().filter(|(_, crates)| crates.len() > 1).collect();
    assert!(shared.is_empty(), "one code means two things: {shared:#?}");
    let page = fs::read_to_string(root().join("docs/src/reference/errors.md")).expect("the page is there");
    let mut listed: BTreeMap<String, usize> = BTreeMap::new();
    for line in page.lines() {
        if let Some(code) = line.strip_prefix("| `").and_then(|rest| code_at(rest, '`')) {
            *listed.entry(code).or_default() += 1;
        }
    }
    let missing: Vec<_> = used.iter().filter(|(code, _)| !listed.contains_key(*code)).collect();
    assert!(missing.is_empty(), "not in docs/src/reference/errors.md: {missing:#?}");
    let twice: Vec<_> = listed.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "listed more than once: {twice:?}");
    let unused: Vec<_> = listed.keys().filter(|code| !used.contains_key(*code)).collect();
    assert!(unused.is_empty(), "listed and made nowhere: {unused:?}");
    assert!(used.contains_key("CFG-005"), "the search finds what is there: {used:?}");
}

#[test]
fn codes_are_found_as_they_are_written() {
    let text = "Advice::usage(\n    \"CFG-001\", x) advice(\"FILE-007\") \"a\" => \"PG-010\" STO-001 \"STO-1\" \"utf-008\"";
    assert_eq!(codes_of(text), ["CFG-001", "FILE-007", "PG-010"]);
}
