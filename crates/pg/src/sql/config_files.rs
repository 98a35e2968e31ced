//! Where the server's configuration files are. Those outside the data directory (Debian keeps them in `/etc`) are no part
//! of a copy of it, so they are stored with the backup.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::conf::effective;

use super::session::text;
use super::{Session, SqlError};

/// What a configuration file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigFileKind {
    /// `postgresql.conf`.
    Main,
    /// `pg_hba.conf`.
    Hba,
    /// `pg_ident.conf`.
    Ident,
    /// A file that one of these includes.
    Included,
    /// `start.conf`, `pg_ctl.conf`, `environment`: how Debian starts the cluster.
    Debian,
}

/// One configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigFile {
    /// What it is for.
    pub kind: ConfigFileKind,
    /// Its absolute path.
    pub path: PathBuf,
    /// Whether it is inside the data directory, and so in a copy of it anyway.
    pub in_data_directory: bool,
}

/// PostgreSQL refuses deeper includes.
const DEEPEST: u32 = 10;

impl Session {
    /// The server's configuration files that exist, with all that they include.
    ///
    /// # Errors
    /// The role may not see where they are, or the session is lost.
    pub fn config_files(&self, data_directory: &Path) -> Result<Vec<ConfigFile>, SqlError> {
        let what = "find the configuration files";
        let mut found = Found::new();
        for (name, kind) in [
            ("config_file", ConfigFileKind::Main),
            ("hba_file", ConfigFileKind::Hba),
            ("ident_file", ConfigFileKind::Ident),
        ] {
            let sql = format!("select coalesce((select setting from pg_settings where name = '{name}'), '')");
            let path = text(what, &self.row(what, &sql)?, 0)?.to_owned();
            let path = data_directory.join(path);
            match kind {
                // A directory, because the setting is empty: the role may not see it.
                _ if !path.is_file() => {}
                ConfigFileKind::Main => collect_main(&path, data_directory, &mut found),
                _ => collect_hba(&path, kind, 0, &mut found),
            }
        }
        // What the server itself read, in case we could not follow an include.
        let read = "select distinct sourcefile from pg_settings where sourcefile is not null";
        for row in self.rows(what, read)? {
            found.entry(PathBuf::from(text(what, &row, 0)?)).or_insert(ConfigFileKind::Included);
        }
        let inside = |path: &Path| real(path).starts_with(real(data_directory));
        let file = |(path, kind): (PathBuf, _)| ConfigFile { kind, in_data_directory: inside(&path), path };
        let mut files: Vec<_> = found.into_iter().map(file).collect();
        files.sort();
        Ok(files)
    }
}

/// Files by path, each once.
type Found = BTreeMap<PathBuf, ConfigFileKind>;

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Adds `postgresql.conf`, what it includes, `postgresql.auto.conf`, and Debian's files beside it. What cannot be read is
/// named all the same: whoever stores it will say why it could not be.
fn collect_main(path: &Path, data_directory: &Path, found: &mut Found) {
    found.insert(path.to_owned(), ConfigFileKind::Main);
    let included = effective(path, Some(data_directory)).map(|effective| effective.files).unwrap_or_default();
    for file in included {
        found.entry(file).or_insert(ConfigFileKind::Included);
    }
    let beside = path.parent().unwrap_or(Path::new("/"));
    // Only beside Debian's configuration: in a data directory these names mean nothing.
    if !beside.join("PG_VERSION").exists() {
        let debian = ["start.conf", "pg_ctl.conf", "environment"].map(|name| beside.join(name));
        found.extend(
            debian.into_iter().filter(|file| file.is_file()).map(|file| (file, ConfigFileKind::Debian)),
        );
    }
}

/// Adds `pg_hba.conf` or `pg_ident.conf` and what it includes.
fn collect_hba(path: &Path, kind: ConfigFileKind, depth: u32, found: &mut Found) {
    if depth > DEEPEST || found.contains_key(path) || !path.is_file() {
        return;
    }
    found.insert(path.to_owned(), kind);
    let Ok(bytes) = fs::read(path) else { return };
    let beside = path.parent().unwrap_or(Path::new("/"));
    for (is_directory, target) in hba_includes(&String::from_utf8_lossy(&bytes)) {
        let target = beside.join(target);
        if is_directory {
            let entries = fs::read_dir(&target).into_iter().flatten().flatten().map(|entry| entry.path());
            let is_conf = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "conf");
            entries
                .filter(is_conf)
                .for_each(|file| collect_hba(&file, ConfigFileKind::Included, depth + 1, found));
        } else {
            collect_hba(&target, ConfigFileKind::Included, depth + 1, found);
        }
    }
}

/// What lines of `pg_hba.conf` and `pg_ident.conf` name, and whether it is a directory: includes (from 16), and the older
/// `@file` lists of databases and roles.
fn hba_includes(content: &str) -> Vec<(bool, String)> {
    let mut includes = Vec::new();
    for line in content.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        let bare = |name: &str| name.trim_matches('"').to_owned();
        if first.starts_with("include") {
            includes.push((first == "include_dir", bare(&words.collect::<Vec<_>>().join(" "))));
        } else {
            includes.extend(words.filter_map(|word| word.strip_prefix('@')).map(|list| (false, bare(list))));
        }
    }
    includes
}
