//! From a location and its settings to an opendal operator, service by service.

use opendal::services::{Azblob, Gcs, S3};
use opendal::{OperationContext, Operator};
use refloat_types::{Location, Scheme};
use reqsign_core::ProvideCredentialChain;

use super::credentials;
use super::kept::Kept;
use super::transport;
use crate::open::OpenError;
use crate::settings::{Credentials, Keys, ServerSideEncryption, StoreSettings, Style};

/// The keys that all requests of a store of S3 share; none for other kinds.
pub(super) fn kept(location: &Location, settings: &StoreSettings) -> Result<Option<Kept>, OpenError> {
    if location.scheme() != Scheme::S3 {
        return Ok(None);
    }
    Ok(Some(Kept::new(credentials::s3(settings, &region(location, settings)?))))
}

/// An operator that stores new objects in `class`, made anew where credentials have changed that a service takes only when it is
/// built.
pub(super) fn operator(
    location: &Location,
    settings: &StoreSettings,
    class: Option<&str>,
    kept: Option<Kept>,
) -> Result<Operator, OpenError> {
    let fail = |why: String, hint: &str| OpenError::Settings {
        location: location.to_string(),
        why,
        hint: hint.to_owned(),
    };
    let transport = transport::client(settings.ca_file.as_deref()).map_err(|why| {
        fail(why, "Correct ca_file, or leave it out where the system knows the certificate.")
    })?;
    let built = match location.scheme() {
        Scheme::S3 => s3(location, settings, class, kept)?,
        Scheme::Gs => gcs(location, settings, class)?,
        Scheme::Azblob => azblob(location, settings)?,
        scheme => return Err(OpenError::NotBuilt { scheme }),
    };
    let operator = built.map_err(|error| {
        let why = format!("its settings do not fit: {}", error.message());
        fail(why, "Correct the settings of this repository; the page \"Stores\" of the manual has an example for each kind.")
    })?;
    Ok(operator.with_context(OperationContext::new().with_http_transport(transport)))
}

fn root(location: &Location) -> String {
    format!("/{}", location.path().to_string_lossy())
}

/// Where no region matters, one has to be signed all the same.
const ANY_REGION: &str = "us-east-1";

/// The region that requests are signed for.
pub(super) fn region(location: &Location, settings: &StoreSettings) -> Result<String, OpenError> {
    match (&settings.region, &settings.endpoint) {
        (Some(region), _) => Ok(region.clone()),
        (None, Some(_)) => Ok(ANY_REGION.to_owned()),
        (None, None) => Err(OpenError::Settings {
            location: location.to_string(),
            why: "the region of the bucket is not known".to_owned(),
            hint: "Write region = \"…\" into its [repository.NAME]; with -r URL set AWS_REGION.".to_owned(),
        }),
    }
}

type Built = Result<opendal::Result<Operator>, OpenError>;

fn s3(location: &Location, settings: &StoreSettings, class: Option<&str>, kept: Option<Kept>) -> Built {
    let region = region(location, settings)?;
    let mut builder = S3::default()
        .bucket(location.host())
        .root(&root(location))
        .region(&region)
        .disable_config_load()
        .checksum_algorithm("crc32c");
    if let Some(kept) = kept {
        builder = builder.credential_provider_chain(ProvideCredentialChain::new().push(kept));
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.endpoint(endpoint);
    }
    // A name with a dot fits no certificate of `*.host`.
    let fits = !location.host().contains('.');
    let in_host = match settings.style {
        Style::Path => false,
        Style::Virtual => true,
        Style::Auto => settings.endpoint.is_none() && fits,
    };
    if in_host {
        builder = builder.enable_virtual_host_style();
    }
    if let Some(class) = class {
        builder = builder.default_storage_class(class);
    }
    builder = match &settings.sse {
        None => builder,
        Some(ServerSideEncryption::Aes256) => builder.server_side_encryption_with_s3_key(),
        Some(ServerSideEncryption::Kms(key)) => {
            builder.server_side_encryption_with_customer_managed_kms_key(key)
        }
    };
    Ok(Operator::new(builder))
}

fn gcs(location: &Location, settings: &StoreSettings, class: Option<&str>) -> Built {
    let mut builder = Gcs::default().bucket(location.host()).root(&root(location)).disable_config_load();
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.endpoint(endpoint);
    }
    if let Some(class) = class {
        builder = builder.default_storage_class(class);
    }
    builder = match &settings.credentials {
        Credentials::Keys(_) if fetch(location, settings)?.get("anonymous").is_some() => {
            builder.skip_signature()
        }
        _ => builder.disable_vm_metadata().credential_provider_chain(credentials::gcs(settings)),
    };
    Ok(Operator::new(builder))
}

fn azblob(location: &Location, settings: &StoreSettings) -> Built {
    let keys = match &settings.credentials {
        Credentials::Keys(_) => fetch(location, settings)?,
        _ => Keys::default(),
    };
    let account = keys.get("account_name");
    let endpoint = match (&settings.endpoint, account) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(account)) => format!("https://{account}.blob.core.windows.net"),
        (None, None) => {
            return Err(OpenError::Settings {
                location: location.to_string(),
                why: "the storage account is not known".to_owned(),
                hint: "Write credentials = { account_name = \"…\", account_key = { file = \"…\" } }."
                    .to_owned(),
            });
        }
    };
    let mut builder = Azblob::default().container(location.host()).root(&root(location)).endpoint(&endpoint);
    builder = builder.credential_provider_chain(credentials::azblob(settings));
    Ok(Operator::new(builder))
}

/// Keys that a service takes only when it is built.
fn fetch(location: &Location, settings: &StoreSettings) -> Result<Keys, OpenError> {
    let Credentials::Keys(fetch) = &settings.credentials else { return Ok(Keys::default()) };
    fetch().map_err(|error| OpenError::Settings {
        location: location.to_string(),
        why: format!("its credentials cannot be had: {}", transport::chain(&error)),
        hint: "Correct `credentials` of this repository.".to_owned(),
    })
}
