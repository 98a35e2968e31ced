//! `key list`: who can read, with which keys, and who may write.
//!
//! Nothing is written, and no passphrase is asked for.

use std::collections::{BTreeMap, BTreeSet};

use refloat_config::RepositoryConfig;
use refloat_repo::KeyError;
use refloat_repo::repository::{Generation, Invitation, ListedAgent};
use refloat_types::{ObjectId, Timestamp};
use serde::Serialize;

use crate::Outcome;
use crate::commands::list::source_name;
use crate::context::{Access, Context, Opened};
use crate::error::Failure;
use crate::render::text::{count, table};
use crate::render::time;

#[derive(Serialize)]
struct Listed {
    repository: String,
    fingerprint: String,
    encrypted: bool,
    generation: u64,
    generations: Vec<Generation>,
    data_keys: Vec<DataKey>,
    agents: Vec<Agent>,
    invitations: Vec<Invited>,
    /// What cannot be believed.
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct DataKey {
    id: ObjectId,
    /// `backup`, `map` (page maps only), or `writer`: WAL and records of one host for one day.
    purpose: String,
    created: Timestamp,
    /// The newest generation of recipients it is sealed to.
    generation: u64,
    /// Envelopes of earlier generations that are there still.
    earlier_envelopes: u64,
    /// Whether this host opens it.
    opens: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
    /// Backups that need it, as `SOURCE BACKUP`.
    backups: BTreeSet<String>,
}

#[derive(Serialize)]
struct Agent {
    #[serde(flatten)]
    agent: ListedAgent,
    /// This host.
    this: bool,
    /// User and host of its newest operation, where that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
}

#[derive(Serialize)]
struct Invited {
    #[serde(flatten)]
    invitation: Invitation,
    /// The agent that used it up.
    used_by: Option<ObjectId>,
}

#[derive(Serialize)]
struct Refused {
    object: String,
    why: String,
}

/// Lists the keys of the repositories.
pub(super) fn run(context: &Context, configs: &[RepositoryConfig]) -> Result<Outcome, Failure> {
    let mut all = Vec::new();
    for config in configs {
        let opened = context.open(config, Access::Bulk)?;
        let listed = look(&opened)?;
        tell(context, &listed);
        all.push(listed);
    }
    let refused = all.iter().any(|listed| !listed.refused.is_empty());
    context.out.document(&serde_json::json!({ "repositories": all }));
    Ok(if refused { Outcome::Findings } else { Outcome::Done })
}

fn look(opened: &Opened) -> Result<Listed, Failure> {
    let repository = &opened.repository;
    let mut refused = Vec::new();
    let mut wrong = |object: &str, error: &dyn std::fmt::Display| {
        refused.push(Refused { object: object.to_owned(), why: error.to_string() });
    };
    let generations = repository.list_generations(&mut |object, error| wrong(object, &error))?;
    let mut backups: BTreeMap<ObjectId, BTreeSet<String>> = BTreeMap::new();
    let sources = repository.usable_sources(&mut |key, error| wrong(key.as_str(), &error))?;
    for source in sources {
        let commits = repository.list_commits(source.id, &mut |key, error| wrong(key.as_str(), &error))?;
        for record in commits {
            let name = format!("{} {}", source_name(&source), record.commit.backup);
            let keys: BTreeSet<ObjectId> = record.packs.iter().map(|pack| pack.key).collect();
            for key in keys.into_iter().chain(record.commit.keys).filter(|key| *key != ObjectId::NONE) {
                backups.entry(key).or_default().insert(name.clone());
            }
        }
    }
    let mut data_keys = Vec::new();
    for stored in repository.list_data_keys()? {
        let facts = match repository.key_facts(&stored) {
            Ok(facts) => facts,
            Err(error) => {
                wrong(refloat_repo::layout::envelope(stored.id).as_str(), &error);
                continue;
            }
        };
        data_keys.push(DataKey {
            id: stored.id,
            purpose: facts.purpose,
            created: facts.created,
            generation: facts.generation,
            earlier_envelopes: (u64::from(stored.first) + stored.again.len() as u64).saturating_sub(1),
            opens: facts.opens.is_ok(),
            why_not: facts.opens.err().filter(|why| *why != KeyError::NoIdentity).map(|why| why.to_string()),
            backups: backups.remove(&stored.id).unwrap_or_default(),
        });
    }
    data_keys.sort_by_key(|key| (key.created, key.id));
    let mut listed = Vec::new();
    repository.list_agents(&mut |object, agent| match agent {
        Ok(agent) => listed.push(agent),
        Err(error) => wrong(object, &error),
    })?;
    listed.sort_by_key(|agent| (agent.enrolled, agent.agent));
    let invitations = repository.list_invitations(&mut |object, error| wrong(object, &error))?;
    let agents = listed.into_iter().map(|agent| Agent {
        this: agent.agent == repository.agent(),
        who: repository.newest_operation(agent.agent).ok().flatten().map(|record| record.who),
        agent,
    });
    Ok(Listed {
        repository: opened.name.clone(),
        fingerprint: repository.fingerprint(),
        encrypted: repository.is_encrypted(),
        generation: repository.generation().number,
        generations,
        data_keys,
        agents: agents.collect(),
        invitations: invitations
            .into_iter()
            .map(|(invitation, used_by)| Invited { invitation, used_by })
            .collect(),
        refused,
    })
}

fn tell(context: &Context, listed: &Listed) {
    let out = context.out;
    out.text(&format!("repository {}  fingerprint {}\n", listed.repository, listed.fingerprint));
    out.text("\nWho can read\n");
    let row = |generation: &Generation| {
        let now = if generation.number == listed.generation { "now" } else { "" };
        let opens = match (generation.recipients.is_empty(), generation.has_passphrase) {
            (true, _) => "everybody: not encrypted",
            (false, true) => "a passphrase",
            (false, false) => "private keys",
        };
        let recipients: Vec<&str> = generation.recipients.iter().map(|one| one.as_str()).collect();
        vec![
            format!("generation {}", generation.number),
            time::moment(generation.created),
            now.to_owned(),
            opens.to_owned(),
            recipients.join(", "),
        ]
    };
    out.text(&table(&listed.generations.iter().map(row).collect::<Vec<_>>(), &[]));
    if !listed.data_keys.is_empty() {
        out.text("\nData keys\n");
        let rows: Vec<_> = listed.data_keys.iter().map(key_row).collect();
        out.text(&table(&rows, &[]));
    }
    out.text("\nWho may write\n");
    let row = |agent: &Agent| {
        let who = agent.who.clone().unwrap_or_default();
        let this = if agent.this { "this host" } else { "" };
        vec![
            agent.agent.agent.to_string(),
            time::moment(agent.agent.enrolled),
            agent
                .agent
                .invitation
                .map_or_else(|| "by the root key".to_owned(), |id| format!("by invitation {id}")),
            who,
            this.to_owned(),
        ]
    };
    out.text(&table(&listed.agents.iter().map(row).collect::<Vec<_>>(), &[]));
    let unused: Vec<_> = listed.invitations.iter().filter(|one| one.used_by.is_none()).collect();
    if !unused.is_empty() {
        out.text("\nInvitations that nobody has used\n");
        let row = |one: &&Invited| {
            let until = format!("until {}", time::moment(one.invitation.expires));
            vec![one.invitation.invitation.to_string(), time::moment(one.invitation.created), until]
        };
        out.text(&table(&unused.iter().map(row).collect::<Vec<_>>(), &[]));
    }
    for refused in &listed.refused {
        out.warn(&format!("{}: {}", refused.object, refused.why));
    }
}

fn key_row(key: &DataKey) -> Vec<String> {
    let what = match (key.purpose.as_str(), key.backups.len()) {
        ("writer", _) => format!("WAL and records of {}", key.created.strftime("%Y-%m-%d")),
        ("map", 1..) => format!("page maps of {}", count(key.backups.len(), "backup")),
        (_, 0) => "no backup needs it".to_owned(),
        (_, 1..=3) => key.backups.iter().cloned().collect::<Vec<_>>().join(", "),
        (_, number) => {
            let first = key.backups.first().cloned().unwrap_or_default();
            format!("{first} and {}", count(number - 1, "more backup"))
        }
    };
    let opens = if key.opens { "opens here" } else { "does not open here" };
    vec![
        key.id.to_string(),
        time::moment(key.created),
        format!("generation {}", key.generation),
        opens.to_owned(),
        what,
    ]
}
