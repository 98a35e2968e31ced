//! How a repository is reached where there is no configuration: the variables that are exported before `-r URL`, or the small
//! configuration of a store that no variable describes. It stands on the recovery sheet and in the rescue kit, so that each of them
//! says all of it; who may sign in, and by what, stands in neither.

use refloat_config::{RepositoryConfig, Style};
use refloat_repo::repository::{Generation, Reach};

use crate::render::text::shell;

/// Where the small configuration goes, with all that it names: what the server's user can read, which is not below `/root`.
const DIRECTORY: &str = "/var/lib/postgresql/rescue";
/// The file that stands for the certificates of a store that has its own.
const CERTIFICATES: &str = "ca.pem";
/// A region for clients that want one where the store has none.
const ANY_REGION: &str = "us-east-1";

/// What reaching a configured repository takes beside its URL.
pub(crate) fn of(config: &RepositoryConfig) -> Reach {
    let store = &config.store;
    Reach {
        address: config.url.to_string(),
        region: store.region.clone(),
        endpoint: store.endpoint.clone(),
        style: store.style.map(|style| match style {
            Style::Path => "path".to_owned(),
            Style::Virtual => "virtual".to_owned(),
        }),
        // A part of the address: `https://ACCOUNT.blob.core.windows.net`.
        account: store.credentials.as_ref().and_then(|of| of.plain.get("account_name")).cloned(),
        own_certificates: store.ca_file.is_some(),
    }
}

/// How one address is reached.
pub(crate) struct Way<'a> {
    pub(crate) reach: &'a Reach,
    /// Who can read: the small configuration names it.
    pub(crate) generation: &'a Generation,
}

