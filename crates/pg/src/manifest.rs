//! `backup_manifest`: the list of files and checksums that `pg_verifybackup` reads.
//!
//! [`ManifestWriter`] writes it as a stream, so its size costs no memory. The checksum of a file that was placed in
//! pieces, in any order, is put together with [`combine`]. A crash leaves a manifest without its last line, which
//! `pg_verifybackup` refuses.
//!
//! PostgreSQL: `src/backend/backup/backup_manifest.c`, `src/common/checksum_helper.c`, manual "Backup Manifest Format".

use std::io::{self, Write};

use aws_lc_rs::digest;
use refloat_types::{Lsn, SystemIdentifier, TimelineId, Timestamp, hex};

/// Paths, relative to the data directory, that `pg_verifybackup` looks at neither in the manifest's absence nor on
/// disk; a manifest need not list them (PostgreSQL's own lists all of them that the backup holds, `pg_wal` excepted).
///
/// PostgreSQL: `src/bin/pg_verifybackup/pg_verifybackup.c`.
pub const IGNORED_BY_VERIFYBACKUP: [&str; 5] =
    ["backup_manifest", "pg_wal", "postgresql.auto.conf", "recovery.signal", "standby.signal"];

/// One file of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestFile<'a> {
    /// Relative to the data directory; files of tablespaces as `pg_tblspc/OID/...`.
    pub path: &'a [u8],
    /// Bytes.
    pub size: u64,
    /// Time of the last change, written to the second.
    pub modified: Timestamp,
    /// CRC-32C of the bytes.
    pub crc32c: u32,
}

/// WAL that must be there to recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// On which timeline.
    pub timeline: TimelineId,
    /// From here: the redo position, or the fork of a later timeline.
    pub start: Lsn,
    /// Up to here: the end of the backup, or where the timeline was left.
    pub end: Lsn,
}

/// The CRC-32C of `a` and `b` put together, from the CRC of each and the length of `b`.
pub fn combine(crc_a: u32, crc_b: u32, length_b: u64) -> u32 {
    crc32c::crc32c_combine(crc_a, crc_b, usize::try_from(length_b).expect("pointers have 64 bits here"))
}

/// Everything that passes here is hashed: the last line carries the digest of all before it.
struct Hashed<W> {
    to: W,
    hash: digest::Context,
}

impl<W: Write> Hashed<W> {
    fn put(&mut self, text: &str) -> io::Result<()> {
        self.hash.update(text.as_bytes());
        self.to.write_all(text.as_bytes())
    }
}

