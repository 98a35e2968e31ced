//! The plan before a restore, and the numbered next steps behind it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use refloat_engine::pitr;
use refloat_engine::restore::{Become, RestorePlan, RestoreReport, TargetAction};
use refloat_pg::server::{Binaries, Surroundings, find_binaries, start_commands};
use refloat_types::ByteSize;
use serde_json::json;

use super::ask::Asked;
use super::place::Place;
use crate::context::Context;
use crate::operations::last_speed;
use crate::render::text::{count, shell_path};
use crate::render::time;

/// First port that is tried for a server beside another one.
const COPY_PORT: u16 = 5499;

/// How far recovery goes, in words.
fn target_text(found: &pitr::Plan) -> String {
    let just = if found.exclusive { "just before " } else { "" };
    match &found.target {
        pitr::Target::Latest => match found.reaches.alive.or(found.reaches.last_commit) {
            Some(at) => format!("everything archived, to {}", time::with_utc(at)),
            None => "everything archived".to_owned(),
        },
        pitr::Target::Immediate => {
            format!("the end of the backup, {}", time::with_utc(found.backup.commit.cluster.stop_time))
        }
        pitr::Target::Time(at) => format!("{just}{}", time::with_utc(*at)),
        pitr::Target::Lsn(lsn) => format!("{just}LSN {lsn}"),
        pitr::Target::Xid(xid) => format!("{just}the end of transaction {xid}"),
        pitr::Target::Name(name) => format!("restore point \"{name}\""),
    }
}

/// Prints the plan; a dry run's is the data itself.
pub(super) fn plan(
    context: &Context,
    asked: &Asked,
    found: &pitr::Plan,
    plan: &RestorePlan<'_>,
    dry_run: bool,
) {
    let commit = &found.backup.commit;
    let mut out = format!("plan: restore {} to {}\n", plan.request().source_name, target_text(found));
    let mut line = |label: &str, text: String| out.push_str(&format!("  {label:<12}{text}\n"));
    line(
        "backup",
        format!(
            "{} of {}, {} in {} files",
            commit.backup,
            time::moment(commit.finished),
            ByteSize(plan.bytes),
            plan.entries
        ),
    );
    line("into", plan.directory.display().to_string());
    if plan.delta {
        line(
            "delta",
            "what is the same there stays; what differs is rewritten, what the backup lacks is removed"
                .to_owned(),
        );
    }
    for step in &plan.set_aside {
        line("set aside", format!("{} becomes {}", step.from.display(), step.to.display()));
    }
    for tablespace in &plan.tablespaces {
        let goes =
            tablespace.goes.as_ref().map_or_else(|| "inside".to_owned(), |path| path.display().to_string());
        line(
            "tablespace",
            format!("{} goes to {goes}, {}", tablespace.was.display(), ByteSize(tablespace.bytes)),
        );
    }
    for space in &plan.space {
        line(
            "space",
            format!(
                "{} needed, {} free at {}",
                ByteSize(space.need),
                ByteSize(space.free),
                space.path.display()
            ),
        );
    }
    if let Some((speed, when)) = last_speed(context, "restore")
        && let Ok(length) = Duration::try_from_secs_f64(plan.bytes as f64 / speed)
    {
        let length = time::length(length);
        line(
            "takes",
            format!("about {length}, as fast as the restore of {}; then the WAL", time::moment(when)),
        );
    }
    line("WAL", wal_text(found));
    line("timeline", timelines_text(found));
    if asked.has_target {
        line("then", plan.request().recovery.action.as_str().to_owned());
    }
    for note in found.notes.iter().chain(&plan.notes) {
        line("note", note.clone());
    }
    if dry_run {
        context.out.text(&format!("{out}nothing was written (--dry-run)\n"));
        context.out.document(&json!({ "dry_run": true, "plan": document(found, plan) }));
    } else {
        context.out.say(out.trim_end());
    }
}

fn wal_text(found: &pitr::Plan) -> String {
    match &found.wal {
        Some(wal) => format!(
            "{} … {}, {}, {} to replay at most",
            wal.first,
            wal.last,
            count(usize::try_from(wal.segments).unwrap_or(usize::MAX), "segment"),
            ByteSize(wal.bytes)
        ),
        None => "in the backup itself; none of the archive is needed".to_owned(),
    }
}

