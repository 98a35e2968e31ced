//! What goes to stdout, what to stderr, and in which shape.

use super::errors::{Run, Scene};

#[test]
fn json_is_one_document_on_stdout_and_errors_are_one_on_stderr() {
    let scene = Scene::new();
    let Run { code, stdout, stderr } = scene.run(&["init", "--key-kept", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let document: serde_json::Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(document["format"], 1);
    assert_eq!(document["repositories"][0]["made"], true);
    assert_eq!(document["postgresql_conf"].as_array().map(Vec::len), Some(3));
    let again = scene.run(&["init", "--key-kept", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&again.stdout).expect("one document");
    assert_eq!(document["repositories"][0]["made"], false, "init is safe to repeat");

    let failed = scene.run(&["show", "k7m2qxw4", "--json"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (2, ""));
    let document: serde_json::Value = serde_json::from_str(&failed.stderr).expect("one document");
    assert_eq!(document["error"]["exit_code"], 2);
    assert!(document["error"]["code"].as_str().is_some_and(|code| code.starts_with("CLI-")));
    for command in [
        &["list", "--json"][..],
        &["status", "--json"],
        &["repository", "list", "--json"],
        &["config", "show", "--json"],
        &["--json"],
        &["verify", "--json"],
    ] {
        let run = scene.run(command);
        assert_eq!(run.code, 0, "{command:?}: {}", run.stderr);
        let document: serde_json::Value = serde_json::from_str(&run.stdout).expect("one document");
        assert_eq!(document["format"], 1, "{command:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scene = Scene::new();
    let mut command = scene.command(&["config", "schema"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn operations_are_recorded_whether_they_succeed_or_fail() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["init", "--key-kept"]).code, 0);
    // There is no server: the backup fails.
    assert_eq!(scene.run(&["backup", "prod"]).code, 5);
    let log = std::fs::read_to_string(scene.path("state/log/operations.jsonl")).expect("it is kept");
    let records: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len(), 2, "{log}");
    assert_eq!((&records[0]["operation"], &records[0]["result"]), (&"init".into(), &"done".into()));
    assert_eq!((&records[1]["operation"], &records[1]["result"]), (&"backup".into(), &"failed".into()));
    assert!(records[1]["detail"].as_str().is_some_and(|detail| detail.starts_with("SRV-005")), "{log}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(scene.path("state/log/operations.jsonl"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(scene.count("repo/operations"), 2, "and in the repository");
}

#[test]
fn the_environment_decides_nothing_but_where_the_configuration_is() {
    let scene = Scene::new();
    let mut command = scene.bare(&["config", "check"]);
    command.env("REFLOAT_CONFIG", scene.path("refloat.toml"));
    assert!(command.output().expect("starts").status.success());
    let without = scene.bare(&["config", "check"]).output().expect("starts");
    assert_eq!(without.status.code(), Some(2));
}
