//! moto: S3 in memory, with versions, object lock, lifecycle and conditional put; more of AWS besides (KMS, STS). Checks no
//! signatures. What it holds is lost with its process.

use super::process::{ServerProcess, answers_http};
use super::{is_a_server, need_python};
use crate::http;

/// A running moto.
#[derive(Debug)]
pub struct Moto {
    process: ServerProcess,
}

is_a_server!(Moto);

impl Moto {
    /// What stands in the header `Authorization` of a request of one's own: somebody unknown may not change what is there, and a
    /// signature is not looked at.
    pub const SIGNED: &'static str = "AWS4-HMAC-SHA256 Credential=refloat-test/20260101/us-east-1/s3/aws4_request, \
        SignedHeaders=host, Signature=00";

    /// Starts it; `None` when it is not installed.
    pub fn start() -> Option<Self> {
        Self::run(&["-m", "moto.server"])
    }

    /// Starts one that authorises calls by IAM policies when it is told to (`/moto-api/reset-auth`), and believes every
    /// signature: it takes those for wrong whose query had to be encoded.
    pub fn with_policies() -> Option<Self> {
        Self::run(&["-c", UNSIGNED])
    }

    fn run(how: &'static [&'static str]) -> Option<Self> {
        let python = need_python("moto")?;
        let process = ServerProcess::begin(
            "moto",
            |_, _| {},
            move |owner, _, port| {
                let mut command = owner.command(&python);
                command.arg("-u").args(how).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
                command
            },
            answers_http,
        );
        Some(Self { process })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }
    /// An access key; moto takes any.
    pub const fn access_key(&self) -> &'static str {
        "refloat-test"
    }
    /// A secret; moto checks none.
    pub const fn secret_key(&self) -> &'static str {
        "a secret of tests alone"
    }
    /// A new, empty bucket without versions.
    pub fn bucket(&self, name: &str) -> String {
        self.must("PUT", &format!("/{name}"), &[], "");
        name.to_owned()
    }
    /// A new, empty bucket that keeps versions.
    pub fn versioned_bucket(&self, name: &str) -> String {
        self.bucket(name);
        let body =
            format!("<VersioningConfiguration {XMLNS}><Status>Enabled</Status></VersioningConfiguration>");
        self.must("PUT", &format!("/{name}?versioning"), &[], &body);
        name.to_owned()
    }
    /// A new, empty bucket with versions and object lock, whose new objects are locked for `days` in mode `COMPLIANCE` or
    /// `GOVERNANCE`.
    pub fn locked_bucket(&self, name: &str, mode: &str, days: u32) -> String {
        self.must("PUT", &format!("/{name}"), &[("x-amz-bucket-object-lock-enabled", "true")], "");
        let body = format!(
            "<ObjectLockConfiguration {XMLNS}><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
             <Mode>{mode}</Mode><Days>{days}</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        );
        self.must("PUT", &format!("/{name}?object-lock"), &[], &body);
        name.to_owned()
    }
    /// Sends a request of its own and expects success: what a bucket's administrator does.
    ///
    /// # Panics
    /// When the answer is no success.
    #[track_caller]
    pub fn must(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
        let headers: Vec<_> = headers.iter().copied().chain([("Authorization", Self::SIGNED)]).collect();
        let answer =
            http::request(self.port(), method, target, &headers, body.as_bytes()).expect("moto answers");
        assert!(answer.status < 300, "{method} {target}: {} {}", answer.status, answer.text());
        answer.text()
    }
}

const UNSIGNED: &str = "import moto.iam.access_control as access\n\
    access.IAMRequestBase.check_signature = lambda self: None\n\
    from moto.server import main\n\
    main()";
const XMLNS: &str = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
