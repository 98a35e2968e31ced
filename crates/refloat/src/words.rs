//! Words of other tools and of later releases: each is answered with one line that names the right command.

use std::ffi::OsString;

use crate::error::CliError;

/// Options that take a value, so that the value is not taken for the command.
const WITH_VALUE: &[&str] = &["--config", "-r", "--repository", "--passphrase-file"];

/// Commands of the design that this release does not have.
const LATER: &[(&str, &str)] = &[
    (
        "setup",
        "To begin: write /etc/refloat/refloat.toml (refloat config schema), then refloat init and refloat check.",
    ),
    (
        "find",
        "Look for the moment in the server's log, then: refloat restore SOURCE 'TIME' --to DIR --as copy",
    ),
    ("recover", "Restore beside the server and look: refloat restore SOURCE 'TIME' --to DIR --as copy"),
    ("export", "A whole cluster can be restored: refloat restore SOURCE --to DIR --as copy"),
    ("drill", "Restore and look: refloat restore SOURCE --to DIR --as copy"),
    ("instant", "Restore beside the server: refloat restore SOURCE --to DIR --as copy"),
    ("audit", "Operations of this host are in log/operations.jsonl of the state directory."),
    ("report", "refloat status --json  has the facts."),
    ("incident", "refloat status  tells what can be recovered."),
    ("alert", "Let your monitoring run: refloat status --exit-code"),
    ("daemon", "Let cron or a systemd timer run: refloat backup"),
    ("plan", "refloat status  tells what can be recovered."),
    ("diff", "refloat show BACKUP  tells what is in a backup."),
    ("history", "Operations of this host are in log/operations.jsonl of the state directory."),
];

/// Commands of other tools.
const PEERS: &[(&str, &str)] = &[
    ("info", "refloat list"),
    ("snapshots", "refloat list"),
    ("backup-list", "refloat list"),
    ("list-backup", "refloat list"),
    ("list-backups", "refloat list"),
    ("show-backup", "refloat show BACKUP"),
    ("archive-push", "refloat wal push %p"),
    ("wal-push", "refloat wal push %p"),
    ("archive-get", "refloat wal fetch %f %p"),
    ("wal-fetch", "refloat wal fetch %f %p"),
    ("wal-show", "refloat wal status"),
    ("wal-verify", "refloat wal status"),
    ("switch-wal", "refloat wal switch"),
    ("backup-push", "refloat backup"),
    ("backup-fetch", "refloat restore SOURCE --to DIR"),
    ("stanza-create", "refloat init"),
    (
        "stanza-upgrade",
        "refloat takeover SOURCE --new-cluster (after pg_upgrade in place refloat backup does it by itself)",
    ),
    ("repo-ls", "refloat list"),
    ("forget", "refloat expire"),
    ("prune", "refloat expire"),
    ("rotate", "refloat expire"),
    ("delete", "refloat expire"),
    ("doctor", "refloat check"),
    ("recover-table", "refloat restore SOURCE 'TIME' --to DIR --as copy"),
    ("logs", "refloat status (operations of this host are in log/operations.jsonl of the state directory)"),
    ("unlock", "Nothing is ever locked by hand; after a restore: refloat takeover SOURCE"),
    ("promote", "refloat takeover SOURCE"),
];

