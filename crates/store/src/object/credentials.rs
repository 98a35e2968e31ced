//! Who we are at an object store, fetched when it is needed, and again before it expires.
//!
//! What was fetched is kept until two minutes before it expires. Keys without an end are asked for again after [`STALE`], so
//! that a file that something else rewrites is noticed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use refloat_types::Timestamp;
use reqsign_aws_v4::IMDSv2CredentialProvider;
use reqsign_core::time::Timestamp as SignTime;
use reqsign_core::{Context, Error, ProvideCredential, ProvideCredentialChain, Result};

use super::web_identity::WebIdentity;
use crate::StoreErrorKind;
use crate::settings::{Credentials, FetchKeys, Keys, StoreSettings};

/// After this long keys without an end are fetched again.
const STALE: Duration = Duration::from_secs(15 * 60);

/// Credentials of S3.
pub(super) fn s3(
    settings: &StoreSettings,
    region: &str,
) -> ProvideCredentialChain<reqsign_aws_v4::Credential> {
    let chain = ProvideCredentialChain::new();
    match &settings.credentials {
        Credentials::Keys(fetch) => chain.push(Telling::settings(S3Keys(Fetched(Arc::clone(fetch))))),
        Credentials::WebIdentity { role, token_file, endpoint } => {
            chain.push(Telling::service(WebIdentity::new(role, token_file, endpoint.as_deref(), region)))
        }
        Credentials::Machine => {
            let own = IMDSv2CredentialProvider::new();
            let asked = match &settings.metadata_endpoint {
                Some(endpoint) => own.with_endpoint(endpoint.trim_end_matches('/')),
                None => own,
            };
            chain.push(Telling::service(WithoutEnvironment(asked)))
        }
    }
}

/// Credentials of Google Cloud Storage; an empty chain leaves it to the machine's metadata service.
pub(super) fn gcs(settings: &StoreSettings) -> ProvideCredentialChain<reqsign_google::Credential> {
    let chain = ProvideCredentialChain::new();
    match &settings.credentials {
        Credentials::Keys(fetch) => chain.push(Telling::settings(GcsKeys(Fetched(Arc::clone(fetch))))),
        _ => chain
            .push(Telling::service(WithoutEnvironment(reqsign_google::VmMetadataCredentialProvider::new()))),
    }
}

/// Credentials of Azure Blob Storage.
pub(super) fn azblob(settings: &StoreSettings) -> ProvideCredentialChain<reqsign_azure_storage::Credential> {
    let chain = ProvideCredentialChain::new();
    match &settings.credentials {
        Credentials::Keys(fetch) => chain.push(Telling::settings(AzureKeys(Fetched(Arc::clone(fetch))))),
        _ => chain
            .push(Telling::service(WithoutEnvironment(reqsign_azure_storage::ImdsCredentialProvider::new()))),
    }
}

/// Notes why credentials cannot be had: the chain that asks passes no reason on.
#[derive(Debug)]
struct Telling<P> {
    provider: P,
    /// What it is where asking again does not help.
    refused: StoreErrorKind,
}

impl<P> Telling<P> {
    /// Keys are where the settings say: what is wrong is wrong there.
    fn settings(provider: P) -> Self {
        Self { provider, refused: StoreErrorKind::NoKeys }
    }
    /// A service gives them.
    fn service(provider: P) -> Self {
        Self { provider, refused: StoreErrorKind::Denied }
    }
}

impl<P: ProvideCredential> ProvideCredential for Telling<P> {
    type Credential = P::Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Self::Credential>> {
        let answer = self.provider.provide_credential(context).await;
        if let Err(error) = &answer {
            let kind = if error.is_retryable() { StoreErrorKind::Unreachable } else { self.refused };
            let trouble = Some((super::transport::chain(error), kind));
            super::transport::note(super::transport::Answer { trouble, ..Default::default() });
        }
        answer
    }
}

/// A provider that sees no environment: what a variable says there must not decide who we are.
#[derive(Debug)]
struct WithoutEnvironment<P>(P);

