use std::collections::BTreeMap;

use refloat_pg::sql::{ConfigFileKind, Facts, ListedDatabase, RelationFact, Unlisted};
use refloat_testkit::cluster::{TestCluster, skip_without};

use super::session;

#[test]
fn facts_of_15() {
    if !skip_without(15) {
        facts_of_version(15);
    }
}

#[test]
fn facts_of_17_and_18() {
    for version in [17, 18] {
        if !skip_without(version) {
            facts_of_version(version);
        }
    }
}

fn facts_of_version(version: u32) {
    let cluster = TestCluster::builder()
        .version(version)
        .setting("primary_conninfo", "host=p user=r password=hunter2")
        .setting("app.api_token", "hunter2")
        .setting("work_mem", "5MB")
        .build();
    let space = cluster.make_dir("o\"space ü");
    cluster.psql("postgres", &format!("create tablespace \"t\"\"s\" location '{}';", space.display()));
    cluster.psql(
        "postgres",
        r#"create role "o'häre" login password 'hunter2' createdb valid until '2030-01-01';
           create role team; grant team to "o'häre" with admin option;
           alter role "o'häre" set search_path = 'a b', c;
           create database "odd ""näme'\x" tablespace "t""s";
           create database "raw ascii" encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0;
           create database closed; update pg_database set datallowconn = false where datname = 'closed';"#,
    );
    let odd = r#"odd "näme'\x"#;
    cluster.psql(
        odd,
        r#"create schema "s.""x"; create table "s.""x"."tä ble" (id int primary key, big text);
           create unlogged table u (); create table parted (a int) partition by range (a);
           create index on parted (a); create collation mine (provider = icu, locale = 'de');
           create extension pg_stat_statements; insert into "s.""x"."tä ble" values (1), (2); analyze;"#,
    );
    // The tables' names are bytes that no encoding explains.
    cluster.psql("raw ascii", r#"do $$ begin execute 'create table "n' || convert_from('\xe4'::bytea, 'SQL_ASCII') || 'me" ()'; end $$;"#);
    let session = session(&cluster);
    let facts = session.facts().expect("read");
    let mut relations: BTreeMap<String, Vec<RelationFact>> = BTreeMap::new();
    let mut sink = |database: &refloat_pg::sql::DatabaseFact, relation| {
        relations.entry(database.name.clone()).or_default().push(relation);
        Ok(())
    };
    let contents = session.contents(&facts.databases, &mut sink).expect("read");

    let json = serde_json::to_string(&facts).expect("serialisable");
    assert!(!json.contains("hunter2"), "a password is in the facts");
    assert_eq!(serde_json::from_str::<Facts>(&json).expect("its own JSON"), facts);
    assert_eq!(facts.server.version_number / 10_000, version);
    assert!(facts.host.libc.is_some() && !facts.host.hostname.is_empty(), "{:?}", facts.host);
    let work_mem = facts.settings.iter().find(|s| s.name == "work_mem").expect("it is set");
    assert_eq!(
        (work_mem.value.as_str(), work_mem.unit.as_deref(), work_mem.source.as_str()),
        ("5120", Some("kB"), "configuration file")
    );
    assert!(
        work_mem.line.is_some() && work_mem.file.as_deref().is_some_and(|f| f.ends_with("postgresql.conf"))
    );

    let database =
        |name: &str| facts.databases.iter().find(|d| d.name == name).unwrap_or_else(|| panic!("{name}"));
    let space_oid = cluster.psql("postgres", "select oid from pg_tablespace where spcname = 't\"s';");
    assert_eq!(database(odd).tablespace.to_string(), space_oid);
    assert_eq!((database(odd).encoding.as_str(), database(odd).allows_connections), ("UTF8", true));
    assert!(database(odd).size_bytes > Some(1 << 20) && database("template0").is_template);
    let tablespace = facts.tablespaces.iter().find(|t| t.name == "t\"s").expect("it was made");
    assert_eq!(tablespace.location, space.display().to_string());
    let role = facts.roles.iter().find(|r| r.name == "o'häre").expect("it was made");
    assert_eq!(role.attributes, ["inherit", "createdb", "login"]);
    assert!(facts.memberships.iter().any(|m| m.member == role.oid && m.admin));
    assert!(
        facts
            .overrides
            .iter()
            .any(|(_, r, lines)| *r == role.oid && lines.iter().any(|l| l.starts_with("search_path=")))
    );

    let listed =
        |name: &str| &contents.iter().find(|c| c.database == database(name).oid).expect("one each").listed;
    assert_eq!(*listed("closed"), ListedDatabase::Unlisted(Unlisted::NoConnections));
    assert_eq!(*listed("template0"), ListedDatabase::Unlisted(Unlisted::NoConnections));
    assert_eq!(*listed(odd), ListedDatabase::Listed(relations[odd].len() as u64));
    let of_odd = contents.iter().find(|c| c.database == database(odd).oid).expect("one each");
    assert!(of_odd.extensions.iter().any(|e| e.name == "pg_stat_statements" && e.schema == "public"));
    let mine = of_odd.collations.iter().find(|c| c.name == "mine").expect("it was made");
    assert!(
        mine.provider == 'i'
            && mine.recorded_version.is_some()
            && mine.recorded_version == mine.actual_version,
        "{mine:?}"
    );

    // The server's own catalogue is the oracle for all of them.
    let truth = cluster.psql(
        odd,
        "select c.oid, coalesce(pg_relation_filenode(c.oid)::text, '-'), relkind, relnamespace::regnamespace::text is not null, relname \
         from pg_class c where relkind not in ('v', 'c') and relpersistence <> 't' order by oid;",
    );
    let mut ours: Vec<_> = relations[odd].iter().collect();
    ours.sort_by_key(|r| r.oid);
    let ours: Vec<_> = ours
        .iter()
        .map(|r| {
            format!("{}|{}|{}|t|{}", r.oid, r.filenode.map_or("-".into(), |f| f.to_string()), r.kind, r.name)
        })
        .collect();
    assert_eq!(ours, truth.lines().collect::<Vec<_>>());
    let table = relations[odd].iter().find(|r| r.name == "tä ble").expect("it was made");
    assert_eq!((table.schema.as_str(), table.kind, table.persistence), ("s.\"x", 'r', 'p'));
    assert_eq!(table.tablespace.to_string(), space_oid);
    assert!(relations[odd].iter().any(|r| Some(r.oid) == table.toast && r.kind == 't'));
    assert!(relations[odd].iter().any(|r| r.index_of == Some(table.oid)));
    assert!(relations[odd].iter().any(|r| r.name == "u" && r.persistence == 'u'));
    assert!(relations[odd].iter().any(|r| r.name == "parted" && r.filenode.is_none() && r.kind == 'p'));
    assert!(relations["raw ascii"].iter().any(|r| r.name == "näme"), "taken byte by byte");
}

#[test]
fn a_database_dropped_meanwhile_is_normal() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    cluster.psql("postgres", "create database a; create database b;");
    let session = session(&cluster);
    let databases = session.databases().expect("read");
    cluster.psql("postgres", "drop database a;");
    let contents = session.contents(&databases, &mut |_, _| Ok(())).expect("read");
    let of = |name: &str| {
        let oid = databases.iter().find(|d| d.name == name).expect("it was there").oid;
        contents.iter().find(|c| c.database == oid).expect("one each").listed.clone()
    };
    assert_eq!(of("a"), ListedDatabase::Unlisted(Unlisted::Gone));
    assert!(matches!(of("b"), ListedDatabase::Listed(200..)), "{:?}", of("b"));
}

