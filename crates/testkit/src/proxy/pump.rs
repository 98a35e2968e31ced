//! One connection: a thread for each direction, which looks at the mode before each piece.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::count::Requests;
use super::{Mode, Shared, lock};

/// How long a change of mode may go unnoticed.
const TICK: Duration = Duration::from_millis(10);
const PIECE: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Toward {
    Server,
    Client,
}

/// Carries a connection until both directions have ended.
pub(super) fn serve(client: &TcpStream, shared: &Shared) {
    // While nothing passes no connection is made either: the client waits as in a network that is gone.
    while shared.mode().0 == Mode::BlackHole && !shared.has_ended() {
        std::thread::sleep(TICK);
    }
    if shared.mode().0 == Mode::Reset {
        return reset(client);
    }
    // A server that is dead refuses; the client sees its connection end at once.
    let Ok(server) = TcpStream::connect(shared.server) else { return reset(client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let broken = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| carry(client, &server, Toward::Server, shared, &broken));
        carry(&server, client, Toward::Client, shared, &broken);
    });
    if broken.load(Ordering::SeqCst) {
        reset(client);
        reset(&server);
    }
}

/// The connection's end is a reset, not an orderly one: unsent data is thrown away.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

fn carry(from: &TcpStream, to: &TcpStream, toward: Toward, shared: &Shared, broken: &AtomicBool) {
    let (mut from, mut to) = (from, to);
    let _ = (from.set_read_timeout(Some(TICK)), to.set_write_timeout(Some(TICK)));
    let mut requests = Requests::default();
    let mut piece = vec![0; PIECE];
    // Carried since the mode with this number was set.
    let (mut carried, mut since) = (0_u64, shared.mode().1);
    let mut room = |carried: &mut u64| {
        let (mode, number) = shared.mode();
        if number != since {
            (*carried, since) = (0, number);
        }
        match (mode, toward) {
            (Mode::Reset, _) => Room::Cut,
            (Mode::BlackHole, _) => Room::Nothing,
            (Mode::HalfClose, Toward::Client) => Room::Closed,
            (Mode::CutRequests(limit), Toward::Server) | (Mode::CutAnswers(limit), Toward::Client) => {
                match limit.saturating_sub(*carried) {
                    0 => Room::Cut,
                    left => Room::Bytes(usize::try_from(left).unwrap_or(PIECE)),
                }
            }
            _ => Room::Bytes(PIECE),
        }
    };
    loop {
        if shared.has_ended() || broken.load(Ordering::SeqCst) {
            return end(from, to, broken);
        }
        match room(&mut carried) {
            Room::Cut => return end(from, to, broken),
            Room::Nothing => {
                std::thread::sleep(TICK);
                continue;
            }
            Room::Closed => return drop(to.shutdown(Shutdown::Write)),
            Room::Bytes(_) => {}
        }
        let got = match from.read(&mut piece) {
            // An orderly end of one direction is passed on as such.
            Ok(0) => return drop(to.shutdown(Shutdown::Write)),
            Ok(got) => got,
            Err(error) if is_patient(&error) => continue,
            Err(_) => return end(from, to, broken),
        };
        // What was read before the mode changed does not slip through it.
        let allowed = loop {
            keep(got, shared);
            match room(&mut carried) {
                Room::Nothing if !shared.has_ended() => {}
                allowed => break allowed,
            }
        };
        let (bytes, is_cut) = match allowed {
            Room::Cut | Room::Nothing => return end(from, to, broken),
            Room::Closed => return drop(to.shutdown(Shutdown::Write)),
            Room::Bytes(left) => (piece.get(..got.min(left)).unwrap_or_default(), left < got),
        };
        if toward == Toward::Server {
            requests.see(bytes, &mut |kind| *lock(&shared.requests).entry(kind).or_default() += 1);
        }
        // Before whoever gets them can know of them and look at the count.
        passed(shared, toward).fetch_add(bytes.len() as u64, Ordering::SeqCst);
        if !write(&mut to, bytes, shared, broken) {
            return end(from, to, broken);
        }
        carried += bytes.len() as u64;
        if is_cut {
            return end(from, to, broken);
        }
    }
}

/// What may pass now.
enum Room {
    /// So many bytes.
    Bytes(usize),
    /// Nothing, and nobody is told.
    Nothing,
    /// Nothing any more, in order.
    Closed,
    /// Nothing any more.
    Cut,
}

/// Writes a piece, giving up when the connection is to end. `false` when it ended.
fn write(to: &mut &TcpStream, mut bytes: &[u8], shared: &Shared, broken: &AtomicBool) -> bool {
    while !bytes.is_empty() {
        if shared.has_ended() || broken.load(Ordering::SeqCst) || shared.mode().0 == Mode::Reset {
            return false;
        }
        match to.write(bytes) {
            Ok(0) => return false,
            Ok(wrote) => bytes = bytes.get(wrote..).unwrap_or_default(),
            Err(error) if is_patient(&error) => {}
            Err(_) => return false,
        }
    }
    true
}

fn is_patient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Keeps a piece of this length as long as the mode says: for its delay, for its share of a second, or while nothing passes.
fn keep(length: usize, shared: &Shared) {
    let arrived = Instant::now();
    loop {
        let until = match shared.mode().0 {
            Mode::BlackHole => Duration::MAX,
            Mode::Delay(by) => by,
            Mode::Throttle(rate) => Duration::from_secs_f64(length as f64 / rate.max(1) as f64),
            _ => Duration::ZERO,
        };
        if arrived.elapsed() >= until || shared.has_ended() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

const fn passed(shared: &Shared, toward: Toward) -> &AtomicU64 {
    match toward {
        Toward::Server => &shared.to_server,
        Toward::Client => &shared.to_client,
    }
}

/// Breaks both directions: both threads end, and the connection with them.
fn end(from: &TcpStream, to: &TcpStream, broken: &AtomicBool) {
    broken.store(true, Ordering::SeqCst);
    reset(from);
    reset(to);
}
