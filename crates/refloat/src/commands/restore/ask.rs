//! Reads what is asked for, and refuses what cannot be meant.

use jiff::tz::TimeZone;
use refloat_engine::pitr::{Request, Target, TimelineChoice};
use refloat_repo::commit::CommitRecord;
use refloat_types::{BackupId, Clock as _, Lsn, TimelineId, Timestamp};

use super::refusal::RestoreRefusal;
use super::{As, Restore};
use crate::context::Context;
use crate::error::{CliError, Failure};
use crate::render::text::shell;
use crate::render::{can_ask, time};
use crate::terminal;
use crate::times::{self, Moment};

/// Which timeline is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedTimeline {
    /// The owner's.
    Default,
    /// The newest.
    Latest,
    /// The backup's own.
    Current,
    /// This one.
    Number(TimelineId),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// How far.
    pub target: Target,
    /// Whether anything was said about that.
    pub has_target: bool,
    /// From this backup.
    pub backup: Option<BackupId>,
    exclusive: bool,
    timeline: AskedTimeline,
}

impl Asked {
    /// A backup of the cluster that is meant: a source may have been another one before an upgrade. That of the backup
    /// that was named; for a moment, the one that was the source then; else the newest.
    pub(super) fn of_cluster<'c>(&self, commits: &'c [CommitRecord]) -> Option<&'c CommitRecord> {
        let newest = |may: &dyn Fn(&CommitRecord) -> bool| {
            commits.iter().filter(|record| may(record)).max_by_key(|record| record.commit.number)
        };
        let meant = match (self.backup, &self.target) {
            (Some(id), _) => newest(&|record| record.commit.backup == id),
            (None, Target::Time(at)) => newest(&|record| record.commit.cluster.stop_time <= *at),
            _ => None,
        };
        meant.or_else(|| newest(&|_| true))
    }

    /// For the planner.
    pub(super) fn request(&self, commits: &[CommitRecord]) -> Result<Request, Failure> {
        let timeline = match self.timeline {
            AskedTimeline::Default => TimelineChoice::Owner,
            AskedTimeline::Latest => TimelineChoice::Latest,
            AskedTimeline::Number(timeline) => TimelineChoice::Number(timeline),
            AskedTimeline::Current => {
                let mut of =
                    commits.iter().filter(|record| self.backup.is_none_or(|id| record.commit.backup == id));
                match of.next_back() {
                    Some(record) => TimelineChoice::Number(record.commit.cluster.timeline),
                    None => TimelineChoice::Owner,
                }
            }
        };
        Ok(Request { target: self.target.clone(), exclusive: self.exclusive, timeline, backup: self.backup })
    }
}

/// Reads the command line.
///
/// # Errors
/// What cannot be meant, with the corrected line.
pub(super) fn read(options: &Restore, context: &Context) -> Result<Asked, Failure> {
    refuse_later(options)?;
    check_to(options, context)?;
    check_tablespaces(options)?;
    let (backup, positional) = what(options, context)?;
    let mut targets: Vec<(String, Target)> = Vec::new();
    if let Some((text, target)) = positional {
        targets.push((text, target));
    }
    named_targets(options, context, &mut targets)?;
    if let [(first, _), (second, _), ..] = targets.as_slice() {
        return Err(RestoreRefusal::TwoTargets { first: first.clone(), second: second.clone() }.into());
    }
    let target = targets.pop().map(|(_, target)| target);
    if let (Some(id), None) = (backup, &target) {
        let line = |target: &str| {
            format!(
                "{} --target {target} {}",
                line_with(options, context, Some(&id.to_string())),
                where_to(options)
            )
        };
        let lines = vec![
            format!("{}    as it was at its end", line("immediate").trim_end()),
            format!("{}    and everything since (a later DROP is replayed too)", line("latest").trim_end()),
        ];
        return Err(RestoreRefusal::NoTarget { id: id.to_string(), lines }.into());
    }
    check_standby(options, target.as_ref())?;
    let has_target = target.is_some();
    let target = target.unwrap_or(Target::Latest);
    if options.target_exclusive && !matches!(target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_)) {
        return Err(RestoreRefusal::BadTarget {
            message: "--target-exclusive needs a time, an LSN or a transaction".to_owned(),
            hint: "Leave it out, or name such a target.".to_owned(),
        }
        .into());
    }
    let timeline = timeline(options)?;
    Ok(Asked { target, has_target, backup, exclusive: options.target_exclusive, timeline })
}

