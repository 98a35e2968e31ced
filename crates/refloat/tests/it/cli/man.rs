//! The manual pages.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use refloat_testkit::skipped;

/// Every page by its name.
fn pages(directory: &Path) -> BTreeMap<String, String> {
    let written = Command::new(crate::program())
        .env_clear()
        .arg("man-pages")
        .arg(directory)
        .output()
        .expect("the program starts");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let mut named = BTreeMap::new();
    for section in ["man1", "man5"] {
        for entry in std::fs::read_dir(directory.join(section)).expect("it was made") {
            let entry = entry.expect("it can be listed");
            let name = entry.file_name().into_string().expect("text");
            named.insert(format!("{section}/{name}"), std::fs::read_to_string(entry.path()).expect("text"));
        }
    }
    named
}

#[test]
fn every_command_has_a_page_without_a_warning() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pages = pages(&directory.path().join("man"));
    let names: Vec<&str> = pages.keys().map(String::as_str).collect();
    for command in ["refloat", "refloat-restore", "refloat-wal-push", "refloat-completions"] {
        assert!(names.contains(&format!("man1/{command}.1").as_str()), "{names:?}");
    }
    for hidden in ["refloat-complete-values", "refloat-man-pages", "refloat-help"] {
        assert!(!names.contains(&format!("man1/{hidden}.1").as_str()), "{names:?}");
    }
    let restore = &pages["man1/refloat-restore.1"];
    assert!(restore.contains("\n.SH EXAMPLES\n.nf\n"), "{restore}");
    assert!(!restore.contains("complete\\-values"), "{restore}");
    assert!(pages["man5/refloat.toml.5"].contains("\\fBwal_push_timeout\\fR"));

    for name in names {
        let path = directory.path().join("man").join(name);
        let formatted = Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8", "-k"]).arg(&path).output();
        let Ok(output) = formatted else {
            skipped("groff is not here; the manual pages were not formatted");
            return;
        };
        let warned = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warned.is_empty(), "{name}: {warned}");
    }
}

/// Who installs the pages of one build twice sees no change.
#[test]
fn the_pages_are_the_same_each_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(pages(&directory.path().join("a")), pages(&directory.path().join("b")));
}
