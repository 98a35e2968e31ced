//! How messages name a directory.

use std::path::Path;

/// The URL of `path`, as messages name a store.
pub(super) fn file_url(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut url = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' | b'~' | b'+' | b'@' | b':' | b',' | b'=' => url.push(char::from(byte)),
            b if b.is_ascii_alphanumeric() => url.push(char::from(b)),
            b => {
                let _ = write!(url, "%{b:02X}");
            }
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_url() {
        for path in ["/srv/backup", "/with space/ä%", "/a#b?c"] {
            let location: refloat_types::Location = file_url(Path::new(path)).parse().unwrap();
            assert_eq!(location.directory(), Some(Path::new(path)));
        }
    }
}