fn refuse_later(options: &Restore) -> Result<(), RestoreRefusal> {
    let later = &options.later;
    let whole = format!(
        "restore {} T --to DIR --as copy  restores the whole cluster beside the server; then pg_dump what you need.",
        options.source
    );
    let found = [
        (!later.database.is_empty(), "--database", whole.clone()),
        (!later.table.is_empty(), "--table", whole.clone()),
        (!later.path.is_empty(), "--path", whole.clone()),
        (later.into.is_some(), "--into", whole),
        (
            later.start.is_some(),
            "--start",
            "Leave it out: restore ends with the line that starts the server.".to_owned(),
        ),
    ];
    match found.into_iter().find(|(asked, ..)| *asked) {
        None => Ok(()),
        Some((_, option, instead)) => Err(RestoreRefusal::Later { option, instead }),
    }
}

/// A standby has no target, and its primary's password no place on a command line.
fn check_standby(options: &Restore, target: Option<&Target>) -> Result<(), Failure> {
    let is_standby = options.becomes == Some(As::Standby);
    if is_standby
        && (target.is_some_and(|target| *target != Target::Latest)
            || options.target_action.is_some()
            || options.target_timeline.is_some())
    {
        return Err(bad(
            "a standby goes on following: it has no target".to_owned(),
            "Leave the target out; or restore --as copy to look at a moment.".to_owned(),
        ));
    }
    let Some(primary) = &options.primary else { return Ok(()) };
    if !is_standby {
        return Err(bad("--primary is for a standby".to_owned(), "Add --as standby.".to_owned()));
    }
    match refloat_config::conninfo_keys(primary) {
        Err(why) => Err(bad(
            format!("--primary is not a connection string: {why}"),
            "Write it as --primary 'host=db1 port=5432 user=replicator'.".to_owned(),
        )),
        Ok(keys) if keys.iter().any(|key| key.contains("password")) => Err(bad(
            "a password on the command line can be seen by every user of this host".to_owned(),
            "Put it into ~/.pgpass of the server's user, and leave it out here.".to_owned(),
        )),
        Ok(_) => Ok(()),
    }
}

/// `refloat restore SOURCE [WHAT]`, as it is typed.
fn line_with(options: &Restore, context: &Context, what: Option<&str>) -> String {
    let what = what.map_or_else(String::new, |what| format!(" {}", shell(what)));
    format!("{} restore {}{what}", context.command(), options.source)
}

pub(super) fn where_to(options: &Restore) -> String {
    let place = match &options.to {
        Some(to) => format!("--to {}", shell(to)),
        None if options.in_place => "--in-place".to_owned(),
        None => return String::new(),
    };
    if options.delta { format!("{place} --delta") } else { place }
}

/// `--to` is a directory, and nothing that reads as something else.
fn check_to(options: &Restore, context: &Context) -> Result<(), Failure> {
    let Some(to) = &options.to else {
        if options.in_place {
            return Ok(());
        }
        let line = line_with(options, context, options.what.as_deref());
        let lines = vec![
            format!("{line} --to /srv/{}-copy --as copy    beside the server", options.source),
            format!("{line} --in-place    instead of the stopped server"),
        ];
        return Err(RestoreRefusal::Where { lines }.into());
    };
    let now = context.clock.now();
    let elsewhere = format!("--to /srv/{}-copy", options.source);
    let refuse = |kind: &str, hint: String| {
        let message = format!("\"--to {to}\" is {kind}; --to names the directory to restore into");
        Err(CliError::To { message, hint }.into())
    };
    if to.contains("://") {
        let hint = format!("{} -r {} restore {} {elsewhere}", context.command(), shell(to), options.source);
        return refuse("a URL", hint);
    }
    if to.starts_with('/') || to.starts_with("./") {
        return Ok(());
    }
    let reading = match times::parse(to, now) {
        Moment::NotATime => None,
        Moment::Zoneless(civil) => {
            let here = time::zone();
            Some(times::reading(civil, &here).map_or_else(|| to.clone(), |at| times::typed(at, &here)))
        }
        Moment::At(_) | Moment::Bad(_) => Some(to.clone()),
    };
    if let Some(reading) = reading {
        return refuse("a time", format!("{} {elsewhere}", line_with(options, context, Some(&reading))));
    }
    if to.parse::<Lsn>().is_ok() {
        return refuse(
            "a position in the WAL",
            format!("{} --target-lsn {to} {elsewhere}", line_with(options, context, None)),
        );
    }
    let hint = format!(
        "{} --to {}",
        line_with(options, context, options.what.as_deref()),
        shell(&format!("./{to}"))
    );
    refuse("neither absolute nor does it begin with ./", hint)
}

