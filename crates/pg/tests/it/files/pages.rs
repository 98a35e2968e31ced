use std::os::unix::fs::FileExt as _;
use std::path::Path;

use refloat_pg::control::{ControlFile, read_settled};
use refloat_pg::layout::{FileClass, Kind, Scope, Walk};
use refloat_pg::page::{PageState, check_pages, page_lsn};

use super::cluster::{Cluster, VERSION, output, tool};

/// Path and block of every bad page; how many pages there were.
fn scan(data: &Path, control: &ControlFile) -> (Vec<(String, u32, PageState)>, u64) {
    let (mut bad, mut pages) = (Vec::new(), 0);
    for entry in Walk::new(data, VERSION, Scope::Backup).expect("readable") {
        let entry = entry.expect("readable");
        let FileClass::Relation(relation) = entry.class else { continue };
        assert_eq!(entry.kind, Kind::File);
        let name = String::from_utf8(entry.path).expect("ASCII");
        let bytes = std::fs::read(data.join(&name)).expect("readable");
        let first = relation.first_block(control.relation_segment_blocks).expect("a real segment");
        pages += u64::from(check_pages(&bytes, first, control.block_size as usize, true, |block, state| {
            bad.push((name.clone(), block, state));
        }));
    }
    (bad, pages)
}

/// Does `pg_checksums` find all pages good? And how many blocks it scanned.
fn pg_checksums(data: &Path) -> (bool, u64) {
    let output = output(tool("pg_checksums").args(["--check", "-D"]).arg(data));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let blocks = text.lines().find_map(|line| line.strip_prefix("Blocks scanned:"));
    (output.status.success(), blocks.and_then(|n| n.trim().parse().ok()).expect("its count"))
}

#[test]
fn pages_are_judged_as_pg_checksums_judges_them() {
    let cluster = Cluster::start("");
    cluster.sql(
        "create table t as select n, repeat(md5(n::text), 10) x from generate_series(1, 20000) n; \
         create index on t (n); vacuum t; \
         create unlogged table u as select n from generate_series(1, 1000) n",
    );
    let path = cluster.sql("select pg_relation_filepath('t')");
    cluster.sql("drop table u; checkpoint");
    cluster.pg_ctl("stop");
    let (control, _) = read_settled(&cluster.data).expect("readable");
    let (bad, pages) = scan(&cluster.data, &control);
    assert_eq!(bad, []);
    let (good, blocks) = pg_checksums(&cluster.data);
    assert!(good);
    assert_eq!(pages, blocks, "both looked at the same pages");

    let name = cluster.data.join(&path);
    let file = std::fs::File::options().read(true).write(true).open(&name).expect("opened");
    let mut page = vec![0; 8192];
    file.read_exact_at(&mut page, 8192 * 3).expect("read");
    assert!(page_lsn(&page).expect("whole") > refloat_types::Lsn(0x100_0000));
    let original = page.clone();
    // Header, line pointers, free space, tuples, the last byte.
    for at in [0, 5, 8, 9, 10, 12, 14, 16, 18, 20, 24, 100, 700, 4096, 8191] {
        page.copy_from_slice(&original);
        page[at] ^= 0x10;
        file.write_all_at(&page, 8192 * 3).expect("written");
        let (bad, _) = scan(&cluster.data, &control);
        assert_eq!(bad.len(), 1, "byte {at}");
        assert_eq!((bad[0].0.as_str(), bad[0].1), (path.as_str(), 3));
        let PageState::BadChecksum { computed, stored } = bad[0].2 else { panic!("{:?}", bad[0].2) };
        assert_ne!(computed, stored);
        assert!(!pg_checksums(&cluster.data).0, "byte {at}");
    }
    // A good page in another's place.
    let mut other = vec![0; 8192];
    file.read_exact_at(&mut other, 8192 * 4).expect("read");
    file.write_all_at(&other, 8192 * 3).expect("written");
    assert_eq!(scan(&cluster.data, &control).0.len(), 1);
    assert!(!pg_checksums(&cluster.data).0);
    // Cleared.
    file.write_all_at(&[0; 8192], 8192 * 3).expect("written");
    assert_eq!(scan(&cluster.data, &control).0, []);
    assert!(pg_checksums(&cluster.data).0);
    // Half cleared: says it is new and is not. The server refuses such a page, though pg_checksums passes over it.
    file.write_all_at(&original[4096..], 8192 * 3 + 4096).expect("written");
    assert_eq!(scan(&cluster.data, &control).0, [(path.clone(), 3, PageState::BadHeader)]);
    cluster.pg_ctl("start");
    let mut psql = tool("psql");
    psql.args(["-XAtq", "-U", "postgres", "-h"]).arg(cluster.top.path());
    let refused = output(psql.args(["-d", "postgres", "-c", "select count(x) from t"]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("invalid page in block 3"));
}

#[test]
fn blocks_of_later_relation_segments_count_on() {
    let cluster = Cluster::start("");
    cluster.sql("create table big (n int); insert into big select generate_series(1, 100)");
    let path = cluster.sql("select pg_relation_filepath('big')");
    cluster.pg_ctl("stop");
    // A first relation segment of a whole gigabyte of nothing, as PostgreSQL accepts it: then the table grows into `.1`.
    let name = cluster.data.join(&path);
    let file = std::fs::File::options().write(true).open(&name).expect("opened");
    file.set_len(1 << 30).expect("a sparse file");
    cluster.pg_ctl("start");
    cluster.sql("insert into big select generate_series(1, 100000)");
    assert_eq!(cluster.sql("select max((ctid::text::point)[0]) > 131072 from big"), "t");
    cluster.sql("checkpoint");
    cluster.pg_ctl("stop");
    let (control, _) = read_settled(&cluster.data).expect("readable");
    let second = std::fs::read(cluster.data.join(format!("{path}.1"))).expect("a second relation segment");
    let mut bad = 0;
    assert!(check_pages(&second, 131_072, 8192, true, |_, _| bad += 1) > 100);
    assert_eq!(bad, 0);
    check_pages(&second, 0, 8192, true, |_, _| bad += 1);
    assert!(bad > 100, "the block number is part of the checksum");
    let (bad, pages) = scan(&cluster.data, &control);
    assert_eq!(bad, []);
    assert_eq!(pg_checksums(&cluster.data), (true, pages));
}
