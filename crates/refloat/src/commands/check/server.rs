//! The running server: reachable, with the rights and settings that backups and archiving need.

use std::path::Path;

use refloat_config::{RunOn, SourceConfig};
use refloat_engine::locked::{Locked, Purpose};
use refloat_pg::server::{debian_cluster, find_binaries, postmaster_pid, read_pg_version};
use refloat_pg::sql::{Session, Setting};

use super::Lines;
use crate::commands::config::settings_file;
use crate::commands::init::archive_command;
use crate::context::Context;
use crate::error::Failure;
use crate::render::text::{shell, shell_path};
use crate::render::time;

/// Looks at the server of a source; answers a session where archiving can be proven.
pub(super) fn check(lines: &mut Lines<'_>, source: &SourceConfig) -> Option<Session> {
    let about = format!("server {}", source.name);
    let directory = &source.data_directory;
    let version = match read_pg_version(directory) {
        Ok(version) => version,
        Err(error) => {
            lines.failure(about, &Failure::from(error));
            return None;
        }
    };
    let session = match Session::connect_to(directory, &Context::connection(source)) {
        Ok(session) => session,
        Err(error) => {
            lines.failure(about, &Failure::from(error));
            return None;
        }
    };
    if let Err(error) = session.check_backup_rights() {
        lines.failure(&about, &Failure::from(error));
    }
    lines.ok(
        &about,
        format!(
            "PostgreSQL {} in {}, role {}",
            session.info().version.split(' ').next().unwrap_or_default(),
            directory.display(),
            session.info().user
        ),
    );
    if version != session.info().major() {
        lines.fault(
            &about,
            format!("PG_VERSION says {version}: another server answers"),
            "correct `connection` of this source",
        );
    }
    if lock_forbids(lines, source) {
        return None;
    }
    match session.is_in_recovery() {
        Ok(true) if directory.join("standby.signal").exists() => {
            standby(lines, source, &session);
            return None;
        }
        Ok(true) => {
            lines.fault(
                &about,
                "the server is in recovery and no standby: it archives nothing and is not backed up",
                format!(
                    "{} takeover {}     if it was restored and is right",
                    lines.context().command(),
                    source.name
                ),
            );
            return None;
        }
        Ok(false) => {}
        Err(error) => lines.failure(&about, &Failure::from(error)),
    }
    settings(lines, source, &session).then_some(session)
}

/// A standby: whether it follows, and whether it could archive from the moment on that it is promoted.
fn standby(lines: &mut Lines<'_>, source: &SourceConfig, session: &Session) {
    let about = format!("standby {}", source.name);
    match session.standby_position() {
        Err(error) => lines.failure(&about, &Failure::from(error)),
        Ok(position) => {
            let at = position.replayed.map_or_else(|| "nothing yet".to_owned(), |at| at.to_string());
            let last = position
                .last_commit
                .map_or_else(String::new, |last| format!(", last commit {}", time::moment(last)));
            let conninfo = session.show("primary_conninfo").unwrap_or_default();
            if position.is_streaming {
                lines.ok(&about, format!("streams; replayed to {at}{last}"));
            } else if conninfo.is_empty() {
                let what = format!("nothing streams to it; it follows the archive. Replayed to {at}{last}");
                lines.warn(&about, what, "");
            } else {
                lines.look(
                    &about,
                    format!("nothing streams to it, though primary_conninfo is set. Replayed to {at}{last}"),
                    "look at the server's log: is the primary there, and is this standby on its timeline?",
                );
            }
        }
    }
    let about = format!("archiving {}", source.name);
    let works = settings(lines, source, session) && is_this_command(lines, source, session);
    if works {
        lines.ok(about, "not now; promoted, this server would archive: its settings are right");
    } else {
        lines.fault(
            about,
            "promoted, this server would archive nothing: it could not take over from its primary",
            "",
        );
    }
    if source.run_on == RunOn::Primary {
        lines.ok(format!("backups {}", source.name), "the primary's (run_on = \"primary\")");
    }
}