fn check_tablespaces(options: &Restore) -> Result<(), RestoreRefusal> {
    for pair in &options.tablespace_map {
        let good =
            pair.split_once('=').is_some_and(|(old, new)| old.starts_with('/') && new.starts_with('/'));
        if !good {
            return Err(RestoreRefusal::BadTarget {
                message: format!("\"--tablespace-map {pair}\" does not name two absolute paths"),
                hint: "Write it as --tablespace-map /old/place=/new/place".to_owned(),
            });
        }
    }
    Ok(())
}

/// A positional argument that is a target, as it was typed and as it is meant.
type PositionalTarget = Option<(String, Target)>;

/// The positional argument: a backup, `latest`, or a moment.
fn what(options: &Restore, context: &Context) -> Result<(Option<BackupId>, PositionalTarget), Failure> {
    let Some(text) = options.what.as_deref().filter(|text| *text != "latest") else {
        return Ok((None, None));
    };
    if let Ok(id) = text.parse::<BackupId>() {
        return Ok((Some(id), None));
    }
    if text.parse::<Lsn>().is_ok() {
        return Err(bad(
            format!("\"{text}\" is a position in the WAL"),
            format!("{} --target-lsn {text} {}", line_with(options, context, None), where_to(options)),
        ));
    }
    if text == "immediate" {
        return Err(bad(
            "\"immediate\" belongs to a backup".to_owned(),
            format!("{} --target immediate {}", line_with(options, context, None), where_to(options)),
        ));
    }
    match moment(options, context, text, &|text| format!("{} {}", line_with(options, context, Some(text)), where_to(options)))? {
        Some(at) => Ok((None, Some((format!("\"{text}\""), Target::Time(at))))),
        None => Err(bad(
            format!("\"{text}\" is neither a backup nor a time"),
            "Write a time with its zone, such as '2026-11-20 02:51+01', or the id of a backup (refloat list).".to_owned(),
        )),
    }
}

fn bad(message: String, hint: String) -> Failure {
    RestoreRefusal::BadTarget { message, hint: hint.trim_end().to_owned() }.into()
}

/// Reads a time; one without a zone is asked about on a terminal and refused elsewhere, with both readings.
fn moment(
    options: &Restore,
    context: &Context,
    text: &str,
    line: &dyn Fn(&str) -> String,
) -> Result<Option<Timestamp>, Failure> {
    let civil = match times::parse(text, context.clock.now()) {
        Moment::At(at) => return Ok(Some(at)),
        Moment::NotATime => return Ok(None),
        Moment::Bad(why) => return Err(bad(why, "Write it as '2026-11-20 02:50:00+01'.".to_owned())),
        Moment::Zoneless(civil) => civil,
    };
    let mut readings: Vec<(Timestamp, TimeZone, String)> = Vec::new();
    let here = time::zone();
    let here_name = here.iana_name().unwrap_or("its offset").to_owned();
    let (log_zone, log_name) = log_timezone(context, &options.source);
    for (zone, name) in [
        (here, format!("this terminal, {here_name}")),
        (log_zone, format!("PostgreSQL's log_timezone, {log_name}")),
    ] {
        if let Some(at) = times::reading(civil, &zone)
            && readings.iter().all(|(known, ..)| *known != at)
        {
            readings.push((at, zone, name));
        }
    }
    if readings.len() == 1 {
        // Both zones are one now; the other likely reading is UTC.
        if let Some(at) = times::reading(civil, &TimeZone::UTC).filter(|at| *at != readings[0].0) {
            readings.push((at, TimeZone::UTC, "UTC".to_owned()));
        }
    }
    let typed: Vec<String> = readings.iter().map(|(at, zone, _)| times::typed(*at, zone)).collect();
    if can_ask() {
        for (number, ((_, _, name), typed)) in readings.iter().zip(&typed).enumerate() {
            context.out.say(&format!(" {}  {typed}    {name}", number + 1));
        }
        let answer = terminal::line(&format!("The time \"{text}\" has no zone. Which one is meant? "))?;
        let chosen = answer.parse::<usize>().ok().and_then(|number| readings.get(number.checked_sub(1)?));
        return match chosen {
            Some((at, ..)) => Ok(Some(*at)),
            None => Err(CliError::NotAgreed("the restore").into()),
        };
    }
    let lines = readings.iter().zip(&typed).map(|((at, _, name), typed)| {
        let utc = at.to_zoned(TimeZone::UTC).strftime("%H:%M UTC");
        format!("{}    {name}; {utc}", line(typed).trim_end())
    });
    Err(RestoreRefusal::Zoneless { text: text.to_owned(), lines: lines.collect() }.into())
}

