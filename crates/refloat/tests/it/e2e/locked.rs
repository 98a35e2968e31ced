//! A bucket that keeps versions and locks them, and a host whose credentials may only add.

use refloat_testkit::cluster::TestCluster;
use refloat_testkit::http;
use refloat_testkit::servers::Moto;
use serde_json::Value;

use super::site::{Run, Site, prove, run, start_restored};

/// A site beside whose own configuration others have their repository in a bucket.
struct Bucket {
    server: Moto,
    site: Site,
}

/// A configuration with its own state directory: another host, or another role.
struct Host<'b> {
    bucket: &'b Bucket,
    name: &'static str,
}

/// What moto looks at to know the service; nobody checks it yet.
const IAM: &str = "AWS4-HMAC-SHA256 Credential=refloat-test/20260101/us-east-1/iam/aws4_request, \
    SignedHeaders=host, Signature=00";

impl Bucket {
    fn new(lock_days: u32) -> Option<Self> {
        let server = Moto::with_policies()?;
        server.locked_bucket("acme", "COMPLIANCE", lock_days);
        let site = Site::new(TestCluster::builder().version(15).setting("autovacuum", "off"));
        Some(Self { server, site })
    }

    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.site.path(name);
        std::fs::write(&path, text).expect("writes");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
        self.site.cluster.owner().give(&path);
        path.display().to_string()
    }

    /// A host with these credentials.
    fn host(&self, name: &'static str, (access, secret): (&str, &str), encryption: &str) -> Host<'_> {
        let home = self.site.home.display();
        let secret = self.secret(&format!("{name}-secret"), secret);
        let text = format!(
            "state = \"{home}/{name}-state\"\n[repository.offsite]\nurl = \"s3://acme/db1\"\nendpoint = \"{}\"\n\
             credentials = {{ access_key_id = \"{access}\", secret_access_key = {{ file = \"{secret}\" }} }}\n\
             encryption = {encryption}\n\
             [source.prod]\nkind = \"postgres\"\ndata_directory = \"{}\"\nwal = \"push\"\n\
             connection = \"user=postgres\"\nretention = {{ full = \"28d\" }}\n",
            self.server.endpoint(),
            self.site.cluster.data_directory().display(),
        );
        self.secret(&format!("{name}.toml"), &text);
        Host { bucket: self, name }
    }

    /// The host that made the repository, with credentials that may do anything.
    fn administrator(&self) -> Host<'_> {
        let passphrase =
            format!("{{ passphrase = {{ file = \"{}/passphrase\" }} }}", self.site.home.display());
        let host = self.host("admin", ("refloat-test", "a secret of tests alone"), &passphrase);
        host.run(&["init", "--key-kept"]).ends(0);
        host
    }

    /// What the bucket holds, markers too.
    fn versions(&self) -> String {
        self.server.must("GET", "/acme?versions", &[], "")
    }

    fn iam(&self, form: &str) -> String {
        let headers = [("Authorization", IAM), ("Content-Type", "application/x-www-form-urlencoded")];
        let answer =
            http::request(self.server.port(), "POST", "/", &headers, form.as_bytes()).expect("moto answers");
        assert!(answer.status < 300, "{form}: {}", answer.text());
        answer.text()
    }

    /// After so many more calls each one is authorised.
    fn authorise(&self, after: &str) {
        let answer = http::request(self.server.port(), "POST", "/moto-api/reset-auth", &[], after.as_bytes());
        assert_eq!(answer.expect("moto answers").status, 200);
    }
}

impl Host<'_> {
    fn config(&self) -> String {
        self.bucket.site.path(&format!("{}.toml", self.name)).display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = self.bucket.site.cluster.owner().bare_command(crate::program());
        run(command.arg("--config").arg(self.config()).args(arguments))
    }

    /// WAL goes into the bucket from now on.
    fn archives(&self) {
        let command = format!("{} --config {} wal push %p", crate::program(), self.config());
        let cluster = &self.bucket.site.cluster;
        cluster.psql("postgres", &format!("alter system set archive_command = '{command}'"));
        cluster.psql("postgres", "select pg_reload_conf()");
    }
}

