//! Who a host is at a store.
//!
//! Each key is a secret, or a plain name; which of them a store takes is said by its kind. Nothing is read here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use refloat_types::Scheme;
use serde_json::{Map, Value as Json, json};

use crate::error::Problem;
use crate::node::{Node, Value};
use crate::secret::SecretRef;
use crate::setting::{At, Set, Setting, options, refuse_unknown, schema_of, wrong_type};
use crate::values::plain::{AbsolutePath, Text};

options! {
    /// Who this host is at a store. S3: the two halves of a key, a document of keys, or a role. Google Cloud Storage: a
    /// service account or a token. Azure: an account with its key or a token. Dropbox, Google Drive: an app with its refresh token.
    pub(crate) struct CredentialsOptions {
        /// S3: the public half of a key.
        access_key_id: Text,
        /// S3: the secret half.
        secret_access_key: SecretRef,
        /// S3: of temporary credentials.
        session_token: SecretRef,
        /// S3: a document of keys, as `aws configure` writes it or as a credential process prints it, read again before they
        /// expire: `{ file = … }` or `{ command = […] }`.
        from: SecretRef,
        /// S3: the role that is given for the token in `token_file` (Kubernetes, OpenID Connect).
        role: Text,
        /// S3: the file in which something else renews the token.
        token_file: AbsolutePath,
        /// S3: where tokens are exchanged, if not at the provider's own place.
        sts_endpoint: Text,
        /// Google Cloud Storage: the key file of a service account, as JSON.
        service_account: SecretRef,
        /// Google Cloud Storage, Dropbox, Google Drive: instead of the others, an access token. It ends after some hours, so it has to
        /// come from something that renews it, and is read again every quarter of an hour and when the store refuses it:
        /// `{ command = ["gcloud", "auth", "print-access-token"] }`.
        access_token: SecretRef,
        /// Azure: the storage account.
        account_name: Text,
        /// Azure: its key.
        account_key: SecretRef,
        /// Azure: a shared access signature.
        sas_token: SecretRef,
        /// SFTP: the private key, as `ssh-keygen` writes it, without a passphrase.
        private_key: SecretRef,
        /// WebDAV: the user's name.
        user: Text,
        /// WebDAV: the user's password.
        password: SecretRef,
        /// Dropbox: the app's key. Google Drive: the client's id.
        client_id: Text,
        /// Dropbox: the app's secret, unless it was authorised with PKCE. Google Drive: the client's secret.
        client_secret: SecretRef,
        /// Dropbox, Google Drive: what the account's owner has given the app; exchanged for access tokens, again and again.
        refresh_token: SecretRef,
    }
}

/// Who this host is at a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Names that are no secrets: `access_key_id`, `account_name`, `user`, `client_id`.
    pub plain: BTreeMap<&'static str, String>,
    /// Secrets by the names of their settings.
    pub secrets: BTreeMap<&'static str, SecretRef>,
    /// The role that is given for a token.
    pub web_identity: Option<WebIdentity>,
}

/// A role that is given for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebIdentity {
    /// The role's ARN.
    pub role: String,
    /// The token's file.
    pub token_file: PathBuf,
    /// Where tokens are exchanged, if not at the provider's own place.
    pub endpoint: Option<String>,
}

const HINT: &str = "Write { access_key_id = \"…\", secret_access_key = { file = … } }, { from = { file = … } } or { role = \"…\", token_file = \"…\" }; leave it out for the machine's role.";

impl Credentials {
    /// Why these cannot be used at such a store, if so.
    pub(crate) fn misfit(&self, scheme: Scheme) -> Option<String> {
        let fits: &[&str] = match scheme {
            Scheme::S3 => &["access_key_id", "secret_access_key", "session_token", "from"],
            Scheme::Gs => &["service_account", "access_token"],
            Scheme::Azblob => &["account_name", "account_key", "sas_token"],
            Scheme::Sftp => &["private_key"],
            Scheme::Webdav | Scheme::Webdavs => &["user", "password"],
            Scheme::Dropbox | Scheme::Gdrive => {
                &["client_id", "client_secret", "refresh_token", "access_token"]
            }
            Scheme::File => &[],
        };
        let foreign = self.plain.keys().chain(self.secrets.keys()).find(|key| !fits.contains(key));
        if let Some(key) = foreign {
            return Some(format!("{} has no \"{key}\"", scheme.name()));
        }
        if self.web_identity.is_some() && scheme != Scheme::S3 {
            return Some(format!("{} has no \"role\"", scheme.name()));
        }
        let has = |key| self.plain.contains_key(key) || self.secrets.contains_key(key);
        let whole = match scheme {
            Scheme::S3 => {
                let key = has("access_key_id") && has("secret_access_key");
                let parts = ["access_key_id", "secret_access_key", "session_token"].into_iter().any(has);
                let ways = [key, has("from"), self.web_identity.is_some()];
                ways.into_iter().filter(|way| *way).count() == 1 && parts == key
            }
            Scheme::Gs => has("service_account") != has("access_token"),
            Scheme::Azblob => has("account_name") && !(has("account_key") && has("sas_token")),
            Scheme::Sftp => has("private_key"),
            Scheme::Webdav | Scheme::Webdavs => has("user") && has("password"),
            Scheme::Dropbox | Scheme::Gdrive => {
                let app = ["client_id", "client_secret", "refresh_token"].into_iter().any(has);
                let exchanges = has("client_id") && has("refresh_token");
                if has("access_token") { !app } else { exchanges }
            }
            Scheme::File => true,
        };
        (!whole).then(|| "these are not whole, or are several at once".to_owned())
    }

