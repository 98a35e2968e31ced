//! WsgiDAV on a directory, with Basic authentication.

use std::path::PathBuf;

use super::process::{ServerProcess, answers_http};
use super::{is_a_server, need_python};

/// A running WebDAV server.
#[derive(Debug)]
pub struct WebDav {
    process: ServerProcess,
}

is_a_server!(WebDav);

impl WebDav {
    /// Starts it; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        let python = need_python("WsgiDAV")?;
        let process = ServerProcess::begin(
            "WsgiDAV",
            |owner, home| {
                owner.make_dir(&home.join("root"));
                let config = format!(
                    "provider_mapping:\n  \"/\": \"{root}\"\nhttp_authenticator:\n  accept_basic: true\n  \
                     accept_digest: false\n  default_to_digest: false\nsimple_dc:\n  user_mapping:\n    \"*\":\n      \
                     \"{USER}\":\n        password: \"{PASSWORD}\"\ndir_browser:\n  enable: false\n",
                    root = home.join("root").display()
                );
                std::fs::write(home.join("config.yaml"), config).expect("own directory");
                owner.give(&home.join("config.yaml"));
            },
            move |owner, home, port| {
                let mut command = owner.command(&python);
                command.args(["-u", "-m", "wsgidav.server.server_cli", "--host", "127.0.0.1"]);
                command.args(["--port", &port.to_string(), "--config"]).arg(home.join("config.yaml"));
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
    /// The only user.
    pub const fn user(&self) -> &'static str {
        USER
    }
    /// The user's password.
    pub const fn password(&self) -> &'static str {
        PASSWORD
    }
    /// The directory that it shows.
    pub fn root(&self) -> PathBuf {
        self.process.home().join("root")
    }
    /// A new, empty directory below the root.
    pub fn directory(&self, name: &str) -> String {
        self.process.owner().make_dir(&self.root().join(name));
        name.to_owned()
    }
}

const USER: &str = "refloat";
const PASSWORD: &str = "a secret of tests alone";
