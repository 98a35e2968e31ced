//! What `pg_waldump` says of archived WAL, and what the inspection says of the same files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refloat_pg::wal::{
    BlockRef, InspectOptions, Inspection, Record, RecordVisitor, SegmentFault, SegmentInspector,
};
use refloat_testkit::cluster::{ClusterBuilder, TestCluster};
use refloat_types::{Lsn, Timestamp, WalSegmentName, WalSegmentSize};

/// A record, as far as both tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) manager: u8,
    pub(crate) total: u32,
    pub(crate) xid: u32,
    pub(crate) previous: Lsn,
    pub(crate) blocks: Vec<BlockRef>,
}

/// A server that archives into a directory, with WAL segments of 1 MiB, so that little load gives many.
pub(crate) struct Archiving {
    pub(crate) cluster: TestCluster,
    pub(crate) archive: PathBuf,
}

pub(crate) const SIZE: u64 = 1 << 20;

impl Archiving {
    pub(crate) fn start(version: u32, more: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        let builder = TestCluster::builder().version(version).wal_segment_size_mb(1);
        let builder = builder
            .setting("archive_mode", "on")
            .setting("archive_command", "/bin/false")
            .setting("max_wal_size", "64MB")
            .setting("max_prepared_transactions", "10");
        let mut cluster = more(builder).build_stopped();
        let archive = cluster.make_dir("archive");
        cluster.configure("archive_command", &archive_command(&archive));
        cluster.start();
        Self { cluster, archive }
    }

    /// Ends the current WAL segment and waits until it is in the archive.
    pub(crate) fn switch(&self) -> WalSegmentName {
        let sql = "select pg_walfile_name(pg_switch_wal());";
        // A switch right at the beginning of a WAL segment does nothing.
        self.cluster.psql("postgres", "select pg_logical_emit_message(false, 'a', 'b');");
        let name = self.cluster.psql("postgres", sql);
        let asked = format!("select last_archived_wal >= '{name}' from pg_stat_archiver;");
        self.cluster.wait_for("postgres", &asked, "t");
        name.parse().expect("a WAL segment")
    }

    /// The archived WAL segments of one timeline, in order, with their bytes.
    pub(crate) fn segments(&self) -> Vec<(WalSegmentName, Vec<u8>)> {
        segments_in(&self.archive)
    }

    /// All records `pg_waldump` finds from the first to the last archived WAL segment.
    pub(crate) fn dump(&self) -> Dump {
        let names = self.segments();
        let (first, last) = (names.first().expect("some").0, names.last().expect("some").0);
        Dump::of(&self.cluster, &self.archive, first, last)
    }
}

pub(crate) fn archive_command(archive: &Path) -> String {
    format!("cp %p {0}/%f.tmp && mv {0}/%f.tmp {0}/%f", archive.display())
}

pub(crate) fn segments_in(directory: &Path) -> Vec<(WalSegmentName, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .expect("the directory exists")
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<WalSegmentName>().ok()?, entry.path())))
        .collect();
    found.sort();
    found.into_iter().map(|(name, path)| (name, std::fs::read(path).expect("readable"))).collect()
}

/// Inspects a file in chunks as a push would read it, and lists its records.
pub(crate) fn inspect(
    name: WalSegmentName,
    options: InspectOptions,
    bytes: &[u8],
) -> Result<(Inspection, BTreeMap<Lsn, Seen>), SegmentFault> {
    let mut inspector = SegmentInspector::with_visitor(name, options, Lister::default());
    for chunk in bytes.chunks(100_000) {
        inspector.feed(chunk)?;
    }
    inspector.finish_with_visitor(bytes.len() as u64).map(|(inspection, lister)| (inspection, lister.0))
}

#[derive(Default)]
struct Lister(BTreeMap<Lsn, Seen>);

impl RecordVisitor for Lister {
    fn record(&mut self, record: &Record<'_>) {
        let header = record.header;
        let mut blocks = Vec::new();
        record.parts(|block| blocks.push(block)).expect("PostgreSQL wrote it");
        let seen = Seen {
            manager: header.manager,
            total: header.total,
            xid: header.xid,
            previous: header.previous,
            blocks,
        };
        assert!(self.0.insert(record.at, seen).is_none(), "{} twice", record.at);
    }
}

