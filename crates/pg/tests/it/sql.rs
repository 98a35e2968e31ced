//! Sessions against real servers.

mod backup_mode;
mod connect;
mod facts;
mod pooler;
mod recovery;
mod wal;

use refloat_pg::sql::{ConnectOptions, Place, Session};
use refloat_testkit::cluster::TestCluster;

/// Options for a test's server.
fn options(cluster: &TestCluster) -> ConnectOptions {
    ConnectOptions {
        place: Some(Place::Socket(cluster.socket_directory())),
        port: Some(cluster.port()),
        user: Some("postgres".into()),
        ..ConnectOptions::default()
    }
}

fn session(cluster: &TestCluster) -> Session {
    Session::connect(&options(cluster)).expect("the server runs")
}

/// The whole text of an error: message and causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
