//! Stand-ins for connection poolers: what they have in common is that the server never sees the client's own startup
//! packet.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use refloat_pg::sql::{ConnectOptions, Place, Session, SqlError};
use refloat_testkit::cluster::{TestCluster, skip_without};
use refloat_types::Explain as _;

use super::options;

/// Length-prefixed startup packet: protocol number, then `name\0value\0` pairs and a `\0`.
fn read_startup(stream: &mut UnixStream) -> Vec<(String, String)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("a packet");
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body).expect("a packet");
    let words: Vec<_> =
        body[4..].split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    words
        .chunks(2)
        .filter(|pair| pair.len() == 2 && !pair[0].is_empty())
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

fn startup(pairs: &[(String, String)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in pairs {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}

/// Serves one client by `serve` and returns options that lead there.
fn pooler(
    directory: &Path,
    serve: impl FnOnce(UnixStream) + Send + 'static,
    through: &ConnectOptions,
) -> ConnectOptions {
    let listener = UnixListener::bind(directory.join(".s.PGSQL.6432")).expect("bound");
    std::thread::spawn(move || serve(listener.accept().expect("a client").0));
    ConnectOptions { place: Some(Place::Socket(directory.to_owned())), port: Some(6432), ..through.clone() }
}

#[test]
fn a_pooler_that_keeps_startup_options_to_itself_is_refused() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    let directory = tempfile::tempdir().expect("a directory");
    let server = cluster.socket_directory().join(format!(".s.PGSQL.{}", cluster.port()));
    let serve = move |mut client: UnixStream| {
        let mut pairs = read_startup(&mut client);
        pairs.retain(|(name, _)| name != "options");
        let mut server = UnixStream::connect(server).expect("the server runs");
        server.write_all(&startup(&pairs)).expect("sent");
        let (mut from, mut to) = (client.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let _ = std::io::copy(&mut server, &mut client);
    };
    let error = Session::connect(&pooler(directory.path(), serve, &options(&cluster))).expect_err("a pooler");
    assert!(matches!(error, SqlError::Pooler { .. }), "{error:?}");
    assert_eq!((error.advice().code, error.advice().exit_code()), ("PG-006", 2));
    assert!(
        error.to_string().contains("a connection pooler answers there, not PostgreSQL itself"),
        "{error}"
    );
}

#[test]
fn a_pooler_that_refuses_startup_options_is_recognised() {
    let directory = tempfile::tempdir().expect("a directory");
    let serve = |mut client: UnixStream| {
        read_startup(&mut client);
        let fields = b"SFATAL\0C08P01\0Munsupported startup parameter in options: refloat.session\0\0";
        let length = (fields.len() as u32 + 4).to_be_bytes();
        client.write_all(&[&b"E"[..], &length, fields].concat()).expect("sent");
    };
    let error =
        Session::connect(&pooler(directory.path(), serve, &ConnectOptions::default())).expect_err("a pooler");
    assert!(matches!(error, SqlError::Pooler { .. }), "{error:?}");
}
