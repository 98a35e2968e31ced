//! Garage: a real, clustered object store, one node of it. Checks signatures. It takes `If-None-Match` and the headers of
//! object lock, answers as if it had obeyed, and ignores them; it keeps no versions, and its keys may read, write or own a
//! bucket: whoever may write may delete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{ServerProcess, answers_http};
use super::{is_a_server, need};
use crate::cluster::{Owner, free_port, run};

/// A running Garage.
#[derive(Debug)]
pub struct Garage {
    process: ServerProcess,
    program: PathBuf,
}

is_a_server!(Garage);

impl Garage {
    /// Starts it; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        let program = need("garage", &["bin/garage"])?;
        let started = program.clone();
        let process = ServerProcess::begin(
            "garage",
            |owner, home| owner.make_dir(&home.join("data")),
            move |owner, home, port| {
                write_settings(owner, home, port);
                let mut command = owner.command(&started);
                command.arg("-c").arg(home.join(SETTINGS)).args(["server", "--single-node"]);
                command.arg("--default-access-key");
                command
                    .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS)
                    .env("GARAGE_DEFAULT_SECRET_KEY", SECRET)
                    .env("NO_COLOR", "1");
                command
            },
            answers_http,
        );
        Some(Self { process, program })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
    /// The region that it wants to be signed for.
    pub const fn region(&self) -> &'static str {
        REGION
    }
    /// A key that may read and write the buckets made here.
    pub const fn access_key(&self) -> &'static str {
        ACCESS
    }
    /// Its secret.
    pub const fn secret_key(&self) -> &'static str {
        SECRET
    }

    /// A new, empty bucket that the key may read and write.
    ///
    /// # Panics
    /// When Garage does not make it.
    #[track_caller]
    pub fn bucket(&self, name: &str) -> String {
        self.told(&["bucket", "create", name]);
        self.told(&["bucket", "allow", "--read", "--write", "--key", ACCESS, name]);
        name.to_owned()
    }

    /// What its own client says to these arguments.
    #[track_caller]
    fn told(&self, arguments: &[&str]) -> String {
        let mut command: Command = self.process.owner().command(&self.program);
        run(command.arg("-c").arg(self.process.home().join(SETTINGS)).args(arguments))
    }
}

/// One node; its own network is closed to everybody else, and on another free port with each start.
fn write_settings(owner: &Owner, home: &Path, port: u16) {
    let rpc = free_port();
    let at = home.display();
    let text = format!(
        "metadata_dir = \"{at}/data/meta\"\ndata_dir = \"{at}/data/blocks\"\ndb_engine = \"sqlite\"\n\
         replication_factor = 1\ncompression_level = \"none\"\n\
         rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{RPC}\"\n\n\
         [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{port}\"\nroot_domain = \".s3.garage\"\n"
    );
    let path = home.join(SETTINGS);
    fs::write(&path, text).expect("own directory");
    // It reads no secrets from a file that others may read.
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
    owner.give(&path);
}

const SETTINGS: &str = "garage.toml";
const REGION: &str = "garage";
/// Its keys have this form.
const ACCESS: &str = "GK5ec2e7a11052e7a110f7e575";
const SECRET: &str = "5ec2e7a110f7e5755ec2e7a110f7e5755ec2e7a110f7e5755ec2e7a110f7e575";
const RPC: &str = "0f7e5755ec2e7a110f7e5755ec2e7a110f7e5755ec2e7a110f7e5755ec2e7a11";
