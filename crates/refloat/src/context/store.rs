//! From the settings of a repository to an open store: what the configuration says is put into the store's own words here,
//! because neither of the two knows the other.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refloat_config::{Credentials as Configured, SecretReader, Sse, StoreConfig, Style as ConfiguredStyle};
use refloat_repo::layout::PACKS;
use refloat_store::{
    Credentials, FetchKeys, Keys, Patience, ServerSideEncryption, StorageClass, StoreSettings, Style,
    is_cold_class,
};
use refloat_types::{Location, Scheme};

use super::Environment;
use crate::error::{CliError, Failure};
use crate::identity::is_root;

/// What the configuration says of a store.
pub(super) fn configured(
    config: &StoreConfig,
    environment: Environment,
    works_for: Option<(u32, u32)>,
) -> StoreSettings {
    let usual = Patience::default();
    StoreSettings {
        region: config.region.clone(),
        endpoint: config.endpoint.clone(),
        style: match config.style {
            None => Style::Auto,
            Some(ConfiguredStyle::Path) => Style::Path,
            Some(ConfiguredStyle::Virtual) => Style::Virtual,
        },
        storage_class: config.storage_class.clone().map(|name| {
            // What is listed and read all the time must not be where it cannot be read.
            let below = if is_cold_class(&name) { PACKS.to_owned() } else { String::new() };
            StorageClass { name, below }
        }),
        sse: config.sse.as_ref().map(|sse| match sse {
            Sse::Aes256 => ServerSideEncryption::Aes256,
            Sse::Kms(key) => ServerSideEncryption::Kms(key.clone()),
        }),
        metadata: config.metadata.clone(),
        known_hosts: config.known_hosts.clone(),
        ca_file: config.ca_file.clone(),
        credentials: config
            .credentials
            .as_ref()
            .map_or(Credentials::Machine, |of| credentials(of, environment, works_for)),
        patience: Patience {
            call: config.call_timeout.unwrap_or(usual.call),
            connections: config.max_connections.map_or(usual.connections, |most| most as usize),
            upload_rate: config.max_upload_rate.map(|rate| rate.0),
            download_rate: config.max_download_rate.map(|rate| rate.0),
            ..usual
        },
        conditional: None,
        metadata_endpoint: None,
    }
}

/// Root, who asks before it becomes the user that it works for, reads secrets as that user would.
fn credentials(config: &Configured, environment: Environment, works_for: Option<(u32, u32)>) -> Credentials {
    if let Some(identity) = &config.web_identity {
        return Credentials::WebIdentity {
            role: identity.role.clone(),
            token_file: identity.token_file.clone(),
            endpoint: identity.endpoint.clone(),
        };
    }
    let config = config.clone();
    let fetch: FetchKeys = Arc::new(move || {
        let reader = match works_for {
            Some((uid, gid)) if is_root() => SecretReader::on_behalf_of(uid, vec![gid], &environment),
            _ => SecretReader::current(&environment),
        };
        let mut keys = Keys::default();
        for (name, value) in &config.plain {
            keys = keys.with(name, value.clone());
        }
        for (name, secret) in &config.secrets {
            let text = secret.read(&reader).map_err(io::Error::other)?;
            if *name == "from" {
                return Keys::from_document(text.expose());
            }
            keys = keys.with(name, text.expose());
        }
        Ok(keys)
    });
    Credentials::Keys(fetch)
}

