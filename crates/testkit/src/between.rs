//! Stands between a client and an HTTP server and may answer for it: what stores and what is before them do once in a
//! while, and no server of tests does when it is wanted.
//!
//! Every request is one connection to the server. What passes is not touched, so signatures hold.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::http::Answer;

/// A request, as it is seen before it is sent on.
#[derive(Debug)]
pub struct Seen<'a> {
    /// `GET` and so on.
    pub method: &'a str,
    /// Path and query, as they were sent.
    pub target: &'a str,
    head: &'a str,
}

impl Seen<'_> {
    /// A header's value; its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// What to do with a request.
pub enum Act {
    /// It passes, and so does its answer.
    Pass,
    /// It never arrives; this is the answer.
    Answer(u16, String),
    /// It never arrives, and the connection ends without an answer.
    Drop,
    /// It passes, and the answer to it is lost with the connection.
    Lose,
    /// It passes; the answer's body is changed.
    Change(Box<dyn FnOnce(Vec<u8>) -> Vec<u8> + Send>),
}

type Decide = dyn Fn(&Seen<'_>) -> Act + Send + Sync;

/// A listening one. Dropped: it takes no more connections.
pub struct Between {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Between {
    /// Stands before `port` of 127.0.0.1; `decide` is asked about each request.
    ///
    /// # Panics
    /// When no port is free.
    pub fn before(port: u16, decide: impl Fn(&Seen<'_>) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let own = listener.local_addr().expect("a bound socket has an address").port();
        let ended = Arc::new(AtomicBool::new(false));
        let (has_ended, decide): (_, Arc<Decide>) = (Arc::clone(&ended), Arc::new(decide));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if has_ended.load(Ordering::SeqCst) {
                    return;
                }
                let decide = Arc::clone(&decide);
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || serve(client, port, &*decide));
            }
        });
        Self { port: own, ended }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut client: TcpStream, port: u16, decide: &Decide) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let Some((head, mut body)) = read_head(&mut client)? else { return Ok(()) };
    let mut words = head.split("\r\n").next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let seen = Seen { method, target, head: &head };
    let length = seen.header("content-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let act = decide(&seen);
    let before = body.len();
    body.resize(length.max(before), 0);
    client.read_exact(body.get_mut(before..).unwrap_or_default())?;
    let answer = match act {
        Act::Drop => return Ok(()),
        Act::Answer(status, text) => Answer {
            status,
            headers: Vec::new(),
            body: if method == "HEAD" { Vec::new() } else { text.into() },
        },
        Act::Pass => ask(port, &head, &body)?,
        Act::Lose => return ask(port, &head, &body).map(drop),
        Act::Change(change) => {
            let mut answer = ask(port, &head, &body)?;
            answer.body = change(answer.body);
            answer
        }
    };
    client.write_all(&answered(method, &answer))
}

/// The head, without the empty line, and what came with it.
fn read_head(client: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    let mut piece = [0; 8 << 10];
    loop {
        if let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = all.split_off(end + 4);
            all.truncate(end);
            let head = String::from_utf8(all).map_err(io::Error::other)?;
            if head.to_ascii_lowercase().contains("expect: 100-continue") {
                client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            return Ok(Some((head, body)));
        }
        match client.read(&mut piece)? {
            0 => return Ok(None),
            count => all.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
    }
}

/// Asks the server as HTTP/1.0 does, whose answers end with their connection.
fn ask(port: u16, head: &str, body: &[u8]) -> io::Result<Answer> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut request = head.replacen("HTTP/1.1", "HTTP/1.0", 1);
    request.push_str("\r\nConnection: close\r\n\r\n");
    server.write_all(request.as_bytes())?;
    server.write_all(body)?;
    let mut all = Vec::new();
    server.read_to_end(&mut all)?;
    crate::http::parse(&all)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))
}

fn answered(method: &str, answer: &Answer) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} Answered\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        let own = matches!(name.as_str(), "connection" | "transfer-encoding" | "keep-alive");
        // The length that a HEAD tells is that of a body which does not come.
        if !own && (method == "HEAD" || name != "content-length") {
            head += &format!("{name}: {value}\r\n");
        }
    }
    if method != "HEAD" || answer.headers.is_empty() {
        head += &format!("content-length: {}\r\n", answer.body.len());
    }
    let mut all = (head + "\r\n").into_bytes();
    all.extend_from_slice(&answer.body);
    all
}
