//! What the configuration names to open a repository, tried on it. A file can hold something else by now than what the
//! repository was made with, and a host that has opened it once does not notice: it needs no passphrase any more.

use refloat_config::{Encryption, RepositoryConfig, SecretRef, SecretSource};
use refloat_repo::RepoError;
use refloat_repo::crypt::identity::{Identity as AgeIdentity, Recipient};

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

/// A passphrase that was not tried yet, and how people know it.
pub(crate) struct Named {
    pub(crate) text: String,
    pub(crate) what: String,
}

/// Reads the passphrase that the configuration names, where the repository opens by one.
///
/// # Errors
/// It cannot be read, or none is named.
pub(crate) fn named(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
) -> Result<Option<Named>, Failure> {
    if !opened.repository.generation().has_passphrase {
        return Ok(None);
    }
    let Encryption::Passphrase(secret) = &config.encryption else {
        return Err(CliError::NoKeyNamed(opened.name.clone()).into());
    };
    let text = secret.read(&context.secret_reader())?.expose().to_owned();
    Ok(Some(Named { text, what: what(secret) }))
}

/// How a person knows what a passphrase is read from.
fn what(secret: &SecretRef) -> String {
    match secret.source() {
        SecretSource::File(path) => format!("the passphrase in {}", path.display()),
        _ => format!("the passphrase that {} names", secret.setting()),
    }
}

/// Tries what the configuration names; `named` is what [`named`] has read.
///
/// # Errors
/// `OpensNothing`, or what the repository says.
pub(crate) fn prove(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
    named: Option<Named>,
) -> Result<Proven, Failure> {
    match named {
        Some(Named { text, what }) => match opened.repository.try_passphrase(&text) {
            Ok(opens) => Ok(Proven { passphrase: Some(text), opens: Some(opens) }),
            Err(source @ RepoError::WrongPassphrase { .. }) => {
                Err(CliError::OpensNothing { what, repository: opened.name.clone(), source }.into())
            }
            Err(error) => Err(error.into()),
        },
        None => Ok(Proven { passphrase: None, opens: identity(context, config, opened)? }),
    }
}

/// The identity that the configuration names, where it is one of the recipients'. Its private half is on no sheet, and need not
/// be on this host.
fn identity(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
) -> Result<Option<Recipient>, Failure> {
    let Encryption::Recipients { identity: Some(secret), .. } = &config.encryption else { return Ok(None) };
    let text = secret.read(&context.secret_reader())?;
    let recipient = AgeIdentity::parse(text.expose()).map(|identity| identity.recipient());
    Ok(recipient.filter(|one| opened.repository.generation().recipients.contains(one)))
}
