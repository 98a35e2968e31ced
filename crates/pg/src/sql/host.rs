//! What host the server ran on: needed years later to know which collations its indexes were built with.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The host, as this process sees it. What cannot be found out is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Name of the host.
    pub hostname: String,
    /// Kernel: `6.1.0-18-amd64`.
    pub kernel: String,
    /// Machine: `x86_64`.
    pub machine: String,
    /// `PRETTY_NAME` of `/etc/os-release`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The C library the server runs with, as it names itself: `GNU C Library (Debian GLIBC 2.36-9) ... version 2.36.`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libc: Option<String>,
}

impl HostFacts {
    /// Reads them. `postmaster` is the server's process, whose C library counts; without it, this process's own.
    pub fn read(postmaster: Option<u32>) -> Self {
        let name = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Self {
            hostname: text(name.nodename()),
            kernel: text(name.release()),
            machine: text(name.machine()),
            system: fs::read_to_string("/etc/os-release").ok().and_then(|release| pretty_name(&release)),
            libc: postmaster.and_then(libc_of).or_else(|| libc_of(std::process::id())),
        }
    }
}

fn pretty_name(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The banner of the C library that a process has mapped. The library prints it when it is run; here it is only read.
fn libc_of(pid: u32) -> Option<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let mapped = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    let is_libc = |path: &&str| {
        let file = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        file == "libc.so.6" || (file.starts_with("libc-2.") && file.ends_with(".so"))
    };
    let library = mapped.into_iter().find(is_libc)?;
    // The process may live in another root.
    let mut inside = PathBuf::from(format!("/proc/{pid}/root"));
    inside.push(library.trim_start_matches('/'));
    banner(&fs::read(inside).or_else(|_| fs::read(library)).ok()?)
}

fn banner(library: &[u8]) -> Option<String> {
    const START: &[u8] = b"GNU C Library ";
    let at = library.windows(START.len()).position(|window| window == START)?;
    let line = library.get(at..)?.split(|byte| matches!(byte, b'\n' | 0)).next()?;
    (line.len() < 200).then(|| String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_name_a_kernel_and_a_c_library() {
        let host = HostFacts::read(None);
        assert!(!host.hostname.is_empty() && host.kernel.contains('.'), "{host:?}");
        if cfg!(target_env = "gnu") {
            assert!(host.libc.as_deref().is_some_and(|libc| libc.contains(" version 2.")), "{host:?}");
        }
    }

    #[test]
    fn a_banner_is_one_line_of_the_library() {
        assert_eq!(
            banner(b"xx\0GNU C Library (X) stable release version 2.36.\nmore"),
            Some("GNU C Library (X) stable release version 2.36.".into())
        );
        assert_eq!(banner(b"nothing"), None);
    }
}
