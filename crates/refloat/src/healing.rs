//! Damaged objects are replaced by right ones of another repository: by the command that needed them, or by `verify --heal`.
//!
//! Each time is a warning, and an operation record in the repository that was mended. `status` and `check` tell of it for a
//! week: a byte does not change by itself, and what has damaged one object may damage more.

use std::time::Duration;

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::heal::{HealRequest, Healed, heal};
use refloat_repo::Repository;
use refloat_repo::layout::{self, Named};
use refloat_repo::repository::OperationRecord;
use refloat_store::Key;
use refloat_types::Clock as _;
use serde::Serialize;

use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::Failure;
use crate::operations::{self, Operation};
use crate::render::text::count;
use crate::rescue;

/// How long another repository may take to answer, before it is left out.
const PATIENCE: Duration = Duration::from_secs(15);
/// For so long a healing is something to look at.
const RECENT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Copies of small objects are kept so often.
const SELDOM: Duration = Duration::from_secs(24 * 3600);

/// What became of a damaged object.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Told {
    object: String,
    /// Where the right copy came from, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Why it is as damaged as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Told {
    /// Whether it is right now.
    pub(crate) const fn is_healed(&self) -> bool {
        self.from.is_some()
    }
    fn text(&self, dry_run: bool) -> String {
        let Self { object, from, why } = self;
        match (from, why) {
            (Some(from), _) if dry_run => format!("would be healed: {object} from {from}"),
            (Some(from), _) => format!("healed: {object} from {from}"),
            (None, why) => format!("NOT healed: {object}: {}", why.as_deref().unwrap_or("no right copy")),
        }
    }
}

/// Whether an error says that something in a repository is damaged.
pub(crate) fn is_damage(failure: &Failure) -> bool {
    refloat_repo::error::DAMAGE.contains(&failure.code)
}

/// Keeps copies of the small objects that only this repository has, once a day: what puts them right if they are damaged.
pub(crate) fn keep_copies(context: &Context, opened: &Opened) {
    if let Err(error) = opened.repository.keep_copies_seldom(SELDOM, context.clock.now()) {
        tracing::warn!(repository = opened.name, %error, "no copies of its small objects could be kept");
    }
}

/// The other repositories of a source that answer now.
pub(crate) fn others(context: &Context, source: Option<&SourceConfig>, of: &Opened) -> Vec<Opened> {
    if context.global.repository.is_some() {
        return Vec::new();
    }
    let configs: Vec<RepositoryConfig> = context.repositories(source).unwrap_or_default();
    let others = configs.into_iter().filter(|config| config.name.as_str() != of.name);
    let open = |config: RepositoryConfig| match context.open(&config, Access::Within(PATIENCE)) {
        Ok(opened) => Some(opened),
        Err(failure) => {
            context.out.say(&format!(
                "repository {} does not answer, so nothing is taken from it: {}",
                config.name, failure.message
            ));
            None
        }
    };
    others.filter_map(open).collect()
}

/// Objects that others need come first: who is believed, then keys, then what is sealed with them.
fn rank(key: &Key) -> u8 {
    match Named::parse(key) {
        Some(Named::Repository) => 0,
        Some(Named::Generation(_)) => 1,
        Some(Named::Agent(_) | Named::Invitation(_) | Named::InvitationUsed(_)) => 2,
        Some(Named::Envelope(_) | Named::Rewrapped(..)) => 3,
        Some(Named::Pack(_) | Named::Wal(..)) => 6,
        Some(Named::Commit(..)) => 5,
        _ => 4,
    }
}

/// How objects are healed.
pub(crate) struct Healing<'a> {
    /// The repository that has them.
    pub of: &'a Opened,
    /// Where right copies may be.
    pub from: Vec<&'a Repository>,
    /// For which source, where that makes sense.
    pub source: Option<&'a str>,
    /// Only say what could be done.
    pub dry_run: bool,
}

