//! One connection: OpenSSH's client carries it, SFTP is spoken through its pipes.
//!
//! The program is OpenSSH's own because nothing else that speaks SSH has been looked at as closely: who a server is and
//! how somebody logs in is decided there. It is started with every setting on its command line; no configuration of a
//! user, no agent and no environment bears on it. The private key is handed over in a file of ours, in memory where the
//! system has such a place, which is removed as soon as the client has logged in; a crash before that leaves it there,
//! readable to its owner alone.
//!
//! The client is started without the runtime's own way to start processes: that would put the runtime in charge of signals,
//! in every process that uses one.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream as Pipe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh_sftp::client::rawsession::Limits;
use russh_sftp::client::{Config as SftpConfig, RawSftpSession};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::failure::Failed;
use crate::StoreErrorKind;
use crate::settings::Keys;

/// The client. Absolute: `PATH` says nothing here.
const SSH: &str = "/usr/bin/ssh";

/// Bytes of a read or a write, where the server says that it takes them; what every server takes elsewhere.
const PIECE: u64 = 128 << 10;
const SMALL_PIECE: u64 = 32 << 10;

/// How soon it is noticed that a connection has ended.
const LOOK: Duration = Duration::from_millis(50);

/// As much of what the client says is kept.
const MOST_SAID: usize = 4 << 10;

/// Whom we talk to, as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) user: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// The file that knows the server's key.
    pub(super) known_hosts: PathBuf,
}

/// A connection that is logged in.
pub(super) struct Session {
    pub(super) sftp: RawSftpSession,
    /// The server writes a file to its disk when it is asked to.
    pub(super) can_sync: bool,
    /// The server makes hard links.
    pub(super) can_link: bool,
    /// The server tells its space.
    pub(super) can_tell_space: bool,
    /// Bytes of one read and one write.
    pub(super) piece: usize,
    /// The client; it is killed when this is dropped.
    ssh: Mutex<Client>,
}

/// The client's process: killed when it is dropped.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A private key in a file of its own, removed when it is dropped.
struct KeyFile(PathBuf);

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Session {
    /// Connects and logs in. `limit` is for each answer afterwards.
    pub(super) async fn connect(target: &Target, keys: &Keys, limit: Duration) -> Result<Self, Failed> {
        let denied = |text: String| Failed::new(StoreErrorKind::Denied, text);
        std::fs::metadata(&target.known_hosts)
            .map_err(|error| denied(format!("{} cannot be used: {error}", target.known_hosts.display())))?;
        let key = keys.get("private_key").ok_or_else(|| denied("there is no private key".to_owned()))?;
        let key =
            in_a_file(key).map_err(|error| denied(format!("the private key cannot be used: {error}")))?;
        let started = start(command(target, &key.0, limit));
        let (ssh, channel, errors) = started.map_err(|error| {
            Failed::new(StoreErrorKind::Other, format!("{SSH} cannot be started: {error}"))
        })?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn(listen(errors, Arc::clone(&said)));
        let settings = SftpConfig { request_timeout_secs: limit.as_secs().max(1), ..SftpConfig::default() };
        let mut sftp = RawSftpSession::new_with_config(channel, settings);
        let ssh = Mutex::new(ssh);
        let first = alive(&ssh, async { Ok(sftp.init().await?) }).await;
        // Logged in, or never.
        drop(key);
        let version = match first {
            Ok(version) => version,
            Err(failed) => {
                // What the client has said last comes through its pipe.
                let _ = tokio::time::timeout(Duration::from_secs(1), listening).await;
                let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(why(&String::from_utf8_lossy(&said)).unwrap_or(failed));
            }
        };
        let offers = |name: &str, number: &str| version.extensions.get(name).is_some_and(|had| had == number);
        let mut piece = SMALL_PIECE;
        if offers("limits@openssh.com", "1") {
            let limits = Limits::from(alive(&ssh, async { Ok(sftp.limits().await?) }).await?);
            let read = limits.read_len.unwrap_or(SMALL_PIECE);
            piece = PIECE.min(read).min(limits.write_len.unwrap_or(SMALL_PIECE));
            sftp.set_limits(limits);
        }
        Ok(Self {
            can_sync: offers("fsync@openssh.com", "1"),
            can_link: offers("hardlink@openssh.com", "1"),
            can_tell_space: offers("statvfs@openssh.com", "2"),
            piece: usize::try_from(piece.max(1)).unwrap_or(1 << 15),
            sftp,
            ssh,
        })
    }

    /// Waits for `work`, but not longer than the connection lives.
    pub(super) async fn alive<T>(&self, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        alive(&self.ssh, work).await
    }
}