impl<P: ProvideCredential> ProvideCredential for WithoutEnvironment<P> {
    type Credential = P::Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Self::Credential>> {
        let bare = Context::new().with_http_send(Sender(context.clone()));
        self.0.provide_credential(&bare).await
    }
}

/// Sends through another context.
#[derive(Debug)]
struct Sender(Context);

impl reqsign_core::HttpSend for Sender {
    async fn http_send(&self, request: http::Request<bytes::Bytes>) -> Result<http::Response<bytes::Bytes>> {
        self.0.http_send(request).await
    }
}

/// Asks the function of the settings, on a thread where it may block.
struct Fetched(FetchKeys);

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetched(***)")
    }
}

impl Fetched {
    async fn keys(&self) -> Result<(Keys, SignTime)> {
        let fetch = Arc::clone(&self.0);
        let fetched = tokio::task::spawn_blocking(move || fetch()).await;
        let keys = fetched
            .map_err(|_| Error::unexpected("fetching credentials died"))?
            .map_err(|error| Error::credential_invalid(super::transport::chain(&error)))?;
        let until = match keys.expires {
            Some(expires) => sign_time(expires)?,
            None => SignTime::now() + STALE,
        };
        Ok((keys, until))
    }
}

/// A moment as the library that signs has it.
pub(super) fn sign_time(time: Timestamp) -> Result<SignTime> {
    SignTime::from_second(time.as_second())
        .map_err(|_| Error::credential_invalid("credentials expire at a moment that cannot be"))
}

fn lacks(what: &str) -> Error {
    Error::credential_invalid(format!("credentials lack {what}"))
}

#[derive(Debug)]
struct S3Keys(Fetched);

impl ProvideCredential for S3Keys {
    type Credential = reqsign_aws_v4::Credential;

    async fn provide_credential(&self, _: &Context) -> Result<Option<Self::Credential>> {
        let (keys, until) = self.0.keys().await?;
        let need = |name: &str| keys.get(name).map(|value| value.trim().to_owned());
        Ok(Some(reqsign_aws_v4::Credential {
            access_key_id: need("access_key_id").ok_or_else(|| lacks("access_key_id"))?,
            secret_access_key: need("secret_access_key").ok_or_else(|| lacks("secret_access_key"))?,
            session_token: need("session_token"),
            expires_in: Some(until),
        }))
    }
}

#[derive(Debug)]
struct GcsKeys(Fetched);

impl ProvideCredential for GcsKeys {
    type Credential = reqsign_google::Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Self::Credential>> {
        let (keys, until) = self.0.keys().await?;
        if let Some(token) = keys.get("access_token") {
            let token =
                reqsign_google::Token { access_token: token.trim().to_owned(), expires_at: Some(until) };
            return Ok(Some(reqsign_google::Credential::with_token(token)));
        }
        let account = keys.get("service_account").ok_or_else(|| lacks("service_account or access_token"))?;
        let encoded = data_encoding::BASE64.encode(account.as_bytes());
        let provider = reqsign_google::StaticCredentialProvider::from_base64(encoded)
            .map_err(|_| Error::credential_invalid("service_account is no key file of a service account"))?;
        provider.with_scope(SCOPE).provide_credential(context).await
    }
}

/// What a token may be used for.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

#[derive(Debug)]
struct AzureKeys(Fetched);

impl ProvideCredential for AzureKeys {
    type Credential = reqsign_azure_storage::Credential;

    async fn provide_credential(&self, _: &Context) -> Result<Option<Self::Credential>> {
        use reqsign_azure_storage::Credential as C;
        let (keys, until) = self.0.keys().await?;
        if let Some(token) = keys.get("sas_token") {
            let token = token.trim().trim_start_matches('?');
            return Ok(Some(C::with_sas_token_expires_at(token, until)));
        }
        let account = keys.get("account_name").ok_or_else(|| lacks("account_name"))?;
        let key = keys.get("account_key").ok_or_else(|| lacks("account_key or sas_token"))?;
        Ok(Some(C::with_shared_key(account.trim(), key.trim())))
    }
}
