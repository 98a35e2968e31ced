//! Documents of keys, as the tools of S3 write them.

use refloat_types::Timestamp;

use super::Keys;

/// What a credential process prints.
pub(super) fn json(text: &str) -> Option<Keys> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let mut keys = Keys::default();
    for (name, field) in [
        ("access_key_id", "AccessKeyId"),
        ("secret_access_key", "SecretAccessKey"),
        ("session_token", "SessionToken"),
    ] {
        if let Some(value) =
            value.get(field).and_then(|value| value.as_str()).filter(|value| !value.is_empty())
        {
            keys = keys.with(name, value);
        }
    }
    // Keys whose end cannot be read are not taken for such without an end.
    if let Some(end) = value.get("Expiration").filter(|end| !end.is_null()) {
        keys.expires = Some(end.as_str()?.parse::<Timestamp>().ok()?);
    }
    Some(keys)
}

/// A credentials file: the profile `default`, else the only one.
pub(super) fn ini(text: &str) -> Option<Keys> {
    let mut profiles: Vec<(String, Keys)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[') {
            profiles.push((name.strip_suffix(']')?.trim().to_owned(), Keys::default()));
            continue;
        }
        let (key, value) = line.split_once('=')?;
        if profiles.is_empty() {
            profiles.push(("default".to_owned(), Keys::default()));
        }
        let (_, keys) = profiles.last_mut()?;
        let (key, value) = (key.trim().strip_prefix("aws_").unwrap_or(key.trim()), value.trim());
        match key {
            "access_key_id" | "secret_access_key" | "session_token" => {
                *keys = std::mem::take(keys).with(key, value);
            }
            "expiration" => keys.expires = Some(value.parse().ok()?),
            _ => {}
        }
    }
    let default = profiles.iter().position(|(name, _)| name == "default");
    let at = default.or((profiles.len() == 1).then_some(0))?;
    Some(profiles.swap_remove(at).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_and_never_repeated() {
        let process = r#"{"Version":1,"AccessKeyId":"ASIA1","SecretAccessKey":"s","SessionToken":"t","Expiration":"2030-01-01T00:00:00Z"}"#;
        let keys = Keys::from_document(process).unwrap();
        assert_eq!((keys.get("access_key_id"), keys.get("session_token")), (Some("ASIA1"), Some("t")));
        assert_eq!(keys.expires, "2030-01-01T00:00:00Z".parse().ok());

        let file = "# written by a tool\n[other]\naws_access_key_id = X\naws_secret_access_key = Y\n\n[default]\n\
                    aws_access_key_id=AKIA1\naws_secret_access_key = a=b\nregion = eu\n";
        let keys = Keys::from_document(file).unwrap();
        assert_eq!((keys.get("access_key_id"), keys.get("secret_access_key")), (Some("AKIA1"), Some("a=b")));
        assert!(keys.expires.is_none());
        let only = Keys::from_document("[x]\naws_access_key_id=A\naws_secret_access_key=B\n").unwrap();
        assert_eq!(only.get("access_key_id"), Some("A"));

        for bad in [
            "hunter2",
            "{\"AccessKeyId\":\"hunter2\"}",
            "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"hunter2\",\"Expiration\":\"soon\"}",
            "[a]\naws_access_key_id=hunter2\n[b]\n",
            "[default]\naws_access_key_id=hunter2\n",
            "[default\nhunter2=x",
            "",
        ] {
            let error = Keys::from_document(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", Keys::default().with("a", "hunter2")).contains("hunter2"));
    }
}