/// The library leaves requests without an answer waiting when the connection has ended, so that is looked at.
async fn alive<T>(ssh: &Mutex<Client>, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let ended = async {
        while matches!(ssh.lock().unwrap_or_else(PoisonError::into_inner).0.try_wait(), Ok(None)) {
            tokio::time::sleep(LOOK).await;
        }
    };
    match futures::future::select(pin!(work), pin!(ended)).await {
        futures::future::Either::Left((done, _)) => done,
        futures::future::Either::Right(_) => Err(Failed::broken("the connection has ended")),
    }
}

/// Starts the client: its process, what it reads and writes, and what it says.
fn start(mut command: Command) -> io::Result<(Client, UnixStream, UnixStream)> {
    let (channel, theirs) = Pipe::pair()?;
    let (errors, their_errors) = Pipe::pair()?;
    command.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)));
    command.stdout(Stdio::from(OwnedFd::from(theirs)));
    command.stderr(Stdio::from(OwnedFd::from(their_errors)));
    let client = Client(command.spawn()?);
    // Ours would keep the ends open that the client closes.
    drop(command);
    let ours = |pipe: Pipe| {
        pipe.set_nonblocking(true)?;
        UnixStream::from_std(pipe)
    };
    Ok((client, ours(channel)?, ours(errors)?))
}

/// Where files lie in memory.
const MEMORY: &str = "/dev/shm";

/// A file that holds a secret. The client cannot be handed a descriptor: it closes what it inherits, and those of a process
/// that was root may not be looked at by any other.
fn in_a_file(text: &str) -> io::Result<KeyFile> {
    let directory = Some(Path::new(MEMORY)).filter(|path| path.is_dir());
    let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = directory.join(format!("refloat-{name}"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let kept = KeyFile(path);
    file.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        // The client takes no key whose last line has no end.
        file.write_all(b"\n")?;
    }
    Ok(kept)
}

fn command(target: &Target, key: &Path, limit: Duration) -> Command {
    let known = target.known_hosts.display().to_string().replace('%', "%%");
    let mut command = Command::new(SSH);
    command.env_clear().current_dir("/");
    command.args(["-F", "none", "-T", "-x", "-a"]);
    for option in [
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile=\"{known}\""),
        "GlobalKnownHostsFile=none".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        format!("IdentityFile=\"{}\"", key.display().to_string().replace('%', "%%")),
        "PreferredAuthentications=publickey".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "ControlMaster=no".to_owned(),
        "ControlPath=none".to_owned(),
        format!("ConnectTimeout={}", limit.as_secs().max(1)),
        "ServerAliveInterval=15".to_owned(),
        "ServerAliveCountMax=2".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ] {
        command.arg("-o").arg(option);
    }
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    command.arg("-p").arg(target.port.to_string()).arg("-l").arg(&target.user);
    command.args(["-s", "--", host, "sftp"]);
    command
}

/// Keeps the last of what the client says, as long as it says something.
async fn listen(mut errors: UnixStream, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1024];
    while let Ok(length) = errors.read(&mut piece).await {
        if length == 0 {
            return;
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(piece.get(..length).unwrap_or_default());
        let surplus = said.len().saturating_sub(MOST_SAID);
        said.drain(..surplus);
    }
}

/// What the client's words mean.
fn why(said: &str) -> Option<Failed> {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tell = |kind, line: &str| {
        let text = line.escape_debug().to_string();
        let mut failed = Failed::new(kind, text);
        failed.is_broken = kind == StoreErrorKind::Unreachable;
        failed
    };
    // The fingerprint that was shown is what a person compares.
    let shown = lines.iter().find(|line| line.contains("SHA256:")).map_or("", |line| line);
    if lines.iter().any(|line| line.contains("Host key verification failed")) {
        let what = if said.contains("REVOKED") { "is revoked" } else { "is not the one that is known" };
        let text = format!("the key of the server {what} (known_hosts) {shown}");
        return Some(tell(StoreErrorKind::Denied, text.trim_end()));
    }
    if let Some(line) = lines.iter().find(|line| line.contains("Permission denied (")) {
        return Some(tell(StoreErrorKind::Denied, line));
    }
    lines.last().map(|line| tell(StoreErrorKind::Unreachable, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_client_are_sorted() {
        let sorted = |said: &str| why(said).map(|failed| (failed.kind, failed.to_string(), failed.is_broken));
        let (kind, text, _) =
            sorted("@@@@\nThe fingerprint is\nSHA256:abc.\nHost key verification failed.\n").unwrap();
        assert_eq!(kind, StoreErrorKind::Denied);
        assert!(text.contains("SHA256:abc"), "{text}");
        let (kind, text, _) = sorted("backup@box: Permission denied (publickey).\r\n").unwrap();
        assert_eq!(
            (kind, text.as_str()),
            (StoreErrorKind::Denied, "backup@box: Permission denied (publickey).")
        );
        let (kind, _, broken) = sorted("ssh: connect to host box port 22: Connection refused").unwrap();
        assert_eq!((kind, broken), (StoreErrorKind::Unreachable, true));
        assert_eq!(sorted("\n"), None);
    }
}
