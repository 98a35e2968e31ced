//! What a real bash offers at TAB, and what the other shells are told.

use std::process::{Command, Stdio};

use refloat_testkit::skipped;

use super::errors::{Run, Scene, run};

/// Does what bash does at TAB behind the last of `words`.
const TAB: &str = r#"
    source <("$1" completions bash) || exit
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    word=${COMP_WORDS[COMP_CWORD]}
    [ "$word" != = ] || word=
    _refloat "$1" "$word" "${COMP_WORDS[COMP_CWORD - 1]}"
    for word in "${COMPREPLY[@]}"; do printf '%s\n' "$word"; done
"#;

/// What bash offers, with `bash` as who runs it.
pub(crate) fn offered(mut bash: Command, words: &[&str]) -> Vec<String> {
    let run = run(bash.args(["-c", TAB, "bash"]).arg(crate::program()).args(words).stdin(Stdio::null()));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{words:?}");
    run.stdout.lines().map(str::to_owned).collect()
}

/// What bash offers in the scene's directory, with its configuration.
fn offers(scene: &Scene, words: &[&str]) -> Vec<String> {
    let config = scene.path("refloat.toml").display().to_string();
    let mut all = vec!["--config", &config];
    all.extend(words);
    offered(scene.program("bash"), &all)
}

#[test]
fn commands_and_options_are_offered() {
    let scene = Scene::new();
    assert_eq!(offers(&scene, &["re"]), ["restore", "repository"]);
    assert_eq!(offers(&scene, &["wal", "sw"]), ["switch"]);
    assert_eq!(
        offers(&scene, &["restore", "prod", "--target-"]),
        [
            "--target-time",
            "--target-lsn",
            "--target-xid",
            "--target-name",
            "--target-exclusive",
            "--target-timeline",
            "--target-action"
        ]
    );
    let all = offers(&scene, &[""]);
    assert!(all.contains(&"backup".to_owned()) && all.contains(&"completions".to_owned()), "{all:?}");
    assert!(!all.iter().any(|word| word.starts_with('-') || word == "complete-values"), "{all:?}");
    // Values that are words, whoever checks them.
    assert_eq!(offers(&scene, &["restore", "prod", "--as", ""]), ["primary", "copy", "standby"]);
    assert_eq!(offers(&scene, &["restore", "prod", "--target", "im"]), ["immediate"]);
    assert_eq!(offers(&scene, &["completions", ""]), ["bash", "zsh", "fish"]);
}

#[test]
fn names_of_the_configuration_are_offered() {
    let scene = Scene::new();
    for words in
        [&["restore", "pr"][..], &["backup", ""], &["wal", "push", "--source", "p"], &["-v", "status", ""]]
    {
        assert_eq!(offers(&scene, words), ["prod"], "{words:?}");
    }
    assert_eq!(offers(&scene, &["restore", "x"]), [""; 0]);
    assert_eq!(offers(&scene, &["-r", "ba"]), ["backup"]);
    // bash makes words of what stands around `=`.
    assert_eq!(offers(&scene, &["list", "--repository", "=", "ba"]), ["backup"]);
    assert_eq!(offers(&scene, &["list", "--repository", "="]), ["backup"]);
    let config = scene.path("refloat.toml").display().to_string();
    assert_eq!(offered(scene.program("bash"), &["--config", "=", &config, "restore", "pr"]), ["prod"]);
}

#[test]
fn files_and_directories_are_left_to_the_shell() {
    let scene = Scene::new();
    assert_eq!(offers(&scene, &["restore", "prod", "--to", "./d"]), ["./data"]);
    assert_eq!(offers(&scene, &["-r", "file:///x", "--passphrase-file", "pass"]), ["passphrase"]);
}

/// In the middle of a line nothing is said, asked or written, whatever is wrong.
#[test]
fn a_configuration_that_cannot_be_used_gives_nothing() {
    let scene = Scene::new();
    let before = scene.state();
    let config = scene.path("refloat.toml").display().to_string();
    let program = crate::program();
    let ask = |words: &[&str]| {
        let index = (words.len() + 2).to_string();
        let mut all = vec!["complete-values", "bash", &index, "--", &program, "--config", &config];
        all.extend(words);
        let Run { code, stdout, stderr } = run(scene.bare(&all).stdin(Stdio::null()));
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        stdout
    };
    assert_eq!(ask(&["restore", "pr"]), "prod\n");
    assert_eq!(ask(&["restore", "prod", ""]), "latest\n", "the repository is not there");
    scene.configure("jobs = 0");
    assert_eq!(ask(&["restore", "pr"]), "");
    scene.configure("");
    assert_eq!(scene.state().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    scene.write("refloat.toml", "", 0o000);
    assert_eq!(ask(&["restore", "pr"]), "");
    std::fs::remove_file(scene.path("refloat.toml")).expect("own file");
    assert_eq!(ask(&["restore", "pr"]), "");
    assert_eq!(ask(&["lis"]), "list\n", "commands are known without it");
}

#[test]
fn a_repository_that_this_host_has_not_opened_is_left_alone() {
    let scene = Scene::new();
    assert_eq!(scene.run(&["init", "--key-kept"]).code, 0);
    assert_eq!(offers(&scene, &["show", ""]), [""; 0], "there are no backups");
    // Another host has no state yet: the passphrase could be read, and is not.
    std::fs::remove_dir_all(scene.path("state")).expect("own directory");
    let before = scene.state();
    assert_eq!(offers(&scene, &["show", ""]), [""; 0]);
    assert_eq!(scene.state(), before, "nothing was written");
}

#[test]
fn the_scripts_are_what_their_shells_understand() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = scene.run(&["completions", shell]).stdout;
        assert!(script.contains(&format!("complete-values {shell} ")), "{script}");
        scene.write("script", &script, 0o644);
        match Command::new(shell).arg("-n").arg(scene.path("script")).output() {
            Ok(output) => {
                assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
            }
            Err(_) => skipped(&format!("{shell} is not here; its completions were not tried")),
        }
    }
    let told = |shell: &str| {
        let config = scene.path("refloat.toml").display().to_string();
        let all = ["complete-values", shell, "4", "--", "refloat", "--config", &config, "restore", ""];
        run(&mut scene.bare(&all)).stdout.replace(&scene.path("").display().to_string(), "HOME/")
    };
    assert_eq!(told("zsh"), "prod:HOME/data\n");
    assert_eq!(told("fish"), "prod\tHOME/data\n");
}
