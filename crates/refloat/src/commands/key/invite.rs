//! `key invite`: a token with which one other host enrols itself. It can write then, and read nothing.
//!
//! The token is shown once, on stdout, and kept nowhere.

use clap::Args;
use refloat_config::RepositoryConfig;
use refloat_types::{Age, Clock as _};

use crate::Outcome;
use crate::context::{Access, Context};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::render::time;

/// Invite one host that shall write and hold no key: prints a token for its `init --invite`
///
/// Needs a host that can open the root key. The token is for one host, once, and not for long. Who has it can store backups and
/// WAL in this repository, and can read none: pass it on as you would a password.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sudo refloat key invite > /run/token      here; on the other host, with  encryption = { recipients = [...] }  in its configuration:
  sudo refloat init --invite @/run/token")]
pub(crate) struct Invite {
    /// How long it may be used
    #[arg(long, value_name = "AGE", default_value = "24h")]
    valid: Age,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Longer than this nobody should have to wait for a host.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

impl Invite {
    /// Does it.
    pub(super) fn run(&self, context: &Context, configs: &[RepositoryConfig]) -> Result<Outcome, Failure> {
        let config = super::only(configs)?;
        if self.valid.0 > LONGEST || self.valid.0.is_zero() {
            return Err(CliError::usage(
                format!("--valid {}: an invitation is for a moment up to 30 days", self.valid),
                "Leave it out for 24 hours.",
            )
            .into());
        }
        let opened = context.open(config, Access::Bulk)?;
        opened.repository.check_root()?;
        if self.dry_run {
            context
                .out
                .text(&format!("would invite one host to repository {}, for {}\n", opened.name, self.valid));
            context.out.document(&serde_json::json!({ "dry_run": true, "repository": opened.name }));
            return Ok(Outcome::Done);
        }
        let mut operation = Operation::begin(context, "key invite", None);
        let invited = opened.repository.invite(self.valid.0, context.clock.now()).map_err(Failure::from);
        if let Ok((_, invitation)) = &invited {
            operation.detail =
                Some(format!("repository {}, invitation {}", config.name, invitation.invitation));
        }
        let ended = invited.as_ref().map(|_| Outcome::Done).map_err(Failure::clone);
        operation.finish(context, [&opened.repository], &ended);
        let (token, invitation) = invited?;
        context.out.text(&format!("{}\n", token.expose()));
        context.out.say(&format!(
            "For one host, once, until {}. There, with {{ recipients = [...] }} as its encryption:  refloat init --invite @FILE",
            time::moment(invitation.expires)
        ));
        context.out.document(&serde_json::json!({
            "repository": opened.name,
            "invitation": invitation,
            "recipients": opened.repository.generation().recipients,
            "token": token.expose(),
        }));
        Ok(Outcome::Done)
    }
}
