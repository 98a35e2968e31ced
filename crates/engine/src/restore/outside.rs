//! Configuration files that lay outside of the data directory, as Debian has them.
//!
//! A directory that is restored elsewhere must start by itself, so it gets its own `postgresql.conf`, `pg_hba.conf` and
//! `pg_ident.conf`, made of the stored files: includes are written out in place, and settings that name the source's own
//! places become comments. In place, where the files are still there, nothing is written.

use std::fs;
use std::path::{Path, PathBuf};

use super::RestoreRequest;
use super::disk::write_durably;
use super::error::{RestoreError, io_error};
use crate::backup::facts::OutsideFile;
use data_encoding::BASE64;
use refloat_pg::conf::{self, Include, Line};

/// Settings that name places of the source's server.
const PLACES: [&str; 5] =
    ["data_directory", "hba_file", "ident_file", "external_pid_file", "stats_temp_directory"];

/// Files include each other no deeper.
const DEEPEST: usize = 10;

fn bytes(file: &OutsideFile) -> Option<Vec<u8>> {
    BASE64.decode(file.contents.as_bytes()).ok()
}

/// The stored files; none where there are none.
pub(super) fn parse(blob: Option<&[u8]>) -> Result<Vec<OutsideFile>, RestoreError> {
    let Some(blob) = blob.filter(|blob| !blob.is_empty()) else { return Ok(Vec::new()) };
    let files: Option<Vec<OutsideFile>> = serde_json::from_slice(blob).ok();
    files
        .filter(|files| files.iter().all(|file| bytes(file).is_some()))
        .ok_or(RestoreError::Incomplete { what: "readable list of configuration files" })
}

/// The server's own `postgresql.conf` outside of the directory, when it is still there.
pub(super) fn main_file_there(files: &[OutsideFile]) -> Option<PathBuf> {
    let file = files.iter().find(|file| file.kind == "config_file")?;
    Some(PathBuf::from(&file.path)).filter(|path| path.is_file())
}

