//! `generate`: what the provider of a bucket has to be told for this configuration.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use refloat_types::Scheme;
use serde_json::{Value, json};

use crate::Outcome;
use crate::bucket::{Bucket, Principals, Role, bucket_policy, iam_policy, lifecycle, noncurrent_days};
use crate::context::Context;
use crate::error::{CliError, Failure};
use crate::site::bucket_of;

/// What is generated.
#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// The lifecycle of the bucket: clears what was never finished, and hidden versions that nothing needs
    ///
    /// Nothing that is current is deleted or moved: what a backup needs is known to `refloat expire` alone.
    #[command(after_help = "\
Examples:
  refloat generate s3-lifecycle > lifecycle.json
  aws s3api put-bucket-lifecycle-configuration --bucket acme-backups --lifecycle-configuration file://lifecycle.json")]
    S3Lifecycle(S3Lifecycle),
    /// The policy of the bucket: TLS only, nothing overwritten, nothing deleted but by expirers
    #[command(after_help = "\
Examples:
  refloat generate bucket-policy --expirer arn:aws:iam::123456789012:role/refloat-expire > policy.json
  aws s3api put-bucket-policy --bucket acme-backups --policy file://policy.json

It only denies: what users and roles may do, `refloat generate iam-policy` says.")]
    BucketPolicy(BucketPolicy),
    /// The policy of a role: exactly what its commands do
    #[command(after_help = "\
Examples:
  refloat generate iam-policy --role agent > agent.json
  aws iam create-policy --policy-name refloat-agent --policy-document file://agent.json
  refloat generate iam-policy --role expirer --output /etc/refloat/policies")]
    IamPolicy(IamPolicy),
}

/// Options of all of them.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The directory to write the file into [default: stdout]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Days of the default object lock that the bucket has, or shall have
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    lock: Option<u32>,
}

/// `s3-lifecycle`.
#[derive(Debug, Args)]
pub(crate) struct S3Lifecycle {
    #[command(flatten)]
    common: Common,
}

/// `bucket-policy`.
#[derive(Debug, Args)]
pub(crate) struct BucketPolicy {
    #[command(flatten)]
    common: Common,
    /// ARN of a role or user that may delete; may be given several times
    #[arg(long, value_name = "ARN", value_parser = Principals::parse)]
    expirer: Vec<String>,
}

/// `iam-policy`.
#[derive(Debug, Args)]
pub(crate) struct IamPolicy {
    #[command(flatten)]
    common: Common,
    /// Whose credentials they are
    #[arg(long, value_enum, default_value = "agent")]
    role: Role,
}

/// A document, and what to do with it.
struct Made {
    kind: &'static str,
    /// Name of its file.
    file: String,
    document: Value,
    notes: Vec<String>,
    /// The line that puts it to use.
    apply: String,
}

