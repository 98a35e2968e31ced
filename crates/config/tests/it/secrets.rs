//! Secrets: where they are read, who may read them, and that they never show.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use insta::assert_snapshot;
use refloat_config::{Encryption, Secret, SecretError, SecretReader, SecretRef};
use tempfile::TempDir;

use crate::{parse, printed};

fn secret(reference: &str) -> SecretRef {
    let text =
        format!("[repository.offsite]\nurl = \"file:///b\"\nencryption = {{ passphrase = {reference} }}\n");
    let config = parse(&text).expect("it is right");
    let repository = config.repositories.values().next().expect("there is one");
    let Encryption::Passphrase(secret) = &repository.encryption else {
        panic!("{:?}", repository.encryption)
    };
    secret.clone()
}

fn in_file(path: &Path) -> SecretRef {
    secret(&format!("{{ file = {:?} }}", path.display().to_string()))
}

fn no_environment(_: &str) -> Option<OsString> {
    None
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

/// The printed error; the file's directory and this user's names replaced.
fn shown(error: &SecretError, directory: &Path) -> String {
    printed(error).replace(&directory.display().to_string(), "/DIR")
}

#[test]
fn a_secret_never_shows() {
    let secret = Secret::new("hunter2".to_owned());
    assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** Secret(***) Some(Secret(***))");
    assert_eq!(secret.expose(), "hunter2");
}

#[test]
fn each_way_leads_to_the_secret() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("pass");
    fs::write(&file, " turbine lava\n\r\n").expect("it can be written");
    set(&file, 0o600);
    let credentials = directory.path().to_owned();
    let environment = move |name: &str| match name {
        "PASS" => Some(OsString::from("from the environment")),
        "CREDENTIALS_DIRECTORY" => Some(credentials.clone().into_os_string()),
        _ => None,
    };
    let reader = SecretReader::current(&environment);
    // What it says that it goes by is all that it is given.
    let read = |secret: SecretRef| {
        let given = |name: &str| environment(name).filter(|_| secret.variable() == Some(name));
        let alone = secret.read(&SecretReader::current(&given)).expect("it can be read").expose().to_owned();
        assert_eq!(secret.read(&reader).expect("it can be read").expose(), alone);
        alone
    };
    assert_eq!(read(in_file(&file)), " turbine lava", "only newlines at the end are left out");
    assert_eq!(read(secret("{ env = \"PASS\" }")), "from the environment");
    assert_eq!(read(secret("{ credential = \"pass\" }")), " turbine lava");
    assert_eq!(read(secret("{ command = [\"/bin/echo\", \"from a program\"] }")), "from a program");
}

#[test]
fn rights_of_ones_own_file() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("pass");
    fs::write(&file, "x\n").expect("it can be written");
    let reader = SecretReader::current(&no_environment);
    for (mode, good) in [
        (0o600, true),
        (0o400, true),
        (0o640, rustix::process::geteuid().is_root()),
        (0o644, false),
        (0o604, false),
        (0o660, false),
        (0o602, false),
        (0o620, false),
    ] {
        set(&file, mode);
        let read = in_file(&file).read(&reader);
        assert_eq!(read.is_ok(), good, "{mode:o}: {read:?}");
        assert_eq!(in_file(&file).check(&reader).is_ok(), good, "{mode:o}");
    }
}

/// Root reads on behalf of `nobody`, so that files of root, of nobody and of a third can be made.
#[test]
fn rights_as_seen_by_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("pass");
    fs::write(&file, "x\n").expect("it can be written");
    let reader = SecretReader::on_behalf_of(65_534, vec![65_534], &no_environment);
    for (owner, group, mode, good) in [
        (0, 65_534, 0o640, true),
        (0, 65_534, 0o440, true),
        (0, 0, 0o600, true),
        (0, 0, 0o640, true),
        (0, 1, 0o640, false),
        (0, 65_534, 0o660, false),
        (0, 65_534, 0o644, false),
        (65_534, 65_534, 0o600, true),
        (65_534, 65_534, 0o640, false),
        (1, 65_534, 0o600, false),
        (1, 65_534, 0o640, false),
    ] {
        chown(&file, Some(owner), Some(group)).expect("root may");
        set(&file, mode);
        assert_eq!(in_file(&file).read(&reader).is_ok(), good, "{owner}:{group} {mode:o}");
    }
}

