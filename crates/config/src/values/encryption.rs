//! How a repository is encrypted.

use serde_json::Value as Json;

use crate::error::{Fault, Problem};
use crate::node::{Node, Value};
use crate::secret::SecretRef;
use crate::setting::{At, Set, Setting, options, read_text, refuse_unknown, schema_of, wrong_type};

/// What opens a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// A passphrase opens the identity that the repository holds.
    Passphrase(SecretRef),
    /// Sealed to these age recipients; read with the identity, where this host has one.
    Recipients {
        /// `age1…`, at least one.
        recipients: Vec<String>,
        /// The file with `AGE-SECRET-KEY-1…`; without it this host can write and not read.
        identity: Option<SecretRef>,
    },
    /// Not encrypted, said in words. Still signed.
    None,
}

options! {
    /// What opens the repository: a passphrase, or recipients with an identity.
    pub(crate) struct EncryptionOptions {
        /// A passphrase; it opens the identity that the repository holds.
        passphrase: SecretRef,
        /// Public keys `age1…` that backups are sealed to.
        recipients: Recipients,
        /// The private key for `recipients`. Without it this host can back up and cannot restore.
        identity: SecretRef,
    }
}

/// Public keys, each checked by its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipients(Vec<String>);

impl Setting for Recipients {
    const TAKES: &'static str = "a list of public keys such as [\"age1…\"]";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Array(items) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let before = problems.len();
        let mut recipients = Vec::new();
        for item in items {
            recipients.extend(read_text(item, at, Self::TAKES, problems, recipient));
        }
        if items.is_empty() {
            problems.push(Problem::bad(
                &node.place,
                at.path.clone(),
                "the list is empty: nobody could open a backup",
            ));
        }
        (problems.len() == before).then_some(Self(recipients))
    }
    fn show(&self) -> Json {
        self.0.iter().map(|recipient| Json::from(recipient.as_str())).collect()
    }
}
schema_of!(Recipients, |generator| crate::setting::items_schema::<String>(generator, "public keys, age1…"));

/// The shape of an X25519 recipient: `age1` and 58 characters of Bech32.
fn recipient(text: &str) -> Result<String, String> {
    const BECH32: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return Err(
            "this is a private key; the public key that belongs to it begins with \"age1\"".to_owned()
        );
    }
    let good = text
        .strip_prefix("age1")
        .is_some_and(|rest| rest.len() == 58 && rest.chars().all(|c| BECH32.contains(c)));
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{text}\" is not a public key (\"age1\" and 58 letters or digits)"))
    }
}

const HINT: &str = "Write { passphrase = { file = \"/etc/refloat/passphrase\" } }, { recipients = [\"age1…\"], identity = { file = … } } or \"none\".";

impl Setting for Encryption {
    const TAKES: &'static str = "{ passphrase = … }, { recipients = […] } or \"none\"";

    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let table = match &node.value {
            Value::String(text) if text == "none" => return Some(Self::None),
            // Any other text may well be a passphrase: it is not repeated.
            Value::String(_) => {
                let key = format!("{}.passphrase", at.path);
                problems.push(Problem::new(node.place.clone(), Fault::LiteralSecret { key }));
                return None;
            }
            Value::Table(table) => table,
            _ => return wrong_type(node, at, Self::TAKES, problems),
        };
        let before = problems.len();
        refuse_unknown(table, at, &[EncryptionOptions::KEYS], problems);
        let raw = EncryptionOptions::read_keys(table, at, problems);
        if problems.len() > before {
            return None;
        }
        fn value<T>(set: Option<Set<T>>) -> Option<T> {
            set.map(|set| set.value)
        }
        let why = match (value(raw.passphrase), value(raw.recipients), value(raw.identity)) {
            (Some(passphrase), None, None) => return Some(Self::Passphrase(passphrase)),
            (None, Some(Recipients(recipients)), identity) => {
                return Some(Self::Recipients { recipients, identity });
            }
            (None, None, Some(_)) => "an identity without recipients; nothing would be sealed to it",
            (None, None, None) => {
                "neither passphrase nor recipients; an unencrypted repository is asked for with \"none\""
            }
            (Some(_), ..) => "either a passphrase or recipients, not both",
        };
        problems.push(Problem::bad_hint(&node.place, at.path.clone(), why, HINT));
        None
    }

    fn show(&self) -> Json {
        match self {
            Self::Passphrase(secret) => serde_json::json!({ "passphrase": secret.show() }),
            Self::Recipients { recipients, identity: Some(identity) } => {
                serde_json::json!({ "recipients": recipients, "identity": identity.show() })
            }
            Self::Recipients { recipients, identity: None } => {
                serde_json::json!({ "recipients": recipients })
            }
            Self::None => Json::from("none"),
        }
    }
}
schema_of!(Encryption, |generator| {
    let table = generator.subschema_for::<EncryptionOptions>();
    schemars::json_schema!({ "anyOf": [table, { "const": "none" }] })
});