/// Writes what `directory` lacks; returns the files and what a person should know.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(
    directory: &Path,
    files: &[OutsideFile],
    request: &RestoreRequest,
) -> Result<(Vec<PathBuf>, Vec<String>), RestoreError> {
    let (mut written, mut notes) = (Vec::new(), Vec::new());
    for (kind, name) in
        [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
    {
        let path = directory.join(name);
        let Some(file) = files.iter().find(|file| file.kind == kind) else { continue };
        if path.exists() {
            continue;
        }
        let text = match kind {
            "config_file" => {
                let text = expand(file, files, 1);
                without_missing_files(text, &mut notes)
            }
            _ => bytes(file).unwrap_or_default(),
        };
        write_durably(&path, &text, 0o600, request.owner).map_err(io_error("write", &path))?;
        notes.push(format!("{} was made from {}", path.display(), file.path));
        written.push(path);
    }
    Ok((written, notes))
}

/// The file with all it includes, without the source's places.
fn expand(file: &OutsideFile, files: &[OutsideFile], depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for line in bytes(file).unwrap_or_default().split_inclusive(|b| *b == b'\n') {
        match conf::parse_line(line.strip_suffix(b"\n").unwrap_or(line)) {
            Line::Include { how, path } => {
                put_comment(&mut out, line);
                let path = Path::new(&file.path).parent().unwrap_or(Path::new("/")).join(os(&path));
                for part in included(files, how, &path) {
                    if depth < DEEPEST && part.path != file.path {
                        out.extend_from_slice(&expand(part, files, depth + 1));
                        end_line(&mut out);
                    }
                }
            }
            Line::Setting { name, .. } if PLACES.contains(&name.as_str()) => put_comment(&mut out, line),
            _ => out.extend_from_slice(line),
        }
    }
    end_line(&mut out);
    out
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(bytes)
}

fn put_comment(out: &mut Vec<u8>, line: &[u8]) {
    end_line(out);
    out.push(b'#');
    out.extend_from_slice(line);
    end_line(out);
}

fn end_line(out: &mut Vec<u8>) {
    if out.last().is_some_and(|last| *last != b'\n') {
        out.push(b'\n');
    }
}

fn included<'a>(files: &'a [OutsideFile], how: Include, path: &Path) -> Vec<&'a OutsideFile> {
    let plain = |path: &Path| path.components().collect::<PathBuf>();
    let mut found: Vec<&OutsideFile> = files
        .iter()
        .filter(|file| match how {
            Include::Directory => Path::new(&file.path).parent().map(plain) == Some(plain(path)),
            _ => plain(Path::new(&file.path)) == plain(path),
        })
        .filter(|file| how != Include::Directory || (file.path.ends_with(".conf") && file.kind == "include"))
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// A certificate that this host does not have would keep the server from starting: TLS goes off, and that is said.
fn without_missing_files(text: Vec<u8>, notes: &mut Vec<String>) -> Vec<u8> {
    let mut missing = None;
    for line in text.split(|b| *b == b'\n') {
        if let Line::Setting { name, value } = conf::parse_line(line)
            && matches!(name.as_str(), "ssl_cert_file" | "ssl_key_file" | "ssl_ca_file")
            && Path::new(os(&value)).is_absolute()
            && fs::metadata(os(&value)).is_err()
        {
            missing = Some(String::from_utf8_lossy(&value).into_owned());
        }
    }
    let Some(missing) = missing else { return text };
    notes.push(format!("ssl is off: {missing} does not exist on this host"));
    conf::set(&text, "ssl", "off").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: &str, path: &str, text: &str) -> OutsideFile {
        let contents = BASE64.encode(text.as_bytes());
        OutsideFile { path: path.to_owned(), kind: kind.to_owned(), mode: 0o640, contents }
    }

    #[test]
    fn debians_files_become_one() {
        let files = [
            file(
                "config_file",
                "/etc/postgresql/15/main/postgresql.conf",
                "port = 5433\ndata_directory = '/var/lib/postgresql/15/main'\ninclude_dir = 'conf.d'\nwork_mem = 1MB",
            ),
            file("include", "/etc/postgresql/15/main/conf.d/b.conf", "hba_file = 'x'\nwork_mem = 2MB"),
            file("include", "/etc/postgresql/15/main/conf.d/a.conf", "include '../more.conf'\n"),
            file("include", "/etc/postgresql/15/main/more.conf", "shared_buffers = 1GB\n"),
            file("include", "/etc/postgresql/15/main/conf.d/no", "bad\n"),
        ];
        // `..` is not resolved, and need not be: such an include is left a comment.
        let text = String::from_utf8(expand(&files[0], &files, 1)).expect("text");
        assert_eq!(
            text,
            "port = 5433\n#data_directory = '/var/lib/postgresql/15/main'\n#include_dir = 'conf.d'\n\
             #include '../more.conf'\n#hba_file = 'x'\nwork_mem = 2MB\nwork_mem = 1MB\n"
        );
    }

    #[test]
    fn a_certificate_that_is_not_there_turns_tls_off() {
        let mut notes = Vec::new();
        let text =
            without_missing_files(b"ssl = on\nssl_cert_file = '/nowhere/x.pem'\n".to_vec(), &mut notes);
        assert!(text.ends_with(b"ssl = 'off'\n"));
        assert_eq!(notes, ["ssl is off: /nowhere/x.pem does not exist on this host"]);
        let kept = b"ssl = on\nssl_cert_file = 'server.crt'\n".to_vec();
        assert_eq!(without_missing_files(kept.clone(), &mut notes), kept);
    }

    #[test]
    fn what_is_no_list_is_said() {
        assert!(parse(None).expect("none").is_empty());
        assert!(parse(Some(b"{")).is_err());
        assert!(parse(Some(br#"[{"path":"/x","kind":"include","mode":1,"contents":"?"}]"#)).is_err());
    }
}
