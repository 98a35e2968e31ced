//! Where a restore goes, as whom, and with which configuration the restored server fetches its WAL.
//!
//! Without a configuration (`-r URL`), or for a source that it does not have, the restored server needs one of its own: it
//! is put into `DIR.refloat` beside the data directory, with the state that opens the repository.

use std::cell::Cell;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::pitr;
use refloat_engine::restore::{Become, Destination};
use refloat_pg::server::server_state;
use refloat_repo::repository::{OwnerRecord, SourceInfo};
use refloat_repo::{Repository, StateDirectory};
use refloat_types::Clock as _;

use super::Restore;
use crate::commands::list::ad_hoc_path;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::identity::{Wanted, is_root};
use crate::render::text::{shell, shell_path};

/// Where to, and with which configuration.
pub(super) struct Place {
    /// The data directory, absolute.
    pub directory: PathBuf,
    in_place: bool,
    /// `DIR.refloat`, where the server gets a configuration of its own.
    pub own: Option<PathBuf>,
    source: String,
    /// The repository could not be written with what was given to reach it.
    read_only: Cell<bool>,
}

/// Decides where and as whom, and becomes that user; root is kept for making directories.
pub(super) fn settle(context: &mut Context, options: &Restore) -> Result<Place, Failure> {
    let ad_hoc = context.is_ad_hoc()?;
    if !ad_hoc {
        context.config()?;
    }
    let config = context
        .config
        .as_ref()
        .and_then(|all| all.sources.values().find(|s| s.name.as_str() == options.source))
        .cloned();
    let directory = match (&options.to, &config) {
        (Some(to), _) => std::path::absolute(to)
            .map_err(|source| CliError::file("find", to, source))?
            .components()
            .collect(),
        (None, Some(config)) => config.data_directory.clone(),
        (None, None) => {
            return Err(CliError::usage(
                format!(
                    "--in-place is the data directory of \"{}\", which no configuration names",
                    options.source
                ),
                "Name the directory: --to DIR",
            )
            .into());
        }
    };
    match &config {
        Some(config) if !ad_hoc => context.assume(std::slice::from_ref(config), true)?,
        _ => {
            if is_root()
                && let Some(owner) = owner_for(context, &directory)?
            {
                context.become_user(&owner, true)?;
            }
            if ad_hoc {
                context.use_state(None)?;
            }
        }
    }
    let own = (ad_hoc || config.is_none()).then(|| {
        let mut name = directory.file_name().unwrap_or_default().to_owned();
        name.push(".refloat");
        directory.with_file_name(name)
    });
    let (in_place, source, read_only) = (options.in_place, options.source.clone(), Cell::new(false));
    Ok(Place { directory, in_place, own, source, read_only })
}

/// Whom a restored directory belongs to where no configuration says it: the owner of what is nearest to it, else of the
/// repository, else PostgreSQL's usual user.
fn owner_for(context: &Context, directory: &Path) -> Result<Option<Wanted>, Failure> {
    let nearest = directory.ancestors().find(|path| path.exists());
    let repository = if context.is_ad_hoc()? { ad_hoc_path(context)? } else { None };
    let state = context.state_path().map(Path::to_owned);
    let paths = nearest.map(Path::to_owned).into_iter().chain(repository).chain(state);
    let paths: Vec<PathBuf> = paths.collect();
    Ok(Wanted::owner_of(paths.iter().map(PathBuf::as_path)).or_else(|| Wanted::postgres(directory)))
}

impl Place {
    /// For the engine.
    pub(super) fn destination(&self) -> Destination {
        if self.in_place {
            Destination::InPlace(self.directory.clone())
        } else {
            Destination::Directory(self.directory.clone())
        }
    }

