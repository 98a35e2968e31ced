//! What the configuration names to open a repository, tried on it. A file can hold something else by now than what the
//! repository was made with, and a host that has opened it once does not notice: it needs neither any more.

use refloat_config::{Encryption, RepositoryConfig, SecretRef, SecretSource};
use refloat_repo::crypt::identity::{Identity as AgeIdentity, Recipient};
use refloat_repo::{KeyError, RepoError};

use crate::context::{Context, Opened};
use crate::error::{CliError, Failure};

/// What opens a repository.
#[derive(Debug, Default)]
pub(crate) struct Proven {
    /// The passphrase, where one does.
    pub(crate) passphrase: Option<String>,
    /// The public half of the identity that it, or what the configuration names, stands for. `None`: none is named here.
    pub(crate) opens: Option<Recipient>,
}

/// What was read and not tried yet, and how people know it.
pub(crate) enum Named {
    /// A passphrase.
    Passphrase { text: String, what: String },
    /// A recipient's identity, or a text that is none.
    Identity { identity: Option<AgeIdentity>, what: String },
    /// Nothing: it opens with keys that need not be on any host, or is not encrypted.
    Nothing,
}

/// Reads what the configuration names to open the repository as it is sealed now.
///
/// # Errors
/// It cannot be read, or no passphrase is named where one is needed.
pub(crate) fn named(context: &Context, config: &RepositoryConfig, opened: &Opened) -> Result<Named, Failure> {
    let generation = opened.repository.generation();
    let reader = context.secret_reader();
    match &config.encryption {
        _ if generation.recipients.is_empty() => Ok(Named::Nothing),
        Encryption::Passphrase(secret) if generation.has_passphrase => {
            let text = secret.read(&reader)?.expose().to_owned();
            Ok(Named::Passphrase { text, what: what("passphrase", secret) })
        }
        _ if generation.has_passphrase => Err(CliError::NoKeyNamed(opened.name.clone()).into()),
        Encryption::Recipients { identity: Some(secret), .. } => {
            let identity = AgeIdentity::parse(secret.read(&reader)?.expose());
            Ok(Named::Identity { identity, what: what("identity", secret) })
        }
        _ => Ok(Named::Nothing),
    }
}

/// How a person knows what a secret is read from.
fn what(kind: &str, secret: &SecretRef) -> String {
    match secret.source() {
        SecretSource::File(path) => format!("the {kind} in {}", path.display()),
        _ => format!("the {kind} that {} names", secret.setting()),
    }
}

/// Tries what was read on the repository.
///
/// # Errors
/// `OpensNothing`, or what the repository says.
pub(crate) fn prove(opened: &Opened, named: Named) -> Result<Proven, Failure> {
    let repository = &opened.repository;
    let nothing =
        |what, source| Err(CliError::OpensNothing { what, repository: opened.name.clone(), source }.into());
    match named {
        Named::Nothing => Ok(Proven::default()),
        Named::Passphrase { text, what } => match repository.try_passphrase(&text) {
            Ok(opens) => Ok(Proven { passphrase: Some(text), opens: Some(opens) }),
            Err(source @ RepoError::WrongPassphrase { .. }) => nothing(what, source),
            Err(error) => Err(error.into()),
        },
        Named::Identity { identity, what } => {
            let recipient = identity.map(|identity| identity.recipient());
            if recipient.as_ref().is_some_and(|one| repository.generation().recipients.contains(one)) {
                return Ok(Proven { passphrase: None, opens: recipient });
            }
            let source = recipient
                .map_or(KeyError::NoIdentity, |one| KeyError::OtherRecipients { have: one.to_string() });
            nothing(what, RepoError::NoKey { key: repository.marker().id, source })
        }
    }
}
