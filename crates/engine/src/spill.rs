//! What is too much for memory: a file without a name, in the state directory.
//!
//! The file has no name, or loses it before anything is written, so a crash leaves nothing. It is this process's own: what
//! is read from it was written by it, and bytes that do not fit are an error of the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refloat_repo::crypt::random;
use refloat_repo::{RepoError, StateDirectory};
use rustix::fs::{CWD, Mode, OFlags, openat};

/// How much is written or read at a time.
const CHUNK: usize = 128 << 10;
/// Bytes before each record: its length.
const LENGTH: usize = 4;

/// A file without a name.
#[derive(Debug)]
pub(crate) struct Spill {
    file: File,
    directory: PathBuf,
}

impl Spill {
    /// Makes one.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub(crate) fn create(state: &StateDirectory) -> Result<Arc<Self>, RepoError> {
        let directory = state.directory("spill")?;
        match nameless(&directory) {
            Ok(file) => Ok(Arc::new(Self { file, directory })),
            Err(source) => Err(fail("create a file in", &directory, source)),
        }
    }

    /// Writes all bytes at a place.
    ///
    /// # Errors
    /// When the disk is full, or fails.
    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), RepoError> {
        self.file.write_all_at(bytes, at).map_err(|source| fail("write a file in", &self.directory, source))
    }

    /// Reads up to so many bytes; fewer only at the file's end.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, RepoError> {
        let mut got = 0;
        while got < buffer.len() {
            match self.file.read_at(&mut buffer[got..], at + got as u64) {
                Ok(0) => break,
                Ok(read) => got += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(fail("read a file in", &self.directory, source)),
            }
        }
        Ok(got)
    }

    /// The error of bytes that are not what was written.
    pub(crate) fn damaged(&self) -> RepoError {
        let source =
            io::Error::new(io::ErrorKind::InvalidData, "what was written comes back as something else");
        fail("read a file in", &self.directory, source)
    }
}

fn fail(action: &'static str, directory: &Path, source: io::Error) -> RepoError {
    RepoError::State { action, path: directory.display().to_string(), source }
}

/// A file system that has no files without names gets one that loses its name at once.
fn nameless(directory: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    if let Ok(file) = openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    let path = directory.join(random::object_id().to_string());
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Appends records.
#[derive(Debug)]
pub(crate) struct RecordWriter {
    spill: Arc<Spill>,
    buffer: Vec<u8>,
    at: u64,
}

impl RecordWriter {
    /// Begins in a file of its own.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) fn create(state: &StateDirectory) -> Result<Self, RepoError> {
        Ok(Self { spill: Spill::create(state)?, buffer: Vec::new(), at: 0 })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn push(&mut self, record: &[u8]) -> Result<(), RepoError> {
        let length = u32::try_from(record.len()).map_err(|e| RepoError::internal("keep a record", e))?;
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(record);
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), RepoError> {
        self.spill.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// All records, to be read as often as one likes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn finish(mut self) -> Result<Records, RepoError> {
        self.flush()?;
        Ok(Records { spill: self.spill, end: self.at })
    }
}

/// Records in the order in which they were written.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    spill: Arc<Spill>,
    end: u64,
}

impl Records {
    /// Reads them from the first.
    pub(crate) fn reader(&self) -> RecordReader {
        RecordReader { records: self.clone(), at: 0, buffer: Vec::new(), used: 0 }
    }

    /// The error of a record that is not what was written.
    pub(crate) fn damaged(&self) -> RepoError {
        self.spill.damaged()
    }
}

/// Goes through records.
#[derive(Debug)]
pub(crate) struct RecordReader {
    records: Records,
    /// Where in the file the buffer ends.
    at: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl RecordReader {
    /// The next record; `None` behind the last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, RepoError> {
        if self.used == self.buffer.len() && self.at == self.records.end {
            return Ok(None);
        }
        self.fill(LENGTH)?;
        let length = self.buffer.get(self.used..).and_then(|rest| rest.first_chunk::<LENGTH>());
        let length = u32::from_le_bytes(*length.ok_or_else(|| self.records.damaged())?) as usize;
        self.fill(LENGTH + length)?;
        let start = self.used + LENGTH;
        self.used = start + length;
        Ok(Some(&self.buffer[start..self.used]))
    }

    /// Sees to it that so many bytes are in the buffer.
    fn fill(&mut self, wanted: usize) -> Result<(), RepoError> {
        let there = self.buffer.len() - self.used;
        if there >= wanted {
            return Ok(());
        }
        let left = self.records.end - self.at;
        let more = (left.min(CHUNK as u64) as usize).max(wanted - there);
        if more as u64 > left {
            return Err(self.records.damaged());
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.resize(there + more, 0);
        let got = self.records.spill.read_at(&mut self.buffer[there..], self.at)?;
        self.at += got as u64;
        if got == more { Ok(()) } else { Err(self.records.damaged()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_and_nothing_is_left_behind() {
        let state = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::new(state.path());
        let mut writer = RecordWriter::create(&state).expect("created");
        let record = |number: usize| vec![number as u8; (number * 37) % 700];
        for number in 0..5000 {
            writer.push(&record(number)).expect("written");
        }
        writer.push(&vec![9; 3 * CHUNK]).expect("written");
        let records = writer.finish().expect("written");
        for _ in 0..2 {
            let mut reader = records.reader();
            for number in 0..5000 {
                assert_eq!(reader.next().expect("read"), Some(record(number).as_slice()));
            }
            assert_eq!(reader.next().expect("read").map(<[u8]>::len), Some(3 * CHUNK));
            assert_eq!(reader.next().expect("read"), None);
        }
        let left = std::fs::read_dir(state.path().join("spill")).expect("listed").count();
        assert_eq!(left, 0, "a spill file has a name");
    }

    #[test]
    fn a_record_that_is_cut_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut writer = RecordWriter::create(&StateDirectory::new(directory.path())).expect("created");
        writer.push(b"whole").expect("written");
        let records = writer.finish().expect("written");
        records.spill.write_at(&[200, 0, 0, 0], 0).expect("written over");
        let error = records.reader().next().expect_err("cut");
        assert!(error.to_string().starts_with("could not read a file in"), "{error}");
    }
}
