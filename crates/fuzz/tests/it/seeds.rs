//! Where the seeds come from: real servers, the repository of the first format, and texts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refloat_fuzz::seeds_of;
use refloat_pg::wal::{InspectOptions, Record, RecordVisitor, SegmentInspector};
use refloat_repo::kind::Kind;
use refloat_repo::layout;
use refloat_repo::object::Document;
use refloat_repo::pack::Content;
use refloat_repo::pack::reader::{FrameOpener, PackKeys};
use refloat_store::Store as _;
use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::memory_store::Memory;
use refloat_types::ObjectId;

const PAGE: usize = 8192;

fn write(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let directory = seeds_of(target);
    fs::create_dir_all(&directory).expect("it can be made");
    fs::write(directory.join(name), bytes).expect("it can be written");
}

/// Writes the seeds anew; what a fuzzer has found stays beside them.
#[test]
#[ignore = "writes into the source tree"]
fn write_seeds() {
    texts();
    for version in [15, 17, 18] {
        of_a_server(version);
    }
    of_a_repository();
}

fn of_a_server(version: u32) {
    let mut cluster = TestCluster::builder().version(version).build();
    cluster.psql(
        "postgres",
        "create table t as select n, repeat('x', 200) as pad from generate_series(1, 200) n",
    );
    cluster.psql(
        "postgres",
        "begin; insert into t values (0, ''); savepoint s; delete from t where n < 9; commit",
    );
    cluster.psql("postgres", "select pg_create_restore_point('here')");
    cluster.psql("postgres", "checkpoint; drop table t");
    let file = cluster.psql("postgres", "select pg_walfile_name(pg_current_wal_lsn())");
    cluster.stop(StopMode::Fast);
    let data = cluster.data_directory();
    write("control_file", &format!("postgresql-{version}"), &read(&data.join("global/pg_control"))[..512]);
    let wal = read(&data.join("pg_wal").join(&file));
    // The first byte says how it is read: 2 and 16 as the part of a file of 1 MiB, which its header says as well.
    write("wal_segment", &format!("postgresql-{version}"), [&[0][..], &wal[..2 * PAGE]].concat());
    let mut small = [&[2 | 16][..], &wal[..PAGE]].concat();
    small[1 + 32..][..4].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    write("wal_segment", &format!("postgresql-{version}-partial"), small);
    let mut records = Records::default();
    let unfinished = InspectOptions { partial: true, ..InspectOptions::default() };
    let name = file.parse().expect("a WAL segment");
    let mut inspector = SegmentInspector::with_visitor(name, unfinished, &mut records);
    inspector.feed(&wal).expect("PostgreSQL wrote it");
    drop(inspector);
    for ((manager, operation), bytes) in records.0 {
        let how = [13, 14, 15, 16, 17, 18].iter().position(|known| *known == version).expect("known") as u8;
        write(
            "wal_record",
            &format!("postgresql-{version}-{manager}-{operation:02x}"),
            [&[how][..], &bytes].concat(),
        );
    }
    let catalog = read(&data.join("global/1262"));
    write("page", &format!("postgresql-{version}"), [&[0][..], &catalog[..PAGE]].concat());
}

/// The first short record of each kind.
#[derive(Default)]
struct Records(BTreeMap<(u8, u8), Vec<u8>>);

