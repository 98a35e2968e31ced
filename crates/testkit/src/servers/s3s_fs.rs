//! s3s-fs: S3 on a directory. Checks signatures; multipart, ranges, `If-None-Match`, `If-Match`; no versions, no lock.

use std::path::PathBuf;

use super::process::{ServerProcess, answers_http};
use super::{is_a_server, need};

/// A running s3s-fs.
#[derive(Debug)]
pub struct S3sFs {
    process: ServerProcess,
}

is_a_server!(S3sFs);

impl S3sFs {
    /// Starts it; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        let program = need("s3s-fs", &["bin/s3s-fs"])?;
        let process = ServerProcess::begin(
            "s3s-fs",
            |owner, home| owner.make_dir(&home.join("root")),
            move |owner, home, port| {
                let mut command = owner.command(&program);
                command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
                command.args(["--access-key", ACCESS, "--secret-key", SECRET]).arg(home.join("root"));
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
    /// The only access key that it knows.
    pub const fn access_key(&self) -> &'static str {
        ACCESS
    }
    /// Its secret.
    pub const fn secret_key(&self) -> &'static str {
        SECRET
    }
    /// A new, empty bucket.
    pub fn bucket(&self, name: &str) -> String {
        self.process.owner().make_dir(&self.root().join(name));
        name.to_owned()
    }
    /// The directory that holds a directory for each bucket, with a file for each object: to damage one.
    pub fn root(&self) -> PathBuf {
        self.process.home().join("root")
    }
}

const ACCESS: &str = "refloat-test";
const SECRET: &str = "a secret of tests alone";
