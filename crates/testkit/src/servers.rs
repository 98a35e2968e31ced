//! Servers of stores, for tests: each on a free port of loopback, with its own temporary directory, gone when the test ends
//! however it ends. `scripts/servers` installs them.
//!
//! `start()` answers `None` when the server is not installed: the test returns, and was skipped loudly (where `CI=true` it
//! fails). `kill()` ends a server as a crash does, `restart()` starts it again on the same port with what it had on disk.
//!
//! [`DropboxDouble`] and [`GdriveDouble`] are no such servers: there is none to install. They run in the test's own process
//! and answer as the documents of those services say.
//!
//! ```no_run
//! use refloat_testkit::servers::S3sFs;
//! let Some(server) = S3sFs::start() else { return };
//! let bucket = server.bucket("backups");
//! assert!(server.endpoint().starts_with("http://127.0.0.1:"));
//! # drop(bucket);
//! ```

mod azurite;
mod double;
mod dropbox;
mod garage;
mod gcs;
mod gdrive;
mod moto;
mod process;
mod s3s_fs;
mod sshd;
#[cfg(test)]
mod tests;
mod webdav;

use std::path::PathBuf;

pub use azurite::Azurite;
pub use dropbox::DropboxDouble;
pub use garage::Garage;
pub use gcs::GcsEmulator;
pub use gdrive::GdriveDouble;
pub use moto::Moto;
pub use process::ServerProcess;
pub use s3s_fs::S3sFs;
pub use sshd::{Sshd, SshdOptions};
pub use webdav::WebDav;

/// Forwards the calls that every server has to its process.
macro_rules! is_a_server {
    ($server:ident) => {
        impl $server {
            /// The port on 127.0.0.1; the same after a restart.
            pub const fn port(&self) -> u16 {
                self.process.port()
            }
            /// Ends it at once, as a crash does. Connections break; nothing listens until `restart`.
            pub fn kill(&self) {
                self.process.kill();
            }
            /// Ends it if it runs, and starts it again on the same port.
            ///
            /// # Panics
            /// When it does not start, with its log.
            pub fn restart(&self) {
                self.process.restart();
            }
            /// What it has said so far.
            pub fn log(&self) -> String {
                self.process.log()
            }
        }
    };
}
use is_a_server;

/// The first of these files that exists: below the test cache, below the common cache, or where a path is absolute, there.
fn installed(places: &[&str]) -> Option<PathBuf> {
    let caches = [crate::cluster::cache_directory(), PathBuf::from("/var/cache/refloat-tests")];
    let all = places.iter().flat_map(|place| caches.iter().map(move |cache| cache.join(place)));
    let mut all: Vec<_> = all.collect();
    all.dedup();
    all.into_iter().find(|path| path.exists())
}

/// [`installed`], or a loud skip that names what lacks.
///
/// # Panics
/// When it is absent and `CI=true`.
#[expect(clippy::disallowed_methods, reason = "tests only: CI must not skip")]
fn need(name: &str, places: &[&str]) -> Option<PathBuf> {
    let found = installed(places);
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{name} is not installed, and CI=true allows no skip"
        );
        crate::skipped(&format!("{name} is not installed (scripts/servers does it)"));
    }
    found
}

/// The interpreter of the environment that `scripts/servers` makes.
fn need_python(name: &str) -> Option<PathBuf> {
    need(name, &["servers-python/bin/python"])
}
