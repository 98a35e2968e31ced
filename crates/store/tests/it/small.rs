//! A small object costs one request, and never more memory than its limit.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use refloat_store::{Store as _, StoreErrorKind, read_whole};

use super::buckets::{open, settings};

/// The first lines of requests.
type Asked = Arc<Mutex<Vec<String>>>;

/// A bucket's endpoint that answers each request with `length` bytes, as many of them as are taken.
fn endpoint(length: u64) -> (String, Asked) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            noted.lock().unwrap().extend(lines.next());
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            let mut left = length;
            let mut sent = stream.write_all(head.as_bytes());
            while sent.is_ok() && left > 0 {
                let piece = vec![b'x'; left.min(1 << 16) as usize];
                left -= piece.len() as u64;
                sent = stream.write_all(&piece);
            }
        }
    });
    (endpoint, asked)
}

#[test]
fn one_request_reads_it() {
    let (endpoint, asked) = endpoint(1000);
    let keys = [("access_key_id", "anybody"), ("secret_access_key", "nothing")];
    let store = open("s3://bucket/db", &settings(&endpoint, &keys));
    assert_eq!(read_whole(&store, &"repository".parse().unwrap(), 1 << 20).unwrap(), [b'x'; 1000]);
    assert_eq!(*asked.lock().unwrap(), ["GET /bucket/db/repository HTTP/1.1"]);
}

#[test]
fn an_endless_answer_is_cut_off() {
    let (endpoint, _) = endpoint(1 << 50);
    let keys = [("access_key_id", "anybody"), ("secret_access_key", "nothing")];
    let store = open("s3://bucket/db", &settings(&endpoint, &keys));
    let error = store.read_small(&"repository".parse().unwrap(), 64 << 10).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Other);
    assert_eq!(error.source.to_string(), "it holds more than the 65536 bytes that are expected");
}
