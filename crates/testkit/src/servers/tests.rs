//! The servers start, are what they are said to be, and come back on the same port.

use std::os::unix::fs::MetadataExt as _;

use super::{Azurite, Garage, GcsEmulator, Moto, S3sFs, Sshd, SshdOptions, WebDav};
use crate::cluster::run;
use crate::http;

#[test]
fn s3s_fs_is_killed_and_comes_back() {
    let Some(server) = S3sFs::start() else { return };
    let bucket = server.bucket("backups");
    let target = format!("/{bucket}/object");
    // Without a signature it refuses: it checks them.
    assert_eq!(http::request(server.port(), "PUT", &target, &[], b"x").unwrap().status, 403);
    server.kill();
    http::request(server.port(), "GET", &target, &[], b"").unwrap_err();
    server.restart();
    assert_eq!(http::request(server.port(), "GET", &target, &[], b"").unwrap().status, 403);
}

#[test]
fn moto_has_versions_and_locks() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("plain");
    server.must("PUT", &format!("/{bucket}/k"), &[], "x");
    let headers = [("Authorization", super::Moto::SIGNED), ("If-None-Match", "*")];
    let refused = http::request(server.port(), "PUT", "/plain/k", &headers, b"y").unwrap();
    assert_eq!(refused.status, 412, "conditional put");
    let versioned = server.versioned_bucket("versioned");
    assert!(server.must("GET", &format!("/{versioned}?versioning"), &[], "").contains("Enabled"));
    let locked = server.locked_bucket("locked", "GOVERNANCE", 3);
    let said = server.must("GET", &format!("/{locked}?object-lock"), &[], "");
    assert!(said.contains("GOVERNANCE") && said.contains("<Days>3</Days>"), "{said}");
}

#[test]
fn garage_is_killed_and_comes_back() {
    let Some(server) = Garage::start() else { return };
    let bucket = server.bucket("backups");
    let target = format!("/{bucket}/object");
    // Without a signature it refuses: it checks them.
    assert_eq!(http::request(server.port(), "PUT", &target, &[], b"x").unwrap().status, 403);
    server.restart();
    assert_eq!(http::request(server.port(), "GET", &target, &[], b"").unwrap().status, 403);
    assert_eq!(server.bucket("others"), "others", "its own client reaches it again");
}

#[test]
fn azurite_makes_a_container() {
    let Some(server) = Azurite::start() else { return };
    assert_eq!(server.container("backups"), "backups");
    let refused =
        http::request(server.port(), "GET", "/refloattest/backups?restype=container", &[], b"").unwrap();
    assert_eq!(refused.status, 403, "it checks keys");
}

#[test]
fn the_gcs_emulator_makes_a_bucket() {
    let Some(server) = GcsEmulator::start() else { return };
    let bucket = server.bucket("backups");
    let put = http::request(
        server.port(),
        "POST",
        &format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name=k"),
        &[("Content-Type", "application/octet-stream")],
        b"body",
    );
    assert_eq!(put.unwrap().status, 200);
    let got = http::request(server.port(), "GET", &format!("/storage/v1/b/{bucket}/o/k?alt=media"), &[], b"")
        .unwrap();
    assert_eq!((got.status, got.text().as_str()), (200, "body"));
}

#[test]
fn webdav_asks_for_a_password() {
    let Some(server) = WebDav::start() else { return };
    let directory = server.directory("d");
    let target = format!("/{directory}/file");
    assert_eq!(http::request(server.port(), "PUT", &target, &[], b"x").unwrap().status, 401);
    let basic = data_encoding::BASE64.encode(format!("{}:{}", server.user(), server.password()).as_bytes());
    let authorization = format!("Basic {basic}");
    let answer =
        http::request(server.port(), "PUT", &target, &[("Authorization", &authorization)], b"x").unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(std::fs::read(server.root().join("d/file")).unwrap(), b"x");
}

/// Talks to a server as OpenSSH's own client, in batch mode.
fn sftp(
    server: &Sshd,
    known_hosts: &std::path::Path,
    options: &[&str],
    commands: &str,
) -> std::process::Output {
    use std::io::Write as _;
    let owner = crate::cluster::Owner::current();
    let mut command = owner.command("sftp");
    command.args([
        "-b",
        "-",
        "-v",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-F",
        "none",
    ]);
    command.args(options).arg("-P").arg(server.port().to_string()).arg("-i").arg(server.private_key());
    command.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    command.arg("-o").arg("GlobalKnownHostsFile=none").arg(format!("{}@127.0.0.1", server.user()));
    let piped = std::process::Stdio::piped;
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn sshd_lets_the_key_in_and_can_lack_extensions() {
    let Some(server) = Sshd::start() else { return };
    let directory = server.directory("d");
    let commands = format!("mkdir {}/made\n", directory.display());
    let output = sftp(&server, &server.known_hosts(), &[], &commands);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", server.log());
    assert!(said.contains("fsync@openssh.com") || !said.contains("extension"), "{said}");
    assert_eq!(directory.join("made").metadata().unwrap().uid(), directory.metadata().unwrap().uid());
    assert!(server.host_fingerprint().starts_with("SHA256:"));
    let wrong = sftp(&server, &server.wrong_known_hosts(), &[], "ls\n");
    assert!(!wrong.status.success(), "another host key is refused");
    let key = server.locked_private_key();
    let text = run(crate::cluster::Owner::current()
        .command("ssh-keygen")
        .args(["-y", "-P", server.passphrase(), "-f"])
        .arg(key));
    assert!(text.starts_with("ssh-ed25519 "), "{text}");

    let lesser = Sshd::start_with(&SshdOptions { denied: vec!["fsync", "hardlink"] }).expect("sshd is here");
    let directory = lesser.directory("d");
    let commands = format!("cd {}\nmkdir a\nln a b\n", directory.display());
    let output = sftp(&lesser, &lesser.known_hosts(), &[], &commands);
    assert!(!output.status.success(), "a hard link needs the extension");
    assert!(directory.join("a").is_dir(), "{}", String::from_utf8_lossy(&output.stderr));
}