    /// Name of the source.
    pub(super) fn source_name(&self) -> &str {
        &self.source
    }
    /// Whether its server needs a port and a socket of its own: a copy always, others while the source's server runs.
    pub(super) fn is_beside(&self, context: &Context, becomes: Become) -> bool {
        let sources = context.config.iter().flat_map(|config| config.sources.values());
        let runs = |source: &SourceConfig| {
            source.name.as_str() == self.source
                && source.data_directory != self.directory
                && server_state(&source.data_directory).is_ok_and(|state| state.is_occupied())
        };
        !self.in_place && (becomes == Become::Copy || sources.into_iter().any(runs))
    }
    /// Whether the configuration has the source in another directory, or not at all.
    pub(super) fn is_elsewhere(&self, context: &Context) -> bool {
        let mut sources = context.config.iter().flat_map(|config| config.sources.values());
        !sources.any(|source| source.name.as_str() == self.source && source.data_directory == self.directory)
    }

    /// Opens the repository to restore from.
    pub(super) fn open(&self, context: &Context) -> Result<Opened, Failure> {
        if context.is_ad_hoc()? {
            // The state is a temporary one until it is sure that something is restored.
            return context.open_url_of_option(true);
        }
        let source = context.config()?.sources.values().find(|source| source.name.as_str() == self.source);
        context.open_for(source, Access::Bulk)
    }

    /// Makes the directory, and what the server needs to fetch its WAL.
    pub(super) fn prepare(&self, context: &Context, opened: &Opened) -> Result<(), Failure> {
        if !self.in_place {
            self.make(context, &self.directory)?;
        }
        let Some(own) = &self.own else { return Ok(()) };
        self.make(context, own)?;
        self.write_configuration(context, own, opened)
    }

    /// Makes a directory of the owner's, also below root's.
    pub(super) fn make(&self, context: &Context, directory: &Path) -> Result<(), Failure> {
        let made = context.identity.make_directory(directory, 0o700);
        Ok(made.map_err(|source| CliError::file("create", directory, source))?)
    }

