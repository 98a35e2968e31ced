//! Where the programs of a major version are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::ServerError;

/// The programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Their directory.
    pub directory: PathBuf,
    /// Major version.
    pub version: u32,
    /// What `postgres --version` says after the name: `15.19 (Debian 15.19-0+deb12u1)`.
    pub version_text: String,
}

impl Binaries {
    /// Path of a program, whether or not it is installed.
    pub fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    /// The installation in a directory; `None` when there is no server program, or it does not say its version.
    pub fn in_directory(directory: &Path) -> Option<Self> {
        let version_text = said_by(&directory.join("postgres"), "--version")?;
        let version_text = version_text.strip_prefix("postgres (PostgreSQL) ")?.to_owned();
        let digits = version_text.find(|c: char| !c.is_ascii_digit()).unwrap_or(version_text.len());
        let version = version_text.get(..digits)?.parse().ok()?;
        Some(Self { directory: directory.to_owned(), version, version_text })
    }
}

/// Finds the programs of a major version: in `configured`, beside the program of the running server, in the places of
/// Debian, of PGDG's packages for Red Hat, and of the usual builds from source, and where `pg_config` says.
///
/// # Errors
/// They are in none of these places. A configured directory with another version does not count.
pub fn find_binaries(
    version: u32,
    configured: Option<&Path>,
    server_pid: Option<u32>,
) -> Result<Binaries, ServerError> {
    let mut places: Vec<PathBuf> = configured.map(Path::to_owned).into_iter().collect();
    let running = server_pid.and_then(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
    places.extend(running.as_deref().and_then(Path::parent).map(Path::to_owned));
    places.extend(
        [
            format!("/usr/lib/postgresql/{version}/bin"),
            format!("/usr/pgsql-{version}/bin"),
            format!("/usr/lib/postgresql{version}/bin"),
            format!("/usr/libexec/postgresql{version}"),
            format!("/opt/postgresql/{version}/bin"),
            "/usr/local/pgsql/bin".to_owned(),
            "/usr/local/bin".to_owned(),
            "/usr/bin".to_owned(),
        ]
        .map(PathBuf::from),
    );
    for config in ["/usr/bin/pg_config", "/usr/local/bin/pg_config"] {
        places.extend(said_by(Path::new(config), "--bindir").map(PathBuf::from));
    }
    let found = places
        .iter()
        .filter_map(|place| Binaries::in_directory(place))
        .find(|found| found.version == version);
    found.ok_or_else(|| ServerError::NoBinaries {
        version,
        looked_in: places.iter().map(|place| place.display().to_string()).collect(),
    })
}

/// First line of what a program prints, run with an empty environment.
fn said_by(program: &Path, argument: &str) -> Option<String> {
    let output =
        program.exists().then(|| Command::new(program).arg(argument).env_clear().output().ok()).flatten()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}