/// Options of other tools, by how they begin.
const PEER_OPTIONS: &[(&str, &str)] = &[
    ("--stanza", "Name the source behind the command: refloat backup SOURCE"),
    ("--set", "Name the backup behind the source: refloat restore SOURCE BACKUP --target immediate --to DIR"),
    ("--type=time", "Give the time itself: refloat restore SOURCE '2026-11-20 02:50+01' --to DIR"),
    ("--type=lsn", "refloat restore SOURCE --target-lsn LSN --to DIR"),
    ("--type=xid", "refloat restore SOURCE --target-xid XID --to DIR"),
    ("--type=name", "refloat restore SOURCE --target-name NAME --to DIR"),
    ("--type=immediate", "refloat restore SOURCE --target immediate --to DIR"),
    ("--type=default", "Leave it out: without a target everything archived is replayed."),
    ("--type=preserve", "refloat restore SOURCE --as copy|primary --to DIR"),
    ("--type=standby", "refloat restore SOURCE --as standby (a later release)"),
    ("--process-max", "refloat backup --jobs N"),
    ("--pg1-path", "The data directory is in the configuration: data_directory = \"…\" of the source."),
    ("--repo", "refloat -r NAME …"),
    (
        "--db-include",
        "refloat restore SOURCE --to DIR --as copy  restores the whole cluster; then pg_dump what you need.",
    ),
    ("--tablespace-map-all", "refloat restore SOURCE --to DIR --tablespaces-inside"),
    ("--output=json", "refloat … --json"),
    ("-o", "refloat … --json"),
    ("--target-tli", "refloat restore SOURCE --target-timeline N"),
];

/// The first word that is no option.
fn command_of(arguments: &[OsString]) -> Option<&str> {
    let mut arguments = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.contains(&argument) {
            arguments.next();
        } else if !argument.starts_with('-') {
            return Some(argument);
        }
    }
    None
}

/// Refuses a word that this release does not have, when it is one we know.
pub(crate) fn refuse_known(arguments: &[OsString]) -> Result<(), CliError> {
    let Some(word) = command_of(arguments) else { return Ok(()) };
    if let Some((_, hint)) = LATER.iter().find(|(known, _)| *known == word) {
        let message = format!("`refloat {word}` is not in this release");
        return Err(CliError::OtherWord { message, hint: (*hint).to_owned() });
    }
    if let Some((_, command)) = PEERS.iter().find(|(known, _)| *known == word) {
        let message = format!("\"{word}\" is another tool's word");
        return Err(CliError::OtherWord { message, hint: (*command).to_owned() });
    }
    Ok(())
}

/// Whether this is `wal fetch`, whose exit codes PostgreSQL obeys however wrong the line is.
pub(crate) fn is_fetch(arguments: &[OsString]) -> bool {
    arguments.windows(2).any(|pair| pair[0] == "wal" && pair[1] == "fetch")
}

/// The hint for an option of another tool, looked for when the command line was refused anyway.
pub(crate) fn peer_option(arguments: &[OsString]) -> Option<&'static str> {
    let texts: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let joined: Vec<String> = texts.windows(2).map(|pair| format!("{}={}", pair[0], pair[1])).collect();
    let mut all = texts.iter().copied().chain(joined.iter().map(String::as_str));
    all.find_map(|argument| {
        let fits = |known: &str| {
            argument.strip_prefix(known).is_some_and(|rest| {
                rest.is_empty()
                    || rest.starts_with('=')
                    || (known == "--repo" && rest.as_bytes()[0].is_ascii_digit())
            })
        };
        PEER_OPTIONS.iter().find(|(known, _)| fits(known)).map(|(_, hint)| *hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_is_found_behind_options() {
        assert_eq!(command_of(&words("refloat --config list -r x -v backup prod")), Some("backup"));
        assert_eq!(command_of(&words("refloat -v --json")), None);
    }

    #[test]
    fn other_words_are_answered() {
        for line in ["refloat stanza-create", "refloat -v setup", "refloat snapshots", "refloat daemon"] {
            assert!(refuse_known(&words(line)).is_err(), "{line}");
        }
        assert!(refuse_known(&words("refloat backup setup")).is_ok());
        for line in [
            "refloat backup --stanza=main",
            "refloat restore --type time",
            "refloat backup --repo1-path=/x",
            "refloat list -o json",
        ] {
            let known = peer_option(&words(line));
            assert!(known.is_some() || line.contains("repo1"), "{line}");
        }
        assert_eq!(peer_option(&words("refloat backup --repository x")), None);
    }
}
