//! Archiving proven: a WAL segment is closed on the server, and has to arrive in every repository.

use std::time::{Duration, Instant};

use refloat_config::SourceConfig;
use refloat_pg::control::read_settled;
use refloat_pg::sql::{ArchiverStatus, Session};
use refloat_types::{WalFileName, WalSegmentName};

use super::Lines;
use crate::context::Opened;
use crate::error::Failure;
use crate::render::time;

/// Longest wait; PostgreSQL tries a failed command again after a minute.
const LONGEST: Duration = Duration::from_secs(75);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Switches a segment and waits for it.
pub(super) fn prove(lines: &mut Lines<'_>, source: &SourceConfig, session: &Session, opened: &[&Opened]) {
    let about = format!("archiving {}", source.name);
    let before = session.archiver_status().ok();
    let system = match read_settled(&source.data_directory) {
        Ok((control, _)) => control.system_identifier,
        Err(error) => return lines.failure(about, &Failure::from(error)),
    };
    let switched = match session.switch_wal() {
        Ok(switched) => switched,
        Err(error) => return lines.failure(about, &Failure::from(error)),
    };
    let began = Instant::now();
    let mut missing: Vec<&Opened> = opened.to_vec();
    let mut failing = 0;
    while !missing.is_empty() {
        let name = WalFileName::Segment(switched.segment);
        missing.retain(|one| !one.repository.find_wal(system, name).is_ok_and(|found| !found.is_empty()));
        let status = session.archiver_status().ok();
        let failed = |status: &Option<ArchiverStatus>| status.as_ref().map_or(0, |status| status.failed);
        // Two failures after the switch are enough: a third would not help.
        failing = failed(&status).saturating_sub(failed(&before));
        if missing.is_empty() || failing >= 2 || began.elapsed() > LONGEST {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let took = time::seconds(began.elapsed().as_secs_f64());
    if opened.is_empty() {
        return lines.fault(about, "no repository of this source can be used", "");
    }
    if missing.is_empty() {
        let names: Vec<&str> = opened.iter().map(|one| one.name.as_str()).collect();
        return lines.ok(
            about,
            format!("{} was closed and arrived in {} after {took}", switched.segment, names.join(", ")),
        );
    }
    let names: Vec<&str> = missing.iter().map(|one| one.name.as_str()).collect();
    let what = why(session, &switched.segment, &names.join(", "), &took, failing);
    let mend = format!(
        "{} wal status {};  read the server's log: lines with refloat[CODE] say why",
        lines.context().command(),
        source.name
    );
    lines.fault(about, what, mend);
}

/// What is wrong, in words.
fn why(session: &Session, segment: &WalSegmentName, missing: &str, took: &str, failing: u64) -> String {
    let lead = format!("{segment} was closed and did not arrive in {missing} within {took}");
    let Ok(status) = session.archiver_status() else {
        return format!("{lead}; the server does not answer any more");
    };
    if failing > 0 || status.is_failing() {
        let file = status.last_failed.as_deref().unwrap_or("a file");
        let at = status.last_failed_at.map_or_else(String::new, |at| format!(" at {}", time::moment(at)));
        let others = if file == segment.to_string() { "" } else { ", which comes before it" };
        return format!("{lead}: archive_command failed for {file}{others}{at}");
    }
    match status.last_archived.as_deref() {
        Some(last) if last >= segment.to_string().as_str() => {
            format!("{lead}: PostgreSQL says that it was archived, so archive_command stores elsewhere")
        }
        Some(last) => format!(
            "{lead}: PostgreSQL has archived up to {last}; others wait before it, or the archiver is slow"
        ),
        None => format!("{lead}: PostgreSQL has not archived anything yet"),
    }
}
