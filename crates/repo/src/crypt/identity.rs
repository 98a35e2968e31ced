//! Identities open envelopes; recipients are their public halves. Both are age's, so that `age -d` can stand in for us.
//!
//! A passphrase opens an identity and nothing else: age's passphrase stanza can't share a file with a recipient, and
//! costs about half a second, where a WAL segment must be fetched in a twentieth.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::str::FromStr as _;

use age::secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::error::{KeyError, RepoError};

/// scrypt's work factor: 2^16 rounds, 64 MiB. Generated passphrases carry 66 bits or more, so this is the second
/// line, and a restore must stay below its memory bound.
const WORK_FACTOR: u8 = 16;

/// Largest work factor accepted from a repository: an hour of scrypt would be a way to stop a recovery.
const MAX_WORK_FACTOR: u8 = 20;

/// An X25519 identity: the private half. Never printed.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

/// A public recipient, printed as `age1…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recipient(String);

impl Identity {
    /// Draws a new one.
    pub fn draw() -> Self {
        Self(age::x25519::Identity::generate())
    }
    /// Reads `AGE-SECRET-KEY-1…`, also out of an age key file with comments.
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
        age::x25519::Identity::from_str(line).ok().map(Self)
    }
    /// `AGE-SECRET-KEY-1…`, for the state directory and the sheet.
    pub fn expose(&self) -> String {
        self.0.to_string().expose_secret().to_owned()
    }
    /// Its public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public().to_string())
    }
    /// Opens an age file sealed to this identity.
    ///
    /// # Errors
    /// `OtherRecipients` when it is sealed for others, `Damaged` when it is no age file.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        open_with(std::slice::from_ref(self), sealed)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(*** of {})", self.recipient())
    }
}

impl Recipient {
    /// Reads `age1…`.
    pub fn parse(text: &str) -> Option<Self> {
        let recipient = age::x25519::Recipient::from_str(text.trim()).ok()?;
        Some(Self(recipient.to_string()))
    }
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Opens an age file sealed to any of these identities.
///
/// # Errors
/// `NoIdentity` when there is none, `OtherRecipients` when it is sealed for others, `Damaged` when it is no age file.
pub fn open_with(identities: &[Identity], sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
    if identities.is_empty() {
        return Err(KeyError::NoIdentity);
    }
    let decryptor = age::Decryptor::new(sealed).map_err(|_| KeyError::Damaged)?;
    let all = identities.iter().map(|identity| &identity.0 as &dyn age::Identity);
    let mut reader = decryptor.decrypt(all).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => {
            let have: Vec<String> = identities.iter().map(|identity| identity.recipient().0).collect();
            KeyError::OtherRecipients { have: have.join(", ") }
        }
        _ => KeyError::Damaged,
    })?;
    let mut plain = Vec::new();
    reader.read_to_end(&mut plain).map_err(|_| KeyError::Damaged)?;
    Ok(plain)
}

/// Seals `plain` so that each of `recipients` can open it.
///
/// # Errors
/// When there is no recipient, or one is not age's.
pub fn seal_to(recipients: &[Recipient], plain: &[u8]) -> Result<Vec<u8>, RepoError> {
    let parsed: Vec<_> = recipients
        .iter()
        .map(|r| {
            age::x25519::Recipient::from_str(&r.0)
                .map_err(|text| RepoError::internal("read a recipient", text))
        })
        .collect::<Result<_, _>>()?;
    let encryptor = age::Encryptor::with_recipients(parsed.iter().map(|r| r as &dyn age::Recipient))
        .map_err(|e| RepoError::internal("seal an envelope", e))?;
    write(encryptor, plain)
}

/// Puts `plain` behind a passphrase, as a file that `age -d` opens.
///
/// # Errors
/// When age fails.
pub fn seal_with_passphrase(passphrase: &str, plain: &[u8]) -> Result<Vec<u8>, RepoError> {
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase));
    recipient.set_work_factor(WORK_FACTOR);
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .map_err(|e| RepoError::internal("protect the identity", e))?;
    write(encryptor, plain)
}

/// Opens what [`seal_with_passphrase`] made; `None` for a wrong passphrase.
///
/// # Errors
/// `Damaged` when it is no such file.
pub fn open_with_passphrase(passphrase: &str, sealed: &[u8]) -> Result<Option<Vec<u8>>, KeyError> {
    let decryptor = age::Decryptor::new(sealed).map_err(|_| KeyError::Damaged)?;
    let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase));
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    let mut reader = match decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)) {
        Ok(reader) => reader,
        Err(age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed) => return Ok(None),
        Err(age::DecryptError::NoMatchingKeys) => return Ok(None),
        Err(_) => return Err(KeyError::Damaged),
    };
    let mut plain = Vec::new();
    reader.read_to_end(&mut plain).map_err(|_| KeyError::Damaged)?;
    Ok(Some(plain))
}

/// A passphrase that people can type from paper: six words of 2048 and two digits (72 bits).
pub fn draw_passphrase() -> String {
    let words = bip39::Language::English.word_list();
    let random: [u8; 14] = super::random::bytes();
    let number = |at: usize| usize::from(u16::from_le_bytes([random[at * 2], random[at * 2 + 1]]));
    let word = |at: usize| words[number(at) % words.len()];
    let digits = 10 + number(6) % 90;
    format!("{} {} {} {digits} {} {} {}", word(0), word(1), word(2), word(3), word(4), word(5))
}

fn write(encryptor: age::Encryptor, plain: &[u8]) -> Result<Vec<u8>, RepoError> {
    let fail = |e| RepoError::internal("write an age file", e);
    let mut out = Vec::new();
    let mut writer = encryptor.wrap_output(&mut out).map_err(fail)?;
    writer.write_all(plain).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recipient_opens() {
        let (a, b, c) = (Identity::draw(), Identity::draw(), Identity::draw());
        let sealed = seal_to(&[a.recipient(), b.recipient()], b"key").expect("seals");
        assert_eq!(a.open(&sealed), Ok(b"key".to_vec()));
        assert_eq!(b.open(&sealed), Ok(b"key".to_vec()));
        assert!(matches!(c.open(&sealed), Err(KeyError::OtherRecipients { .. })));
        assert!(matches!(a.open(b"nonsense"), Err(KeyError::Damaged)));
        let again = Identity::parse(&format!("# created\n{}\n", a.expose())).expect("an identity");
        assert_eq!(again.recipient(), a.recipient());
    }

    #[test]
    fn a_passphrase_opens_an_identity() {
        let sealed = seal_with_passphrase("right", b"identity").expect("seals");
        assert_eq!(open_with_passphrase("right", &sealed), Ok(Some(b"identity".to_vec())));
        assert_eq!(open_with_passphrase("wrong", &sealed), Ok(None));
        assert_eq!(draw_passphrase().split(' ').count(), 7);
    }
}
