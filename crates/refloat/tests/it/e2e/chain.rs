//! Chains of backups under DDL and DML of every kind: each one restored and compared with the truth of its moment.

use std::collections::BTreeMap;

use refloat_testkit::cluster::{StopMode, TestCluster, skip_without};

use super::pitr::assert_same;
use super::site::{Site, backup_id, promote, start_restored};

/// Statements that change a cluster in the ways that page-wise backups of others have tripped over. `{n}` is the round.
const CHANGES: &[(&str, &str)] = &[
    // Clears visibility bits without a block reference of the visibility map.
    ("shop", "update orders set note = 'round {n}' where id % 97 = {n} % 97"),
    (
        "shop",
        "delete from orders where id > 4000; vacuum orders; insert into orders select g, 'again {n}', '{}' from generate_series(4001, 4600) g",
    ),
    (
        "shop",
        "drop table if exists churn; create table churn as select g as n, repeat('x', 300) v from generate_series(1, {n} * 300) g",
    ),
    ("shop", "truncate small; insert into small select generate_series(1, 50 * {n})"),
    ("shop", "vacuum full orders"),
    ("shop", "vacuum (freeze) orders; cluster orders using orders_pkey"),
    (
        "shop",
        "drop index if exists o_hash, o_gin, o_gist, o_brin, o_spgist; \
              create index o_hash on orders using hash(note); create index o_gin on orders using gin(tags); \
              create index o_gist on orders using gist(int4range(id, id + 5)); \
              create index o_brin on orders using brin(id); create index o_spgist on orders using spgist(note)",
    ),
    ("shop", "alter table small set tablespace side"),
    ("shop", "alter table small set tablespace pg_default; reindex table orders"),
    (
        "shop",
        "select lo_unlink(oid) from pg_largeobject_metadata; select lo_from_bytea(0, convert_to(repeat('blob {n} ', 5000), 'UTF8'))",
    ),
    ("shop", "begin; insert into small values (-{n}); prepare transaction 'two {n}'"),
    ("shop", "commit prepared 'two {n-1}'"),
    ("postgres", "create database d_{n} template template0 {strategy}"),
    ("postgres", "drop database if exists d_{n-3}"),
    (
        "shop",
        "create unlogged table if not exists fleeting(n int); insert into fleeting select generate_series(1, 500)",
    ),
    ("shop", "alter table orders add column if not exists c_{n} int default {n}"),
    (
        "shop",
        "create materialized view if not exists mv as select count(*) c from orders; refresh materialized view mv",
    ),
    (
        "shop",
        "create table if not exists parts(n int) partition by range(n); create table parts_{n} partition of parts for values from ({n}0) to ({n}9); insert into parts values ({n}5)",
    ),
    ("shop", "create sequence if not exists s; select setval('s', {n} * 100)"),
];

/// What a cluster held at the moment of a backup.
struct Step {
    backup: String,
    kind: String,
    truth: BTreeMap<String, String>,
}

/// Numbers that come out the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

fn change(cluster: &TestCluster, version: u32, round: usize, which: usize) {
    let (database, text) = CHANGES[which % CHANGES.len()];
    let strategy = match (version >= 15, round.is_multiple_of(2)) {
        (false, _) => "",
        (true, true) => "strategy wal_log",
        (true, false) => "strategy file_copy",
    };
    let text = text
        .replace("{n-1}", &(round - 1).to_string())
        .replace("{n-3}", &round.saturating_sub(3).to_string())
        .replace("{n}", &round.to_string())
        .replace("{strategy}", strategy);
    // Some cannot be at every moment (a prepared transaction that is not there): what matters is what changes.
    for statement in text.split("; ") {
        if text.starts_with("begin") {
            let _ = cluster.try_psql(database, &text);
            break;
        }
        let _ = cluster.try_psql(database, statement);
    }
}

fn prepare(cluster: &TestCluster) {
    let place = cluster.make_dir("side space");
    cluster.psql("postgres", &format!("create tablespace side location '{}'", place.display()));
    cluster.psql("postgres", "create database shop");
    cluster.psql("shop", "create extension pg_visibility; create extension btree_gist");
    cluster.psql(
        "shop",
        "create table orders(id int primary key, note text, tags text[]); create table small(n int)",
    );
    cluster.psql(
        "shop",
        "insert into orders select g, 'first', array['a' || g, 'b'] from generate_series(1, 4500) g",
    );
}

fn step(site: &Site, kind: &str) -> Step {
    let cluster = &site.cluster;
    // What an unlogged table holds is no part of a backup.
    let _ = cluster.try_psql("shop", "drop table if exists fleeting");
    let truth = cluster.dump_all_databases();
    let run = site.run(&["backup", "prod", "--type", kind, "--json"]).ends(0);
    let json = run.json();
    let backup = backup_id(&json).expect("a backup");
    let made = json["backups"][0]["type"].as_str().expect("a type").to_owned();
    Step { backup, kind: made, truth }
}

