//! What is in each database, read through one connection per database and handed on relation by relation, so that memory
//! does not grow with their number.

use std::io;

use serde::{Deserialize, Serialize};

use super::facts::{CollationFact, DatabaseContents, DatabaseFact, ExtensionFact};
use super::session::{parse, parse_opt, text};
use super::{Session, SqlError};

/// Relations fetched at a time.
const BATCH: usize = 1000;

/// One relation with storage, or a partitioned table or index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationFact {
    /// Its oid.
    pub oid: u32,
    /// Name of its files below the database's directory; `None` for a partitioned table or index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filenode: Option<u32>,
    /// `relkind`: `r` table, `i` index, `S` sequence, `t` toast, `m` materialized view, `p` and `I` partitioned, `f` foreign.
    pub kind: char,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its toast table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toast: Option<u32>,
    /// The table an index belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_of: Option<u32>,
    /// Oid of its tablespace: the database's default one when it has none of its own; 1664 for shared relations.
    pub tablespace: u32,
    /// `relpersistence`: `p` permanent, `u` unlogged.
    pub persistence: char,
    /// `relpages`: pages as of the last VACUUM or ANALYZE, an estimate.
    pub pages: i64,
    /// Rows inserted, updated and deleted since statistics were reset; 0 for what has none.
    pub changes: u64,
}

/// Why a database's contents are not listed. Normal for `template0`, and for databases dropped meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why", content = "detail")]
pub enum Unlisted {
    /// It accepts no connections (`datallowconn`, or it is marked invalid).
    NoConnections,
    /// It was dropped or renamed since the list was made.
    Gone,
    /// Its name is not UTF-8.
    Name,
    /// Anything else, in the server's words.
    Failed(String),
}

/// How far the list of one database got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListedDatabase {
    /// All of it: so many relations.
    Listed(u64),
    /// Nothing, or a part.
    Unlisted(Unlisted),
}

impl Session {
    /// Reads the contents of these databases, each through a connection of its own, and hands every relation to `sink`
    /// with its database. Relations of other sessions that are temporary are left out, as backups leave them out.
    ///
    /// # Errors
    /// Only when `sink` fails. A database that cannot be listed says so in its [`DatabaseContents`].
    pub fn contents(
        &self,
        databases: &[DatabaseFact],
        sink: &mut dyn FnMut(&DatabaseFact, RelationFact) -> io::Result<()>,
    ) -> Result<Vec<DatabaseContents>, SqlError> {
        let mut all = Vec::with_capacity(databases.len());
        for database in databases {
            let mut contents = DatabaseContents {
                database: database.oid,
                listed: ListedDatabase::Listed(0),
                extensions: Vec::new(),
                collations: Vec::new(),
            };
            match self.list(database, &mut contents, sink) {
                Ok(()) => {}
                Err(error @ SqlError::Sink { .. }) => return Err(error),
                Err(error) => contents.listed = ListedDatabase::Unlisted(unlisted(&error)),
            }
            all.push(contents);
        }
        Ok(all)
    }

    fn list(
        &self,
        database: &DatabaseFact,
        contents: &mut DatabaseContents,
        sink: &mut dyn FnMut(&DatabaseFact, RelationFact) -> io::Result<()>,
    ) -> Result<(), SqlError> {
        if !database.allows_connections || database.connection_limit < -1 {
            contents.listed = ListedDatabase::Unlisted(Unlisted::NoConnections);
            return Ok(());
        }
        if !database.name_is_utf8 {
            contents.listed = ListedDatabase::Unlisted(Unlisted::Name);
            return Ok(());
        }
        let session = Self::connect(&self.options().with_database(&database.name))?;
        contents.extensions = session.extensions()?;
        contents.collations = session.collations()?;
        let count = session.relations(&mut |relation| {
            sink(database, relation)
                .map_err(|source| SqlError::Sink { database: database.name.clone(), source })
        })?;
        contents.listed = ListedDatabase::Listed(count);
        session.close();
        Ok(())
    }

    /// Names of this database as UTF-8, whatever its encoding: with `SQL_ASCII` the server cannot convert them.
    fn name_column(&self, column: &str) -> String {
        if self.info().database_encoding == "SQL_ASCII" { escaped(column) } else { column.to_owned() }
    }

    fn name_of(&self, what: &str, row: &super::session::Row, at: usize) -> Result<String, SqlError> {
        let name = text(what, row, at)?;
        Ok(if self.info().database_encoding == "SQL_ASCII" { unescape(name).0 } else { name.to_owned() })
    }

