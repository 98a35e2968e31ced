//! What the proxy does is what it says.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::count::Requests;
use super::{Mode, Proxy};
use crate::cluster::wait_until;

/// Answers what it hears, until the connection ends.
fn echo() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut reader, &mut &stream);
            });
        }
    });
    port
}

fn client(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

#[track_caller]
fn say(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, text);
}

/// How the connection ends: `Ok(0)` in order, or an error.
fn ending(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    stream.read(&mut [0; 1]).map_err(|error| error.kind())
}

#[test]
fn what_passes_is_counted() {
    let proxy = Proxy::before(echo());
    let mut stream = client(&proxy);
    say(&mut stream, b"hello");
    say(&mut client(&proxy), &[7; 100_000]);
    assert_eq!(proxy.connections(), 2);
    assert_eq!(proxy.bytes(), (100_005, 100_005));
    assert!(proxy.requests().is_empty());
}

#[test]
fn a_delay_delays() {
    let proxy = Proxy::before(echo());
    let mut stream = client(&proxy);
    say(&mut stream, b"quick");
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let began = Instant::now();
    say(&mut stream, b"slow");
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
}

#[test]
fn a_black_hole_is_silent_and_ends() {
    let proxy = Proxy::before(echo());
    let mut stream = client(&proxy);
    say(&mut stream, b"before");
    proxy.set(Mode::BlackHole);
    stream.write_all(b"into the dark").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(matches!(ending(&mut stream), Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)));
    let mut new = client(&proxy);
    new.write_all(b"me too").unwrap();
    proxy.set(Mode::Pass);
    for (stream, said) in [(&mut stream, b"into the dark".as_slice()), (&mut new, b"me too")] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut heard = vec![0; said.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, said);
    }
}

#[test]
fn a_reset_ends_old_and_new_connections() {
    let proxy = Proxy::before(echo());
    let mut stream = client(&proxy);
    say(&mut stream, b"before");
    proxy.set(Mode::Reset);
    assert_eq!(ending(&mut stream), Err(ErrorKind::ConnectionReset));
    assert_eq!(ending(&mut client(&proxy)), Err(ErrorKind::ConnectionReset));
    proxy.set(Mode::Pass);
    say(&mut client(&proxy), b"after");
}

#[test]
fn half_of_a_connection_is_closed() {
    let proxy = Proxy::before(echo());
    let mut stream = client(&proxy);
    say(&mut stream, b"before");
    proxy.set(Mode::HalfClose);
    assert_eq!(ending(&mut stream), Ok(0));
    stream.write_all(b"still heard").unwrap();
    assert!(wait_until(Duration::from_secs(20), || proxy.bytes().0 == 17), "{:?}", proxy.bytes());
}

#[test]
fn a_throttle_throttles() {
    let proxy = Proxy::before(echo());
    let mut stream = client(&proxy);
    proxy.set(Mode::Throttle(20_000));
    let began = Instant::now();
    say(&mut stream, &[1; 6_000]);
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
}

#[test]
fn a_connection_is_cut_after_so_many_bytes() {
    for (mode, expected) in [(Mode::CutRequests(1000), 1000), (Mode::CutAnswers(10), 1500)] {
        let proxy = Proxy::before(echo());
        let mut stream = client(&proxy);
        say(&mut stream, b"before");
        proxy.set(mode);
        stream.write_all(&[1; 1500]).unwrap();
        let mut heard = Vec::new();
        assert_eq!(stream.read_to_end(&mut heard).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
        assert!(proxy.bytes().0 - 6 <= expected, "{mode:?}: {:?}", proxy.bytes());
        if mode == Mode::CutAnswers(10) {
            assert_eq!(proxy.bytes().1, 16);
        }
    }
}

#[test]
fn a_dead_server_is_a_reset() {
    let proxy = Proxy::before(crate::cluster::free_port());
    assert_eq!(ending(&mut client(&proxy)), Err(ErrorKind::ConnectionReset));
}

#[test]
fn requests_are_counted_by_kind_however_they_are_cut() {
    let all = b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /\
        POST /b/k?uploads HTTP/1.1\r\nContent-Length: 0\r\n\r\n\
        PUT /b/k?uploadId=1&partNumber=2 HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n4;x=y\r\nPUT \r\n0\r\nT: r\r\n\r\n\
        GET /b?list-type=2&prefix= HTTP/1.1\r\n\r\n\
        HEAD / HTTP/1.1\r\n\r\n";
    for size in [1, 2, 3, 7, 64, all.len()] {
        let (mut requests, mut seen) = (Requests::default(), Vec::new());
        all.chunks(size).for_each(|piece| requests.see(piece, &mut |kind| seen.push(kind)));
        let expected = ["PUT", "POST uploads", "PUT partNumber uploadId", "GET list-type prefix", "HEAD"];
        assert_eq!(seen, expected, "in pieces of {size}");
    }
    let (mut requests, mut seen) = (Requests::default(), Vec::new());
    requests.see(b"SSH-2.0-x\r\n\r\nPUT / HTTP/1.1\r\n\r\n", &mut |kind| seen.push(kind));
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn requests_are_counted_on_the_way() {
    let proxy = Proxy::before(echo());
    let mut stream = client(&proxy);
    say(&mut stream, b"PUT /k?b=1&a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody");
    say(&mut stream, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        proxy.requests().into_iter().collect::<Vec<_>>(),
        [("GET".to_owned(), 1), ("PUT a b".to_owned(), 1)]
    );
    assert_eq!(proxy.writes(), 1);
    proxy.forget_requests();
    assert_eq!(proxy.writes(), 0);
}
