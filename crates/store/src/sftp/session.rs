//! One connection: TCP, SSH with a host key that is known, a login by key, SFTP.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::ssh_key::{HashAlg, PublicKey};
use russh::keys::{PrivateKeyWithHashAlg, decode_secret_key};
use russh_sftp::client::rawsession::Limits;
use russh_sftp::client::{Config as SftpConfig, RawSftpSession};

use super::failure::Failed;
use crate::StoreErrorKind;
use crate::settings::Keys;

/// Bytes of a read or a write, where the server says that it takes them; what every server takes elsewhere.
const PIECE: u64 = 128 << 10;
const SMALL_PIECE: u64 = 32 << 10;

/// Whom we talk to, as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) user: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) trust: Trust,
}

/// How the server is recognised.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// By a file as OpenSSH keeps it.
    KnownHosts(PathBuf),
    /// By the SHA-256 of its key: `SHA256:…`.
    Fingerprint(String),
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
    /// Ends the connection when it is dropped.
    ssh: Mutex<Handle<Check>>,
}

/// How soon it is noticed that a connection has ended.
const LOOK: Duration = Duration::from_millis(50);

impl Session {
    /// Waits for `work`, but not longer than the connection lives: the library leaves requests without an answer waiting
    /// when it has ended.
    pub(super) async fn alive<T>(&self, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        let ended = async {
            while !self.ssh.lock().unwrap_or_else(PoisonError::into_inner).is_closed() {
                tokio::time::sleep(LOOK).await;
            }
        };
        match futures::future::select(pin!(work), pin!(ended)).await {
            futures::future::Either::Left((done, _)) => done,
            futures::future::Either::Right(_) => Err(Failed::broken("the connection has ended")),
        }
    }

    /// Connects and logs in. `limit` is for each answer afterwards.
    pub(super) async fn connect(target: &Target, keys: &Keys, limit: Duration) -> Result<Self, Failed> {
        let refused = Arc::new(Mutex::new(None));
        let check = Check { target: target.clone(), refused: Arc::clone(&refused) };
        let host = target.host.trim_start_matches('[').trim_end_matches(']');
        let address = (host, target.port);
        let connected = client::connect(Arc::new(config(target, limit)?), address, check).await;
        let mut ssh = match connected {
            Ok(ssh) => ssh,
            Err(error) => {
                let why = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Err(match why {
                    Some(why) => Failed::new(StoreErrorKind::Denied, why),
                    None => Failed::broken(format!("cannot connect: {error}")),
                });
            }
        };
        log_in(&mut ssh, target, keys).await?;
        let channel = ssh.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        let settings = SftpConfig { request_timeout_secs: limit.as_secs().max(1), ..SftpConfig::default() };
        let mut sftp = RawSftpSession::new_with_config(channel.into_stream(), settings);
        let version = sftp.init().await?;
        let offers = |name: &str, number: &str| version.extensions.get(name).is_some_and(|had| had == number);
        let mut piece = SMALL_PIECE;
        if offers("limits@openssh.com", "1") {
            let limits = Limits::from(sftp.limits().await?);
            piece = PIECE
                .min(limits.read_len.unwrap_or(SMALL_PIECE))
                .min(limits.write_len.unwrap_or(SMALL_PIECE));
            sftp.set_limits(limits);
        }
        Ok(Self {
            can_sync: offers("fsync@openssh.com", "1"),
            can_link: offers("hardlink@openssh.com", "1"),
            can_tell_space: offers("statvfs@openssh.com", "2"),
            piece: usize::try_from(piece.max(1)).unwrap_or(1 << 15),
            sftp,
            ssh: Mutex::new(ssh),
        })
    }
}

async fn log_in(ssh: &mut Handle<Check>, target: &Target, keys: &Keys) -> Result<(), Failed> {
    let denied = |text: String| Failed::new(StoreErrorKind::Denied, text);
    let key = keys.get("private_key").ok_or_else(|| denied("there is no private key".to_owned()))?;
    // Neither the key nor the passphrase is part of what the library says.
    let key = decode_secret_key(key, keys.get("passphrase")).map_err(|error| {
        denied(format!("the private key cannot be used: {error} (Ed25519 and ECDSA keys can be)"))
    })?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    let answer = ssh.authenticate_publickey(target.user.clone(), key).await?;
    if answer.success() {
        return Ok(());
    }
    Err(denied(format!("the server does not let \"{}\" in with this key", target.user)))
}

fn config(target: &Target, limit: Duration) -> Result<client::Config, Failed> {
    let mut config = client::Config {
        keepalive_interval: Some(limit),
        nodelay: true,
        window_size: 8 << 20,
        ..client::Config::default()
    };
    if let Trust::KnownHosts(file) = &target.trust {
        // Of the kinds of keys that a server has, it shows the one that is known here.
        let known: Vec<_> = known_keys(target, file)?.iter().map(PublicKey::algorithm).collect();
        let (mut first, rest): (Vec<_>, Vec<_>) =
            config.preferred.key.iter().cloned().partition(|kind| known.contains(kind));
        first.extend(rest);
        config.preferred.key = first.into();
    }
    Ok(config)
}

fn known_keys(target: &Target, file: &std::path::Path) -> Result<Vec<PublicKey>, Failed> {
    let unusable = |why: String| {
        Failed::new(StoreErrorKind::Denied, format!("{} cannot be used: {why}", file.display()))
    };
    std::fs::metadata(file).map_err(|error| unusable(error.to_string()))?;
    let keys = russh::keys::known_hosts::known_host_keys_path(&target.host, target.port, file)
        .map_err(|error| unusable(error.to_string()))?;
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

/// Looks at the key that the server shows.
struct Check {
    target: Target,
    /// Why it was refused.
    refused: Arc<Mutex<Option<String>>>,
}

impl Check {
    fn judge(&self, key: &PublicKey) -> Result<(), String> {
        let shown = key.fingerprint(HashAlg::Sha256).to_string();
        match &self.target.trust {
            Trust::Fingerprint(wanted) if *wanted == shown => Ok(()),
            Trust::Fingerprint(wanted) => {
                Err(format!("the server shows the host key {shown}, and host_key is {wanted}"))
            }
            Trust::KnownHosts(file) => {
                let keys = known_keys(&self.target, file).map_err(|failed| failed.to_string())?;
                let place = file.display();
                if is_revoked(file, key) {
                    return Err(format!(
                        "the server shows the host key {shown}, which {place} says is revoked"
                    ));
                }
                if keys.contains(key) {
                    return Ok(());
                }
                let host = &self.target.host;
                Err(if keys.is_empty() {
                    format!("{place} knows no key of {host}; the server shows {shown}")
                } else {
                    format!("the server shows the host key {shown}, and {place} knows another one of {host}")
                })
            }
        }
    }
}

/// Whether a line `@revoked` names this key, for whatever host.
fn is_revoked(file: &std::path::Path, key: &PublicKey) -> bool {
    let (Ok(text), Ok(line)) = (std::fs::read_to_string(file), key.to_openssh()) else { return true };
    let data = line.split(' ').nth(1).unwrap_or_default();
    text.lines().any(|line| line.starts_with("@revoked") && line.split_whitespace().any(|word| word == data))
}

impl client::Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let judged = match shown {
            russh::keys::PublicKeyOrCertificate::PublicKey { key, .. } => self.judge(key),
            russh::keys::PublicKeyOrCertificate::Certificate(_) => {
                Err("the server shows a certificate".to_owned())
            }
        };
        if let Err(why) = judged {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            return Ok(false);
        }
        Ok(true)
    }
}
