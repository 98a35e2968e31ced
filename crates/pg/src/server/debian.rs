//! Debian's layout: configuration in `/etc/postgresql/VERSION/NAME`, data elsewhere, servers handled by
//! `pg_ctlcluster` and systemd units `postgresql@VERSION-NAME`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::conf::effective;

/// A cluster that `pg_lsclusters` knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianCluster {
    /// Major version.
    pub version: u32,
    /// Its name: `main`.
    pub name: String,
    /// Directory of `postgresql.conf`, `pg_hba.conf`, `start.conf`.
    pub config_directory: PathBuf,
}

impl DebianCluster {
    /// Its systemd unit.
    pub fn unit(&self) -> String {
        format!("postgresql@{}-{}", self.version, self.name)
    }
}

/// The cluster of Debian's layout whose data is in `data_directory`; `None` when there is none. `etc` is
/// `/etc/postgresql`. Works while no server runs and after the data directory was emptied.
pub fn debian_cluster(etc: &Path, data_directory: &Path) -> Option<DebianCluster> {
    let mut found = Vec::new();
    for version in sorted(etc) {
        let Some(number) = file_name(&version).parse::<u32>().ok() else { continue };
        for config_directory in sorted(&version) {
            let Some(data) = data_of(&config_directory, number) else { continue };
            if is_same(&data, data_directory) {
                found.push(DebianCluster {
                    version: number,
                    name: file_name(&config_directory),
                    config_directory,
                });
            }
        }
    }
    // Two configurations of one directory (left by an upgrade): the one of the version that is in it.
    let version = super::read_pg_version(data_directory).ok();
    let of_version = found.iter().position(|cluster| Some(cluster.version) == version);
    if found.is_empty() { None } else { Some(found.swap_remove(of_version.unwrap_or(0))) }
}

/// `data_directory` of a cluster's configuration, or the link `pgdata` that old versions made, or Debian's default.
/// `None` where there is no configuration, or none that this user may read.
fn data_of(config_directory: &Path, version: u32) -> Option<PathBuf> {
    // The second argument keeps it from looking into the data directory, which others may not enter.
    let said = effective(&config_directory.join("postgresql.conf"), Some(config_directory)).ok()?;
    if let Some(setting) = said.get("data_directory") {
        return Some(config_directory.join(setting.path()));
    }
    if let Ok(link) = fs::read_link(config_directory.join("pgdata")) {
        return Some(config_directory.join(link));
    }
    Some(Path::new("/var/lib/postgresql").join(version.to_string()).join(config_directory.file_name()?))
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one.components().eq(other.components()),
    }
}

fn sorted(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_finds_its_configuration() {
        let root = tempfile::tempdir().expect("a directory");
        let etc = root.path().join("etc");
        let data = root.path().join("data/15");
        let make = |version: &str, name: &str, conf: &str| {
            fs::create_dir_all(etc.join(version).join(name)).expect("made");
            fs::write(etc.join(version).join(name).join("postgresql.conf"), conf).expect("written");
        };
        make("15", "other", "data_directory = '/srv/other'\n");
        make(
            "15",
            "main",
            &format!("data_directory = '/old'\n data_directory = '{}' # really\n", data.display()),
        );
        make("15", "plain", "port = 5439\n");
        fs::create_dir_all(etc.join("15/empty")).expect("made");
        let expected =
            DebianCluster { version: 15, name: "main".into(), config_directory: etc.join("15/main") };
        assert_eq!(debian_cluster(&etc, &data), Some(expected.clone()), "before the directory exists");
        fs::create_dir_all(&data).expect("made");
        std::os::unix::fs::symlink(&data, root.path().join("link")).expect("linked");
        assert_eq!(debian_cluster(&etc, &root.path().join("link")), Some(expected));
        assert_eq!(
            debian_cluster(&etc, Path::new("/var/lib/postgresql/15/plain")).map(|c| c.unit()).as_deref(),
            Some("postgresql@15-plain")
        );
        assert_eq!(debian_cluster(&etc, root.path()), None);
        make("16", "new", &format!("data_directory = '{}'\n", data.display()));
        fs::write(data.join("PG_VERSION"), "16\n").expect("written");
        assert_eq!(debian_cluster(&etc, &data).map(|c| c.version), Some(16));
    }
}