fn timelines_text(found: &pitr::Plan) -> String {
    found.timelines.iter().map(ToString::to_string).collect::<Vec<_>>().join(" → ")
}

/// What a dry run can say of a backup whose list of files lies in a cold class: all that its commit and the archive tell.
pub(super) fn cold_plan(
    context: &Context,
    found: &pitr::Plan,
    (source, directory): (&str, &Path),
    (frozen, what): (&serde_json::Value, &str),
) {
    let commit = &found.backup.commit;
    let mut out = format!("plan: restore {source} to {}\n", target_text(found));
    let mut line = |label: &str, text: String| out.push_str(&format!("  {label:<12}{text}\n"));
    let (bytes, entries) = (commit.sizes.source, commit.sizes.entries);
    line(
        "backup",
        format!(
            "{} of {}, {} in {entries} files",
            commit.backup,
            time::moment(commit.finished),
            ByteSize(bytes)
        ),
    );
    line("into", directory.display().to_string());
    line("thaw", format!("{what}, before anything is written"));
    line("WAL", wal_text(found));
    line("timeline", timelines_text(found));
    line("note", "what is there, space and tablespaces are looked at when it is thawed".to_owned());
    for note in &found.notes {
        line("note", note.clone());
    }
    context.out.text(&format!("{out}nothing was written, and nothing was asked for (--dry-run)\n"));
    context.out.document(&json!({
        "dry_run": true,
        "backup": commit.backup,
        "must_be_thawed": frozen,
        "plan": {
            "backup": commit.backup,
            "directory": directory,
            "target": target_word(found),
            "exclusive": found.exclusive,
            "timelines": found.timelines,
            "bytes": bytes,
            "entries": entries,
            "wal": wal_document(found),
            "notes": found.notes,
        },
    }));
}

fn wal_document(found: &pitr::Plan) -> Option<serde_json::Value> {
    let document = |wal: &pitr::WalNeeded| {
        json!({
            "first": wal.first.to_string(), "last": wal.last.to_string(), "segments": wal.segments, "bytes": wal.bytes,
        })
    };
    found.wal.as_ref().map(document)
}

fn document(found: &pitr::Plan, plan: &RestorePlan<'_>) -> serde_json::Value {
    let commit = &found.backup.commit;
    json!({
        "backup": commit.backup,
        "directory": plan.directory,
        "delta": plan.delta,
        "target": target_word(found),
        "exclusive": found.exclusive,
        "timelines": found.timelines,
        "bytes": plan.bytes,
        "entries": plan.entries,
        "set_aside": plan.set_aside.iter().map(|step| json!({ "from": step.from, "to": step.to })).collect::<Vec<_>>(),
        "tablespaces": plan.tablespaces.iter().map(|t| json!({ "was": t.was, "goes": t.goes, "bytes": t.bytes })).collect::<Vec<_>>(),
        "space": plan.space.iter().map(|s| json!({ "path": s.path, "need": s.need, "free": s.free })).collect::<Vec<_>>(),
        "wal": wal_document(found),
        "reaches": json!({ "lsn": found.reaches.lsn, "time": found.reaches.alive.or(found.reaches.last_commit) }),
        "notes": found.notes.iter().chain(&plan.notes).collect::<Vec<_>>(),
    })
}

fn target_word(found: &pitr::Plan) -> serde_json::Value {
    match &found.target {
        pitr::Target::Latest => json!("latest"),
        pitr::Target::Immediate => json!("immediate"),
        pitr::Target::Time(at) => json!({ "time": at }),
        pitr::Target::Lsn(lsn) => json!({ "lsn": lsn }),
        pitr::Target::Xid(xid) => json!({ "xid": xid }),
        pitr::Target::Name(name) => json!({ "name": name }),
    }
}

/// The lines that a person types next.
struct Steps {
    start: String,
    look: String,
    stop: String,
}

