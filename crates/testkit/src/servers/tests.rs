//! The servers start, are what they are said to be, and come back on the same port.

use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value as Json, json};

use super::{
    Azurite, DropboxDouble, Garage, GcsEmulator, GdriveDouble, Moto, S3sFs, Sshd, SshdOptions, WebDav,
};
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
    let headers = [("Authorization", Moto::SIGNED), ("If-None-Match", "*")];
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

/// An answer's status, and its body as JSON or as text.
fn ask(port: u16, what: (&str, &str), headers: &[(&str, &str)], body: &[u8]) -> (u16, Json) {
    let answer = http::request(port, what.0, what.1, headers, body).unwrap();
    let text = answer.text();
    (answer.status, serde_json::from_str(&text).unwrap_or_else(|_| Json::from(text)))
}

#[test]
fn the_double_of_dropbox_refuses_as_documented() {
    let double = DropboxDouble::start();
    let bearer = format!("Bearer {}", double.access_token());
    let send = |function: &str, argument: &Json, body: &[u8]| {
        let argument = argument.to_string();
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Dropbox-API-Arg", &argument),
            ("Content-Type", "application/octet-stream"),
        ];
        ask(double.port(), ("POST", &format!("/2/files/{function}")), &headers, body)
    };
    let call = |function: &str, argument: &Json| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let path = format!("/2/files/{function}");
        ask(double.port(), ("POST", &path), &headers, argument.to_string().as_bytes())
    };
    let tags =
        |answer: &(u16, Json)| (answer.0, answer.1["error_summary"].as_str().unwrap_or_default().to_owned());
    let refused = |tags: &str| (409, format!("{tags}/..."));

    assert_eq!(send("upload", &json!({ "path": "/a/x" }), b"x").1["path_display"], "/a/x");
    // The same bytes are no conflict where nobody says that they are; others are.
    assert_eq!(send("upload", &json!({ "path": "/A/X" }), b"x").0, 200);
    let strict = json!({ "path": "/a/x", "mode": "add", "strict_conflict": true });
    assert_eq!(tags(&send("upload", &strict, b"x")), refused("path/conflict/file"));
    assert_eq!(tags(&send("upload", &json!({ "path": "/a/x" }), b"y")), refused("path/conflict/file"));
    assert_eq!(tags(&send("upload", &json!({ "path": "/a" }), b"y")), refused("path/conflict/folder"));
    assert_eq!(
        tags(&send("upload", &json!({ "path": "/a/x/y" }), b"y")),
        refused("path/conflict/file_ancestor")
    );
    let renamed = send("upload", &json!({ "path": "/a/x", "autorename": true }), b"y");
    assert_eq!(renamed.1["path_display"], "/a/x (1)");
    let wrong = json!({ "path": "/b", "content_hash": "00" });
    assert_eq!(tags(&send("upload", &wrong, b"y")), refused("content_hash_mismatch"));
    for bad in [json!({ "path": "b" }), json!({ "path": "/b", "if_absent": true }), json!({})] {
        let (status, told) = send("upload", &bad, b"");
        assert!(
            status == 400 && told.as_str().unwrap().starts_with("Error in call to API function"),
            "{told}"
        );
    }
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/octet-stream")];
    assert_eq!(ask(double.port(), ("POST", "/2/files/list_folder"), &headers, b"{}").0, 400);

    assert_eq!(tags(&call("list_folder", &json!({ "path": "/none" }))), refused("path/not_found"));
    assert_eq!(tags(&call("delete_v2", &json!({ "path": "/none" }))), refused("path_lookup/not_found"));
    let other = json!({ "path": "/a/x", "parent_rev": "0" });
    assert_eq!(tags(&call("delete_v2", &other)), refused("path_write/conflict/file"));
    assert_eq!(call("delete_v2", &json!({ "path": "/a" })).0, 200, "a folder goes with what is in it");
    assert!(double.paths().is_empty());

    let begun = send("upload_session/start", &json!({}), b"12345");
    let cursor = |offset: u64| json!({ "session_id": begun.1["session_id"], "offset": offset });
    let answer = send("upload_session/append_v2", &json!({ "cursor": cursor(3) }), b"x");
    assert_eq!(
        (tags(&answer), &answer.1["error"]["correct_offset"]),
        (refused("incorrect_offset"), &json!(5))
    );
    let commit = |offset| json!({ "cursor": cursor(offset), "commit": { "path": "/s" } });
    let answer = send("upload_session/finish", &commit(4), b"");
    assert_eq!(tags(&answer), refused("lookup_failed/incorrect_offset"));
    assert_eq!(answer.1["error"]["lookup_failed"]["correct_offset"], 5);
    assert_eq!(send("upload_session/finish", &commit(5), b"6").1["size"], 6);
    assert_eq!(tags(&send("upload_session/finish", &commit(6), b"")), refused("lookup_failed/not_found"));

    double.expire_tokens();
    let expired = send("download", &json!({ "path": "/s" }), b"");
    assert_eq!(tags(&expired), (401, "expired_access_token/..".to_owned()));
}

