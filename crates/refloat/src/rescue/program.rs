//! The running program's own bytes, where another host could run them: a program that is linked statically needs nothing
//! but its kernel.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

/// The executable of this process, whatever lies under its name by now.
const OWN: &str = "/proc/self/exe";
/// Program header that names the dynamic linker.
const INTERPRETER: u32 = 3;

/// This program, linked statically.
pub(super) struct Program {
    file: File,
    identity: String,
}

impl Program {
    /// This program; `None` where it needs libraries of this host, or its file cannot be read.
    pub(super) fn running() -> Option<Self> {
        Self::of(File::open(OWN).ok()?)
    }

    fn of(file: File) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let identity = format!(
            "{} {} {} {}.{}",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        is_static(&file)?.then_some(Self { file, identity })
    }

    /// Tells it from another file, without reading it.
    pub(super) fn identity(&self) -> String {
        self.identity.clone()
    }

    /// All its bytes.
    pub(super) fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Whoever asks a second time gets them too.
        (&self.file).seek(io::SeekFrom::Start(0))?;
        (&self.file).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Whether an ELF file of 64 bits and this machine's byte order names no dynamic linker; `None` for anything else.
fn is_static(file: &File) -> Option<bool> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    let order = if cfg!(target_endian = "little") { 1 } else { 2 };
    if header[..4] != *b"\x7fELF" || header[4] != 2 || header[5] != order {
        return None;
    }
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let offset = u64::from_ne_bytes(header[32..40].try_into().ok()?);
    let (size, count) = (u64::from(half(54)), u64::from(half(56)));
    for number in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, offset.checked_add(number * size)?).ok()?;
        if u32::from_ne_bytes(kind) == INTERPRETER {
            return Some(false);
        }
    }
    Some(count > 0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::*;

    /// A program that is linked statically, with `text` in it.
    pub(crate) fn linked_statically(text: &[u8]) -> Program {
        let mut file = elf(&[1]);
        file.seek(io::SeekFrom::End(0))
            .and_then(|_| file.write_all(text))
            .and_then(|()| file.rewind())
            .expect("writes");
        Program::of(file).expect("it names no linker")
    }

    /// An ELF header with program headers of these kinds.
    fn elf(kinds: &[u32]) -> File {
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[4] = 2;
        bytes[5] = if cfg!(target_endian = "little") { 1 } else { 2 };
        bytes[32..40].copy_from_slice(&64_u64.to_ne_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_ne_bytes());
        bytes[56..58].copy_from_slice(&(kinds.len() as u16).to_ne_bytes());
        for kind in kinds {
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.resize(bytes.len() + 52, 0);
        }
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&bytes).expect("writes");
        file.rewind().expect("seeks");
        file
    }

    #[test]
    fn what_names_no_linker_is_static() {
        assert_eq!(is_static(&elf(&[6, 1, 1])), Some(true));
        assert_eq!(is_static(&elf(&[6, INTERPRETER, 1])), Some(false));
        assert_eq!(is_static(&elf(&[])), Some(false));
        let short = tempfile::tempfile().expect("a temporary file");
        assert_eq!(is_static(&short), None);
    }

    #[test]
    fn a_static_program_is_given_whole() {
        let file = elf(&[1]);
        let length = file.metadata().expect("own file").len();
        let program = Program::of(file).expect("static");
        assert_eq!(program.bytes().expect("reads").len() as u64, length);
        assert!(Program::of(elf(&[INTERPRETER])).is_none());
    }
}
