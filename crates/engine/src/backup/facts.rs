//! Recorded with every backup, because it cannot be taken afterwards.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use data_encoding::BASE64;
use refloat_pg::layout::{FileClass, classify};
use refloat_pg::sql::{ConfigFile, ConfigFileKind, DatabaseContents, Facts, RelationFact, Session};
use refloat_repo::{RepoError, StateDirectory};
use serde::{Deserialize, Serialize};

use super::{BackupError, BadPage};
use crate::spill::{RecordWriter, Records};

/// Everything in the blob `facts`. Relations may be millions: they lie in a spill file.
#[derive(Debug)]
pub(super) struct RecordedFacts {
    /// The cluster, its server and host.
    pub(super) cluster: Facts,
    /// What is in each database.
    contents: Vec<DatabaseContents>,
    /// Oid of the database (u32), then the relation as JSON, by database.
    relations: Records,
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
pub(super) fn read(session: &Session, state: &StateDirectory) -> Result<RecordedFacts, BackupError> {
    let cluster = session.facts()?;
    let mut relations = RecordWriter::create(state)?;
    let mut record = Vec::new();
    let contents = session.contents(&cluster.databases, &mut |database, relation| {
        record.clear();
        record.extend_from_slice(&database.oid.to_le_bytes());
        serde_json::to_writer(&mut record, &relation)?;
        relations.push(&record).map_err(io::Error::other)
    })?;
    Ok(RecordedFacts { cluster, contents, relations: relations.finish()? })
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
    /// All of it as JSON, little by little: each call appends some, and answers `false` with the last.
    /// `data_directory_mode` are the permission bits of the data directory.
    pub(super) fn json(
        &self,
        data_directory_mode: u32,
    ) -> Result<impl FnMut(&mut Vec<u8>) -> Result<bool, RepoError>, RepoError> {
        let text = |value: Result<String, serde_json::Error>| {
            value.map_err(|error| RepoError::internal("write a backup's facts", error))
        };
        let cluster = text(serde_json::to_string(&self.cluster))?;
        let contents = text(serde_json::to_string(&self.contents))?;
        let mut head = Some(format!("{{\"cluster\":{cluster},\"contents\":{contents},\"relations\":{{"));
        let (records, mut reader) = (self.relations.clone(), self.relations.reader());
        let mut open: Option<u32> = None;
        Ok(move |out: &mut Vec<u8>| {
            if let Some(head) = head.take() {
                out.extend_from_slice(head.as_bytes());
                return Ok(true);
            }
            let Some(record) = reader.next()? else {
                let end = if open.is_some() { "]" } else { "" };
                out.extend_from_slice(
                    format!("{end}}},\"data_directory_mode\":{data_directory_mode}}}").as_bytes(),
                );
                return Ok(false);
            };
            let (database, relation) = split(record).ok_or_else(|| records.damaged())?;
            match open.replace(database) {
                Some(before) if before == database => out.push(b','),
                Some(_) => out.extend_from_slice(format!("],\"{database}\":[").as_bytes()),
                None => out.extend_from_slice(format!("\"{database}\":[").as_bytes()),
            }
            out.extend_from_slice(relation);
            Ok(true)
        })
    }

    /// Says which relations pages belong to.
    pub(super) fn name_relations(&self, pages: &mut [BadPage]) -> Result<(), RepoError> {
        let file_of = |page: &BadPage| match classify(page.path.as_bytes()) {
            FileClass::Relation(file) => Some((file.database, file.number)),
            _ => None,
        };
        let mut wanted: BTreeMap<(u32, u32), Option<String>> =
            pages.iter().filter_map(|page| Some((file_of(page)?, None))).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut reader = self.relations.reader();
        while let Some(record) = reader.next()? {
            let (database, relation) = split(record).ok_or_else(|| self.relations.damaged())?;
            let relation: RelationFact =
                serde_json::from_slice(relation).map_err(|_| self.relations.damaged())?;
            let Some(number) = relation.filenode else { continue };
            // Shared relations lie in no database's directory, and every database lists them.
            for place in [(database, number), (0, number)] {
                if let Some(name @ None) = wanted.get_mut(&place) {
                    *name = Some(self.name_of(place.0, &relation));
                }
            }
        }
        for page in pages {
            page.relation = file_of(page).and_then(|file| wanted.get(&file)?.clone());
        }
        Ok(())
    }

    fn name_of(&self, database: u32, relation: &RelationFact) -> String {
        let found = self.cluster.databases.iter().find(|found| found.oid == database);
        let database = found.map_or_else(String::new, |found| format!("{}: ", found.name));
        format!("{database}{}.{}", relation.schema, relation.name)
    }
}

fn split(record: &[u8]) -> Option<(u32, &[u8])> {
    let (database, relation) = record.split_first_chunk()?;
    Some((u32::from_le_bytes(*database), relation))
}