/// Prints what was done and what comes next.
pub(super) fn report(
    context: &Context,
    place: &Place,
    asked: &Asked,
    found: &pitr::Plan,
    report: &RestoreReport,
    becomes: Option<Become>,
    action: TargetAction,
) {
    let becomes = becomes.unwrap_or(Become::Undecided);
    let source = place.source_name();
    let mut steps = steps(context, place, report, becomes);
    if becomes == Become::Standby {
        let look = "select pg_last_wal_replay_lsn(), pg_last_xact_replay_timestamp()";
        steps.look = steps.look.replace("select …", look).replace("is it right?", "does it follow?");
    }
    let mut out = format!(
        "{source} is restored to {}: {} in {}\n",
        target_text(found),
        ByteSize(report.bytes),
        time::seconds(report.took.as_secs_f64())
    );
    if let Some(reused) = &report.reused {
        out.push_str(&format!(
            "  {} of it were there and stay, {} were written\n",
            ByteSize(reused.kept),
            ByteSize(reused.rewritten)
        ));
    }
    out.push_str(&places(place, report));
    if let Some(ready) = &report.ready_wal {
        out.push_str(&format!(
            "  {} of WAL in {} were never archived: they may hold the last commits; keep them, or archive them with wal push\n",
            count(usize::try_from(ready.count).unwrap_or(usize::MAX), "file"),
            ready.path.display()
        ));
    }
    for note in &report.notes {
        out.push_str(&format!("  note: {note}\n"));
    }
    out.push_str(&next(context, place, asked, source, found, (becomes, action), &steps));
    context.out.done(&out);
    context.out.document(&json!({
        "source": source, "directory": report.directory, "backup": found.backup.commit.backup, "target": target_word(found),
        "bytes": report.bytes,
        "delta": report.reused.map(|reused| json!({ "kept": reused.kept, "rewritten": reused.rewritten })),
        "entries": report.entries, "seconds": report.took.as_secs_f64(), "locked": report.locked,
        "set_aside": report.set_aside.iter().map(|step| json!({ "from": step.from, "to": step.to })).collect::<Vec<_>>(),
        "tablespaces": report.tablespaces.iter().map(|t| json!({ "was": t.was, "is": t.goes })).collect::<Vec<_>>(),
        "ready_wal": report.ready_wal.as_ref().map(|ready| json!({ "path": ready.path, "files": ready.count })),
        "own_configuration": place.own, "notes": report.notes, "start": steps.start,
    }));
}

/// What is where now.
fn places(place: &Place, report: &RestoreReport) -> String {
    let mut out = String::new();
    let mut things = vec![(report.directory.display().to_string(), "ready, not started".to_owned())];
    for step in &report.set_aside {
        things.push((step.to.display().to_string(), "what was there, untouched".to_owned()));
    }
    for tablespace in report.tablespaces.iter().filter_map(|tablespace| tablespace.goes.as_ref()) {
        things.push((tablespace.display().to_string(), "a tablespace".to_owned()));
    }
    if let Some(own) = &place.own {
        things.push((
            own.display().to_string(),
            "how it fetches its WAL; remove it when that is no longer needed".to_owned(),
        ));
    }
    let width = things.iter().map(|(path, _)| path.chars().count()).max().unwrap_or(0);
    for (path, what) in &things {
        out.push_str(&format!("  {path:width$}   {what}\n"));
    }
    out
}

