//! Where the PostgreSQL binaries of each major version are: the system's, or those a script put in the test cache.

use std::path::{Path, PathBuf};

/// What the test cache is called when nothing names it.
#[expect(clippy::disallowed_methods, reason = "tests only: where test binaries are kept")]
pub fn cache_directory() -> PathBuf {
    if let Some(named) = std::env::var_os("REFLOAT_TEST_CACHE") {
        return PathBuf::from(named);
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/cache/refloat-tests");
    }
    std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from).join(".cache/refloat-tests")
}

/// The `bin` directory of one major version. `None` when it is not installed: a directory counts when it holds the
/// server and initdb.
pub fn bin_directory(version: u32) -> Option<PathBuf> {
    let version = version.to_string();
    let tail = Path::new("usr/lib/postgresql").join(&version).join("bin");
    let mut places = vec![
        Path::new("/").join(&tail),
        cache_directory().join(format!("postgresql-{version}")).join(&tail),
        PathBuf::from(format!("/usr/pgsql-{version}/bin")),
    ];
    places.extend(from_path(&version));
    places.into_iter().find(|bin| bin.join("postgres").exists() && bin.join("initdb").exists())
}

/// Whether tests of this major version can run here.
pub fn available(version: u32) -> bool {
    bin_directory(version).is_some()
}

/// `true` when the test must return because this major version is not installed. Says so; where `CI=true` it fails.
///
/// # Panics
/// When the version is missing and `CI=true`.
#[expect(clippy::disallowed_methods, reason = "tests only: CI must not skip")]
pub fn skip_without(version: u32) -> bool {
    if available(version) {
        return false;
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "PostgreSQL {version} is not installed, and CI=true allows no skip"
    );
    let places = cache_directory();
    crate::skipped(&format!(
        "PostgreSQL {version} is not installed (looked in /usr/lib/postgresql and {})",
        places.display()
    ));
    true
}

/// Directories of `PATH` whose `postgres` is of this major version.
#[expect(clippy::disallowed_methods, reason = "tests only: PATH is one of the places to look")]
fn from_path(version: &str) -> Vec<PathBuf> {
    let Some(path) = std::env::var_os("PATH") else { return Vec::new() };
    let is_version = |bin: &PathBuf| {
        let postgres = bin.join("postgres");
        let said = postgres
            .exists()
            .then(|| std::process::Command::new(postgres).arg("--version").output().ok())
            .flatten();
        said.is_some_and(|out| {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            text.split_whitespace().nth(2).and_then(|v| v.split('.').next()) == Some(version)
        })
    };
    std::env::split_paths(&path).filter(is_version).collect()
}
