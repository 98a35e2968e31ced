//! Finds the request lines in what a client sends: HTTP/1.1 with lengths or chunks. Anything else is not counted.

/// Reads one direction of one connection, in pieces of any size.
#[derive(Default)]
pub(super) struct Requests {
    state: State,
}

#[derive(Default)]
enum State {
    /// Inside a head, or before one.
    #[default]
    Head,
    Collected(Vec<u8>),
    /// So many bytes of a body are to come.
    Body(u64),
    /// The line with a chunk's length, so far.
    ChunkSize(Vec<u8>),
    /// So many bytes of a chunk with its line end are to come.
    Chunk(u64),
    /// The lines after the last chunk, so far.
    Trailer(Vec<u8>),
    /// This is no HTTP.
    Foreign,
}

/// Longer heads are not HTTP for us.
const LONGEST_HEAD: usize = 64 << 10;

impl Requests {
    /// Sees the next bytes, and calls `each` with the kind of every request whose head ends in them.
    pub(super) fn see(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(String)) {
        while let Some((first, rest)) = bytes.split_first() {
            self.state = match std::mem::take(&mut self.state) {
                State::Foreign => {
                    self.state = State::Foreign;
                    return;
                }
                State::Body(left) => {
                    let skip = left.min(bytes.len() as u64);
                    bytes = bytes.get(skip as usize..).unwrap_or_default();
                    if left == skip { State::Head } else { State::Body(left - skip) }
                }
                State::Chunk(left) => {
                    let skip = left.min(bytes.len() as u64);
                    bytes = bytes.get(skip as usize..).unwrap_or_default();
                    if left == skip { State::ChunkSize(Vec::new()) } else { State::Chunk(left - skip) }
                }
                State::Head => State::Collected(Vec::new()),
                State::Collected(mut head) => {
                    head.push(*first);
                    bytes = rest;
                    if head.ends_with(b"\r\n\r\n") {
                        begin(&head, each)
                    } else if head.len() > LONGEST_HEAD || !head.first().is_some_and(u8::is_ascii_uppercase) {
                        State::Foreign
                    } else {
                        State::Collected(head)
                    }
                }
                State::ChunkSize(mut line) => {
                    line.push(*first);
                    bytes = rest;
                    if line.ends_with(b"\n") { chunk(&line) } else { State::ChunkSize(line) }
                }
                State::Trailer(mut line) => {
                    line.push(*first);
                    bytes = rest;
                    match line.as_slice() {
                        b"\r\n" => State::Head,
                        whole if whole.ends_with(b"\n") => State::Trailer(Vec::new()),
                        _ => State::Trailer(line),
                    }
                }
            };
        }
    }
}

/// A head is complete: tells its kind, and what follows it.
fn begin(head: &[u8], each: &mut dyn FnMut(String)) -> State {
    let Ok(text) = std::str::from_utf8(head) else { return State::Foreign };
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) =
        (words.next(), words.next(), words.next())
    else {
        return State::Foreign;
    };
    each(kind(method, target));
    let header = |wanted: &str| {
        text.split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return State::ChunkSize(Vec::new());
    }
    match header("content-length").map(str::parse) {
        None | Some(Ok(0)) => State::Head,
        Some(Ok(length)) => State::Body(length),
        Some(Err(_)) => State::Foreign,
    }
}

fn chunk(line: &[u8]) -> State {
    let text = String::from_utf8_lossy(line);
    let digits = text.trim().split(';').next().unwrap_or_default();
    match u64::from_str_radix(digits, 16) {
        Ok(0) => State::Trailer(Vec::new()),
        Ok(length) => State::Chunk(length.saturating_add(2)),
        Err(_) => State::Foreign,
    }
}

/// The method and the names of the query's parameters.
fn kind(method: &str, target: &str) -> String {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let mut names: Vec<_> =
        query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    std::iter::once(method).chain(names).collect::<Vec<_>>().join(" ")
}
