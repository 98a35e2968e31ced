//! Azurite: Azure Blob Storage on a directory. Checks shared keys; conditional create works.

use aws_lc_rs::hmac;
use data_encoding::BASE64;

use super::process::{ServerProcess, answers_http};
use super::{is_a_server, need};
use crate::http;

/// A running Azurite.
#[derive(Debug)]
pub struct Azurite {
    process: ServerProcess,
}

is_a_server!(Azurite);

impl Azurite {
    /// Starts it; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        let script = need("Azurite", &["servers-azurite/node_modules/azurite/dist/src/blob/main.js"])?;
        let process = ServerProcess::begin(
            "Azurite",
            |owner, home| owner.make_dir(&home.join("data")),
            move |owner, home, port| {
                let mut command = owner.command("node");
                command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}")).env("HOME", home);
                command.env("PATH", "/usr/local/bin:/usr/bin:/bin").arg(&script);
                command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location"]);
                command.arg(home.join("data")).args([
                    "--skipApiVersionCheck",
                    "--disableTelemetry",
                    "--silent",
                ]);
                command
            },
            answers_http,
        );
        Some(Self { process })
    }

    /// `http://127.0.0.1:PORT/ACCOUNT`, as its path-style addresses begin.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port())
    }
    /// The only account that it knows.
    pub const fn account(&self) -> &'static str {
        ACCOUNT
    }
    /// Its shared key.
    pub const fn account_key(&self) -> &'static str {
        KEY
    }

    /// A new, empty container.
    ///
    /// # Panics
    /// When Azurite does not make it.
    pub fn container(&self, name: &str) -> String {
        // A request signed with the shared key: verb, then empty standard headers, then ours, then the resource.
        let date = jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&refloat_types::Clock::now(&refloat_types::SystemClock))
            .expect("this year has four digits");
        let version = "2021-12-02";
        let text = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n\
             /{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        );
        let secret = BASE64.decode(KEY.as_bytes()).expect("our own constant");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), text.as_bytes());
        let authorization = format!("SharedKey {ACCOUNT}:{}", BASE64.encode(tag.as_ref()));
        let headers = [
            ("x-ms-date", date.as_str()),
            ("x-ms-version", version),
            ("Authorization", authorization.as_str()),
        ];
        let target = format!("/{ACCOUNT}/{name}?restype=container");
        let answer = http::request(self.port(), "PUT", &target, &headers, b"").expect("Azurite answers");
        assert_eq!(answer.status, 201, "{}", answer.text());
        name.to_owned()
    }
}

const ACCOUNT: &str = "refloattest";
/// "a secret of tests alone".
const KEY: &str = "YSBzZWNyZXQgb2YgdGVzdHMgYWxvbmU=";
