//! Recorded with every backup, because it cannot be taken afterwards.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::BASE64;
use refloat_pg::sql::{ConfigFile, ConfigFileKind, Facts, RelationFact, Session};
use serde::{Deserialize, Serialize};

use super::BackupError;

/// Everything in the blob `facts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordedFacts {
    /// The cluster, its server and host.
    pub cluster: Facts,
    /// What is in each database.
    pub contents: Vec<refloat_pg::sql::DatabaseContents>,
    /// Relations by database oid.
    pub relations: BTreeMap<u32, Vec<RelationFact>>,
    /// Permission bits of the data directory.
    pub data_directory_mode: u32,
}

/// A configuration file outside the data directory, in the blob `outside_files`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutsideFile {
    /// Where it was.
    pub path: String,
    /// `config_file`, `hba_file`, `ident_file`, `include` or `debian`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Its bytes, base64.
    pub contents: String,
}

/// Reads the facts.
pub(super) fn read(session: &Session, data_directory_mode: u32) -> Result<RecordedFacts, BackupError> {
    let cluster = session.facts()?;
    let mut relations: BTreeMap<u32, Vec<RelationFact>> = BTreeMap::new();
    let contents = session.contents(&cluster.databases, &mut |database, relation| {
        relations.entry(database.oid).or_default().push(relation);
        Ok(())
    })?;
    Ok(RecordedFacts { cluster, contents, relations, data_directory_mode })
}

/// Reads the configuration files outside the data directory; what cannot be read is named in `notes`.
pub(super) fn outside_files(
    session: &Session,
    data_directory: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<OutsideFile>, BackupError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut out = Vec::new();
    let files: Vec<ConfigFile> = session.config_files(data_directory)?;
    for file in files.into_iter().filter(|file| !file.in_data_directory) {
        let read = std::fs::read(&file.path).and_then(|bytes| Ok((bytes, std::fs::metadata(&file.path)?)));
        match read {
            Ok((bytes, meta)) => out.push(OutsideFile {
                path: file.path.display().to_string(),
                kind: kind_name(file.kind).to_owned(),
                mode: meta.permissions().mode() & 0o7777,
                contents: BASE64.encode(&bytes),
            }),
            Err(error) => notes.push(format!("not stored: {}: {error}", file.path.display())),
        }
    }
    Ok(out)
}

const fn kind_name(kind: ConfigFileKind) -> &'static str {
    match kind {
        ConfigFileKind::Main => "config_file",
        ConfigFileKind::Hba => "hba_file",
        ConfigFileKind::Ident => "ident_file",
        ConfigFileKind::Included => "include",
        ConfigFileKind::Debian => "debian",
    }
}

impl RecordedFacts {
    /// The relation whose files are called so.
    pub fn relation_of(&self, database: u32, filenode: u32) -> Option<String> {
        let name = self.cluster.databases.iter().find(|d| d.oid == database).map(|d| d.name.as_str());
        let lists = if database == 0 {
            self.relations.values().collect()
        } else {
            vec![self.relations.get(&database)?]
        };
        let found = lists.into_iter().flatten().find(|r| r.filenode == Some(filenode))?;
        Some(format!(
            "{}{}.{}",
            name.map_or_else(String::new, |n| format!("{n}: ")),
            found.schema,
            found.name
        ))
    }
}
