//! An emulator of Google Cloud Storage, on a directory. Checks no tokens, and ignores `ifGenerationMatch`.

use super::process::{ServerProcess, answers_http};
use super::{is_a_server, need_python};
use crate::http;

/// A running emulator.
#[derive(Debug)]
pub struct GcsEmulator {
    process: ServerProcess,
}

is_a_server!(GcsEmulator);

impl GcsEmulator {
    /// Starts it; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        let python = need_python("gcp-storage-emulator")?;
        let process = ServerProcess::begin(
            "gcp-storage-emulator",
            |owner, home| owner.make_dir(&home.join("data")),
            move |owner, home, port| {
                let mut command = owner.command(&python);
                command.args(["-u", "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]);
                command
                    .args(["--port", &port.to_string()])
                    .env("STORAGE_BASE", home)
                    .env("STORAGE_DIR", "data");
                command
            },
            answers_http,
        );
        Some(Self { process })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// A new, empty bucket.
    ///
    /// # Panics
    /// When the emulator does not make it.
    pub fn bucket(&self, name: &str) -> String {
        let body = format!("{{\"name\":\"{name}\"}}");
        let headers = [("Content-Type", "application/json")];
        let answer =
            http::request(self.port(), "POST", "/storage/v1/b?project=refloat", &headers, body.as_bytes())
                .expect("the emulator answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
        name.to_owned()
    }
}
