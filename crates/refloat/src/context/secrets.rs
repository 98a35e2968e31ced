//! What opens a repository: from the configuration, a file, or a person at a terminal.

use refloat_config::{Encryption, SecretReader};
use refloat_repo::crypt::identity::Identity as AgeIdentity;
use refloat_repo::repository::Credentials;

use super::Context;
use crate::error::{CliError, Failure};
use crate::render::can_ask;
use crate::terminal;

impl Context {
    /// The passphrase or identity of `--passphrase-file`, else of the terminal.
    pub(super) fn ask_passphrase(&self, fingerprint: &str) -> Result<Credentials, Failure> {
        let known = self.entered();
        let text = match &self.global.passphrase_file {
            _ if known.is_some() => known.unwrap_or_default(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| CliError::file("read", path, source))?
                .trim_end_matches(['\n', '\r'])
                .to_owned(),
            None if can_ask() => {
                self.out.say(&format!(
                    "The repository shows the fingerprint {fingerprint}: compare it with the sheet."
                ));
                terminal::secret("Passphrase of the recovery sheet: ")?
            }
            None => {
                return Err(CliError::NeedsTerminal {
                    message:
                        "the repository is encrypted, and there is no terminal to ask for its passphrase"
                            .to_owned(),
                    hints: vec!["Give it in a file: --passphrase-file FILE".to_owned()],
                }
                .into());
            }
        };
        *self.entered.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(text.clone());
        Ok(match AgeIdentity::parse(&text).filter(|_| text.contains("AGE-SECRET-KEY-")) {
            Some(identity) => Credentials::Identity(identity),
            None => Credentials::Passphrase(text),
        })
    }

    /// What was entered to open the repository of `-r URL`.
    pub(crate) fn entered(&self) -> Option<String> {
        self.entered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What the configuration says opens a repository.
    ///
    /// # Errors
    /// A secret that cannot be had.
    pub(crate) fn credentials(&self, encryption: &Encryption) -> Result<Credentials, Failure> {
        let reader = SecretReader::current(&self.environment);
        match encryption {
            Encryption::None => Ok(Credentials::Unencrypted),
            Encryption::Passphrase(secret) => {
                Ok(Credentials::Passphrase(secret.read(&reader)?.expose().to_owned()))
            }
            Encryption::Recipients { identity: None, .. } => Err(CliError::usage(
                "this host has no identity that opens the repository",
                "Let it be invited on a host that can read (refloat key invite), then here: refloat init --invite @FILE. Or give it an identity: encryption = { recipients = […], identity = { file = … } }",
            )
            .into()),
            Encryption::Recipients { identity: Some(secret), .. } => {
                let text = secret.read(&reader)?;
                AgeIdentity::parse(text.expose()).map(Credentials::Identity).ok_or_else(|| {
                    CliError::usage(
                        format!("what {} names is no age identity", secret.setting()),
                        "It is a file with a line AGE-SECRET-KEY-1…",
                    )
                    .into()
                })
            }
        }
    }

    /// Whether secrets can be read, without reading them.
    pub(crate) fn secret_reader(&self) -> SecretReader<'_> {
        SecretReader::current(&self.environment)
    }

    /// Secrets as another user would read them.
    pub(crate) fn secret_reader_of(&self, uid: u32, gids: Vec<u32>) -> SecretReader<'_> {
        SecretReader::on_behalf_of(uid, gids, &self.environment)
    }
}
