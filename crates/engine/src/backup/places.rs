//! Where the map leaves of a backup are, by span: more of them than fit into memory, and they come in no order.
//!
//! A record of fixed size for each span of each file, in a spill file. Records are gathered, and neighbours are written
//! together. A span without a leaf has no record: zeros are read for it.

use std::sync::Arc;

use refloat_repo::RepoError;
use refloat_repo::binary::{BadBytes, Reader};
use refloat_repo::manifest::LeafRef;
use refloat_repo::manifest::leaf::LEAF_SPAN;

use super::record::{FRAME_BYTES, put_frame, read_frame};
use crate::spill::Spill;

/// State, length covered, frame, offset and length of the leaf.
const RECORD: usize = 1 + 8 + FRAME_BYTES + 4 + 4;
/// Records that are gathered.
const BATCH: usize = 4096;

const LEAF: u8 = 1;
const VANISHED: u8 = 2;

/// What is known of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// It has no bytes.
    Nothing,
    /// Its file was gone.
    Vanished,
    /// So many bytes, and their leaf.
    Leaf(u64, LeafRef),
}

/// Takes in what is known of spans.
#[derive(Debug)]
pub(super) struct Places {
    spill: Arc<Spill>,
    batch: Vec<(u64, Span)>,
}

/// What is known of one file.
#[derive(Debug, Default)]
pub(super) struct FileLeaves {
    pub(super) vanished: bool,
    pub(super) size: u64,
    pub(super) leaves: Vec<LeafRef>,
}

impl Places {
    /// Nothing is known yet.
    pub(super) fn new(spill: Arc<Spill>) -> Self {
        Self { spill, batch: Vec::with_capacity(BATCH) }
    }

    /// Something is known of the span of this number.
    pub(super) fn put(&mut self, number: u64, span: Span) -> Result<(), RepoError> {
        self.batch.push((number, span));
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), RepoError> {
        self.batch.sort_by_key(|(number, _)| *number);
        let (mut bytes, mut first, mut next) = (Vec::new(), 0, 0);
        for (number, span) in self.batch.drain(..) {
            if number != next && !bytes.is_empty() {
                self.spill.write_at(&bytes, first * RECORD as u64)?;
                bytes.clear();
            }
            if bytes.is_empty() {
                first = number;
            }
            encode(&mut bytes, &span);
            next = number + 1;
        }
        if bytes.is_empty() { Ok(()) } else { self.spill.write_at(&bytes, first * RECORD as u64) }
    }

    /// Nothing more comes: reads what is known, from the first span on.
    pub(super) fn finish(mut self) -> Result<PlaceReader, RepoError> {
        self.flush()?;
        Ok(PlaceReader { spill: self.spill, first: 0, buffer: Vec::new() })
    }
}

fn encode(out: &mut Vec<u8>, span: &Span) {
    let end = out.len() + RECORD;
    match span {
        Span::Nothing => {}
        Span::Vanished => out.push(VANISHED),
        Span::Leaf(length, leaf) => {
            out.push(LEAF);
            out.extend_from_slice(&length.to_le_bytes());
            put_frame(out, &leaf.frame);
            out.extend_from_slice(&leaf.offset.to_le_bytes());
            out.extend_from_slice(&leaf.length.to_le_bytes());
        }
    }
    out.resize(end, 0);
}

fn decode(bytes: &[u8]) -> Result<Span, BadBytes> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        0 => Ok(Span::Nothing),
        VANISHED => Ok(Span::Vanished),
        LEAF => {
            let length = reader.u64()?;
            let frame = read_frame(&mut reader)?;
            Ok(Span::Leaf(length, LeafRef { frame, offset: reader.u32()?, length: reader.u32()? }))
        }
        _ => Err(BadBytes("what is known of a span is not known")),
    }
}

/// Reads what is known of spans, best in their order.
#[derive(Debug)]
pub(super) struct PlaceReader {
    spill: Arc<Spill>,
    /// The span that the buffer begins with.
    first: u64,
    buffer: Vec<u8>,
}

impl PlaceReader {
    /// Another reader of the same.
    pub(super) fn again(&self) -> Self {
        Self { spill: Arc::clone(&self.spill), first: 0, buffer: Vec::new() }
    }

    /// What is known of the file whose spans begin at `place`.
    pub(super) fn file(&mut self, place: u64, spans: u64) -> Result<FileLeaves, RepoError> {
        let mut file = FileLeaves::default();
        for span in 0..spans {
            match self.span(place + span)? {
                Span::Nothing => {}
                Span::Vanished => file.vanished = true,
                Span::Leaf(length, leaf) => {
                    file.size = file.size.max(span * LEAF_SPAN + length);
                    file.leaves.push(leaf);
                }
            }
        }
        Ok(file)
    }

    fn span(&mut self, number: u64) -> Result<Span, RepoError> {
        let buffered = (self.buffer.len() / RECORD) as u64;
        if number < self.first || number >= self.first + buffered {
            self.buffer.resize(BATCH * RECORD, 0);
            let got = self.spill.read_at(&mut self.buffer, number * RECORD as u64)?;
            // Behind the last record that was written nothing is known.
            self.buffer[got..].fill(0);
            self.first = number;
        }
        let at = (number - self.first) as usize * RECORD;
        decode(&self.buffer[at..at + RECORD]).map_err(|_| self.spill.damaged())
    }
}

#[cfg(test)]
mod tests {
    use refloat_repo::StateDirectory;
    use refloat_repo::compress::Codec;
    use refloat_repo::pack::frame::FrameRef;
    use refloat_types::ObjectId;

    use super::*;

    fn leaf(number: u64) -> LeafRef {
        let frame = FrameRef {
            pack: ObjectId([number as u8; 16]),
            offset: 64 + number,
            index: 3,
            stored: 100,
            plain: 200,
            codec: Codec::Zstd,
            tag: [5; 16],
        };
        LeafRef { frame, offset: number as u32, length: 10 }
    }

    #[test]
    fn spans_come_back_whatever_the_order_they_came_in() {
        let directory = tempfile::tempdir().expect("a directory");
        let spill = Spill::create(&StateDirectory::new(directory.path())).expect("a spill file");
        let mut places = Places::new(spill);
        // Every third span is unknown, and the last ones come first.
        let known: Vec<u64> = (0..30_000).filter(|number| number % 3 != 2).collect();
        let order = known.iter().skip(20_000 - 7).chain(known.iter().take(20_000 - 7).rev());
        for number in order {
            let span = if number % 300 == 0 { Span::Vanished } else { Span::Leaf(7, leaf(*number)) };
            places.put(*number, span).expect("kept");
        }
        let mut reader = places.finish().expect("kept");
        for place in (0..30_000).step_by(3) {
            let file = reader.file(place, 3).expect("read");
            assert_eq!(file.vanished, place % 300 == 0);
            assert_eq!(file.size, LEAF_SPAN + 7);
            let first = (!file.vanished).then(|| leaf(place));
            assert_eq!(file.leaves, first.into_iter().chain([leaf(place + 1)]).collect::<Vec<_>>());
        }
        assert!(reader.file(40_000, 2).expect("read").leaves.is_empty(), "nothing is known of it");
    }
}
