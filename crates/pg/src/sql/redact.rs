//! Takes passwords and the like out of values before they are stored or shown.
//!
//! What is hidden: values behind a word that ends in `password`, `passwd`, `secret`, `token`, `access_key`, `api_key` or
//! `passphrase` and an equals sign or colon (connection strings, assignments in shell commands), the value after such a
//! long option, and the password part of a URL. Hiding too much is harmless; nothing is restored from these values.

const WORDS: [&str; 10] = [
    "password",
    "passwd",
    "secret",
    "token",
    "access_key",
    "accesskey",
    "api_key",
    "apikey",
    "passphrase",
    "sas",
];

const HIDDEN: &str = "***";

/// A setting's value with secrets hidden; all of it when the setting's own name says that it is one.
pub(super) fn redact_setting(name: &str, value: &str) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    // ssl_passphrase_command may hold the passphrase; password_encryption names an algorithm.
    if value.is_empty() || name == "password_encryption" {
        return value.to_owned();
    }
    if name == "ssl_passphrase_command" || (name.contains('.') && is_secret_word(last)) {
        return HIDDEN.to_owned();
    }
    redact(value)
}

fn is_secret_word(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    WORDS.iter().any(|secret| word.ends_with(secret))
}

/// `text` with the values of secrets replaced by `***`.
pub fn redact(text: &str) -> String {
    redact_urls(&redact_words(text))
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn redact_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_word_char) {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let end = from.find(|c| !is_word_char(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(word);
        rest = after;
        if !is_secret_word(word) {
            continue;
        }
        let spaces = after.len() - after.trim_start_matches([' ', '\t']).len();
        let (gap, value) = after.split_at(spaces);
        let (separator, value) = match value.chars().next() {
            Some(c @ ('=' | ':')) => (Some(c), value.get(1..).unwrap_or_default()),
            _ if word.starts_with("--") && spaces > 0 => (None, value),
            _ => continue,
        };
        out.push_str(gap);
        out.extend(separator);
        let blank = value.len() - value.trim_start_matches([' ', '\t']).len();
        let (blank, value) = value.split_at(blank);
        out.push_str(blank);
        let length = value_length(value);
        if length > 0 {
            out.push_str(HIDDEN);
        }
        rest = value.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Bytes of a value that begins here: quoted, or up to a separator.
fn value_length(value: &str) -> usize {
    let mut chars = value.char_indices();
    match chars.next() {
        Some((_, quote @ ('\'' | '"'))) => {
            let mut escaped = false;
            for (at, c) in chars {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    _ if c == quote && !value.get(at + 1..).unwrap_or_default().starts_with(quote) => {
                        return at + 1;
                    }
                    _ if c == quote => escaped = true,
                    _ => {}
                }
            }
            value.len()
        }
        Some(_) => value
            .find(|c: char| c.is_whitespace() || matches!(c, '&' | ';' | '\'' | '"'))
            .unwrap_or(value.len()),
        None => 0,
    }
}

fn redact_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '\'' | '"'))
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@').map(|(user, host)| (user.split_once(':'), host)) {
            Some((Some((user, _)), host)) => out.push_str(&format!("{user}:{HIDDEN}@{host}")),
            _ => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_stays() {
        for (text, expected) in [
            ("host=a user=b password=hunter2 port=1", "host=a user=b password=*** port=1"),
            ("password='it''s \\' long' user=b", "password=*** user=b"),
            ("password = hunter2", "password = ***"),
            ("postgres://u:hunter2@h/db?password=x&a=b", "postgres://u:***@h/db?password=***&a=b"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("PGPASSWORD=x cp %p /a/%f", "PGPASSWORD=*** cp %p /a/%f"),
            ("AWS_SECRET_ACCESS_KEY=\"a b\" aws s3 cp", "AWS_SECRET_ACCESS_KEY=*** aws s3 cp"),
            ("tool --api-token hunter2 %p", "tool --api-token *** %p"),
            ("tool --password=hünter %p", "tool --password=*** %p"),
            ("passfile=/etc/x sslmode=prefer", "passfile=/etc/x sslmode=prefer"),
            ("cp %p /archive/%f", "cp %p /archive/%f"),
            ("password=", "password="),
        ] {
            assert_eq!(redact(text), expected);
        }
        assert_eq!(redact_setting("app.jwt_secret", "x"), "***");
        assert_eq!(redact_setting("password_encryption", "scram-sha-256"), "scram-sha-256");
        assert_eq!(redact_setting("ssl_key_file", "/etc/key.pem"), "/etc/key.pem");
        assert_eq!(redact_setting("primary_conninfo", "user=r password=p"), "user=r password=***");
    }
}
