use refloat_pg::sql::{ConnectOptions, Password, Place, Session, SqlError};
use refloat_testkit::cluster::{StopMode, TestCluster, skip_without};
use refloat_types::Explain as _;

use super::{full, options, session};

#[test]
fn a_data_directory_leads_to_its_server() {
    if skip_without(15) {
        return;
    }
    let mut cluster = TestCluster::builder().build();
    let me = ConnectOptions { user: Some("postgres".into()), ..ConnectOptions::default() };
    let found = Session::connect_to(cluster.data_directory(), &me).expect("it runs");
    assert_eq!(found.info().major(), 15);
    assert!(found.info().is_superuser);
    assert_eq!(found.show("application_name").expect("set"), "refloat");
    assert_eq!(found.data_directory().expect("read").as_deref(), cluster.data_directory().to_str());
    found.close();
    // Another server behind the configured port.
    let other = TestCluster::builder().build();
    let error = Session::connect_to(other.data_directory(), &options(&cluster)).expect_err("another server");
    assert!(matches!(error, SqlError::OtherServer { .. }), "{error}");
    cluster.stop(StopMode::Fast);
    let error = Session::connect_to(cluster.data_directory(), &me).expect_err("it is stopped");
    assert_eq!(
        full(&error),
        format!(
            "could not find the server of the data directory: no server runs in {}",
            cluster.data_directory().display()
        )
    );
    assert_eq!(error.advice().exit_code(), 5);
    let error = Session::connect(&options(&cluster)).expect_err("it is stopped");
    assert_eq!(error.advice().code, "PG-001");
    assert_eq!(error.advice().exit_code(), 5);
    assert!(error.advice().hints.iter().any(|hint| hint.starts_with("Start the server")), "{error:?}");
}

#[test]
fn nobody_else_s_settings_reach_the_session() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    // A function that would be found first by the role's own search_path.
    cluster.psql(
        "postgres",
        "create schema evil; create function evil.pg_is_in_recovery() returns boolean language sql as 'select true';
         alter role postgres set search_path = evil, pg_catalog;
         alter role postgres set statement_timeout = '1ms';
         alter role postgres set timezone = 'Asia/Kathmandu';
         alter database postgres set default_transaction_read_only = on;
         alter role postgres set idle_in_transaction_session_timeout = '10ms';",
    );
    let session = session(&cluster);
    assert!(!session.is_in_recovery().expect("asked"));
    for (name, value) in
        [("search_path", ""), ("statement_timeout", "0"), ("timezone", "UTC"), ("idle_session_timeout", "0")]
    {
        assert_eq!(session.show(name).expect("read"), value, "{name}");
    }
    session.switch_wal().expect("neither read-only nor out of time");
}

#[test]
fn a_refusal_says_what_to_change() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().tcp().build();
    let refused = |change: &dyn Fn(&mut ConnectOptions)| {
        let mut options = options(&cluster);
        change(&mut options);
        Session::connect(&options).expect_err("refused")
    };
    let error = refused(&|o| o.user = Some("nobody-here".into()));
    let start = format!(
        "could not connect to the server at socket directory {}, port 5432",
        cluster.socket_directory().display()
    );
    let start = start.replace("5432", &cluster.port().to_string());
    assert_eq!(
        full(&error),
        format!(
            "{start} as role \"nobody-here\": the server refused: FATAL: role \"nobody-here\" does not exist"
        )
    );
    assert_eq!((error.advice().code, error.advice().exit_code()), ("PG-002", 1));
    let error = refused(&|o| o.database = "gone".into());
    assert!(error.advice().hints.concat().contains("database that exists"), "{error}");
    let hba = cluster.data_directory().join("pg_hba.conf");
    std::fs::write(&hba, "local all postgres trust\nhost postgres all 127.0.0.1/32 scram-sha-256\n")
        .expect("written");
    cluster.psql("postgres", "create role pw login superuser password 'right';");
    cluster.reload();
    let tcp = |o: &mut ConnectOptions| {
        o.place = Some(Place::Tcp("127.0.0.1".into()));
        o.user = Some("pw".into());
    };
    let error = refused(&|o| o.user = Some("pw".into()));
    assert!(full(&error).contains("no pg_hba.conf entry"), "{}", full(&error));
    assert!(error.advice().hints.concat().contains("pg_hba.conf"), "{error}");
    let error = refused(&|o| {
        tcp(o);
        o.password = Some(Password("wrong".into()));
    });
    assert!(
        matches!(&error, SqlError::Refused { .. }) && error.advice().hints.concat().contains("password"),
        "{error:?}"
    );
    let error = refused(&tcp);
    assert!(matches!(&error, SqlError::Refused { .. }), "{error:?}");
    let mut right = options(&cluster);
    tcp(&mut right);
    right.password = Some(Password("right".into()));
    Session::connect(&right).expect("the right password");
}

#[test]
fn a_role_without_rights_is_told_the_statements_that_mend_it() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    cluster.psql("postgres", "create role \"Bob\" login;");
    let bob = ConnectOptions { user: Some("Bob".into()), ..options(&cluster) };
    let error = Session::connect(&bob).expect("may log in").check_backup_rights().expect_err("may nothing");
    let SqlError::MissingRights { grants, .. } = &error else { panic!("{error:?}") };
    assert_eq!(
        error.to_string(),
        "role \"Bob\" cannot start a backup, end a backup, switch to a new WAL segment, read all settings and statistics"
    );
    cluster.psql("postgres", &grants.join("\n"));
    // The very lines that were printed suffice for everything a backup does.
    let session = Session::connect(&bob).expect("may log in");
    session.check_backup_rights().expect("granted");
    session.switch_wal().expect("granted");
    session.archiver_status().expect("granted");
    let facts = session.facts().expect("granted");
    assert!(
        facts.server.data_directory.is_some() && facts.databases.iter().all(|d| d.size_bytes.is_some()),
        "{facts:?}"
    );
    session.contents(&facts.databases, &mut |_, _| Ok(())).expect("granted");
    let reserved = session.reserve_wal().expect("asked");
    assert_eq!(reserved.lsn(), None, "a slot needs REPLICATION: {reserved:?}");
    let backup = session
        .start_backup(&refloat_pg::sql::BackupStart { label: "bob".into(), fast: true })
        .expect("granted");
    backup.stop().expect("granted");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let _listener =
        std::os::unix::net::UnixListener::bind(directory.path().join(".s.PGSQL.5432")).expect("bound");
    let silent = ConnectOptions {
        place: Some(Place::Socket(directory.path().to_owned())),
        connect_timeout: std::time::Duration::from_millis(200),
        ..ConnectOptions::default()
    };
    let error = Session::connect(&silent).expect_err("silence");
    assert_eq!(error.advice().exit_code(), 5, "{error:?}");
}
