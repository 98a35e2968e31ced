//! OpenSSH's server, for SFTP: as the tests' user, who logs in with a key. Can be told to lack extensions, as other
//! servers do.

use std::fs;
use std::path::{Path, PathBuf};

use super::process::{ServerProcess, accepts};
use super::{is_a_server, need};
use crate::cluster::{Owner, run};

/// A running sshd.
#[derive(Debug)]
pub struct Sshd {
    process: ServerProcess,
}

/// What it is to be like.
#[derive(Debug, Clone, Default)]
pub struct SshdOptions {
    /// Requests that are refused and not offered, as `sftp-server -P` names them: "fsync", "hardlink".
    pub denied: Vec<&'static str>,
}

is_a_server!(Sshd);

impl Sshd {
    /// Starts one that can do everything; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(&SshdOptions::default())
    }

    /// Starts one that is told what to lack.
    pub fn start_with(options: &SshdOptions) -> Option<Self> {
        let program = need("OpenSSH's server", &["/usr/sbin/sshd"])?;
        let options = options.clone();
        if nix::unistd::geteuid().is_root() {
            // Where sshd gives up its rights; a package's start makes it, and no service was started.
            let _ = fs::create_dir_all("/run/sshd");
        }
        let process = ServerProcess::begin(
            "sshd",
            prepare,
            move |owner, home, port| {
                fs::write(home.join("config"), config(home, port, &options)).expect("own directory");
                owner.give(&home.join("config"));
                let mut command = owner.command(&program);
                command.arg("-D").arg("-e").arg("-f").arg(home.join("config"));
                command
            },
            accepts,
        );
        Some(Self { process })
    }

    /// Who can log in.
    pub fn user(&self) -> String {
        self.process.owner().name.clone()
    }
    /// The user's private key, without a passphrase; mode 0600, the tests' user's own.
    pub fn private_key(&self) -> PathBuf {
        self.process.home().join("user_key")
    }
    /// The same key under the passphrase [`Sshd::passphrase`].
    pub fn locked_private_key(&self) -> PathBuf {
        self.process.home().join("locked_key")
    }
    /// What opens [`Sshd::locked_private_key`].
    pub const fn passphrase(&self) -> &'static str {
        PASSPHRASE
    }
    /// A file with this server's key under this address and port.
    pub fn known_hosts(&self) -> PathBuf {
        let path = self.process.home().join("known_hosts");
        fs::write(&path, self.known_hosts_line(self.port())).expect("own directory");
        self.process.owner().give(&path);
        path
    }
    /// A line with this server's key under another port, where something stands before it.
    pub fn known_hosts_line(&self, port: u16) -> String {
        format!("[127.0.0.1]:{port} {}", self.host_public_key())
    }
    /// A file that knows another key for this server: as when somebody stands in between.
    pub fn wrong_known_hosts(&self) -> PathBuf {
        let path = self.process.home().join("wrong_known_hosts");
        let other = fs::read_to_string(self.process.home().join("user_key.pub")).expect("it was made");
        fs::write(&path, format!("[127.0.0.1]:{} {other}", self.port())).expect("own directory");
        self.process.owner().give(&path);
        path
    }
    /// `SHA256:...` of the server's key, as `ssh-keygen -l` prints it.
    pub fn host_fingerprint(&self) -> String {
        let key = self.process.home().join("host_key.pub");
        let said = run(std::process::Command::new("ssh-keygen").args(["-l", "-E", "sha256", "-f"]).arg(key));
        said.split(' ').nth(1).expect("size, fingerprint, comment").to_owned()
    }
    /// A new, empty directory that the user may write; its absolute path.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.process.home().join("files").join(name);
        self.process.owner().make_dir(&path);
        path
    }

    fn host_public_key(&self) -> String {
        fs::read_to_string(self.process.home().join("host_key.pub")).expect("it was made")
    }
}

const PASSPHRASE: &str = "a secret of tests alone";

fn prepare(owner: &Owner, home: &Path) {
    owner.make_dir(&home.join("files"));
    for (name, passphrase) in [("host_key", ""), ("user_key", ""), ("locked_key", PASSPHRASE)] {
        let file = home.join(name);
        if name == "locked_key" {
            fs::copy(home.join("user_key"), &file).expect("own directory");
            owner.give(&file);
            run(owner.command("ssh-keygen").args(["-q", "-p", "-P", "", "-N", passphrase, "-f"]).arg(&file));
        } else {
            run(owner
                .command("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-C", "tests", "-N", passphrase, "-f"])
                .arg(&file));
        }
    }
    fs::copy(home.join("user_key.pub"), home.join("authorized_keys")).expect("own directory");
    owner.give(&home.join("authorized_keys"));
}

fn config(home: &Path, port: u16, options: &SshdOptions) -> String {
    let home = home.display();
    let deny = match options.denied.as_slice() {
        [] => String::new(),
        denied => format!(" -P {}", denied.join(",")),
    };
    format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n\
         AuthorizedKeysFile {home}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         MaxStartups 100\nMaxSessions 100\nLogLevel VERBOSE\nSubsystem sftp internal-sftp{deny}\n"
    )
}