impl RecordVisitor for &mut Records {
    fn record(&mut self, record: &Record<'_>) {
        if record.is_whole() && record.bytes.len() < 300 && matches!(record.header.manager, 0 | 1 | 5 | 10) {
            let kind = (record.header.manager, record.header.operation());
            self.0.entry(kind).or_insert_with(|| record.bytes.to_vec());
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn of_a_repository() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../repo/tests/fixtures/format-1/plain");
    let (mut files, mut kinds) = (Vec::new(), BTreeSet::new());
    below(&root, &mut files);
    files.sort();
    for path in files {
        let bytes = read(&path);
        let number = bytes[10];
        if kinds.insert(number) {
            write("object_header", &format!("kind-{number}"), &bytes[..64]);
        }
        match Kind::from_number(number).expect("the first format has it") {
            Kind::Pack => of_a_pack(&bytes),
            Kind::Wal => write("wal_object", "plain", &bytes),
            kind => {
                write("document", &format!("kind-{number}"), &bytes);
                let document = Document::decode("x", bytes, kind).expect("it is one");
                if kind == Kind::Commit {
                    write("commit_packs", "packs", document.unverified().table);
                }
            }
        }
    }
}

fn of_a_pack(bytes: &[u8]) {
    let id = ObjectId(bytes[16..32].try_into().expect("16 bytes"));
    write("pack", &id.to_string()[..6], bytes);
    let store = Memory::new();
    store.put_new(&layout::pack(id), bytes).expect("it is empty");
    let keys = PackKeys { packs: BTreeMap::from([(id, ObjectId::NONE)]), keys: BTreeMap::new() };
    let mut opener = FrameOpener::new(Arc::new(keys)).expect("there is memory");
    let mut each = |frame: &refloat_repo::pack::FrameRef, content, plain: Result<&[u8], _>| {
        let plain = plain.expect("it is whole");
        let name = format!("{}-{}", &id.to_string()[..6], frame.index);
        match content {
            Content::Leaves => write("leaf", &name, plain),
            Content::Part => write("manifest_part", &name, plain),
            Content::Data if frame.index == 0 => {
                let stored = &bytes[frame.offset as usize..frame.end() as usize - 16];
                let lead = [&[frame.codec.number()][..], &frame.plain.to_le_bytes()].concat();
                write("frame", &format!("codec-{}", frame.codec.number()), [&lead, stored].concat());
            }
            _ => {}
        }
        Ok(())
    };
    opener.read_pack(&store, id, &mut each).expect("it is whole");
}

fn below(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the fixture is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() { below(&path, into) } else { into.push(path) }
    }
}

fn texts() {
    write(
        "backup_label",
        "postgresql-15",
        "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
         BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 02:00:00 CET\nLABEL: refloat\nSTART TIMELINE: 1\n",
    );
    write(
        "backup_label",
        "postgresql-17-incremental",
        "START WAL LOCATION: 0/9000028 (file 000000020000000000000009)\nCHECKPOINT LOCATION: 0/9000060\n\
         BACKUP METHOD: streamed\nBACKUP FROM: standby\nSTART TIME: 2026-11-20 02:00:00 UTC\nLABEL: a b\nSTART TIMELINE: 2\n\
         INCREMENTAL FROM LSN: 0/7000028\nINCREMENTAL FROM TLI: 1\n",
    );
    write("tablespace_map", "two", "16384 /srv/fast\n16385 /srv/a\\\nb\\\\c\n");
    write(
        "timeline_history",
        "three",
        "\u{4}1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-20 02:51:00+01\n3\tA/0\tafter LSN A/0\n",
    );
    write(
        "backup_history",
        "postgresql-15",
        "START WAL LOCATION: 0/1000028 (file 000000010000000000000001)\nSTOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)\n\
         CHECKPOINT LOCATION: 0/1000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 02:00:00 CET\n\
         LABEL: refloat\nSTART TIMELINE: 1\nSTOP TIME: 2026-11-20 02:10:00 CET\nSTOP TIMELINE: 1\n",
    );
    write(
        "server_configuration",
        "postgresql.conf",
        "# a comment\nport = 5432\t# (change requires restart)\ninclude_dir 'conf.d'\ninclude_if_exists = 'x''y'\n\
         restore_command='cp /a/%f \"%p\"'\r\nshared_buffers 128MB\nrecovery_target_time = '2026-11-20 02:51+01'\nsearch_path = '\"$user\", public'\n",
    );
    for (at, name) in [
        "base/5/16384_fsm.2",
        "pg_wal/000000010000000000000003",
        "00000002.history",
        "000000010000000000000003.00000028.backup",
        "000000010000000000000003.partial",
        "pgsql_tmp/pgsql_tmp123.0",
        "16/B374D848",
        "t3_16390",
    ]
    .iter()
    .enumerate()
    {
        write("file_names", &format!("{at}"), name);
    }
    write("object_header", "key", "sources/cc4f56b4c8c58a370b036d53f784d7ff/commits/0000000001-k7m2qxw4");
    let whole = r#"state = "/srv/state"
[repository.offsite]
url = "file:///backup/db%201"
encryption = { passphrase = { file = "/etc/refloat/passphrase" } }
[repository.cold]
url = "file:///cold"
encryption = "none"
compression = "zstd:-7"
fingerprint = "SUNSET-GUITAR-4401-ELBOW"
[defaults.postgres]
repositories = ["offsite", "cold"]
retention = { full = "4w", diff = "7d", wal = "7d" }
wal_fetch_timeout = "5 min"
[template.tier1]
jobs = 8
max_read_rate = "200MB/s"
[source.prod]
kind = "postgres"
like = "tier1"
data_directory = "/var/lib/postgresql/15/main"
connection = "host='/run/postgresql' port=5433 user=backup"
schedule = { full = "0 2 * * 0", incr = "0 2 * * MON-FRI,6", zone = "UTC" }
[source.prod.retention.cold]
yearly = 10
"#;
    write("configuration", "whole", whole);
    write("configuration", "twice", "[source.prod]\njobs = 1\n[source.\"prod\"]\njobs = 2\njobs = 3\n");
}