impl Healing<'_> {
    /// Puts right what can be of these objects. Those that are right are not told of.
    pub(crate) fn run(&self, context: &Context, mut objects: Vec<Key>) -> Vec<Told> {
        objects.sort_by_key(|key| (rank(key), key.clone()));
        objects.dedup();
        let operation = Operation::begin(context, "heal", self.source);
        let request = HealRequest {
            repository: &self.of.repository,
            others: &self.from,
            compression: self.of.compression,
            now: context.clock.now(),
            dry_run: self.dry_run,
        };
        let mut told = Vec::new();
        let (kits, objects): (Vec<Key>, Vec<Key>) = objects
            .into_iter()
            .partition(|key| key.as_str().starts_with(layout::RESCUE) && Named::parse(key).is_none());
        if !kits.is_empty() && !self.dry_run {
            self.renew_kit(context, &kits, &mut told);
        }
        for key in &objects {
            let (from, why) = match heal(&request, key) {
                Ok(Healed::Whole) => continue,
                Ok(Healed::From(from)) => (Some(from), None),
                Err(error) => {
                    let failure = Failure::of(&error);
                    let causes: String = failure.detail.iter().map(|cause| format!(": {cause}")).collect();
                    (None, Some(format!("{}{causes} ({})", failure.message, failure.code)))
                }
            };
            told.push(Told { object: key.to_string(), from, why });
        }
        self.tell(context, operation, &told);
        told
    }

    /// A file of the rescue kit is not copied: it is made again.
    fn renew_kit(&self, context: &Context, files: &[Key], told: &mut Vec<Told>) {
        match rescue::renew(context, self.of, files) {
            Ok(renewed) => told.extend(renewed.iter().map(|key| Told {
                object: key.to_string(),
                from: Some("a new rescue kit".to_owned()),
                why: None,
            })),
            Err(failure) => told.push(Told {
                object: layout::RESCUE.to_owned(),
                from: None,
                why: Some(format!("{} ({})", failure.message, failure.code)),
            }),
        }
    }

    fn tell(&self, context: &Context, mut operation: Operation, told: &[Told]) {
        for one in told {
            let text = one.text(self.dry_run);
            context.out.warn(&format!("repository {}: damaged, and {text}", self.of.name));
        }
        if told.is_empty() || self.dry_run {
            return;
        }
        let healed = told.iter().filter(|one| one.from.is_some()).count();
        let shown: Vec<String> = told.iter().take(8).map(|one| one.text(false)).collect();
        let more = if told.len() > shown.len() {
            format!("; {} more", told.len() - shown.len())
        } else {
            String::new()
        };
        operation.detail = Some(format!(
            "{} replaced, {} not: {}{more}",
            count(healed, "damaged object"),
            told.len() - healed,
            shown.join("; ")
        ));
        operation.about = Some(format!("repository {}", self.of.name));
        operation.finish(context, [&self.of.repository], &Ok(Outcome::Findings));
    }
}

/// All small objects of a repository: what is asked when it cannot be read because of one of them.
pub(crate) fn small_objects(opened: &Opened) -> Vec<Key> {
    let mut all = Vec::new();
    let listed = opened.repository.store().list("", &mut |info| {
        let named = Named::parse(&info.key);
        let is_large = matches!(
            named,
            None | Some(Named::Pack(_) | Named::Wal(..) | Named::Operation(..) | Named::Pin(..))
        );
        if !is_large {
            all.push(info.key);
        }
        std::ops::ControlFlow::Continue(())
    });
    if let Err(error) = listed {
        tracing::warn!(%error, "the repository cannot be listed whole");
    }
    all
}

/// Healings of the last week that this host knows of.
pub(crate) fn recent(context: &Context) -> Vec<OperationRecord> {
    let now = context.clock.now();
    let all = operations::newest(context, "heal");
    all.into_iter().filter(|record| crate::render::time::since(record.started, now) < RECENT).collect()
}

/// What they come to, for a person; `None` where there were none.
pub(crate) fn recent_text(context: &Context) -> Option<String> {
    let all = recent(context);
    let newest = all.first()?;
    Some(format!(
        "{} of damaged objects in the last 7 days, the last one {}: {}",
        count(all.len(), "healing"),
        crate::render::time::moment(newest.started),
        newest.detail.as_deref().unwrap_or_default()
    ))
}
