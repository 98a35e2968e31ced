//! The help of every command, as it is printed.

use std::process::Command;

fn help(words: &[&str]) -> String {
    let output = Command::new(crate::program())
        .env_clear()
        .env("COLUMNS", "100")
        .args(words)
        .arg("--help")
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).expect("text")
}

macro_rules! helps {
    ($($name:ident: [$($word:literal),*],)*) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!(help(&[$($word),*]));
        })*
    };
}

helps! {
    refloat: [],
    init: ["init"],
    check: ["check"],
    status: ["status"],
    backup: ["backup"],
    list: ["list"],
    show: ["show"],
    restore: ["restore"],
    takeover: ["takeover"],
    wal: ["wal"],
    wal_push: ["wal", "push"],
    wal_fetch: ["wal", "fetch"],
    wal_status: ["wal", "status"],
    wal_switch: ["wal", "switch"],
    verify: ["verify"],
    expire: ["expire"],
    hold: ["hold"],
    hold_add: ["hold", "add"],
    hold_remove: ["hold", "remove"],
    key: ["key"],
    key_confirm: ["key", "confirm"],
    key_sheet: ["key", "sheet"],
    key_list: ["key", "list"],
    key_rotate: ["key", "rotate"],
    key_rewrap: ["key", "rewrap"],
    key_invite: ["key", "invite"],
    repository_list: ["repository", "list"],
    config: ["config"],
    config_check: ["config", "check"],
    config_show: ["config", "show"],
    config_schema: ["config", "schema"],
    generate: ["generate"],
    generate_s3_lifecycle: ["generate", "s3-lifecycle"],
    generate_bucket_policy: ["generate", "bucket-policy"],
    generate_iam_policy: ["generate", "iam-policy"],
    explain: ["explain"],
    demo: ["demo"],
    completions: ["completions"],
}
