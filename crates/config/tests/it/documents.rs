//! The documents: their configurations are right, their links lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{parse, printed};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pages() -> Vec<PathBuf> {
    let root = root();
    let mut pages = Vec::new();
    let documents = root.join("docs/src");
    let parts =
        ["reference", "format"].map(|part| documents.join(part)).into_iter().filter(|part| part.exists());
    for directory in [root, documents.clone()].into_iter().chain(parts) {
        for entry in fs::read_dir(&directory).expect("it is there") {
            let path = entry.expect("it can be listed").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() > 8, "{pages:?}");
    pages
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).expect("it can be read")
}

#[test]
fn configurations_in_the_documents_are_right() {
    let mut found = 0;
    for page in pages() {
        for block in read(&page).split("```toml\n").skip(1) {
            let text = block.split("```").next().unwrap_or_default();
            if let Err(error) = parse(text) {
                panic!("{}:\n{text}\n{}", page.display(), printed(&error));
            }
            found += 1;
        }
    }
    assert!(found > 0);
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut followed = 0;
    for page in pages() {
        for link in read(&page).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            let unwritten = target.contains("format/") && !root().join("docs/src/format").exists();
            if target.is_empty() || target.contains("://") || unwritten {
                continue;
            }
            let file = page.parent().expect("it is in a directory").join(target);
            assert!(file.exists(), "{}: {target} is not there", page.display());
            followed += 1;
        }
    }
    assert!(followed > 10);
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let source = root().join("docs/src");
    let contents = read(&source.join("SUMMARY.md"));
    for page in pages() {
        let Ok(name) = page.strip_prefix(&source) else { continue };
        let name = name.display().to_string();
        assert!(
            name == "SUMMARY.md" || contents.contains(&format!("({name})")),
            "{name} is not in SUMMARY.md"
        );
    }
}

#[test]
fn no_hint_sends_anybody_to_a_file_of_the_sources() {
    fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join("crates")).expect("there are crates").flatten() {
        sources(&entry.path().join("src"), &mut files);
    }
    assert!(files.len() > 100);
    for file in files {
        for line in read(&file).lines() {
            let is_said = !line.trim_start().starts_with("//")
                && !["include_str!", "CARGO_MANIFEST_DIR"].iter().any(|of_tests| line.contains(of_tests));
            let names = line.contains("docs/src/") && is_said;
            assert!(
                !names,
                "{}: who has the program alone has no such path; name the page: {line}",
                file.display()
            );
        }
    }
}