    fn write_configuration(&self, context: &Context, own: &Path, opened: &Opened) -> Result<(), Failure> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| CliError::file("write", path, source)
        };
        let state =
            if context.is_ad_hoc()? { own.join("refloat-state") } else { context.state().path().to_owned() };
        let passphrase = own.join("passphrase");
        let marker = opened.repository.marker();
        let encryption = if opened.repository.generation().recipients.is_empty() {
            "\"none\"".to_owned()
        } else {
            format!("{{ passphrase = {{ file = {} }} }}", quoted(&passphrase))
        };
        let store = context.store_lines(opened, &mut |name, secret| {
            let file = own.join(format!("store-{}", name.replace('_', "-")));
            write_new(&file, secret).map_err(fail(&file))?;
            Ok(file)
        })?;
        let text = format!(
            "# Made by refloat restore, so that the server in {} can fetch its WAL.\n\
             # Remove this directory when that server has a configuration of its own, or is deleted.\n\
             state = {}\n\n[repository.backup]\nurl = \"{}\"\n{store}encryption = {encryption}\nfingerprint = \"{}\"\n\n\
             [source.{}]\nkind = \"postgres\"\ndata_directory = {}\n",
            self.directory.display(),
            quoted(&state),
            opened.repository.store().describe(),
            marker.root.fingerprint(),
            self.source,
            quoted(&self.directory),
        );
        let file = own.join("refloat.toml");
        write_new(&file, &text).map_err(fail(&file))?;
        self.read_only.set(context.is_ad_hoc()? && !context.enrol_at(&state)?);
        if self.read_only.get()
            && let Some(entered) = context.entered()
        {
            // A repository that cannot be written does not enrol this host: each fetch opens it by the passphrase.
            write_new(&passphrase, &entered).map_err(fail(&passphrase))?;
        }
        Ok(())
    }

    /// The repository of `-r URL` with the state of `DIR.refloat`, where this host could be enrolled.
    pub(super) fn enrolled(&self, context: &Context) -> Option<Opened> {
        let state = self.own.as_ref()?.join("refloat-state");
        if !context.is_ad_hoc().unwrap_or(false) || !state.exists() {
            return None;
        }
        let opened = context.open_url_with(&state).ok()?;
        let known = Repository::is_known(&StateDirectory::new(&state), opened.repository.marker().id);
        known.is_ok_and(|is_known| is_known).then_some(opened)
    }

    /// The line that makes this server the source: with the configuration that the restore made, as the user whom that belongs
    /// to, where no other one has the source.
    pub(super) fn takeover(&self, context: &Context) -> String {
        let Some(own) = &self.own else { return format!("{} takeover {}", context.command(), self.source) };
        let owner = &context.identity.name;
        let sudo = if context.who == *owner { String::new() } else { format!("sudo -u {owner} ") };
        let (program, config) = (shell_path(&context.executable), shell_path(&own.join("refloat.toml")));
        format!("{sudo}{program} --config {config} takeover {}", self.source)
    }

    /// The configuration in which what reaches the repository has to be replaced before anything is recorded there.
    pub(super) fn cannot_record(&self) -> Option<PathBuf> {
        self.own.as_ref().filter(|_| self.read_only.get()).map(|own| own.join("refloat.toml"))
    }

    /// What a person does so that this host archives and backs up, where no configuration has the source.
    pub(super) fn configure(&self) -> String {
        format!(
            "bring back /etc/refloat, or write a configuration with this repository and data_directory = {} for {}, then:  sudo refloat init;  sudo refloat check",
            quoted(&self.directory),
            self.source
        )
    }

    /// What PostgreSQL runs to fetch a WAL file: out of the repository that was named with -r, because others may be gone; a
    /// standby, which goes on for ever, out of all of them.
    pub(super) fn restore_command(&self, context: &Context, source: &str, for_ever: bool) -> String {
        let config =
            self.own.as_ref().map_or_else(|| context.config_file.clone(), |own| own.join("refloat.toml"));
        let program = format!("{} --config {}", shell_path(&context.executable), shell_path(&config))
            .replace('%', "%%");
        let named = context.global.repository.as_ref().filter(|_| self.own.is_none() && !for_ever);
        let named = named.map_or_else(String::new, |name| format!(" -r {}", shell(name).replace('%', "%%")));
        format!("{program}{named} wal fetch --source {source} %f \"%p\"")
    }

    /// Records in every repository that this server is the source from now on. Answers whether all of them have it; what
    /// was restored is whole either way.
    pub(super) fn record_owner(
        &self,
        context: &Context,
        opened: &Opened,
        source: &SourceInfo,
        found: &pitr::Plan,
    ) -> bool {
        let record = |repository: &Repository, source: &SourceInfo| {
            repository.put_owner(OwnerRecord {
                source: source.id,
                number: 0,
                at: context.clock.now(),
                system: found.backup.commit.cluster.system,
                timeline: found.timeline,
                fork_lsn: None,
                restored_from: Some(found.backup.commit.backup.to_string()),
            })
        };
        let missing = |name: &str, why: &Failure| {
            context.out.warn(&format!("repository {name}: the new owner is not recorded: {}", why.message));
            let again = self.takeover(context);
            context
                .out
                .say(&format!("What was restored is whole. Once that repository can be written: {again}"));
            false
        };
        if context.is_ad_hoc().unwrap_or(false) {
            // The one that was planned from is open for reading only.
            let recorded = self.enrolled(context).map(|writable| record(&writable.repository, source));
            if !matches!(recorded, Some(Ok(_))) {
                context.out.warn("the repository cannot be written from here: the new owner is not recorded");
            }
            return true;
        }
        let elsewhere = |config: &RepositoryConfig| -> Result<(), Failure> {
            let other = context.open(config, Access::Bulk)?;
            let bad_name = |error: refloat_types::BadName| {
                CliError::usage(error.to_string(), "Names are lower-case letters, digits, _ and -.")
            };
            if let Some(known) = other.repository.find_source(&self.source.parse().map_err(bad_name)?)? {
                record(&other.repository, &known)?;
            }
            Ok(())
        };
        let all = context.config().and_then(|config| {
            let source = config.sources.values().find(|source| source.name.as_str() == self.source);
            context.repositories(source)
        });
        let all = match all {
            Ok(all) => all,
            Err(failure) => return missing(&opened.name, &failure),
        };
        let mut everywhere = true;
        for config in all {
            let recorded = match config.name.as_str() == opened.name {
                true => record(&opened.repository, source).map(drop).map_err(Failure::from),
                false => elsewhere(&config),
            };
            if let Err(failure) = recorded {
                everywhere = missing(config.name.as_str(), &failure);
            }
        }
        everywhere
    }
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}
