//! How the restored server begins: `recovery.signal` or `standby.signal`, and the settings of its recovery.
//!
//! Old settings of a recovery become comments (two targets are fatal, an old `restore_command` reads another archive);
//! ours go to `postgresql.auto.conf`, which is read last. Where the cluster's own files are outside of its directory and
//! were not restored into it, PostgreSQL's defaults take the place of what they say about recovery.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refloat_pg::conf;
use refloat_repo::commit::ClusterPoint;

use super::disk::write_durably;
use super::error::{RestoreError, io_error};
use super::{Become, Destination, FollowTimeline, Recovery, RestoreRequest, Target, TargetAction};

const AUTO_CONF: &str = "postgresql.auto.conf";
const MAIN_CONF: &str = "postgresql.conf";
/// Begins the comment above what a restore writes.
pub(crate) const MARK: &str = "# written by refloat: restore ";

/// The settings of the recovery, in the order they are written.
///
/// A standby has no target, whatever the recovery says: it would end there, and promote itself.
pub(super) fn settings(
    recovery: &Recovery,
    becomes: Become,
    point: &ClusterPoint,
    major: u32,
) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let command = match &recovery.restore_command {
        Some(command) if command.contains("%f") => command.clone(),
        Some(command) => format!("{command} %f %p"),
        // Recovery insists on a command; this one has nothing, so pg_wal is all there is.
        None => "/bin/false".to_owned(),
    };
    all.push(("restore_command", command));
    let timeline = match recovery.timeline {
        FollowTimeline::Latest => "latest".to_owned(),
        FollowTimeline::Current => "current".to_owned(),
        // A number wants its history file, which is not there where nothing is fetched.
        FollowTimeline::Number(timeline)
            if timeline == point.timeline && recovery.restore_command.is_none() =>
        {
            "current".to_owned()
        }
        FollowTimeline::Number(timeline) => timeline.get().to_string(),
    };
    all.push(("recovery_target_timeline", timeline));
    if let Some(primary) = &recovery.primary_conninfo {
        all.push(("primary_conninfo", primary.clone()));
    }
    if becomes == Become::Standby {
        return all;
    }
    let (name, value, has_edge) = match (&recovery.target, point.stop_record) {
        (Target::Latest, _) => return all,
        // PostgreSQL would wait for the record behind it, and there may be none.
        (Target::Immediate, Some(last)) => ("recovery_target_lsn", last.to_string(), true),
        (Target::Immediate, None) => ("recovery_target", "immediate".to_owned(), false),
        (Target::Time(at), _) => {
            ("recovery_target_time", at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string(), true)
        }
        (Target::Lsn(lsn), _) => ("recovery_target_lsn", lsn.to_string(), true),
        (Target::Xid(xid), _) => ("recovery_target_xid", xid.to_string(), true),
        (Target::Name(name), _) => ("recovery_target_name", name.clone(), false),
    };
    all.push((name, value));
    if recovery.target == Target::Immediate && major >= 15 {
        // Reading ahead asks for WAL far behind the end of the backup, which may have expired: the hole would stop a
        // recovery that has all it needs. A takeover takes the line out again.
        all.push(("recovery_prefetch", "off".to_owned()));
    }
    if has_edge {
        let inclusive = recovery.inclusive || recovery.target == Target::Immediate;
        all.push(("recovery_target_inclusive", if inclusive { "on" } else { "off" }.to_owned()));
    }
    all.push(("recovery_target_action", recovery.action.as_str().to_owned()));
    if recovery.action == TargetAction::Pause {
        // Without it a pause is a shutdown.
        all.push(("hot_standby", "on".to_owned()));
    }
    all
}

