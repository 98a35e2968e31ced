//! What a stopped server would use.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use refloat_types::{Advice, Explain};

use super::line::{Include, Line, parse_line};

/// How deep files may include each other, as in PostgreSQL.
const DEPTH: usize = 10;

/// A setting and where it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Without quotes.
    pub value: Vec<u8>,
    /// In which file.
    pub file: PathBuf,
    /// On which line, from 1.
    pub line: usize,
}

impl Setting {
    /// The value as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.value)
    }
    /// The value as a path.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.value))
    }
}

/// A line PostgreSQL would refuse to start with, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In which file.
    pub file: PathBuf,
    /// On which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// All that configuration files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// By name in lower case; the last of several wins.
    pub settings: BTreeMap<String, Setting>,
    /// Every file that was read, in order.
    pub files: Vec<PathBuf>,
    /// Lines that were passed over.
    pub problems: Vec<Problem>,
}

impl Effective {
    /// The setting of this name (lower case).
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }
    /// The value of this name as text.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(Setting::text)
    }
}

/// Why configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// A file could not be read. One that is merely missing behind `include` is a [`Problem`] instead.
    #[error("could not read the configuration {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for ConfError {
    fn advice(&self) -> Advice {
        let Self::Io { source, .. } = self;
        let advice = Advice::failed("FILE-008", "nothing was changed");
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                advice.hint("Run refloat as the user that owns the data directory; the server must be able to read its configuration too.")
            }
            io::ErrorKind::NotFound => {
                advice.hint("On Debian the configuration is in /etc/postgresql, not in the data directory.")
            }
            _ => advice.hint("Look at the kernel's log for errors of this disk."),
        }
    }
}

/// Reads `main_file` and all it includes, then `postgresql.auto.conf` in the data directory, and says what holds in the
/// end. The data directory is `data_directory`, else what the files say, else where `main_file` is (Debian keeps the
/// two apart). Options on the server's command line are not known here.
///
/// # Errors
/// When a file is there and cannot be read, or `main_file` is not there.
pub fn effective(main_file: &Path, data_directory: Option<&Path>) -> Result<Effective, ConfError> {
    let mut all = Effective::default();
    let bytes =
        std::fs::read(main_file).map_err(|source| ConfError::Io { path: main_file.to_path_buf(), source })?;
    all.add(main_file, &bytes, 1)?;
    let home = main_file.parent().unwrap_or(Path::new("/"));
    let data_directory = match (data_directory, all.get("data_directory")) {
        (Some(path), _) => path.to_path_buf(),
        (None, Some(setting)) => home.join(setting.path()),
        (None, None) => home.to_path_buf(),
    };
    let auto = data_directory.join("postgresql.auto.conf");
    if let Some(bytes) = read_if_exists(&auto)? {
        all.add(&auto, &bytes, 1)?;
    }
    Ok(all)
}

fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, ConfError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfError::Io { path: path.to_path_buf(), source }),
    }
}

/// The files `include_dir` takes: `*.conf`, none hidden, in byte order; `None` when there is no such directory.
fn directory_files(path: &Path) -> Result<Option<Vec<PathBuf>>, ConfError> {
    let failed = |source| ConfError::Io { path: path.to_path_buf(), source };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let bytes = name.as_bytes();
        if bytes.len() >= 6
            && !bytes.starts_with(b".")
            && bytes.ends_with(b".conf")
            && !path.join(&name).is_dir()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(Some(names.into_iter().map(|name| path.join(name)).collect()))
}

impl Effective {
    fn add(&mut self, file: &Path, bytes: &[u8], depth: usize) -> Result<(), ConfError> {
        self.files.push(file.to_path_buf());
        for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')) {
            match parse_line(line) {
                Line::Blank => {}
                Line::Setting { name, value } => {
                    self.settings.insert(name, Setting { value, file: file.to_path_buf(), line: number });
                }
                Line::Include { how, path } => self.include(file, number, how, &path, depth)?,
                Line::Bad => self.problem(file, number, "this line cannot be understood".to_owned()),
            }
        }
        Ok(())
    }

    fn problem(&mut self, file: &Path, line: usize, message: String) {
        self.problems.push(Problem { file: file.to_path_buf(), line, message });
    }

    fn include(
        &mut self,
        file: &Path,
        number: usize,
        how: Include,
        path: &[u8],
        depth: usize,
    ) -> Result<(), ConfError> {
        // Relative to the file that includes, not to the data directory.
        let path = file.parent().unwrap_or(Path::new("/")).join(OsStr::from_bytes(path));
        if depth >= DEPTH {
            self.problem(file, number, format!("files include each other more than {DEPTH} deep"));
            return Ok(());
        }
        let missing = format!("{} does not exist", path.display());
        if how == Include::Directory {
            let Some(files) = directory_files(&path)? else {
                self.problem(file, number, missing);
                return Ok(());
            };
            for part in files {
                if let Some(bytes) = read_if_exists(&part)? {
                    self.add(&part, &bytes, depth + 1)?;
                }
            }
            return Ok(());
        }
        match read_if_exists(&path)? {
            Some(bytes) => self.add(&path, &bytes, depth + 1)?,
            None if how == Include::FileIfExists => {}
            None => self.problem(file, number, missing),
        }
        Ok(())
    }
}