/// What `pg_waldump` printed.
pub(crate) struct Dump {
    pub(crate) records: BTreeMap<Lsn, Seen>,
    /// The descriptions.
    pub(crate) texts: BTreeMap<Lsn, String>,
}

impl Dump {
    pub(crate) fn of(
        cluster: &TestCluster,
        directory: &Path,
        first: WalSegmentName,
        last: WalSegmentName,
    ) -> Self {
        let run = |arguments: &[&str]| {
            let mut command = cluster.as_owner(cluster.bin("pg_waldump"));
            let output = command.env("TZ", "UTC").args(arguments).output().expect("pg_waldump starts");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let managers = run(&["-r", "list"]);
        let managers: Vec<&str> = managers.lines().collect();
        let directory = directory.display().to_string();
        let text = run(&["-p", &directory, &first.to_string(), &last.to_string()]);
        let mut dump = Self { records: BTreeMap::new(), texts: BTreeMap::new() };
        for line in text.lines() {
            dump.line(line, &managers);
        }
        assert!(!dump.records.is_empty(), "pg_waldump found nothing");
        dump
    }

    fn line(&mut self, line: &str, managers: &[&str]) {
        let after = |key: &str| {
            let found = line.split_once(key).unwrap_or_else(|| panic!("{key} in {line}"));
            found.1.trim_start()
        };
        let word = |key: &str| after(key).split([' ', ',']).next().expect("split gives one").to_owned();
        let lsn = word("lsn:").parse().expect("an LSN");
        let total = after("len (rec/tot):").split('/').nth(1).expect("two").split(',').next().expect("one");
        let desc = after("desc:").to_owned();
        let (text, blocks) =
            desc.split_once(", blkref").map_or((desc.as_str(), ""), |(text, rest)| (text, rest));
        let seen = Seen {
            manager: managers.iter().position(|name| **name == word("rmgr:")).expect("in the list") as u8,
            total: total.trim().parse().expect("a number"),
            xid: word("tx:").parse().expect("a number"),
            previous: word("prev").parse().expect("an LSN"),
            blocks: blocks.split("blkref").filter(|part| part.contains("rel ")).map(block).collect(),
        };
        self.texts.insert(lsn, text.to_owned());
        self.records.insert(lsn, seen);
    }

    /// Records that begin in this WAL segment.
    pub(crate) fn of_segment(&self, name: WalSegmentName) -> BTreeMap<Lsn, Seen> {
        let size = WalSegmentSize::new(SIZE as u32).expect("1 MiB");
        let range = name.start(size)..name.end(size);
        self.records.range(range).map(|(lsn, seen)| (*lsn, seen.clone())).collect()
    }

    /// Commits and aborts of these records: whether it is a commit, transaction id, time.
    pub(crate) fn endings(&self, of: &BTreeMap<Lsn, Seen>) -> Vec<(bool, u32, Timestamp)> {
        let ending = |(lsn, seen): (&Lsn, &Seen)| {
            let text = &self.texts[lsn];
            let (kind, rest) = text.split_once(' ')?;
            let commit = kind.starts_with("COMMIT");
            if seen.manager != 1 || !(commit || kind.starts_with("ABORT")) {
                return None;
            }
            let (xid, rest) = if kind.ends_with("_PREPARED") {
                let (xid, rest) = rest.split_once(": ")?;
                (xid.parse().expect("a transaction id"), rest)
            } else {
                (seen.xid, rest)
            };
            let time = rest.split_once(" UTC").expect("a time").0.replace(' ', "T") + "Z";
            Some((commit, xid, time.parse().expect("a time")))
        };
        of.iter().filter_map(ending).collect()
    }
}

/// ` #0: rel 1663/5/1259 fork vm blk 0 FPW`
fn block(text: &str) -> BlockRef {
    let words: Vec<&str> = text.split([' ', ',', ';']).collect();
    let after =
        |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1)).copied();
    let relation: Vec<u32> =
        after("rel").expect("a relation").split('/').map(|part| part.parse().expect("a number")).collect();
    BlockRef {
        tablespace: relation[0],
        database: relation[1],
        relation: relation[2],
        fork: match after("fork") {
            None | Some("main") => 0,
            Some("fsm") => 1,
            Some("vm") => 2,
            Some("init") => 3,
            Some(other) => panic!("fork {other}"),
        },
        block: after("blk").expect("a block").parse().expect("a number"),
        has_image: text.contains("FPW"),
    }
}
