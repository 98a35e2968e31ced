//! A role for a token: the pod's or the workflow's identity, exchanged at STS, and again before the role's keys expire.

use std::path::{Path, PathBuf};

use refloat_types::Timestamp;
use reqsign_aws_v4::Credential;
use reqsign_core::{Context, Error, ProvideCredential, Result};

use super::credentials::sign_time;

/// How long the role's keys shall hold.
const SECONDS: u32 = 3600;

/// Exchanges a token for the keys of a role.
#[derive(Debug)]
pub(super) struct WebIdentity {
    role: String,
    token_file: PathBuf,
    endpoint: String,
}

impl WebIdentity {
    pub(super) fn new(role: &str, token_file: &Path, endpoint: Option<&str>, region: &str) -> Self {
        let own = || format!("https://sts.{region}.amazonaws.com");
        Self {
            role: role.to_owned(),
            token_file: token_file.to_owned(),
            endpoint: endpoint.map_or_else(own, |text| text.trim_end_matches('/').to_owned()),
        }
    }
}

impl ProvideCredential for WebIdentity {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Credential>> {
        // Read each time: whoever issues the token writes a new one before this one expires.
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|error| {
            Error::credential_invalid(format!("could not read {}: {error}", self.token_file.display()))
        })?;
        let form = form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("DurationSeconds", &SECONDS.to_string()),
            ("RoleArn", &self.role),
            ("RoleSessionName", "refloat"),
            ("WebIdentityToken", token.trim()),
        ]);
        let request = http::Request::post(format!("{}/", self.endpoint))
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(bytes::Bytes::from(form))
            .map_err(|_| Error::config_invalid("the endpoint of STS is not an address"))?;
        let response = context.http_send(request).await?;
        let text = String::from_utf8_lossy(response.body()).into_owned();
        if !response.status().is_success() {
            let said = element(&text, "Message").filter(|said| !said.contains(token.trim()));
            let said = said.or_else(|| element(&text, "Code")).unwrap_or_default();
            let error = Error::credential_invalid(format!(
                "STS gave no keys for role {}: it answered {}: {said}",
                self.role,
                response.status().as_u16()
            ));
            return Err(error.set_retryable(response.status().is_server_error()));
        }
        read(&text).map(Some)
    }
}

fn read(answer: &str) -> Result<Credential> {
    let need = |name: &str| {
        element(answer, name).ok_or_else(|| Error::unexpected(format!("the answer of STS lacks {name}")))
    };
    let expires = need("Expiration")?
        .parse::<Timestamp>()
        .map_err(|_| Error::unexpected("the answer of STS has an end that is no time"))?;
    Ok(Credential {
        access_key_id: need("AccessKeyId")?,
        secret_access_key: need("SecretAccessKey")?,
        session_token: Some(need("SessionToken")?),
        expires_in: Some(sign_time(expires)?),
    })
}

/// The text of the first element of this name. STS answers with flat XML whose values hold no markup.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = value.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    Some(plain.replace("&apos;", "'").replace("&amp;", "&"))
}

/// A form as HTML sends it.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_sts_is_read() {
        let answer = "<R><Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>a/b+c</SecretAccessKey>\
                      <SessionToken>t&amp;k</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></R>";
        let keys = read(answer).unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.secret_access_key.as_str()), ("ASIA1", "a/b+c"));
        assert_eq!(keys.session_token.as_deref(), Some("t&k"));
        assert!(read(&answer.replace("SessionToken", "Other")).is_err());
        assert!(read(&answer.replace("2030-01", "soon")).is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn a_form_holds_any_text() {
        assert_eq!(form(&[("a", "b c"), ("d", "é=&")]), "a=b%20c&d=%C3%A9%3D%26");
    }
}