impl Generate {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<Outcome, Failure> {
        let (common, make): (&Common, &dyn Fn(&Bucket) -> Made) = match &self {
            Self::S3Lifecycle(of) => (&of.common, &of_lifecycle),
            Self::BucketPolicy(of) => (&of.common, &|bucket| of.make(bucket)),
            Self::IamPolicy(of) => (&of.common, &|bucket| of.make(bucket)),
        };
        let bucket = one_bucket(context, common.lock)?;
        let made = make(&bucket);
        let text = format!("{:#}\n", made.document);
        let path =
            common.output.as_deref().map(|directory| write(directory, &made.file, &text)).transpose()?;
        if path.is_none() {
            context.out.text(&text);
        }
        let file = path.as_ref().map_or_else(|| made.file.clone(), |path| path.display().to_string());
        let apply = made.apply.replace("FILE", &file);
        for note in &made.notes {
            context.out.say(note);
        }
        context.out.say(&format!("To put it to use: {apply}"));
        let names: Vec<&str> = bucket.places.iter().map(|place| place.name.as_str()).collect();
        context.out.document(&json!({
            "kind": made.kind, "bucket": bucket.name, "repositories": names, "document": made.document,
            "notes": made.notes, "apply": apply, "path": path,
        }));
        Ok(Outcome::Done)
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf, Failure> {
    let path = directory.join(name);
    std::fs::create_dir_all(directory).map_err(|source| CliError::file("create", directory, source))?;
    std::fs::write(&path, text).map_err(|source| CliError::file("write", &path, source))?;
    Ok(path)
}

/// The bucket of `-r`, or the only one there is. A bucket has one lifecycle and one policy, so all repositories in it count.
fn one_bucket(context: &Context, lock_days: Option<u32>) -> Result<Bucket, Failure> {
    let asked = context.repositories(None)?;
    let other = asked.iter().find(|config| config.url.location().scheme() != Scheme::S3);
    let mut buckets: Vec<&str> = asked
        .iter()
        .map(|config| config.url.location())
        .filter(|location| location.scheme() == Scheme::S3)
        .map(refloat_types::Location::host)
        .collect();
    buckets.sort_unstable();
    buckets.dedup();
    match (buckets.as_slice(), other) {
        ([name], _) => Ok(bucket_of(context, name, lock_days)?),
        ([], Some(other)) => {
            let scheme = other.url.location().scheme();
            Err(CliError::usage(
                format!(
                    "repository \"{}\" is in {}: this is generated for S3 alone",
                    other.name,
                    scheme.name()
                ),
                "The page \"Buckets that nobody can empty\" of the manual says what to give to whom in Google Cloud Storage and Azure.",
            )
            .into())
        }
        ([], None) => Err(CliError::usage(
            "there is no repository in a bucket",
            "Write [repository.NAME] with url = \"s3://…\" into the configuration.",
        )
        .into()),
        (several, _) => Err(CliError::usage(
            format!("there are repositories in {} buckets: {}", several.len(), several.join(", ")),
            "Name one of them: -r NAME",
        )
        .into()),
    }
}

fn dialect(bucket: &Bucket) -> Option<String> {
    bucket.has_endpoint.then(|| {
        "This store is not Amazon's: it may not know all of these conditions. refloat check says what holds.".to_owned()
    })
}

fn of_lifecycle(bucket: &Bucket) -> Made {
    let days = noncurrent_days(bucket);
    let mut notes = vec![format!(
        "Hidden versions stay for {days} days: longer than the longest age in `retention` and the lock. Current objects are never deleted."
    )];
    if bucket.places.iter().any(|place| place.keep.is_none()) {
        notes.push(
            "How long backups stay is not said as an age everywhere: see that hidden versions stay long enough for you."
                .to_owned(),
        );
    }
    notes.push(
        "It replaces the whole lifecycle of the bucket: add rules for other prefixes to it.".to_owned(),
    );
    notes.extend(dialect(bucket));
    Made {
        kind: "s3-lifecycle",
        file: format!("{}-s3-lifecycle.json", bucket.name),
        document: lifecycle(bucket),
        notes,
        apply: format!(
            "aws s3api put-bucket-lifecycle-configuration --bucket {} --lifecycle-configuration file://FILE",
            bucket.name
        ),
    }
}

impl BucketPolicy {
    fn make(&self, bucket: &Bucket) -> Made {
        let principals = Principals::new(self.expirer.clone());
        let mut notes = Vec::new();
        if principals.is_placeholder() {
            notes.push(format!(
                "Nobody is named who may delete: put the ARN of the expirer for {}, or say --expirer ARN.",
                Principals::PLACEHOLDER
            ));
        }
        if bucket.lock_days.is_none() {
            notes.push(
                "With a default object lock say --lock DAYS; without one, whoever may change this policy can destroy."
                    .to_owned(),
            );
        }
        notes.push("It replaces the whole policy of the bucket: add statements of others to it.".to_owned());
        notes.extend(dialect(bucket));
        Made {
            kind: "bucket-policy",
            file: format!("{}-bucket-policy.json", bucket.name),
            document: bucket_policy(bucket, &principals),
            notes,
            apply: format!("aws s3api put-bucket-policy --bucket {} --policy file://FILE", bucket.name),
        }
    }
}

impl IamPolicy {
    fn make(&self, bucket: &Bucket) -> Made {
        let document = iam_policy(bucket, self.role);
        let mut notes = Vec::new();
        if document.to_string().contains(":ACCOUNT:") {
            notes.push("Put the number of the account for ACCOUNT in the key's ARN.".to_owned());
        }
        match self.role {
            Role::Agent => {
                notes.push("`refloat init` and `refloat key` need more: run them with an administrator's credentials.".to_owned());
                if bucket.lock_days.is_none() {
                    notes.push(
                        "With a default object lock say --lock DAYS: older packs are locked for longer then."
                            .to_owned(),
                    );
                }
            }
            Role::Expirer | Role::Restorer => {}
        }
        notes.push(
            "Attach it to the user or role of this host; it is too long for an inline policy.".to_owned(),
        );
        notes.extend(dialect(bucket));
        let role = self.role.as_str();
        Made {
            kind: "iam-policy",
            file: format!("{}-iam-policy-{role}.json", bucket.name),
            document,
            notes,
            apply: format!(
                "aws iam create-policy --policy-name refloat-{role} --policy-document file://FILE"
            ),
        }
    }
}
