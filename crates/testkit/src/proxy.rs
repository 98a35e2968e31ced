//! A TCP proxy between a client and a server, that breaks what passes in the ways networks do, and counts it.
//!
//! What it does can be changed while connections are open. It understands just enough HTTP/1.1 to count requests by kind.

mod count;
mod pump;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It passes.
    Pass,
    /// Each piece arrives this much later, in both directions.
    Delay(Duration),
    /// Nothing passes and nobody is told. What was sent arrives when the mode changes, as after an outage of the network.
    BlackHole,
    /// Connections are reset: those that are open, and new ones as soon as they are made.
    Reset,
    /// The server's side is shut down: the client sees an orderly end where it waits for an answer, and what it sends still
    /// arrives at the server.
    HalfClose,
    /// At most so many bytes in a second, in each direction of each connection.
    Throttle(u64),
    /// A connection is reset when it has carried so many bytes towards the server since the mode was set.
    CutRequests(u64),
    /// A connection is reset when it has carried so many bytes towards the client since the mode was set.
    CutAnswers(u64),
}

/// A listening proxy. Dropped: its connections end.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    /// With a number that grows by one each time it is set.
    mode: Mutex<(Mode, u64)>,
    ended: AtomicBool,
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    requests: Mutex<BTreeMap<String, u64>>,
}

impl Proxy {
    /// Stands before `port` of 127.0.0.1.
    ///
    /// # Panics
    /// When no port is free.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let own = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            server: ([127, 0, 0, 1], port).into(),
            mode: Mutex::new((Mode::Pass, 0)),
            ended: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            requests: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { port: own, shared }
    }

    /// Its own port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }
    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    /// Changes what happens, at once, for all connections.
    pub fn set(&self, mode: Mode) {
        let mut current = lock(&self.shared.mode);
        *current = (mode, current.1 + 1);
    }
    /// How many connections clients have made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
    /// Bytes that have passed so far: towards the server, towards the client.
    pub fn bytes(&self) -> (u64, u64) {
        (self.shared.to_server.load(Ordering::SeqCst), self.shared.to_client.load(Ordering::SeqCst))
    }
    /// How many HTTP requests of each kind have begun so far. A kind is the method and the names of the query's parameters
    /// in alphabetical order: "GET", "PUT", "PUT partNumber uploadId", "POST uploads".
    pub fn requests(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.requests).clone()
    }
    /// How many requests with a method that writes have begun so far: PUT, POST, PATCH, DELETE, MOVE, COPY, MKCOL.
    pub fn writes(&self) -> u64 {
        const WRITING: [&str; 7] = ["PUT", "POST", "PATCH", "DELETE", "MOVE", "COPY", "MKCOL"];
        let method = |kind: &str| kind.split(' ').next().unwrap_or_default().to_owned();
        self.requests()
            .iter()
            .filter(|(kind, _)| WRITING.contains(&method(kind).as_str()))
            .map(|(_, n)| n)
            .sum()
    }
    /// Begins to count requests anew.
    pub fn forget_requests(&self) {
        lock(&self.shared.requests).clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn mode(&self) -> (Mode, u64) {
        *lock(&self.mode)
    }
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.has_ended() {
            return;
        }
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pump::serve(&client, &shared));
    }
}