/// Splits a list of directories such as `unix_socket_directories`: commas between, spaces around them ignored, double
/// quotes around an element that holds any of these.
pub fn split_list(value: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut rest = value.trim_ascii();
    while !rest.is_empty() {
        let mut item = Vec::new();
        if rest[0] == b'"' {
            rest = &rest[1..];
            while let Some(at) = rest.iter().position(|b| *b == b'"') {
                item.extend_from_slice(&rest[..at]);
                rest = &rest[at + 1..];
                if rest.first() != Some(&b'"') {
                    break;
                }
                // Two quotes stand for one.
                item.push(b'"');
                rest = &rest[1..];
            }
        }
        let end = rest.iter().position(|b| *b == b',').unwrap_or(rest.len());
        item.extend_from_slice(rest[..end].trim_ascii_end());
        rest = rest.get(end + 1..).unwrap_or_default().trim_ascii_start();
        if !item.is_empty() {
            all.push(item);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn debians_layout_is_followed_and_the_last_wins() {
        let top = tempfile::tempdir().unwrap();
        let (etc, data) = (top.path().join("etc"), top.path().join("data"));
        fs::create_dir_all(etc.join("conf.d/sub.conf")).unwrap();
        fs::create_dir(&data).unwrap();
        let main = etc.join("postgresql.conf");
        let text = format!(
            "data_directory = '{}'\nport = 1\nwal_level = minimal\ninclude_dir = 'conf.d'\nwhat is this?\n\
             include_if_exists 'no.conf'\ninclude 'gone.conf'\ninclude 'loop'\nPort = 3\n",
            data.display()
        );
        fs::write(&main, text).unwrap();
        fs::write(etc.join("conf.d/b.conf"), "port = 2\nx.y = 'b'\n").unwrap();
        fs::write(etc.join("conf.d/a.conf"), "x.y = 'a'\ninclude '../more'\n").unwrap();
        fs::write(etc.join("loop"), "include loop").unwrap();
        fs::write(etc.join("more"), "wal_level = logical").unwrap();
        fs::write(etc.join("conf.d/.hidden.conf"), "port = 99\n").unwrap();
        fs::write(etc.join("conf.d/c.conf.bak"), "port = 99\n").unwrap();
        fs::write(data.join("postgresql.auto.conf"), "archive_mode = 'on'\n").unwrap();
        let all = effective(&main, None).unwrap();
        assert_eq!(all.text("port").as_deref(), Some("3"));
        assert_eq!(all.text("x.y").as_deref(), Some("b"));
        let level = all.get("wal_level").unwrap();
        assert_eq!((level.file.as_path(), level.line), (etc.join("conf.d/../more").as_path(), 1));
        assert_eq!(all.text("archive_mode").as_deref(), Some("on"));
        assert_eq!(all.files[1], etc.join("conf.d/a.conf"));
        assert_eq!(all.files.last(), Some(&data.join("postgresql.auto.conf")));
        let first: Vec<_> = all.problems.iter().filter(|p| p.line == 5).map(|p| p.message.as_str()).collect();
        assert_eq!(first[0], "this line cannot be understood");
        assert!(all.problems.iter().any(|p| p.message.ends_with("gone.conf does not exist")));
        assert!(all.problems.iter().any(|p| p.message.ends_with("more than 10 deep")));
    }

    #[test]
    fn a_missing_main_file_is_an_error() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("postgresql.conf");
        let error = effective(&path, None).unwrap_err();
        assert_eq!(error.to_string(), format!("could not read the configuration {}", path.display()));
        assert_eq!(error.advice().code, "FILE-008");
    }

    #[test]
    fn lists_are_split() {
        let split = |text: &str| -> Vec<String> {
            split_list(text.as_bytes()).into_iter().map(|b| String::from_utf8(b).unwrap()).collect()
        };
        assert_eq!(split("/run/postgresql, /tmp"), ["/run/postgresql", "/tmp"]);
        assert_eq!(split(" \"/a, b\"\"c\" ,/d e "), ["/a, b\"c", "/d e"]);
        assert!(split("").is_empty());
        assert_eq!(split("\"open"), ["open"]);
        assert_eq!(split(",,@abstract"), ["@abstract"]);
    }
}