fn between<'t>(text: &'t str, open: &str, close: &str) -> &'t str {
    let (_, rest) = text.split_once(open).unwrap_or_else(|| panic!("no {open} in {text}"));
    rest.split_once(close).map_or(rest, |(inside, _)| inside)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_locked_bucket_takes_everything_and_tells_for_how_long() {
    let Some(bucket) = Bucket::new(30) else { return };
    let host = bucket.administrator();
    host.archives();
    let cluster = &bucket.site.cluster;
    cluster.psql("postgres", "create table marks(n int); insert into marks values (1)");
    host.run(&["backup", "--type", "full"]).ends(0);
    cluster.psql("postgres", "insert into marks values (2)");
    host.run(&["backup", "--type", "incr"]).ends(0);
    bucket.site.archive_all();

    let listed = host.run(&["list", "--json"]).ends(0).json();
    let all = listed["backups"].as_array().expect("a list");
    let ends: Vec<&str> = all.iter().filter_map(|one| one["locked_until"].as_str()).collect();
    assert_eq!((all.len(), ends.len()), (2, 2), "{listed}");
    let text = host.run(&["list"]).ends(0).stdout;
    assert_eq!(text.matches("locked until ").count(), 2, "{text}");
    let id = all[1]["backup"].as_str().expect("an id");
    assert!(host.run(&["show", id]).ends(0).stdout.contains("\n  locked        until "));

    let checked = host.run(&["check"]);
    let said = &checked.stdout;
    assert!(said.contains("versions are kept and locked for 30 days: nobody can destroy"), "{said}");
    assert!(said.contains("locked for 30 days, at least 28 days for what is kept + "), "{said}");
    assert!(!said.contains("can destroy what is stored: no versions"), "{said}");

    host.run(&["expire"]).ends(0);
    let to = bucket.site.path("restored");
    let path = to.display().to_string();
    host.run(&["restore", "prod", id, "--target", "immediate", "--as", "copy", "--to", &path, "--yes"])
        .ends(0);
    let clone = start_restored(15, &to);
    assert_eq!(clone.psql("postgres", "select count(*) from marks"), "2");
    prove(clone);
}

/// What somebody has who has taken over a host: its credentials, its state directory. moto obeys the generated policy, action
/// by action and object by object. It knows none of S3's condition keys, so they are left out of it here.
#[test]
fn an_agent_adds_and_cannot_delete_or_read_what_others_have_stored() {
    let Some(bucket) = Bucket::new(30) else { return };
    let admin = bucket.administrator();
    let cluster = &bucket.site.cluster;
    cluster.psql("postgres", "create table marks(n int); insert into marks values (1)");
    admin.archives();
    let others = admin.run(&["backup", "--type", "full", "--json"]).ends(0).json();
    let others = super::site::backup_id(&others).expect("an id");
    let invited = admin.run(&["key", "invite", "--json"]).ends(0).json();
    let token = bucket.secret("token", invited["token"].as_str().expect("a token"));
    let recipient = invited["recipients"][0].as_str().expect("a recipient");

    let generated =
        admin.run(&["generate", "iam-policy", "--role", "agent", "--lock", "30", "--json"]).ends(0).json();
    let mut policy = generated["document"].clone();
    for statement in policy["Statement"].as_array_mut().expect("statements") {
        statement.as_object_mut().expect("a statement").remove("Condition");
    }
    bucket.iam("Action=CreateUser&Version=2010-05-08&UserName=db1");
    let document = encoded(&policy.to_string());
    bucket.iam(&format!(
        "Action=PutUserPolicy&Version=2010-05-08&UserName=db1&PolicyName=refloat&PolicyDocument={document}"
    ));
    let key = bucket.iam("Action=CreateAccessKey&Version=2010-05-08&UserName=db1");
    let (access, secret) = (between(&key, "<AccessKeyId>", "<"), between(&key, "<SecretAccessKey>", "<"));
    let encryption = format!("{{ recipients = [\"{recipient}\"] }}");
    let agent = bucket.host("agent", (access, &secret.replace("&#x2F;", "/")), &encryption);
    let hidden = bucket.versions().matches("<DeleteMarker>").count();
    bucket.authorise("0");

    agent.run(&["init", "--invite", &format!("@{token}")]).ends(0);
    agent.archives();
    agent.run(&["backup", "--type", "full"]).ends(0);
    cluster.psql("postgres", "insert into marks values (2)");
    agent.run(&["backup", "--type", "incr"]).ends(0);
    bucket.site.archive_all();
    let checked = agent.run(&["check"]);
    assert!(
        checked.stdout.contains("these credentials may not delete"),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    assert!(!checked.stdout.contains("FAULT"), "{}", checked.stdout);
    let unknown = "unknown, these credentials may not ask (s3:GetBucketPolicy)";
    assert!(checked.stdout.contains(unknown), "{}", checked.stdout);
    let listed: Value = agent.run(&["list", "--json"]).ends(0).json();
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(3));

    // Neither its own data nor that of others comes back here.
    let to = bucket.site.path("stolen");
    let path = to.display().to_string();
    let refused = agent.run(&[
        "restore",
        "prod",
        &others,
        "--target",
        "immediate",
        "--as",
        "copy",
        "--to",
        &path,
        "--yes",
    ]);
    assert!(refused.code != Some(0) && refused.stderr.contains("KEY-"), "{}", refused.stderr);
    assert!(!to.join("PG_VERSION").exists());

    bucket.authorise("inf");
    let versions = bucket.versions();
    assert_eq!(versions.matches("<DeleteMarker>").count(), hidden, "nothing was deleted");
    assert!(versions.contains("<Key>db1/pins/"), "what it could not delete stays");
    admin.run(&["verify", "--read-data"]).ends(0);
}
