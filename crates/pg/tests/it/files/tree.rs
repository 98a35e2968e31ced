use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use refloat_pg::control::read_settled;
use refloat_pg::layout::{Kind, Scope, Walk, tablespace_version_directory};

use super::cluster::{Cluster, VERSION, run, tool};

/// Everything below `top`, links to directories in `pg_tblspc` followed.
fn list(top: &Path, below: &Path, to: &mut BTreeSet<Vec<u8>>) {
    for entry in std::fs::read_dir(top.join(below)).expect("readable") {
        let entry = entry.expect("readable");
        let path = below.join(entry.file_name());
        to.insert(path.as_os_str().as_bytes().to_vec());
        let follow = below == Path::new("pg_tblspc");
        if entry.file_type().expect("a type").is_dir() || (follow && entry.path().is_dir()) {
            list(top, &path, to);
        }
    }
}

#[test]
fn a_walk_finds_what_a_base_backup_holds() {
    let cluster = Cluster::start("allow_in_place_tablespaces = on\nlog_temp_files = 0");
    let top = cluster.top.path();
    let inside = cluster.data.join("inside");
    for path in [top.join("ts"), top.join("ts/PG_14_202107181"), inside.clone()] {
        run(tool("/bin/mkdir").arg(path));
    }
    cluster.sql(&format!("create tablespace ts location '{}'", top.join("ts").display()));
    cluster.sql(&format!("create tablespace inside location '{}'", inside.display()));
    cluster.sql("create tablespace in_place location ''");
    cluster.sql(
        "create table ti tablespace inside as select 1 n; create table tp tablespace in_place as select 1 n; \
         create table t tablespace ts as select n from generate_series(1, 1000) n; \
         create table kept as select n from generate_series(1, 100000) n; vacuum kept; \
         create unlogged table u as select n from generate_series(1, 1000) n; create index on u (n); vacuum u; \
         create unlogged table ut (n int, x text) tablespace ts",
    );
    cluster.sql("create database other tablespace ts");
    let base = cluster.data.join("base/5");
    for (name, bytes) in [
        (base.join("t3_16999"), "temporary"),
        (base.join("t3_16999_fsm"), "temporary"),
        (base.join("99999_odd"), "stray"),
        (cluster.data.join("base/pgsql_tmp"), ""),
        (cluster.data.join("pg_notify/left"), "over"),
        (cluster.data.join("pg_replslot/slot"), "over"),
        (cluster.data.join("postgresql.auto.conf.tmp"), "over"),
        (cluster.data.join("backup_label.old"), "kept by PostgreSQL, not by us"),
        (cluster.data.join("refloat.locked"), "kept by PostgreSQL, not by us"),
        (cluster.data.join("pg_internal.init.99"), "cache"),
        (cluster.data.join("dir with spaces"), ""),
        (cluster.data.join("dir with spaces/a\nb"), "odd"),
        (cluster.data.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "latin"),
    ] {
        if bytes.is_empty() { std::fs::create_dir_all(name) } else { std::fs::write(name, bytes) }
            .expect("made");
    }
    std::fs::write(cluster.data.join("base/pgsql_tmp/pgsql_tmp1.0"), "temporary").expect("written");
    run(Command::new("chown").arg("-R").arg("--reference").arg(cluster.data.join("base")).arg(&cluster.data));
    std::os::unix::fs::symlink("/etc/hosts", cluster.data.join("link")).expect("made");

    let backup = top.join("backup");
    let mapping = format!("--tablespace-mapping={}={}", top.join("ts").display(), top.join("ts2").display());
    let second = format!("--tablespace-mapping={}={}", inside.display(), top.join("inside2").display());
    cluster.base_backup(&backup, &["-X", "none", &mapping, &second]);
    let mut theirs = BTreeSet::new();
    list(&backup, Path::new(""), &mut theirs);
    for injected in ["backup_label", "backup_manifest", "backup_label.old", "refloat.locked"] {
        assert!(theirs.remove(injected.as_bytes()), "{injected}");
    }

    let (control, _) = read_settled(&cluster.data).expect("readable");
    assert_eq!(tablespace_version_directory(15, &control), VERSION);
    let (mut ours, mut order) = (BTreeSet::new(), Vec::new());
    for entry in Walk::new(&cluster.data, VERSION, Scope::Backup).expect("readable") {
        let entry = entry.expect("readable");
        order.push(entry.path.clone());
        match entry.kind {
            // PostgreSQL leaves links out, we tell them.
            Kind::Symlink { target } => assert_eq!(
                (entry.path.as_slice(), target.as_slice()),
                (b"link".as_slice(), b"/etc/hosts".as_slice())
            ),
            _ if entry.path.is_empty() => {}
            _ => {
                ours.insert(entry.path);
            }
        }
    }
    let show = |set: &BTreeSet<Vec<u8>>, other: &BTreeSet<Vec<u8>>| -> Vec<String> {
        set.difference(other).map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    };
    assert_eq!(show(&ours, &theirs), Vec::<String>::new(), "only we have these");
    assert_eq!(show(&theirs, &ours), Vec::<String>::new(), "only PostgreSQL has these");
    assert!(order.is_sorted(), "in the order of their paths");
    assert!(ours.len() > 900);
    assert!(ours.contains(b"caf\xe9".as_slice()) && ours.contains(b"dir with spaces/a\nb".as_slice()));

    let all = Walk::new(&cluster.data, VERSION, Scope::All).expect("readable");
    let all: BTreeSet<Vec<u8>> = all.map(|entry| entry.expect("readable").path).collect();
    for path in ["base/5/t3_16999", "postmaster.pid", "pg_notify/left", "refloat.locked"] {
        assert!(all.contains(path.as_bytes()), "{path}");
    }
    // A server started from another's files must find them as they were; a look must not change them.
    let before = std::fs::metadata(cluster.data.join("base/5/PG_VERSION")).expect("there");
    assert_eq!(before.mode() & 0o7777, 0o600);
}
