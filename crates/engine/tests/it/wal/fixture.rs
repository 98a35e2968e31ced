//! Real WAL in a plain directory, and repositories in temporary ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::wal::{FetchOptions, PushError, PushOptions, Pushed, fetch, push};
use refloat_pg::control;
use refloat_repo::crypt::identity::Identity;
use refloat_repo::repository::{Credentials, InitOptions, Protection};
use refloat_repo::{Compression, Repository, StateDirectory};
use refloat_store::{Options, PosixStore, Store};
use refloat_testkit::cluster::{ClusterBuilder, TestCluster, wait_until};
use refloat_types::{Clock as _, SystemClock, SystemIdentifier, WalFileName};

/// A server that archives into a directory by `cp`, and that directory.
pub(crate) struct Source {
    pub(crate) cluster: TestCluster,
    pub(crate) wal: PathBuf,
    pub(crate) system: SystemIdentifier,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self::with(TestCluster::builder().version(15))
    }

    pub(crate) fn with(builder: ClusterBuilder) -> Self {
        let mut cluster = builder.setting("archive_mode", "on").build_stopped();
        let wal = cluster.make_dir("archived");
        cluster.configure("archive_command", &format!("cp %p {}/%f", wal.display()));
        cluster.start();
        let (control, _) = control::read_settled(cluster.data_directory()).unwrap();
        Self { cluster, wal, system: control.system_identifier }
    }

    /// Writes something, switches, and waits until the segment is in the directory. Answers its name.
    pub(crate) fn segment(&self, sql: &str) -> String {
        self.cluster.psql("postgres", sql);
        let name = self.cluster.psql("postgres", "select pg_walfile_name(pg_switch_wal());");
        self.wait_for_file(&name);
        name
    }

    pub(crate) fn wait_for_file(&self, name: &str) {
        let archived =
            || self.cluster.data_directory().join(format!("pg_wal/archive_status/{name}.done")).exists();
        assert!(wait_until(Duration::from_secs(60), archived), "{name} was not archived");
    }

    /// Names of archived files that end with `ending`, in order.
    pub(crate) fn files(&self, ending: &str) -> Vec<String> {
        let entries = std::fs::read_dir(&self.wal).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
        names.sort();
        names
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.wal.join(name)
    }

    pub(crate) fn push(&self, repository: &Repository, name: &str) -> Result<Pushed, PushError> {
        push(&[repository], &options(self.system), &self.path(name))
    }
}

/// A server's table and a few rows of WAL.
pub(crate) const TABLE: &str = "create table if not exists t (id serial, v text); insert into t (v) select repeat('x', 100) from generate_series(1, 1000);";

pub(crate) fn options(system: SystemIdentifier) -> PushOptions<'static> {
    PushOptions {
        compression: Compression::default(),
        now: SystemClock.now(),
        expected_system: Some(system),
        data_directory: None,
        source: None,
        acknowledge: usize::MAX,
        deadline: Duration::from_secs(60),
    }
}

/// A repository with its directories.
pub(crate) struct Place {
    pub(crate) repository: Repository,
    pub(crate) store: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        let posix = PosixStore::open(&store, Options { create: true, ..Options::default() }).unwrap();
        let identity = Identity::draw();
        let repository = init(Arc::new(posix), &directory.path().join("state"), &identity);
        Self { repository, store, identity, directory }
    }

    /// The same repository from another host.
    pub(crate) fn other_host(&self, name: &str) -> Repository {
        let store = PosixStore::open(&self.store, Options::default()).unwrap();
        self.opened(Arc::new(store), name)
    }

    pub(crate) fn opened(&self, store: Arc<dyn Store>, name: &str) -> Repository {
        let state = StateDirectory::new(self.directory.path().join(name));
        let mut credentials = || Ok(Credentials::Identity(self.identity.clone()));
        let fingerprint = self.repository.fingerprint();
        Repository::open(store, state, Some(&fingerprint), SystemClock.now(), &mut credentials).unwrap()
    }

    /// Files of the store whose names contain `part`.
    pub(crate) fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut pending = vec![self.store.join("wal")];
        while let Some(directory) = pending.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                } else if path.file_name().unwrap().to_string_lossy().contains(part) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

pub(crate) fn init(store: Arc<dyn Store>, state: &Path, identity: &Identity) -> Repository {
    let protection =
        Protection::Recipients { recipients: vec![identity.recipient()], identity: Some(identity.clone()) };
    let options = InitOptions { protection, now: SystemClock.now() };
    Repository::init(store, StateDirectory::new(state), options).unwrap()
}

pub(crate) fn name(text: &str) -> WalFileName {
    text.parse().unwrap()
}

/// Fetches without waiting long.
pub(crate) fn fetch_now(
    repositories: &[&Repository],
    system: SystemIdentifier,
    file: &str,
    dest: &Path,
) -> Result<fetch::Fetched, refloat_engine::wal::FetchError> {
    let options = FetchOptions { system, deadline: Duration::ZERO, is_standby: false };
    fetch(repositories, &options, name(file), dest)
}