/// What a store is told that only a URL names: the variables that other programs for such a store go by, and else the
/// machine's role. A configuration never looks at them.
pub(super) fn of_environment(location: &Location, environment: Environment) -> StoreSettings {
    let one = |names: &[&str]| {
        let values = names.iter().filter_map(|name| environment(name)).filter_map(text);
        values.into_iter().next()
    };
    let mut settings = StoreSettings::default();
    match location.scheme() {
        Scheme::S3 => {
            settings.region = one(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
            settings.endpoint = one(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
            settings.ca_file = one(&["AWS_CA_BUNDLE"]).map(Into::into);
            let identity = (one(&["AWS_ROLE_ARN"]), one(&["AWS_WEB_IDENTITY_TOKEN_FILE"]));
            if let (Some(id), Some(secret)) = (one(&["AWS_ACCESS_KEY_ID"]), one(&["AWS_SECRET_ACCESS_KEY"])) {
                let mut keys = Keys::default().with("access_key_id", id).with("secret_access_key", secret);
                if let Some(token) = one(&["AWS_SESSION_TOKEN"]) {
                    keys = keys.with("session_token", token);
                }
                settings.credentials = constant(keys);
            } else if let (Some(role), Some(token_file)) = identity {
                settings.credentials = Credentials::WebIdentity {
                    role,
                    token_file: token_file.into(),
                    endpoint: one(&["AWS_ENDPOINT_URL_STS"]),
                };
            }
            settings.metadata_endpoint = one(&["AWS_EC2_METADATA_SERVICE_ENDPOINT"]);
        }
        Scheme::Gs => {
            settings.endpoint = one(&["STORAGE_EMULATOR_HOST"])
                .map(|host| if host.contains("://") { host } else { format!("http://{host}") });
            if let Some(file) = one(&["GOOGLE_APPLICATION_CREDENTIALS"]) {
                settings.credentials = Credentials::Keys(Arc::new(move || {
                    Ok(Keys::default().with("service_account", std::fs::read_to_string(&file)?))
                }));
            } else if let Some(token) = one(&["CLOUDSDK_AUTH_ACCESS_TOKEN"]) {
                settings.credentials = constant(Keys::default().with("access_token", token));
            } else if settings.endpoint.is_some() {
                settings.credentials = constant(Keys::default().with("anonymous", "yes"));
            }
        }
        Scheme::Azblob => {
            settings.endpoint = one(&["AZURE_STORAGE_BLOB_ENDPOINT"]);
            if let Some(account) = one(&["AZURE_STORAGE_ACCOUNT"]) {
                let mut keys = Keys::default().with("account_name", account);
                if let Some(key) = one(&["AZURE_STORAGE_KEY"]) {
                    keys = keys.with("account_key", key);
                } else if let Some(token) = one(&["AZURE_STORAGE_SAS_TOKEN"]) {
                    keys = keys.with("sas_token", token);
                }
                settings.credentials = constant(keys);
            }
        }
        Scheme::Dropbox => {
            let names =
                ["DROPBOX_APP_KEY", "DROPBOX_APP_SECRET", "DROPBOX_REFRESH_TOKEN", "DROPBOX_ACCESS_TOKEN"];
            settings.credentials = account(names.map(|name| one(&[name])));
        }
        Scheme::Gdrive => {
            let names =
                ["GDRIVE_CLIENT_ID", "GDRIVE_CLIENT_SECRET", "GDRIVE_REFRESH_TOKEN", "GDRIVE_ACCESS_TOKEN"];
            settings.credentials = account(names.map(|name| one(&[name])));
        }
        Scheme::File | Scheme::Sftp | Scheme::Webdav | Scheme::Webdavs => {}
    }
    settings
}

/// An app's key, its secret and its refresh token, or an access token, as far as they are there.
fn account([client_id, client_secret, refresh_token, access_token]: [Option<String>; 4]) -> Credentials {
    let keys: Vec<(&str, Option<String>)> = match (&client_id, &refresh_token) {
        (Some(_), Some(_)) => {
            vec![("client_id", client_id), ("client_secret", client_secret), ("refresh_token", refresh_token)]
        }
        _ => vec![("access_token", access_token)],
    };
    let keys = keys.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let keys = keys.fold(Keys::default(), |keys, (name, value)| keys.with(name, value));
    if keys.is_empty() { Credentials::Machine } else { constant(keys) }
}

/// Names of credentials that are no secret, and of those that are.
const PLAIN: [&str; 4] = ["access_key_id", "account_name", "user", "client_id"];
const SECRET: [&str; 10] = [
    "secret_access_key",
    "session_token",
    "service_account",
    "account_key",
    "sas_token",
    "private_key",
    "password",
    "client_secret",
    "refresh_token",
    "access_token",
];

/// The settings as lines of a configuration. Each secret goes into a file of its own, which `keep` makes and names.
pub(super) fn lines(
    settings: &StoreSettings,
    keep: &mut dyn FnMut(&str, &str) -> Result<PathBuf, Failure>,
) -> Result<String, Failure> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let path = |path: &Path| quoted(&path.display().to_string());
    let mut out = String::new();
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            out.push_str(&format!("{key} = {value}\n"));
        }
    };
    line("region", settings.region.as_deref().map(quoted));
    line("endpoint", settings.endpoint.as_deref().map(quoted));
    let style = match settings.style {
        Style::Auto => None,
        Style::Path => Some(quoted("path")),
        Style::Virtual => Some(quoted("virtual")),
    };
    line("style", style);
    // Copied: it may lie where the server's user cannot read it, or be named from where this command was typed.
    let certificates = settings.ca_file.as_deref().map(|file| {
        let text = std::fs::read_to_string(file).map_err(|source| CliError::file("read", file, source))?;
        keep("ca_file", &text)
    });
    line("ca_file", certificates.transpose()?.as_deref().map(path));
    line("known_hosts", settings.known_hosts.as_deref().map(path));
    let mut parts = Vec::new();
    match &settings.credentials {
        Credentials::Machine => {}
        Credentials::WebIdentity { role, token_file, endpoint } => {
            parts.push(format!("role = {}", quoted(role)));
            parts.push(format!("token_file = {}", path(token_file)));
            parts.extend(endpoint.as_deref().map(|endpoint| format!("sts_endpoint = {}", quoted(endpoint))));
        }
        Credentials::Keys(fetch) => {
            let keys = fetch().map_err(|source| CliError::System {
                action: "read the credentials of the store".to_owned(),
                source,
            })?;
            for name in PLAIN {
                parts.extend(keys.get(name).map(|value| format!("{name} = {}", quoted(value))));
            }
            for name in SECRET {
                if let Some(value) = keys.get(name) {
                    let file = keep(name, value)?;
                    parts.push(format!("{name} = {{ file = {} }}", path(&file)));
                }
            }
        }
    }
    line("credentials", (!parts.is_empty()).then(|| format!("{{ {} }}", parts.join(", "))));
    Ok(out)
}