    fn relations(&self, sink: &mut dyn FnMut(RelationFact) -> Result<(), SqlError>) -> Result<u64, SqlError> {
        let what = "list the relations of a database";
        let query = format!(
            "select c.oid, pg_relation_filenode(c.oid), c.relkind, {}, {}, nullif(c.reltoastrelid, 0), i.indrelid, \
             coalesce(nullif(c.reltablespace, 0), d.dattablespace), c.relpersistence, c.relpages, \
             coalesce(pg_stat_get_tuples_inserted(c.oid), 0) + coalesce(pg_stat_get_tuples_updated(c.oid), 0) \
             + coalesce(pg_stat_get_tuples_deleted(c.oid), 0) \
             from pg_class c join pg_namespace n on n.oid = c.relnamespace \
             join pg_database d on d.datname = current_database() left join pg_index i on i.indexrelid = c.oid \
             where c.relkind not in ('v', 'c') and c.relpersistence <> 't'",
            self.name_column("n.nspname"),
            self.name_column("c.relname"),
        );
        self.rows(what, "begin isolation level repeatable read read only")?;
        self.rows(what, &format!("declare relations no scroll cursor for {query}"))?;
        let mut count = 0;
        loop {
            let rows = self.rows(what, &format!("fetch {BATCH} from relations"))?;
            for row in &rows {
                sink(RelationFact {
                    oid: parse(what, row, 0)?,
                    filenode: parse_opt(what, row, 1)?,
                    kind: parse(what, row, 2)?,
                    schema: self.name_of(what, row, 3)?,
                    name: self.name_of(what, row, 4)?,
                    toast: parse_opt(what, row, 5)?,
                    index_of: parse_opt(what, row, 6)?,
                    tablespace: parse(what, row, 7)?,
                    persistence: parse(what, row, 8)?,
                    pages: parse(what, row, 9)?,
                    changes: parse::<i64>(what, row, 10)?.try_into().unwrap_or(0),
                })?;
                count += 1;
            }
            if rows.len() < BATCH {
                break;
            }
        }
        self.rows(what, "commit")?;
        Ok(count)
    }

    fn extensions(&self) -> Result<Vec<ExtensionFact>, SqlError> {
        let what = "list the extensions of a database";
        let sql = format!(
            "select {}, e.extversion, {} from pg_extension e join pg_namespace n on n.oid = e.extnamespace order by 1",
            self.name_column("e.extname"),
            self.name_column("n.nspname")
        );
        let fact = |row: &super::session::Row| {
            Ok(ExtensionFact {
                name: self.name_of(what, row, 0)?,
                version: text(what, row, 1)?.to_owned(),
                schema: self.name_of(what, row, 2)?,
            })
        };
        self.rows(what, &sql)?.iter().map(fact).collect()
    }

    /// Collations that something in this database uses or that users made; not the hundreds that initdb imports.
    fn collations(&self) -> Result<Vec<CollationFact>, SqlError> {
        let what = "list the collations of a database";
        let sql = format!(
            "select c.oid, {}, {}, c.collprovider, c.collversion, pg_collation_actual_version(c.oid) \
             from pg_collation c join pg_namespace n on n.oid = c.collnamespace where c.oid >= 16384 or c.oid in \
             (select attcollation from pg_attribute where attnum > 0 union select typcollation from pg_type \
             union select unnest(indcollation::oid[]) from pg_index) order by 1",
            self.name_column("n.nspname"),
            self.name_column("c.collname")
        );
        let fact = |row: &super::session::Row| {
            Ok(CollationFact {
                oid: parse(what, row, 0)?,
                schema: self.name_of(what, row, 1)?,
                name: self.name_of(what, row, 2)?,
                provider: parse(what, row, 3)?,
                recorded_version: parse_opt(what, row, 4)?,
                actual_version: parse_opt(what, row, 5)?,
            })
        };
        self.rows(what, &sql)?.iter().map(fact).collect()
    }
}

fn unlisted(error: &SqlError) -> Unlisted {
    match error {
        SqlError::Refused { cause, .. } if cause.has_state(&["3D000"]) => Unlisted::Gone,
        // 57P04: DROP DATABASE ... WITH (FORCE) ended our session.
        SqlError::Lost { cause, .. } if cause.has_state(&["57P04", "57P01"]) => Unlisted::Gone,
        other => {
            let cause =
                std::error::Error::source(other).map(|cause| format!(": {cause}")).unwrap_or_default();
            Unlisted::Failed(format!("{other}{cause}"))
        }
    }
}

/// The column's raw bytes in PostgreSQL's `escape` format, so that names in any encoding arrive.
pub(super) fn escaped(column: &str) -> String {
    format!("encode(convert_to(({column})::text, 'SQL_ASCII'), 'escape')")
}

/// Text in PostgreSQL's `escape` format, and whether its bytes are UTF-8; when not, each byte stands for one character.
pub(super) fn unescape(text: &str) -> (String, bool) {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, tail.first(), octal.and_then(|digits| u8::from_str_radix(digits, 8).ok())) {
            (b'\\', Some(b'\\'), _) => {
                bytes.push(b'\\');
                rest = tail.get(1..).unwrap_or_default();
            }
            (b'\\', _, Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => (text, true),
        Err(error) => (error.into_bytes().into_iter().map(char::from).collect(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_encoding_arrive() {
        assert_eq!(unescape("plain"), ("plain".into(), true));
        assert_eq!(unescape(r"n\303\244me"), ("näme".into(), true));
        assert_eq!(unescape(r"back\\slash\\303"), (r"back\slash\303".into(), true));
        assert_eq!(unescape(r"n\344me"), ("näme".into(), false));
        assert_eq!(unescape("\\"), ("\\".into(), true));
    }
}
