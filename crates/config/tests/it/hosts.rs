//! Repositories on hosts and in accounts: SFTP, WebDAV, Dropbox, Google Drive. What is not whole is said, with what to write.

use crate::{parse, wrong_in_repository};

const SFTP: &str = "url = \"sftp://backup@box:2222/srv/db1\"\nencryption = \"none\"\n";
const KEY: &str = "credentials = { private_key = { file = \"/k\" } }\n";
const DROPBOX: &str = "url = \"dropbox://backup/db1\"\nencryption = \"none\"\n";
const DRIVE: &str = "url = \"gdrive://backup/db1\"\nencryption = \"none\"\n";
const APP: &str = "credentials = { client_id = \"app\", refresh_token = { file = \"/t\" } }\n";
const WEBDAV: &str = "url = \"webdavs://cloud/dav/db1\"\nencryption = \"none\"\n";

#[track_caller]
fn says(lines: &str, expected: &[&str]) {
    let said = wrong_in_repository(lines);
    for text in expected {
        assert!(said.contains(text), "{text}\nis not in\n{said}");
    }
}

#[test]
fn what_is_whole_is_accepted_and_shown() {
    for (lines, shown) in [
        (format!("{SFTP}{KEY}known_hosts = \"/etc/refloat/known_hosts\""), "known_hosts"),
        (format!("{WEBDAV}credentials = {{ user = \"backup\", password = {{ file = \"/p\" }} }}"), "backup"),
        (format!("{WEBDAV}ca_file = \"/ca.pem\""), "/ca.pem"),
        (format!("{DROPBOX}{APP}"), "app"),
        (format!("{DRIVE}{APP}endpoint = \"http://127.0.0.1:9\""), "127.0.0.1"),
        (format!("{DRIVE}credentials = {{ access_token = {{ command = [\"/bin/issue\"] }} }}"), "/bin/issue"),
    ] {
        let config =
            parse(&format!("[repository.offsite]\n{lines}\n")).unwrap_or_else(|e| panic!("{lines}: {e}"));
        let all = config.show(false);
        assert!(all.contains(shown), "{shown} is not in {all}");
    }
}

#[test]
fn a_server_has_to_be_recognised() {
    says(
        &format!("{SFTP}{KEY}"),
        &[
            "CFG-007",
            "offsite.known_hosts: it has to be said how the server is recognised",
            "known_hosts = \"/path\"",
        ],
    );
}

#[test]
fn credentials_have_to_be_whole_and_of_the_right_kind() {
    says(
        &format!("{SFTP}known_hosts = \"/h\""),
        &["offsite.credentials: the private key has to be said", "Write { private_key = { file = … } }"],
    );
    let password = "credentials = { user = \"a\", password = { file = \"/p\" } }";
    says(&format!("{SFTP}known_hosts = \"/h\"\n{password}"), &["offsite.credentials: SFTP has no \""]);
    says(
        &format!("{WEBDAV}credentials = {{ user = \"a\" }}"),
        &["offsite.credentials: these are not whole", "Write { user = \"…\", password = { file = … } }."],
    );
    says(
        "url = \"sftp://box/srv\"\nencryption = \"none\"\ncredentials = { private_key = { file = \"/k\" } }\nknown_hosts = \"/h\"",
        &["offsite.url: the user has to be said", "Write url = \"sftp://user@host/path\"."],
    );
    says(
        &format!("{SFTP}{KEY}known_hosts = \"/h\"\nca_file = \"/ca\""),
        &["offsite.ca_file: SFTP (sftp://) has no"],
    );
    says(
        &format!("{WEBDAV}known_hosts = \"/h\""),
        &["offsite.known_hosts: WebDAV (webdavs://) has no such thing"],
    );
}

#[test]
fn an_account_has_to_be_said_in_one_way() {
    says(DROPBOX, &["offsite.credentials: it has to be said who this host is there", "Write { client_id = "]);
    says(DRIVE, &["CFG-007", "offsite.credentials: it has to be said who this host is there"]);
    let file = "{ file = \"/t\" }";
    for half in [
        "client_id = \"app\"".to_owned(),
        format!("refresh_token = {file}"),
        format!("client_id = \"app\", client_secret = {file}"),
        format!("client_id = \"app\", refresh_token = {file}, access_token = {file}"),
    ] {
        says(&format!("{DRIVE}credentials = {{ {half} }}"), &["offsite.credentials: these are not whole"]);
    }
    says(
        &format!("{DROPBOX}credentials = {{ client_id = \"app\", refresh_token = \"hunter2\" }}"),
        &["CFG-013", "refresh_token is a secret; it cannot stand in the configuration itself"],
    );
    says(
        &format!("{DROPBOX}credentials = {{ user = \"a\", password = {file} }}"),
        &["offsite.credentials: Dropbox has no \""],
    );
    says(&format!("{WEBDAV}{APP}"), &["offsite.credentials: WebDAV has no \"client_id\""]);
    says(
        &format!("{DRIVE}{APP}region = \"eu\""),
        &["offsite.region: Google Drive (gdrive://) has no such thing"],
    );
}