/// Writes the settings `wanted` and the signal file into `directory`; `main_file` is the server's `postgresql.conf`, inside or
/// outside of it. Returns the files inside that were changed.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn write(
    directory: &Path,
    main_file: Option<&Path>,
    major: u32,
    mut wanted: Vec<(&'static str, String)>,
    request: &RestoreRequest,
) -> Result<BTreeSet<PathBuf>, RestoreError> {
    let mut changed = BTreeSet::new();
    let auto = directory.join(AUTO_CONF);
    if !auto.exists() {
        write_durably(&auto, b"", 0o600, request.owner).map_err(io_error("write", &auto))?;
    }
    let mut names = conf::recovery_settings(major);
    if matches!(request.to, Destination::Directory(_)) {
        // They name the source's own places: a server started here would run there.
        names.extend(["data_directory", "external_pid_file"]);
    }
    let files = match main_file {
        Some(file) => effective(file, directory)?.files,
        None => vec![auto.clone()],
    };
    for file in files.into_iter().filter(|file| is_inside(file, directory)) {
        if comment_out(&file, &names, request)? {
            changed.insert(file);
        }
    }
    let mut text = fs::read(&auto).map_err(io_error("read", &auto))?;
    if let Some(file) = main_file {
        let left = effective(file, directory)?;
        for name in conf::recovery_settings(major) {
            if left.get(name).is_some() && !wanted.iter().any(|(ours, _)| *ours == name) {
                wanted.push((name, neutral(name).to_owned()));
            }
        }
    }
    let comment = format!("{MARK}{} of {}\n", request.restore_id, request.source_name);
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend(
        comment
            .chars()
            .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
            .collect::<String>()
            .bytes(),
    );
    for (name, value) in wanted {
        text = conf::set(&text, name, &value).ok_or_else(|| {
            io_error("write", &auto)(std::io::Error::other(format!("{name} holds a zero byte")))
        })?;
    }
    put(&auto, &text, request)?;
    let is_standby = request.becomes == Become::Standby;
    let signal = directory.join(if is_standby { "standby.signal" } else { "recovery.signal" });
    write_durably(&signal, b"", 0o600, request.owner).map_err(io_error("write", &signal))?;
    Ok(changed)
}

/// What PostgreSQL would have without any line.
fn neutral(name: &str) -> &'static str {
    match name {
        "recovery_min_apply_delay" => "0",
        "recovery_target_action" => "pause",
        "recovery_target_inclusive" => "on",
        "recovery_target_timeline" => "latest",
        "wal_receiver_create_temp_slot" => "off",
        _ => "",
    }
}

fn effective(file: &Path, directory: &Path) -> Result<conf::Effective, RestoreError> {
    conf::effective(file, Some(directory)).map_err(|conf::ConfError::Io { path, source }| RestoreError::Io {
        action: "read",
        path,
        source,
    })
}

fn is_inside(file: &Path, directory: &Path) -> bool {
    fs::canonicalize(file).is_ok_and(|file| file.starts_with(directory))
}

/// Comments out lines that set one of `names`; says whether there were any.
pub(super) fn comment_out(
    file: &Path,
    names: &[&str],
    request: &RestoreRequest,
) -> Result<bool, RestoreError> {
    let text = fs::read(file).map_err(io_error("read", file))?;
    let done =
        conf::comment_out(&text, names, &format!("set aside by refloat restore {}", request.restore_id));
    if done.names.is_empty() {
        return Ok(false);
    }
    put(file, &done.text, request)?;
    Ok(true)
}

/// Replaces a file and keeps its mode.
fn put(file: &Path, text: &[u8], request: &RestoreRequest) -> Result<(), RestoreError> {
    let mode = fs::metadata(file).map_or(0o600, |meta| meta.mode() & 0o777);
    write_durably(file, text, mode, request.owner).map_err(io_error("write", file))
}

/// The `postgresql.conf` inside a directory, when there is one.
pub(super) fn main_file_inside(directory: &Path) -> Option<PathBuf> {
    let file = directory.join(MAIN_CONF);
    file.is_file().then_some(file)
}