/// What a primary proves by archiving: that the command of the server is the one with this configuration, which was seen to
/// reach the repositories.
fn is_this_command(lines: &mut Lines<'_>, source: &SourceConfig, session: &Session) -> bool {
    let wanted = archive_command(lines.context());
    let context = lines.context();
    // The usual configuration need not be named, and may be.
    let named = format!(
        "{} --config {} wal push %p",
        shell_path(&context.executable),
        shell_path(&context.config_file)
    );
    match session.show("archive_command") {
        Ok(found) if found == wanted || found == named => true,
        Ok(found) => {
            let line = format!("archive_command = '{}'", wanted.replace('\'', "''"));
            lines.fault(
                format!("archiving {}", source.name),
                format!("archive_command is \"{found}\", with which nothing was tried here"),
                Mender::of(lines.context(), source).set(&line, false),
            );
            false
        }
        Err(error) => {
            lines.failure(format!("archiving {}", source.name), &Failure::from(error));
            false
        }
    }
}

/// A restored directory that nobody has taken over.
fn lock_forbids(lines: &mut Lines<'_>, source: &SourceConfig) -> bool {
    let about = format!("archiving {}", source.name);
    match Locked::read(&source.data_directory) {
        Ok(None) => false,
        Ok(Some(locked)) => {
            let when = time::moment(locked.at);
            let (what, mend) = match locked.purpose {
                Purpose::Copy => (
                    format!(
                        "this directory is a copy, restored from {} at {when}: it archives nothing, ever",
                        locked.source
                    ),
                    "restore without --as copy for a server that shall be the source".to_owned(),
                ),
                Purpose::Undecided => (
                    format!(
                        "archiving is locked: restored from {} at {when}, not yet taken over",
                        locked.source
                    ),
                    format!("{} takeover {}", lines.context().command(), source.name),
                ),
            };
            lines.fault(about, what, mend);
            true
        }
        Err(error) => {
            lines.fault(about, format!("refloat.locked cannot be read: {error}"), "");
            true
        }
    }
}

/// How a setting is made on this host, and the server made to see it.
struct Mender {
    sudo: &'static str,
    file: String,
    restart: String,
    reload: String,
}

impl Mender {
    fn of(context: &Context, source: &SourceConfig) -> Self {
        let directory = &source.data_directory;
        let file = settings_file(directory).unwrap_or_else(|| directory.join("postgresql.conf"));
        let owner = &context.identity.name;
        match debian_cluster(Path::new("/etc/postgresql"), directory) {
            Some(cluster) => Self {
                sudo: "sudo ",
                file: shell_path(&file),
                restart: format!("sudo systemctl restart {}", cluster.unit()),
                reload: format!("sudo systemctl reload {}", cluster.unit()),
            },
            None => {
                let data = shell_path(directory);
                // It is on nobody's PATH where packages put it.
                let version = read_pg_version(directory).unwrap_or_default();
                let pg_ctl = find_binaries(version, None, postmaster_pid(directory))
                    .map_or_else(|_| "pg_ctl".to_owned(), |found| shell_path(&found.path("pg_ctl")));
                let who = if context.who == *owner { String::new() } else { format!("sudo -u {owner} ") };
                Self {
                    sudo: if context.who == *owner { "" } else { "sudo " },
                    file: shell_path(&file),
                    restart: format!("{who}{pg_ctl} -D {data} restart"),
                    reload: format!("{who}{pg_ctl} -D {data} reload"),
                }
            }
        }
    }
    fn set(&self, line: &str, restart: bool) -> String {
        let apply = if restart { &self.restart } else { &self.reload };
        format!("echo {} | {}tee -a {}; {apply}", shell(line), self.sudo, self.file)
    }
}

const NAMES: [&str; 6] = [
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "wal_level",
    "full_page_writes",
];