    /// What to write instead.
    pub(crate) fn hint(scheme: Scheme) -> &'static str {
        match scheme {
            Scheme::Gs => {
                "Write { service_account = { file = … } } or { access_token = { command = […] } }; leave it out for the machine's account."
            }
            Scheme::Azblob => {
                "Write { account_name = \"…\", account_key = { file = … } } or { account_name = \"…\", sas_token = { file = … } }."
            }
            Scheme::Sftp => "Write { private_key = { file = … } }.",
            Scheme::Webdav | Scheme::Webdavs => "Write { user = \"…\", password = { file = … } }.",
            Scheme::Dropbox => {
                "Write { client_id = \"…\", client_secret = { file = … }, refresh_token = { file = … } } or { access_token = { command = […] } }; the secret only where the app has one."
            }
            Scheme::Gdrive => {
                "Write { client_id = \"…\", client_secret = { file = … }, refresh_token = { file = … } } or { access_token = { command = […] } }."
            }
            _ => HINT,
        }
    }
}

impl Setting for Credentials {
    const TAKES: &'static str = "a table such as { access_key_id = …, secret_access_key = { file = … } }";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Table(table) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let before = problems.len();
        refuse_unknown(table, at, &[CredentialsOptions::KEYS], problems);
        let raw = CredentialsOptions::read_keys(table, at, problems);
        let web_identity = match (raw.role, raw.token_file) {
            (Some(role), Some(file)) => Some(WebIdentity {
                role: role.value.0,
                token_file: file.value.0,
                endpoint: raw.sts_endpoint.map(|set| set.value.0),
            }),
            (None, None) if raw.sts_endpoint.is_none() => None,
            _ => {
                let why = "\"role\" and \"token_file\" belong together";
                problems.push(Problem::bad_hint(&node.place, at.path.clone(), why, HINT));
                None
            }
        };
        let mut read = Self { web_identity, ..Self::default() };
        let plain: [(&str, Option<Set<Text>>); 4] = [
            ("access_key_id", raw.access_key_id),
            ("account_name", raw.account_name),
            ("user", raw.user),
            ("client_id", raw.client_id),
        ];
        read.plain.extend(plain.into_iter().filter_map(|(key, set)| Some((key, set?.value.0))));
        let secrets = [
            ("secret_access_key", raw.secret_access_key),
            ("session_token", raw.session_token),
            ("from", raw.from),
            ("service_account", raw.service_account),
            ("account_key", raw.account_key),
            ("sas_token", raw.sas_token),
            ("private_key", raw.private_key),
            ("password", raw.password),
            ("client_secret", raw.client_secret),
            ("refresh_token", raw.refresh_token),
            ("access_token", raw.access_token),
        ];
        read.secrets.extend(secrets.into_iter().filter_map(|(key, set)| Some((key, set?.value))));
        if problems.len() == before && read == Self::default() {
            let why = "there is nothing in it";
            problems.push(Problem::bad_hint(&node.place, at.path.clone(), why, HINT));
        }
        (problems.len() == before).then_some(read)
    }
    fn show(&self) -> Json {
        let mut shown = Map::new();
        for (key, value) in &self.plain {
            shown.insert((*key).to_owned(), json!(value));
        }
        for (key, secret) in &self.secrets {
            shown.insert((*key).to_owned(), secret.show());
        }
        if let Some(identity) = &self.web_identity {
            shown.insert("role".to_owned(), json!(identity.role));
            shown.insert("token_file".to_owned(), json!(identity.token_file.display().to_string()));
            if let Some(endpoint) = &identity.endpoint {
                shown.insert("sts_endpoint".to_owned(), json!(endpoint));
            }
        }
        Json::Object(shown)
    }
}
schema_of!(Credentials, |generator| <CredentialsOptions as schemars::JsonSchema>::json_schema(generator));