fn text(value: OsString) -> Option<String> {
    value.into_string().ok().filter(|text| !text.trim().is_empty())
}

fn constant(keys: Keys) -> Credentials {
    Credentials::Keys(Arc::new(move || Ok(keys.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_go_with_a_restored_server() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("ca.pem");
        std::fs::write(&file, "a certificate").expect("writes");
        let settings = StoreSettings { ca_file: Some(file.clone()), ..StoreSettings::default() };
        let mut kept = Vec::new();
        let mut keep = |name: &str, text: &str| {
            kept.push((name.to_owned(), text.to_owned()));
            Ok(Path::new("/copy.refloat").join(name))
        };
        let text = lines(&settings, &mut keep).expect("lines");
        assert!(text.contains("ca_file = \"/copy.refloat/ca_file\"\n"), "{text}");
        assert_eq!(kept, [("ca_file".to_owned(), "a certificate".to_owned())]);
        std::fs::remove_file(&file).expect("removes");
        assert!(lines(&settings, &mut |_, _| Ok(file.clone())).is_err());
    }

    #[test]
    fn an_account_is_an_app_with_its_token_or_a_token_alone() {
        let text = |text: &str| Some(text.to_owned());
        let names = |credentials: Credentials| match credentials {
            Credentials::Keys(fetch) => {
                let keys = fetch().unwrap();
                ["client_id", "client_secret", "refresh_token", "access_token"]
                    .into_iter()
                    .filter(|name| keys.get(name).is_some())
                    .collect::<Vec<_>>()
            }
            _ => Vec::new(),
        };
        let all = [text("app"), text("secret"), text("refresh"), text("access")];
        assert_eq!(names(account(all)), ["client_id", "client_secret", "refresh_token"]);
        assert_eq!(
            names(account([text("app"), None, text("refresh"), None])),
            ["client_id", "refresh_token"]
        );
        assert_eq!(names(account([text("app"), text("secret"), None, text("access")])), ["access_token"]);
        assert!(names(account([text("app"), text("secret"), None, None])).is_empty());
    }
}