fn next(
    context: &Context,
    place: &Place,
    asked: &Asked,
    source: &str,
    found: &pitr::Plan,
    (becomes, action): (Become, TargetAction),
    steps: &Steps,
) -> String {
    let replays =
        found.wal.as_ref().map_or_else(String::new, |wal| format!("replays {} at most", ByteSize(wal.bytes)));
    let stops = asked.has_target && !matches!(found.target, pitr::Target::Latest);
    let then = match (action, stops) {
        _ if becomes == Become::Standby => "then follows, read-only",
        (TargetAction::Pause, true) => "then waits read-only for your look",
        (TargetAction::Shutdown, true) => "then stops",
        _ => "then it is open for writing",
    };
    let about =
        [replays.as_str(), then].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    let mut out = format!("next\n  1  {}       {about}\n  2  {}\n", steps.start, steps.look);
    match becomes {
        Become::Copy => {
            let remove = place.own.as_ref().map_or_else(String::new, |own| format!(" {}", shell_path(own)));
            out.push_str(&format!(
                "  3  take out what you need (pg_dump), then:  {};  rm -r {}{remove}\n\
                 it is a copy: it archives nothing, ever\n",
                steps.stop,
                shell_path(&place.directory)
            ));
        }
        Become::Primary => {
            out.push_str(&format!(
                "  3  {}\n\
                 it is {source} from now on; a new full backup makes the next recovery shorter\n",
                if place.own.is_some() {
                    format!("{};  sudo refloat backup {source}", place.configure())
                } else if place.is_elsewhere(context) {
                    format!(
                        "set data_directory of {source} to {} in the configuration, then:  sudo refloat init;  sudo refloat check;  sudo refloat backup {source}",
                        place.directory.display()
                    )
                } else {
                    format!("{0} check {source};  {0} backup {source}", context.command())
                }
            ));
        }
        Become::Standby => {
            out.push_str(&format!(
                "  3  {}\n\
                 it is a standby of {source}: it writes nothing of its own until it is promoted\n",
                if place.own.is_some() {
                    place.configure()
                } else if place.is_elsewhere(context) {
                    format!(
                        "set data_directory of {source} to {} in this host's configuration, then:  sudo refloat init;  sudo refloat check",
                        place.directory.display()
                    )
                } else {
                    format!("{} check {source}       can it archive, should it be promoted?", context.command())
                }
            ));
        }
        Become::Undecided => {
            let about = match &place.own {
                Some(_) => "opens it for writing".to_owned(),
                None if place.is_elsewhere(context) => format!(
                    "opens it for writing, archiving goes on (first set data_directory of {source} to {})",
                    place.directory.display()
                ),
                None => "opens it for writing, archiving goes on".to_owned(),
            };
            out.push_str(&format!(
                "  3  right?  {}       {about}\n\
                 \x20    wrong?  {}, then restore again with another moment\n",
                place.takeover(context),
                steps.stop
            ));
            if let Some(config) = place.cannot_record() {
                out.push_str(&format!(
                    "     it records that in the repository, which could not be written from here: first let it be, by what {} names\n",
                    shell_path(&config)
                ));
            }
            if place.own.is_some() {
                out.push_str(&format!("  4  so that archiving goes on: {}\n", place.configure()));
            }
            out.push_str("until step 3 archiving is locked: WAL stays in pg_wal\n");
            // It stops within what comes next, not behind what came before.
            if action == TargetAction::Pause && stops && found.stop_lsn.is_none() {
                out.push_str("until then a table that is dropped just behind the target cannot be read\n");
            }
        }
    }
    out
}

fn steps(context: &Context, place: &Place, report: &RestoreReport, becomes: Become) -> Steps {
    let owner = &context.identity.name;
    let sudo = if context.who == *owner { String::new() } else { format!("sudo -u {owner} ") };
    let version = report.major_version;
    let binaries = find_binaries(version, None, None).unwrap_or_else(|_| Binaries {
        directory: Path::new("/usr/lib/postgresql").join(version.to_string()).join("bin"),
        version,
        version_text: String::new(),
    });
    let pg_ctl = shell_path(&binaries.path("pg_ctl"));
    let data = shell_path(&report.directory);
    if !place.is_beside(context, becomes) {
        let host = Surroundings::of_this_host(&context.who);
        let start = start_commands(&report.directory, version, owner, &binaries.directory, &host);
        let stop = if start.contains(" -D ") {
            format!("{sudo}{pg_ctl} -D {data} stop")
        } else {
            start.replace("systemctl start", "systemctl stop").replace(" start", " stop")
        };
        return Steps { start, look: format!("{sudo}psql -c 'select …'       is it right?"), stop };
    }
    // Beside another server: a port and a socket of its own.
    let port = free_port();
    let log = shell_path(&report.directory.join("startup.log"));
    Steps {
        start: format!("{sudo}{pg_ctl} -D {data} -l {log} -o '-p {port} -k /tmp' start"),
        look: format!("{sudo}psql -h /tmp -p {port} -d postgres -c 'select …'       is it right?"),
        stop: format!("{sudo}{pg_ctl} -D {data} stop"),
    }
}

fn free_port() -> u16 {
    let free = |port: &u16| {
        TcpListener::bind(("127.0.0.1", *port)).is_ok()
            && !Path::new("/tmp").join(format!(".s.PGSQL.{port}")).exists()
    };
    (COPY_PORT..COPY_PORT + 100).find(free).unwrap_or(COPY_PORT)
}