/// Writes a `backup_manifest`: [`new`](Self::new), [`file`](Self::file) for each file in any order, then
/// [`finish`](Self::finish).
pub struct ManifestWriter<W> {
    out: Hashed<W>,
    any: bool,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest for a server of this major version: version 1 up to 16, version 2 from 17 on.
    ///
    /// # Errors
    /// What `to` reports.
    pub fn new(to: W, major_version: u32, system: SystemIdentifier) -> io::Result<Self> {
        let mut out = Hashed { to, hash: digest::Context::new(&digest::SHA256) };
        if major_version >= 17 {
            let line =
                format!("{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system},\n");
            out.put(&line)?;
        } else {
            out.put("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n")?;
        }
        out.put("\"Files\": [")?;
        Ok(Self { out, any: false })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// What the sink reports.
    pub fn file(&mut self, file: &ManifestFile<'_>) -> io::Result<()> {
        let path = match std::str::from_utf8(file.path) {
            Ok(path) => format!("\"Path\": {}", json_string(path)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex::encode(file.path)),
        };
        // PostgreSQL prints the CRC as it lies in memory: the lowest byte first.
        let line = format!(
            "{}{{ {path}, \"Size\": {}, \"Last-Modified\": \"{} GMT\", \"Checksum-Algorithm\": \"CRC32C\", \
             \"Checksum\": \"{}\" }}",
            if self.any { ",\n" } else { "\n" },
            file.size,
            file.modified.strftime("%Y-%m-%d %H:%M:%S"),
            hex::encode(&file.crc32c.to_le_bytes()),
        );
        self.any = true;
        self.out.put(&line)
    }

    /// Writes the WAL ranges and the digest of everything before it, and gives back the sink.
    ///
    /// # Errors
    /// What the sink reports.
    pub fn finish(mut self, wal: &[WalRange]) -> io::Result<W> {
        self.out.put("\n],\n\"WAL-Ranges\": [\n")?;
        for (n, range) in wal.iter().enumerate() {
            let line = format!(
                "{}{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                if n == 0 { "" } else { ",\n" },
                range.timeline.get(),
                range.start,
                range.end
            );
            self.out.put(&line)?;
        }
        self.out.put("\n],\n")?;
        let Hashed { mut to, hash } = self.out;
        writeln!(to, "\"Manifest-Checksum\": \"{}\"}}", hex::encode(hash.finish().as_ref()))?;
        Ok(to)
    }
}

/// `text` as a JSON string with its quotes.
fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(major: u32, files: &[&[u8]]) -> String {
        let mut writer =
            ManifestWriter::new(Vec::new(), major, SystemIdentifier(7_320_280_665_284_567_118)).unwrap();
        for path in files {
            let modified = Timestamp::from_second(1_772_413_929).unwrap();
            let crc32c = crc32c::crc32c(b"123456789");
            writer.file(&ManifestFile { path, size: 9, modified, crc32c }).unwrap();
        }
        let wal = WalRange { timeline: TimelineId::FIRST, start: Lsn(0x200_0028), end: Lsn(0x200_0138) };
        String::from_utf8(writer.finish(&[wal]).unwrap()).unwrap()
    }

    #[test]
    fn a_manifest_is_written_as_postgresql_writes_it() {
        let text = write(15, &[b"PG_VERSION", b"a \"b\"\n\xc3\xa9", b"x\xff"]);
        let expected = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
            { \"Path\": \"PG_VERSION\", \"Size\": 9, \"Last-Modified\": \"2026-03-02 01:12:09 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" },\n\
            { \"Path\": \"a \\\"b\\\"\\né\", \"Size\": 9, \"Last-Modified\": \"2026-03-02 01:12:09 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" },\n\
            { \"Encoded-Path\": \"78ff\", \"Size\": 9, \"Last-Modified\": \"2026-03-02 01:12:09 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" }\n],\n\
            \"WAL-Ranges\": [\n\
            { \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000138\" }\n],\n";
        assert!(text.starts_with(expected), "{text}");
        let sum = hex::encode(digest::digest(&digest::SHA256, expected.as_bytes()).as_ref());
        assert_eq!(&text[expected.len()..], format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
    }

    #[test]
    fn every_version_is_json() {
        for major in [13, 16, 17, 18] {
            let text = write(major, &[b"a\\b", b"\x01"]);
            let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
            let version = if major < 17 { 1 } else { 2 };
            assert_eq!(value["PostgreSQL-Backup-Manifest-Version"], version);
            let system = value["System-Identifier"].as_u64();
            assert_eq!(system, (major >= 17).then_some(7_320_280_665_284_567_118));
            assert_eq!(value["Files"][0]["Path"], "a\\b");
        }
        let none = write(15, &[]);
        assert!(serde_json::from_str::<serde_json::Value>(&none).is_ok());
    }

    #[test]
    fn pieces_give_the_sum_of_the_whole() {
        let data: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let whole = crc32c::crc32c(&data);
        for cut in [0, 1, 7, 8192, 65_536, 99_999, 100_000] {
            let (a, b) = data.split_at(cut);
            assert_eq!(combine(crc32c::crc32c(a), crc32c::crc32c(b), b.len() as u64), whole);
        }
    }
}
