//! What a repository's table says of its store: which settings fit which kind, and their values.

use refloat_types::Scheme;

use super::Checker;
use crate::config::StoreConfig;
use crate::error::Problem;
use crate::options::RepositoryOptions;
use crate::place::Place;
use crate::values::credentials::Credentials;
use crate::values::store::Connections;

/// Settings that only some stores have, and whether one of this kind has it.
fn fits(key: &str, scheme: Scheme) -> bool {
    use Scheme as S;
    match key {
        "region" | "style" | "sse" | "thaw_command" => scheme == S::S3,
        "storage_class" => matches!(scheme, S::S3 | S::Gs),
        "endpoint" => scheme.has_bucket() || matches!(scheme, S::Dropbox | S::Gdrive),
        "metadata" => scheme.has_bucket(),
        "known_hosts" => scheme == S::Sftp,
        "ca_file" => !matches!(scheme, S::File | S::Sftp),
        _ => scheme != S::File,
    }
}

impl Checker<'_> {
    /// Refuses what a store of this kind has not: a setting is never ignored without a word.
    pub(super) fn store_fits(&mut self, path: &str, scheme: Scheme, raw: &RepositoryOptions) {
        let set: [(&str, Option<&Place>); 14] = [
            ("region", raw.region.as_ref().map(|set| &set.place)),
            ("endpoint", raw.endpoint.as_ref().map(|set| &set.place)),
            ("style", raw.style.as_ref().map(|set| &set.place)),
            ("credentials", raw.credentials.as_ref().map(|set| &set.place)),
            ("storage_class", raw.storage_class.as_ref().map(|set| &set.place)),
            ("thaw_command", raw.thaw_command.as_ref().map(|set| &set.place)),
            ("sse", raw.sse.as_ref().map(|set| &set.place)),
            ("metadata", raw.metadata.as_ref().map(|set| &set.place)),
            ("ca_file", raw.ca_file.as_ref().map(|set| &set.place)),
            ("known_hosts", raw.known_hosts.as_ref().map(|set| &set.place)),
            ("call_timeout", raw.call_timeout.as_ref().map(|set| &set.place)),
            ("max_connections", raw.max_connections.as_ref().map(|set| &set.place)),
            ("max_upload_rate", raw.max_upload_rate.as_ref().map(|set| &set.place)),
            ("max_download_rate", raw.max_download_rate.as_ref().map(|set| &set.place)),
        ];
        for (key, place) in set.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            if !fits(key, scheme) {
                let why = format!("{} ({scheme}://) has no such thing", scheme.name());
                let key = format!("{path}.{key}");
                self.problems.push(Problem::bad_hint(place, key, why, "Remove this line."));
            }
        }
        if let Some(set) = &raw.credentials
            && fits("credentials", scheme)
            && let Some(why) = set.value.misfit(scheme)
        {
            let key = format!("{path}.credentials");
            self.problems.push(Problem::bad_hint(&set.place, key, why, Credentials::hint(scheme)));
        }
        if let Some(set) = &raw.endpoint
            && !(set.value.0.starts_with("https://") || set.value.0.starts_with("http://"))
        {
            let why = "an address begins with https:// (or http://, without encryption on the way)";
            self.problems.push(Problem::bad(&set.place, format!("{path}.endpoint"), why));
        }
        if let Some(set) = &raw.endpoint
            && set.value.0.contains(['@', '?', '#'])
        {
            let why = "credentials cannot stand in an address; they belong in credentials = { … }";
            self.problems.push(Problem::bad(&set.place, format!("{path}.endpoint"), why));
        }
        if scheme == Scheme::Sftp {
            self.sftp_is_whole(path, raw);
        }
        if matches!(scheme, Scheme::Dropbox | Scheme::Gdrive)
            && let Some(url) = raw.url.as_ref().filter(|_| raw.credentials.is_none())
        {
            let (why, hint) = ("it has to be said who this host is there", Credentials::hint(scheme));
            self.problems.push(Problem::bad_hint(&url.place, format!("{path}.credentials"), why, hint));
        }
        let Some(url) = raw.url.as_ref().filter(|_| raw.endpoint.is_none()) else { return };
        if scheme == Scheme::S3 && raw.region.is_none() {
            let why = "the region of the bucket has to be said where no endpoint is";
            let hint = "Write region = \"eu-central-1\".";
            self.problems.push(Problem::bad_hint(&url.place, format!("{path}.region"), why, hint));
        }
        if scheme == Scheme::Azblob && raw.credentials.is_none() {
            let why = "the storage account has to be said: by credentials or by an endpoint";
            let hint = Credentials::hint(scheme);
            self.problems.push(Problem::bad_hint(&url.place, format!("{path}.credentials"), why, hint));
        }
    }

    /// A server that is not recognised, or that nobody is at, gets nothing.
    fn sftp_is_whole(&mut self, path: &str, raw: &RepositoryOptions) {
        let Some(url) = &raw.url else { return };
        let mut say = |key: &str, why: &str, hint: &str| {
            self.problems.push(Problem::bad_hint(&url.place, format!("{path}.{key}"), why, hint));
        };
        if url.value.location().user().is_none() {
            say("url", "the user has to be said", "Write url = \"sftp://user@host/path\".");
        }
        if raw.credentials.is_none() {
            let hint = Credentials::hint(Scheme::Sftp);
            say("credentials", "the private key has to be said", hint);
        }
        if raw.known_hosts.is_none() {
            let hint = "Write known_hosts = \"/path\": ssh-keyscan HOST makes such a file; compare the key with the server's own.";
            say("known_hosts", "it has to be said how the server is recognised", hint);
        }
    }

    /// The values, shown and with their defaults.
    pub(super) fn store(&mut self, path: &str, scheme: Scheme, raw: &RepositoryOptions) -> StoreConfig {
        let shown = &mut self.shown;
        let mut store = StoreConfig {
            region: shown.optional(path, "region", &raw.region).map(|text| text.0),
            endpoint: shown.optional(path, "endpoint", &raw.endpoint).map(|text| text.0),
            style: shown.optional(path, "style", &raw.style),
            credentials: shown.optional(path, "credentials", &raw.credentials),
            storage_class: shown.optional(path, "storage_class", &raw.storage_class).map(|text| text.0),
            thaw_command: shown.optional(path, "thaw_command", &raw.thaw_command).map(|words| words.0),
            sse: shown.optional(path, "sse", &raw.sse),
            metadata: shown.optional(path, "metadata", &raw.metadata).unwrap_or_default().0,
            known_hosts: shown.optional(path, "known_hosts", &raw.known_hosts).map(|file| file.0),
            ca_file: shown.optional(path, "ca_file", &raw.ca_file).map(|file| file.0),
            max_upload_rate: shown
                .optional(path, "max_upload_rate", &raw.max_upload_rate)
                .map(|rate| rate.bytes),
            max_download_rate: shown
                .optional(path, "max_download_rate", &raw.max_download_rate)
                .map(|rate| rate.bytes),
            ..StoreConfig::default()
        };
        if scheme != Scheme::File {
            let default = (std::time::Duration::from_secs(30), "30s");
            store.call_timeout = Some(shown.timeout(path, "call_timeout", &raw.call_timeout, default));
            let connections =
                shown.value(path, "max_connections", &raw.max_connections, Connections::default());
            store.max_connections = Some(connections.0);
        }
        store
    }
}