/// The settings of archiving; answers whether archiving can work.
fn settings(lines: &mut Lines<'_>, source: &SourceConfig, session: &Session) -> bool {
    let about = format!("archiving {}", source.name);
    let found = match session.settings(&NAMES) {
        Ok(found) => found,
        Err(error) => {
            lines.failure(about, &Failure::from(error));
            return false;
        }
    };
    let setting = |name: &str| found.iter().find(|setting| setting.name == name);
    let value = |name: &str| setting(name).map_or("", |setting| setting.value.as_str());
    let pending = |name: &str| setting(name).is_some_and(|setting| setting.pending_restart);
    let mender = Mender::of(lines.context(), source);
    let mut works = true;
    if value("wal_level") == "minimal" {
        lines.fault(
            &about,
            "wal_level is minimal: nothing can be recovered",
            mender.set("wal_level = replica", true),
        );
        works = false;
    }
    if value("archive_mode") == "off" {
        if pending("archive_mode") {
            lines.fault(
                &about,
                "archive_mode is on in the configuration, but the running server still has off",
                format!("{}      (a few seconds without connections)", mender.restart),
            );
        } else {
            lines.fault(
                &about,
                "archive_mode is off: no WAL is archived, so only the backups themselves can be restored",
                mender.set("archive_mode = on", true),
            );
        }
        works = false;
    }
    works &= command(
        lines,
        &about,
        &mender,
        value("archive_mode"),
        value("archive_command"),
        setting("archive_library"),
    );
    if value("archive_timeout") == "0" {
        lines.warn(
            format!("loss {}", source.name),
            "archive_timeout is 0: a quiet server can lose everything since its last whole WAL segment",
            mender.set("archive_timeout = 60", false),
        );
    }
    if value("full_page_writes") == "off" {
        lines.fault(
            &about,
            "full_page_writes is off: a backup may hold torn pages",
            mender.set("full_page_writes = on", false),
        );
    }
    works
}

/// Whether the archive command is ours, and can be run by the server.
fn command(
    lines: &mut Lines<'_>,
    about: &str,
    mender: &Mender,
    mode: &str,
    command: &str,
    library: Option<&Setting>,
) -> bool {
    let wanted = format!("archive_command = '{}'", archive_command(lines.context()).replace('\'', "''"));
    let mend = mender.set(&wanted, false);
    if let Some(library) = library.filter(|library| !library.value.is_empty()) {
        lines.fault(
            about,
            format!("archive_library is \"{}\": archive_command is not used", library.value),
            mender.set("archive_library = ''", false),
        );
        return false;
    }
    if command.is_empty() || command == "(disabled)" {
        // While archive_mode is off the server does not show it.
        if mode != "off" {
            lines.fault(about, "archive_command is empty", mend);
        }
        return false;
    }
    if !command.contains("wal push") || !command.contains("refloat") {
        lines.fault(about, format!("archive_command is another tool's: {command}"), mend);
        return false;
    }
    let program = program_of(command);
    if !program.starts_with('/') {
        lines.fault(
            about,
            format!(
                "archive_command names \"{program}\" without its absolute path; PostgreSQL may have no PATH"
            ),
            mend,
        );
        return false;
    }
    // This process is the server's user.
    if rustix::fs::access(program.as_str(), rustix::fs::Access::EXEC_OK).is_err() {
        lines.fault(
            about,
            format!("{program} of archive_command cannot be run by {}", lines.context().identity.name),
            format!("sudo install -m 0755 {} {program}", shell_path(&lines.context().executable)),
        );
        return false;
    }
    true
}

/// The first word of a shell command.
fn program_of(command: &str) -> String {
    let command = command.trim_start();
    match command.chars().next() {
        Some(quote @ ('\'' | '"')) => command.chars().skip(1).take_while(|c| *c != quote).collect(),
        _ => command.split_whitespace().next().unwrap_or_default().to_owned(),
    }
}