#[test]
fn a_secret_that_everybody_can_read_is_refused_with_the_line_that_mends_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("pass phrase");
    fs::write(&file, "hunter2\n").expect("it can be written");
    set(&file, 0o644);
    let nobody = SecretReader::on_behalf_of(65_534, vec![65_534], &no_environment);
    let error = in_file(&file).read(&nobody).expect_err("everybody can read it");
    assert_snapshot!(shown(&error, directory.path()), @r"
    error[SEC-002]: /DIR/pass phrase can be read by everybody (-rw-r--r-- root root)
      safe:   nothing was read from or written to a repository
      hint:   sudo chown root:nogroup '/DIR/pass phrase' && sudo chmod 640 '/DIR/pass phrase'
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    ");
    let error =
        in_file(&file).read(&SecretReader::current(&no_environment)).expect_err("everybody can read it");
    assert_snapshot!(shown(&error, directory.path()), @r"
    error[SEC-002]: /DIR/pass phrase can be read by everybody (-rw-r--r-- root root)
      safe:   nothing was read from or written to a repository
      hint:   sudo chown root:root '/DIR/pass phrase' && sudo chmod 600 '/DIR/pass phrase'
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    ");
    set(&file, 0o640);
    chown(&file, Some(65_534), Some(0)).expect("root may");
    let error = in_file(&file).read(&SecretReader::current(&no_environment)).expect_err("another user's");
    assert_snapshot!(shown(&error, directory.path()), @r#"
    error[SEC-002]: /DIR/pass phrase belongs to user "nobody" (-rw-r----- nobody root)
      safe:   nothing was read from or written to a repository
      hint:   sudo chown root:root '/DIR/pass phrase' && sudo chmod 600 '/DIR/pass phrase'
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    "#);
}

#[test]
fn secrets_that_cannot_be_had() {
    let directory = TempDir::new().expect("a temporary directory");
    let reader = SecretReader::current(&no_environment);
    let fails =
        |secret: SecretRef| shown(&secret.read(&reader).expect_err("it cannot be read"), directory.path());
    let file = directory.path().join("pass");
    assert_snapshot!(fails(in_file(&file)), @r"
    error[SEC-001]: could not read the secret /DIR/pass
      cause:  No such file or directory (os error 2)
      safe:   nothing was read from or written to a repository
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    ");
    assert_snapshot!(fails(in_file(directory.path())), @r"
    error[SEC-001]: could not read the secret /DIR
      cause:  it is not a regular file
      safe:   nothing was read from or written to a repository
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    ");
    for (content, why) in [
        (&b"\n"[..], "is empty"),
        (b" \n", "is empty"),
        (b"a\xff", "is not UTF-8 text"),
        (b"a\0b", "holds a zero byte"),
        (&[b'a'; (64 << 10) + 1], "is longer than 64 KiB"),
    ] {
        fs::write(&file, content).expect("it can be written");
        set(&file, 0o600);
        let error = in_file(&file).read(&reader).expect_err(why);
        assert_eq!(error.to_string(), format!("the secret in {} {why}", file.display()));
    }
    fs::write(&file, "").expect("it can be written");
    assert_snapshot!(fails(in_file(&file)), @r"
    error[SEC-003]: the secret in /DIR/pass is empty
      safe:   nothing was read from or written to a repository
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    ");
    assert_snapshot!(fails(secret("{ env = \"PASS\" }")), @r"
    error[SEC-004]: the environment variable PASS is not set
      safe:   nothing was read from or written to a repository
      hint:   PostgreSQL starts its archiver with an empty environment on Debian; { file = … } works everywhere.
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    ");
    assert_snapshot!(fails(secret("{ credential = \"pass\" }")), @r#"
    error[SEC-005]: the systemd credential "pass" cannot be found: CREDENTIALS_DIRECTORY is not set
      safe:   nothing was read from or written to a repository
      hint:   Only a systemd service has credentials: LoadCredential=pass:/path in its unit; elsewhere use { file = … }.
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    "#);
    assert_snapshot!(fails(secret("{ command = [\"/bin/sh\", \"-c\", \"echo denied >&2; exit 7\"] }")), @r"
    error[SEC-006]: could not get a secret from /bin/sh: exit status: 7: denied
      safe:   nothing was read from or written to a repository
      hint:   Run the program as the user Refloat runs as; its environment is empty but for PATH.
      hint:   It is named by repository.offsite.encryption.passphrase at /etc/refloat/refloat.toml:3.
      exit:   2
    ");
}

#[test]
fn a_pipe_in_the_place_of_a_secret_does_not_hold_us() {
    let directory = TempDir::new().expect("a temporary directory");
    let pipe = directory.path().join("pass");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("it can be made");
    let error = in_file(&pipe).read(&SecretReader::current(&no_environment)).expect_err("no regular file");
    assert_eq!(error.to_string(), format!("could not read the secret {}", pipe.display()));
}

#[test]
fn checking_does_not_run_the_program() {
    let directory = TempDir::new().expect("a temporary directory");
    let reader = SecretReader::current(&no_environment);
    let mark = directory.path().join("mark");
    let touch = secret(&format!("{{ command = [\"/usr/bin/touch\", {:?}] }}", mark.display().to_string()));
    touch.check(&reader).expect("it is a program");
    assert!(!mark.exists());
    let error = secret("{ command = [\"/etc/passwd\"] }").check(&reader).expect_err("it is none");
    assert_eq!(error.to_string(), "could not get a secret from /etc/passwd: it is no program");
}

/// The whole of what can be printed about a configuration, searched for what must not be in it.
#[test]
fn no_fault_repeats_what_could_be_a_secret() {
    const SECRET: &str = "hunter2";
    for text in [
        "[repository.a]\nurl = \"s3://k:hunter2@b\"\nencryption = \"hunter2\"",
        "[repository.a]\nurl = \"hunter2\"\nencryption = { passphrase = \"hunter2\" }",
        "[repository.a]\nencryption = { passphrase = { env = \"hunter2 x\" } }",
        "[repository.a]\nencryption = { passphrase = { credential = \"/hunter2\" } }",
        "[repository.a]\nencryption = { identity = \"hunter2\", recipients = [\"AGE-SECRET-KEY-hunter2\"] }",
        "[repository.a]\ncredentials = { secret_access_key = \"hunter2\", session_token = \"hunter2\" }",
        "[repository.a]\nencryption = { passphrase = [\"hunter2\"] }",
        "[repository.a]\nencryption = { passphrase = hunter2 }",
        "[repository.a]\npassword = \"hunter2\"",
        "[source.a]\nkind = \"postgres\"\nconnection = \"host=a password=hunter2\"",
        "[source.a]\nkind = \"postgres\"\nconnection = \"postgresql://u:hunter2@h\"",
    ] {
        let error = parse(text).expect_err(text);
        let all = format!("{}{error:?}", printed(&error));
        assert!(!all.contains(SECRET), "{text}\n{all}");
    }
}