/// Restores one backup as it was at its end, without any WAL behind it, and asks PostgreSQL's own tools.
fn prove(site: &Site, version: u32, step: &Step) {
    let name = format!("at-{}", step.backup);
    let directory =
        site.restore(&name, &[&step.backup, "--target", "immediate", "--tablespaces-inside", "--as", "copy"]);
    site.cluster.verifybackup(&directory).expect("pg_verifybackup");
    let mut clone = start_restored(version, &directory);
    assert_same(&format!("{} {}", step.kind, step.backup), &clone.dump_all_databases(), &step.truth);
    promote(&clone);
    clone.amcheck().expect("amcheck");
    for check in ["pg_check_visible", "pg_check_frozen"] {
        let sql = format!(
            "select coalesce(string_agg(c.oid::regclass || ' ' || bad::text, ', '), '') from pg_class c, \
             lateral {check}(c.oid) bad where c.relkind in ('r', 'm', 't') and c.relpersistence = 'p'"
        );
        assert_eq!(clone.psql("shop", &sql), "", "{check}");
    }
    clone.stop(StopMode::Fast);
    if clone.checksums_check().is_err() {
        assert!(!site.run(&["show", &step.backup]).ends(0).stdout.contains("every page"), "checksums");
    }
    drop(clone);
    std::fs::remove_dir_all(&directory).expect("removes");
}

fn chain(version: u32, checksums: bool, rounds: usize, seed: u64) {
    if skip_without(version) {
        return;
    }
    let builder = TestCluster::builder()
        .version(version)
        .checksums(checksums)
        .setting("max_prepared_transactions", "5")
        // A prepared transaction holds its locks.
        .setting("lock_timeout", "1s");
    let site = Site::new(builder);
    prepare(&site.cluster);
    let mut dice = Dice(seed);
    let mut steps = vec![step(&site, "full")];
    for round in 1..=rounds {
        for _ in 0..6 {
            change(&site.cluster, version, round, dice.roll(CHANGES.len()));
        }
        let _ =
            site.cluster.try_psql("shop", &format!("rollback prepared 'two {}'", round.saturating_sub(2)));
        let kind = if dice.roll(4) == 0 { "diff" } else { "incr" };
        steps.push(step(&site, kind));
        assert_eq!(steps.last().expect("one").kind, kind);
    }
    site.run(&["verify", "prod", "--read-data"]).ends(0);
    for step in &steps {
        prove(&site, version, step);
    }
    // And along the WAL, from the last of them.
    site.cluster.psql("shop", "create table afterwards as select 1 n");
    let truth = site.cluster.dump_all_databases();
    site.archive_all();
    let directory = site
        .restore("latest", &["latest", "--tablespaces-inside", "--as", "copy", "--target-action", "promote"]);
    let clone = start_restored(version, &directory);
    assert_same("latest", &clone.dump_all_databases(), &truth);
}

#[test]
fn of_twenty_on_15() {
    chain(15, true, 20, 1);
}

#[test]
fn without_checksums_on_15() {
    chain(15, false, 6, 2);
}

#[test]
fn on_17() {
    chain(17, true, 6, 3);
}

#[test]
fn on_18() {
    chain(18, true, 6, 4);
}

/// A cluster that went back to a moment before its last backup does not come from that one: an older one is referred to.
#[test]
fn after_going_back_the_parent_is_one_that_the_server_comes_from() {
    let mut site = Site::new(TestCluster::builder());
    site.cluster.psql("postgres", "create database shop");
    site.cluster.psql("shop", "create extension pg_visibility");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 50000) n");
    let first = step(&site, "full");
    site.cluster.psql("postgres", "create table early as select 1 n");
    let moment = site.cluster.psql("postgres", "select clock_timestamp()");
    site.cluster.psql("postgres", "update t set n = n + 1");
    let lost = step(&site, "incr");
    site.archive_all();
    site.cluster.stop(StopMode::Fast);
    site.run(&["restore", "prod", &moment, "--in-place", "--yes"]).ends(0);
    site.cluster.start();
    site.cluster.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    site.run(&["takeover", "prod"]).ends(0);
    site.cluster.wait_for("postgres", "select pg_is_in_recovery()", "f");
    site.cluster.psql("postgres", "create table afterwards as select 2 n");

    let after = step(&site, "incr");
    let parent = |step: &Step| {
        let listed = site.run(&["list", "prod", "--json"]).ends(0).json();
        let all = listed["backups"].as_array().expect("backups").clone();
        let one = all.into_iter().find(|one| one["backup"] == step.backup.as_str()).expect("listed");
        one["parent"].as_str().map(str::to_owned)
    };
    assert_eq!(parent(&lost).as_ref(), Some(&first.backup));
    assert_eq!(
        parent(&after).as_ref(),
        Some(&first.backup),
        "not {}, which the server left behind",
        lost.backup
    );
    prove(&site, 15, &after);
    // And from there on the new ones follow each other.
    let next = step(&site, "incr");
    assert_eq!(parent(&next).as_ref(), Some(&after.backup));
    prove(&site, 15, &next);
}