#[test]
fn a_sink_that_fails_stops_the_list() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    let session = session(&cluster);
    let databases = session.databases().expect("read");
    let mut sink = |_: &_, _| Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
    let error = session.contents(&databases, &mut sink).expect_err("no space");
    assert!(error.to_string().starts_with("could not keep the list of relations"), "{error}");
}

#[test]
fn many_relations_all_arrive() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    cluster.psql(
        "postgres",
        "do $$ begin for i in 1..2100 loop execute 'create table many_' || i || ' ()'; end loop; end $$;",
    );
    let session = session(&cluster);
    let databases = session.databases().expect("read");
    let mut count = 0;
    let mut sink = |_: &_, relation: RelationFact| {
        count += u32::from(relation.name.starts_with("many_"));
        Ok(())
    };
    session.contents(&databases, &mut sink).expect("read");
    assert_eq!(count, 2100);
}

#[test]
fn configuration_files_outside_are_found_with_their_includes() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build_stopped();
    let etc = cluster.make_dir("etc");
    cluster.owner().make_dir(&etc.join("conf.d"));
    let write = |name: &str, text: &str| {
        std::fs::write(etc.join(name), text).expect("written");
        cluster.owner().give(&etc.join(name));
    };
    write("extra.conf", "work_mem = '6MB'\n");
    write("conf.d/b.conf", "# nothing but a comment\n");
    write("conf.d/no.txt", "");
    write("pg_hba.conf", "local all @admins trust\nlocal all all trust\n");
    write("admins", "postgres\n");
    write("start.conf", "auto\n");
    let original = cluster.data_directory().join("postgresql.conf");
    let text = std::fs::read_to_string(&original).expect("it is there");
    let more = format!(
        "data_directory = '{}'\nhba_file = '{}'\ninclude 'extra.conf'\ninclude_dir = 'conf.d'\ninclude_if_exists 'none'\n",
        cluster.data_directory().display(),
        etc.join("pg_hba.conf").display()
    );
    write("postgresql.conf", &(text + &more));
    // As Debian starts it.
    let config_file = etc.join("postgresql.conf").display().to_string();
    let server =
        TestCluster::builder().setting("config_file", &config_file).start_existing(cluster.data_directory());
    let files = session(&server).config_files(server.data_directory()).expect("read");
    let names: Vec<_> = files
        .iter()
        .map(|file| {
            let name = file
                .path
                .strip_prefix(&etc)
                .map_or_else(|_| "inside".to_owned(), |name| name.display().to_string());
            assert_eq!(name == "inside", file.in_data_directory, "{file:?}");
            (file.kind, name)
        })
        .collect();
    let expected = [
        (ConfigFileKind::Main, "postgresql.conf"),
        (ConfigFileKind::Hba, "pg_hba.conf"),
        (ConfigFileKind::Ident, "inside"),
        (ConfigFileKind::Included, "inside"),
        (ConfigFileKind::Included, "admins"),
        (ConfigFileKind::Included, "conf.d/b.conf"),
        (ConfigFileKind::Included, "extra.conf"),
        (ConfigFileKind::Debian, "start.conf"),
    ];
    assert_eq!(names, expected.map(|(kind, name)| (kind, name.to_owned())));
    assert_eq!(server.psql("postgres", "show work_mem;"), "6MB", "the server read the same files");
}