impl Way<'_> {
    /// `s3`.
    fn scheme(&self) -> &str {
        self.reach.address.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// Whether variables do not say it, so that `-r URL` does not get there.
    pub(crate) fn needs_file(&self) -> bool {
        let reach = self.reach;
        match self.scheme() {
            "file" => false,
            "s3" => {
                let bucket = reach.address.split('/').nth(2).unwrap_or_default();
                let is_virtual = reach.endpoint.is_none() && !bucket.contains('.');
                match reach.style.as_deref() {
                    Some("path") => is_virtual,
                    Some(_) => !is_virtual,
                    None => false,
                }
            }
            "gs" | "azblob" => reach.own_certificates,
            "dropbox" | "gdrive" => reach.own_certificates || reach.endpoint.is_some(),
            _ => true,
        }
    }

    /// The program with the options that name the repository. `program` is what it is called where it lies.
    pub(crate) fn command(&self, program: &str) -> String {
        if self.needs_file() {
            format!("sudo -u postgres {program} --config {DIRECTORY}/rescue.toml -r rescue")
        } else {
            format!("{program} -r {}", shell(&self.reach.address))
        }
    }

    /// What is typed first: what is known of the store, then what signs in, for each of which a person puts something.
    pub(crate) fn exports(&self) -> Vec<String> {
        let reach = self.reach;
        let endpoint = reach.endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/'));
        let region = reach.region.as_deref().or_else(|| endpoint.map(|_| ANY_REGION));
        let known = |pairs: &[(&str, Option<&str>)]| {
            let set: Vec<String> = pairs
                .iter()
                .filter_map(|(name, value)| Some(format!("{name}={}", shell((*value)?))))
                .collect();
            (!set.is_empty()).then(|| format!("export {}", set.join(" ")))
        };
        let certificates = reach.own_certificates.then_some(CERTIFICATES);
        let (first, then): (Option<String>, &[&str]) = match self.scheme() {
            "s3" => (
                known(&[
                    ("AWS_REGION", region),
                    ("AWS_ENDPOINT_URL_S3", endpoint),
                    ("AWS_CA_BUNDLE", certificates),
                ]),
                &["AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…"],
            ),
            "gs" => {
                let api = endpoint.map(|endpoint| format!("{endpoint}/storage/v1/"));
                (
                    known(&[
                        ("STORAGE_EMULATOR_HOST", endpoint),
                        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", api.as_deref()),
                    ]),
                    &["GOOGLE_APPLICATION_CREDENTIALS=…"],
                )
            }
            "azblob" => (
                known(&[
                    ("AZURE_STORAGE_ACCOUNT", reach.account.as_deref()),
                    ("AZURE_STORAGE_BLOB_ENDPOINT", endpoint),
                ]),
                match reach.account {
                    Some(_) => &["AZURE_STORAGE_KEY=…"],
                    None => &["AZURE_STORAGE_ACCOUNT=… AZURE_STORAGE_KEY=…"],
                },
            ),
            "dropbox" => (None, &["DROPBOX_APP_KEY=… DROPBOX_APP_SECRET=… DROPBOX_REFRESH_TOKEN=…"]),
            "gdrive" => (None, &["GDRIVE_CLIENT_ID=… GDRIVE_CLIENT_SECRET=… GDRIVE_REFRESH_TOKEN=…"]),
            _ => (None, &[]),
        };
        first.into_iter().chain(then.iter().map(|names| format!("export {names}"))).collect()
    }

    /// What a person has to know of those variables.
    pub(crate) fn about_exports(&self) -> Vec<String> {
        let mut about = match self.scheme() {
            "s3" => {
                vec!["both `aws` and `refloat` go by them; where a machine's role may read, no key is needed"]
            }
            "gs" => vec![
                "a service account's key file; or CLOUDSDK_AUTH_ACCESS_TOKEN=… for `gcloud` and `refloat`; where a machine's account may read, nothing",
            ],
            "azblob" => {
                vec![
                    "or AZURE_STORAGE_SAS_TOKEN=… instead of the key; `az` goes by account and key too, and takes an endpoint as --blob-endpoint",
                ]
            }
            "dropbox" => vec!["or DROPBOX_ACCESS_TOKEN=… alone"],
            "gdrive" => vec![
                "or GDRIVE_ACCESS_TOKEN=… alone; another client than the one that wrote here sees the files only with the",
                "scope https://www.googleapis.com/auth/drive",
            ],
            _ => Vec::new(),
        };
        if !about.is_empty() {
            about.push("`sudo` drops exported variables: work in root's shell, or as the user who shall own the server");
        }
        let mut about: Vec<String> = about.into_iter().map(str::to_owned).collect();
        about.extend(self.about_certificates());
        about
    }

    fn about_certificates(&self) -> Option<String> {
        self.reach.own_certificates.then(|| {
            format!(
                "{CERTIFICATES}: the certificates that this store's own is signed by, from whoever runs it"
            )
        })
    }

    /// What comes before the small configuration.
    pub(crate) fn before_file() -> [String; 2] {
        [
            format!("sudo install -d -m 0700 -o postgres -g postgres {DIRECTORY}"),
            format!(
                "then this file, {DIRECTORY}/rescue.toml, because -r URL alone does not reach the store:"
            ),
        ]
    }

    /// The small configuration, as lines; and what a person has to know of it. With it nobody is asked whether it is the right
    /// repository: so it names its fingerprint.
    pub(crate) fn file(&self, fingerprint: &str) -> (Vec<String>, Vec<String>) {
        let reach = self.reach;
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let secret = |name: &str| format!("{{ file = \"{DIRECTORY}/{name}\" }}");
        let mut lines = vec![
            format!("state = \"{DIRECTORY}/state\""),
            "[repository.rescue]".to_owned(),
            format!("url = {}", quoted(&reach.address)),
            format!("fingerprint = {}", quoted(fingerprint)),
        ];
        for (key, value) in
            [("region", &reach.region), ("endpoint", &reach.endpoint), ("style", &reach.style)]
        {
            lines.extend(value.as_deref().map(|value| format!("{key} = {}", quoted(value))));
        }
        if reach.own_certificates {
            lines.push(format!("ca_file = \"{DIRECTORY}/{CERTIFICATES}\""));
        }
        let mut about = Vec::new();
        let signs_in = match self.scheme() {
            "sftp" => {
                lines.push(format!("known_hosts = \"{DIRECTORY}/known_hosts\""));
                about.push(
                    "known_hosts: what `ssh-keyscan` prints of that host, once compared with what its administrator says"
                        .to_owned(),
                );
                format!("private_key = {}", secret("private_key"))
            }
            "s3" => format!("access_key_id = \"KEY\", secret_access_key = {}", secret("secret_access_key")),
            "gs" => format!("service_account = {}", secret("service_account")),
            "azblob" => format!(
                "account_name = {}, account_key = {}",
                quoted(reach.account.as_deref().unwrap_or("ACCOUNT")),
                secret("account_key")
            ),
            "dropbox" | "gdrive" => format!(
                "client_id = \"CLIENT\", client_secret = {}, refresh_token = {}",
                secret("client_secret"),
                secret("refresh_token")
            ),
            _ => format!("user = \"USER\", password = {}", secret("password")),
        };
        lines.push(format!("credentials = {{ {signs_in} }}"));
        lines.push(format!("encryption = {}", self.encryption(&secret)));
        about.push(
            "words in capitals, and each file that it names, are put there by you; the files are of mode 0600 and belong to postgres"
                .to_owned(),
        );
        about.extend(self.about_certificates());
        (lines, about)
    }

    fn encryption(&self, secret: &dyn Fn(&str) -> String) -> String {
        let recipients: Vec<String> =
            self.generation.recipients.iter().map(|one| format!("\"{one}\"")).collect();
        match (recipients.is_empty(), self.generation.has_passphrase) {
            (true, _) => "\"none\"".to_owned(),
            (false, true) => format!("{{ passphrase = {} }}", secret("passphrase")),
            (false, false) => {
                format!("{{ recipients = [{}], identity = {} }}", recipients.join(", "), secret("identity"))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use refloat_config::Config;
    use refloat_repo::crypt::identity::Identity;
    use refloat_repo::kind::Suite;
    use refloat_types::{Clock as _, SystemClock};

    use super::*;

    pub(crate) fn generation(recipients: usize, has_passphrase: bool) -> Generation {
        Generation {
            number: 0,
            created: SystemClock.now(),
            suite: if recipients == 0 { Suite::Plain } else { Suite::Standard },
            recipients: (0..recipients).map(|_| Identity::draw().recipient()).collect(),
            has_passphrase,
        }
    }

    /// The way to what these lines of a configuration say.
    fn reach(lines: &str) -> Reach {
        let text = format!("[repository.a]\n{lines}\nencryption = \"none\"\n");
        let config = Config::from_text(Path::new("/etc/refloat.toml"), &text).expect("a configuration");
        of(config.repositories.values().next().expect("one"))
    }

    #[test]
    fn an_address_is_one_word_of_the_line() {
        let reach = Reach::plain("file:///re$(touch x);po");
        let way = Way { reach: &reach, generation: &generation(1, true) };
        assert_eq!(way.command("refloat"), "refloat -r 'file:///re$(touch x);po'");
    }

    #[test]
    fn what_is_known_of_a_store_is_exported_and_nothing_of_who_signs_in() {
        let generation = generation(1, true);
        for (lines, exports) in [
            (
                "url = \"s3://b/pg\"\nregion = \"eu-central-1\"\ncredentials = { access_key_id = \"AKIA\", secret_access_key = { file = \"/k\" } }",
                "export AWS_REGION=eu-central-1|export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…",
            ),
            (
                "url = \"s3://b/pg\"\nendpoint = \"https://minio:9000\"\nca_file = \"/ca\"",
                "export AWS_REGION=us-east-1 AWS_ENDPOINT_URL_S3=https://minio:9000 AWS_CA_BUNDLE=ca.pem|export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…",
            ),
            (
                "url = \"gs://b\"\nendpoint = \"https://own.p.googleapis.com/\"",
                "export STORAGE_EMULATOR_HOST=https://own.p.googleapis.com CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE=https://own.p.googleapis.com/storage/v1/|export GOOGLE_APPLICATION_CREDENTIALS=…",
            ),
            ("url = \"gs://b\"", "export GOOGLE_APPLICATION_CREDENTIALS=…"),
            (
                "url = \"azblob://b\"\nendpoint = \"https://own:10000/acme\"\ncredentials = { account_name = \"acme\", account_key = { file = \"/k\" } }",
                "export AZURE_STORAGE_ACCOUNT=acme AZURE_STORAGE_BLOB_ENDPOINT=https://own:10000/acme|export AZURE_STORAGE_KEY=…",
            ),
            ("url = \"file:///backup\"", ""),
        ] {
            let reach = reach(lines);
            let way = Way { reach: &reach, generation: &generation };
            assert!(!way.needs_file(), "{lines}");
            assert_eq!(way.exports().join("|"), exports);
            assert!(way.command("refloat").starts_with("refloat -r "), "{lines}");
            assert!(!format!("{:?}{:?}", way.exports(), way.about_exports()).contains("AKIA"));
        }
    }

    #[test]
    fn what_no_variable_says_is_a_configuration_that_is_read() {
        let sftp = "url = \"sftp://u@h/p\"\nknown_hosts = \"/known\"\ncredentials = { private_key = { file = \"/k\" } }";
        for lines in [
            sftp,
            "url = \"webdavs://h/p\"\nca_file = \"/ca\"\ncredentials = { user = \"me\", password = { file = \"/k\" } }",
            "url = \"s3://b/p\"\nendpoint = \"https://own\"\nstyle = \"virtual\"",
            "url = \"s3://b/p\"\nregion = \"eu-central-1\"\nstyle = \"path\"",
            "url = \"gs://b\"\nca_file = \"/ca\"",
            "url = \"azblob://b\"\nca_file = \"/ca\"\ncredentials = { account_name = \"acme\", account_key = { file = \"/k\" } }",
            "url = \"gdrive://b\"\nendpoint = \"https://own\"\ncredentials = { access_token = { file = \"/k\" } }",
        ] {
            let known = reach(lines);
            for (recipients, has_passphrase) in [(0, false), (1, true), (2, false)] {
                let generation = generation(recipients, has_passphrase);
                let way = Way { reach: &known, generation: &generation };
                assert!(way.needs_file(), "{lines}");
                assert!(
                    way.command("./refloat")
                        .ends_with("--config /var/lib/postgresql/rescue/rescue.toml -r rescue")
                );
                let text = way.file("FROM-THE-SHEET").0.join("\n");
                let read = Config::from_text(Path::new("/rescue.toml"), &text);
                let read = read.unwrap_or_else(|error| panic!("{text}\n{error:?}"));
                let again = of(read.repositories.values().next().expect("one"));
                assert_eq!(again, known, "{text}");
                assert!(!text.contains("\"me\"") && !text.contains("/k\""), "{text}");
            }
        }
    }
}
