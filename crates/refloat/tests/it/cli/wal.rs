//! `wal push` and `wal fetch` as PostgreSQL starts them: in the data directory, without any environment.

use super::errors::{Run, Scene, run};

fn in_data(scene: &Scene, arguments: &[&str]) -> Run {
    let mut command = scene.command(arguments);
    command.current_dir(scene.path("data"));
    run(&mut command)
}

#[test]
fn fetch_never_says_that_a_file_does_not_exist_when_it_cannot_know() {
    let scene = Scene::new();
    scene.configure("wal_fetch_timeout = \"1s\"");
    let segment = "000000010000000000000001";
    let answer = in_data(&scene, &["wal", "fetch", segment, "dest"]);
    assert_eq!(answer.code, 255, "there is no repository: {}", answer.stderr);
    assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    assert!(
        answer.stderr.chars().count() < 201 && answer.stderr.starts_with("refloat["),
        "{}",
        answer.stderr
    );
    scene.write("data/standby.signal", "", 0o600);
    assert_eq!(in_data(&scene, &["wal", "fetch", segment, "dest"]).code, 1, "a standby asks again");
    std::fs::remove_file(scene.path("data/standby.signal")).expect("own file");
    for bad in [
        &["wal", "fetch", "nonsense", "dest"][..],
        &["wal", "fetch"],
        &["wal", "fetch", "--source", "nosuch", segment, "dest"],
    ] {
        assert_eq!(in_data(&scene, bad).code, 255, "{bad:?}");
    }
    scene.write("refloat.toml", "[nonsense", 0o644);
    assert_eq!(in_data(&scene, &["wal", "fetch", segment, "dest"]).code, 255, "a broken configuration");
}

#[test]
fn push_refuses_in_one_line_and_below_126() {
    let scene = Scene::new();
    scene.configure("wal_push_timeout = \"2s\"");
    let answer = in_data(&scene, &["wal", "push", "pg_wal/000000010000000000000001"]);
    assert!((1..126).contains(&answer.code), "{}", answer.code);
    assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    assert_eq!(answer.stdout, "");
}

#[test]
fn a_clone_pushes_nothing_before_any_source_is_looked_for() {
    let scene = Scene::new();
    let locked = |purpose: &str| {
        format!(
            "{{\"restore\":\"k7r2\",\"source\":\"prod\",\"backup\":\"k7m2qxw4\",\"at\":\"2026-11-20T02:31:00Z\",\
             \"purpose\":\"{purpose}\",\"system\":\"7710425206455319854\"}}"
        )
    };
    scene.write("data/refloat.locked", &locked("undecided"), 0o600);
    let answer = in_data(&scene, &["wal", "push", "pg_wal/000000010000000000000001"]);
    assert_eq!(answer.code, 4, "{}", answer.stderr);
    assert!(answer.stderr.contains("archiving is locked: restored from prod"), "{}", answer.stderr);
    scene.write("data/refloat.locked", &locked("copy"), 0o600);
    let answer = in_data(&scene, &["wal", "push", "pg_wal/000000010000000000000001"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (0, ""));
    scene.write("data/refloat.locked", "garbage", 0o600);
    assert_ne!(
        in_data(&scene, &["wal", "push", "pg_wal/000000010000000000000001"]).code,
        0,
        "unreadable counts as locked"
    );
}
