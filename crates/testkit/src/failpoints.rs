//! Arming failpoints of a program under test, only such as exist: a test that arms another one tests nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Arms points for `command`: `name=action[@n][,…]`, as `refloat_types::fault` takes it.
///
/// # Panics
/// When a name is none that the crates' sources have in quotes.
#[track_caller]
pub fn arm<'a>(command: &'a mut Command, points: &str) -> &'a mut Command {
    for item in points.split(',').filter(|item| !item.trim().is_empty()) {
        let name = item.split('=').next().unwrap_or(item).trim();
        assert!(exists(name), "there is no failpoint \"{name}\"");
    }
    command.env("REFLOAT_FAILPOINTS", points)
}

/// Whether there is a failpoint of this name.
pub fn exists(name: &str) -> bool {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    KNOWN.get_or_init(known).contains(name)
}

/// All quoted words with dots in the sources of all crates, which are more than the failpoints; none of them is misspelt.
fn known() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates are neighbours");
    let mut known = BTreeSet::new();
    for found in fs::read_dir(crates).expect("the crates").flatten().filter(|it| it.file_name() != "testkit")
    {
        let mut files = Vec::new();
        sources(&found.path().join("src"), &mut files);
        for file in files {
            let text = fs::read_to_string(file).expect("a source");
            let words =
                text.split('"').filter(|word| word.contains('.') && !word.contains(char::is_whitespace));
            known.extend(words.map(str::to_owned));
        }
    }
    known
}

fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|it| it == "rs") {
            into.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_points_that_exist_are_armed() {
        let mut command = Command::new("true");
        arm(&mut command, "");
        arm(&mut command, "store.posix.put.before_write=nospace@3,pack.before_finish=kill");
        let set = command.get_envs().any(|(name, _)| name == "REFLOAT_FAILPOINTS");
        assert!(set && !exists(concat!("store.posix.create.", "before_write")));
    }

    #[test]
    #[should_panic(expected = "there is no failpoint")]
    fn a_misspelt_point_fails_the_test() {
        let mut command = Command::new("true");
        arm(&mut command, concat!("pack.before_finish=kill,pack.before_", "finsh=kill"));
    }
}