/// The zone that the server's log is written in, as far as its configuration says.
fn log_timezone(context: &Context, source: &str) -> (TimeZone, String) {
    let config = context
        .config
        .as_ref()
        .and_then(|config| config.sources.values().find(|s| s.name.as_str() == source));
    let setting = config.and_then(|config| {
        let directory = &config.data_directory;
        let main = refloat_pg::server::debian_cluster(std::path::Path::new("/etc/postgresql"), directory)
            .map_or_else(
                || directory.join("postgresql.conf"),
                |cluster| cluster.config_directory.join("postgresql.conf"),
            );
        refloat_pg::conf::effective(&main, Some(directory))
            .ok()?
            .text("log_timezone")
            .map(|text| text.into_owned())
    });
    let name = setting.unwrap_or_else(|| "UTC".to_owned());
    match TimeZone::get(&name) {
        Ok(zone) => (zone, name),
        Err(_) => (TimeZone::UTC, "UTC".to_owned()),
    }
}

fn named_targets(
    options: &Restore,
    context: &Context,
    targets: &mut Vec<(String, Target)>,
) -> Result<(), Failure> {
    if let Some(text) = &options.target_time {
        let line = |text: &str| {
            format!(
                "{} --target-time {} {}",
                line_with(options, context, options.what.as_deref()),
                shell(text),
                where_to(options)
            )
        };
        match moment(options, context, text, &line)? {
            Some(at) => targets.push(("--target-time".to_owned(), Target::Time(at))),
            None => {
                return Err(bad(
                    format!("\"--target-time {text}\" is not a time"),
                    "Write it as '2026-11-20 02:50:00+01'.".to_owned(),
                ));
            }
        }
    }
    if let Some(text) = &options.target_lsn {
        let lsn = text
            .parse::<Lsn>()
            .map_err(|error| bad(error.to_string(), "It looks like 16/B374D848.".to_owned()))?;
        targets.push(("--target-lsn".to_owned(), Target::Lsn(lsn)));
    }
    if let Some(xid) = options.target_xid {
        targets.push(("--target-xid".to_owned(), Target::Xid(xid)));
    }
    if let Some(name) = &options.target_name {
        targets.push(("--target-name".to_owned(), Target::Name(name.clone())));
    }
    match options.target.as_deref() {
        None => {}
        Some("immediate") => targets.push(("--target immediate".to_owned(), Target::Immediate)),
        Some("latest") => targets.push(("--target latest".to_owned(), Target::Latest)),
        Some(text) => {
            let hint = match times::parse(text, context.clock.now()) {
                Moment::NotATime => "It takes immediate or latest.".to_owned(),
                _ => format!("{} {}", line_with(options, context, Some(text)), where_to(options)),
            };
            return Err(bad(format!("\"--target {text}\" is neither immediate nor latest"), hint));
        }
    }
    Ok(())
}

fn timeline(options: &Restore) -> Result<AskedTimeline, Failure> {
    Ok(match options.target_timeline.as_deref() {
        None => AskedTimeline::Default,
        Some("latest") => AskedTimeline::Latest,
        Some("current") => AskedTimeline::Current,
        Some(text) => match text.parse::<u32>().ok().and_then(TimelineId::new) {
            Some(timeline) => AskedTimeline::Number(timeline),
            None => {
                return Err(bad(
                    format!("\"--target-timeline {text}\" is no timeline"),
                    "It takes a number, latest, or current.".to_owned(),
                ));
            }
        },
    })
}