#[test]
fn the_double_of_drive_refuses_as_documented() {
    let double = GdriveDouble::start();
    let bearer = format!("Bearer {}", double.access_token());
    let send = |method: &str, path: &str, more: &[(&str, &str)], body: &[u8]| {
        let headers: Vec<_> =
            [("Authorization", bearer.as_str())].into_iter().chain(more.iter().copied()).collect();
        ask(double.port(), (method, path), &headers, body)
    };
    let get = |path: &str| send("GET", path, &[], b"");
    let reason = |answer: &(u16, Json)| {
        (answer.0, answer.1["error"]["errors"][0]["reason"].as_str().unwrap_or_default().to_owned())
    };
    let is = |status: u16, reason: &str| (status, reason.to_owned());
    let json = [("Content-Type", "application/json")];

    assert_eq!(reason(&get("/drive/v3/files?q=name")), is(400, "invalid"));
    assert_eq!(reason(&get("/drive/v3/files?pageSize=1001")), is(400, "invalid"));
    assert_eq!(reason(&get("/drive/v3/about")), is(400, "required"));
    assert_eq!(reason(&get("/drive/v3/files/none")), is(404, "notFound"));
    assert_eq!(send("DELETE", "/drive/v3/files/none", &[], b"").0, 404);
    let id = get("/drive/v3/files/generateIds?count=1").1["ids"][0].as_str().unwrap().to_owned();
    let create = |what: Json| send("POST", "/drive/v3/files", &json, what.to_string().as_bytes());
    assert_eq!(create(json!({ "id": "own", "name": "a" })).0, 400, "an id is drawn there");
    assert_eq!(create(json!({ "id": id, "name": "a" })).1["id"], id.as_str());
    assert_eq!(reason(&create(json!({ "id": id, "name": "b" }))), is(409, "fileIdInUse"));
    assert_eq!(reason(&create(json!({ "name": "b", "parents": [id] }))), is(404, "notFound"), "no folder");
    assert_eq!(create(json!({ "name": "A" })).0, 200, "names are no condition");
    let found = get("/drive/v3/files?q=name%20%3D%20'a'%20and%20trashed%20%3D%20false");
    assert_eq!(found.1["files"].as_array().unwrap().len(), 2, "and have no case: {}", found.1);
    assert!(found.1["files"][0].get("createdTime").is_none(), "what is not asked for is not told");

    let begun = ask_location(double.port(), &bearer);
    let part = |range: &str, body: &[u8]| send("PUT", &begun, &[("Content-Range", range)], body);
    assert_eq!(part("bytes 0-9/*", &[1; 10]).0, 400, "no multiple of 256 KiB");
    assert_eq!(part("bytes 0-9/11", &[1; 10]).0, 400, "and not the last one");
    assert_eq!(part("bytes 0-8/9", &[1; 10]).0, 400, "another length");
    assert_eq!(part("bytes 0-262143/*", &[1; 262_144]).0, 308);
    assert_eq!(part("bytes */*", b"").0, 308);
    assert_eq!(double.ids_of("large").len(), 0, "not before its end");
    assert_eq!(part("bytes 262144-262144/262145", b"x").0, 200);
    assert_eq!(double.ids_of("large").len(), 1);
    assert_eq!(part("bytes */262145", b"").0, 200, "asked again");
    double.expire_tokens();
    assert_eq!(reason(&get("/drive/v3/files")), is(401, "authError"));
}

/// Begins an upload in parts, and answers where it goes on.
fn ask_location(port: u16, bearer: &str) -> String {
    let headers = [("Authorization", bearer), ("Content-Type", "application/json")];
    let target = "/upload/drive/v3/files?uploadType=resumable";
    let answer = http::request(port, "POST", target, &headers, b"{\"name\":\"large\"}").unwrap();
    let location = answer.headers.into_iter().find(|(name, _)| name == "location").unwrap().1;
    location.split_once("://").unwrap().1.split_once('/').map(|(_, path)| format!("/{path}")).unwrap()
}
