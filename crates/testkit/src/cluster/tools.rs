//! PostgreSQL's own tools as oracles: psql, pgbench, pg_dump, pg_amcheck, pg_checksums, pg_verifybackup.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::{TestCluster, owner};

/// A child in the background, killed when dropped.
#[derive(Debug)]
pub struct Background {
    child: Option<Child>,
    what: String,
}

impl Background {
    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
    /// Waits for its end. `Err` holds what it wrote.
    ///
    /// # Errors
    /// When it ended with another status than 0.
    pub fn finish(mut self) -> Result<String, String> {
        let Some(child) = self.child.take() else { return Ok(String::new()) };
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        answer(&self.what, &output)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn answer(what: &str, output: &std::process::Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!("{what} ended with {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

impl TestCluster {
    /// A client tool of this version as the owner, told where the server is by `PGHOST`, `PGPORT` and `PGUSER`.
    pub fn client(&self, name: &str) -> Command {
        let mut command = self.as_owner(self.bin(name));
        command.env("PGHOST", self.socket_directory()).env("PGPORT", self.port().to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    /// Runs SQL through psql, each statement for itself. Unaligned rows without headers, columns joined by `|`.
    ///
    /// # Errors
    /// What psql said when a statement failed; later ones did not run.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = self.client("psql");
        command.env("PGDATABASE", database).args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-f",
            "-",
        ]);
        let text = with_input(&mut command, sql)?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// [`TestCluster::try_psql`] that must succeed.
    ///
    /// # Panics
    /// When a statement fails.
    #[track_caller]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|error| panic!("{error}\nSQL: {sql}"))
    }

    /// Waits until `sql` answers `expected`.
    ///
    /// # Panics
    /// After two minutes, with the last answer.
    #[track_caller]
    pub fn wait_for(&self, database: &str, sql: &str, expected: &str) {
        let mut last = Err("never asked".to_owned());
        let reached = super::wait_until(Duration::from_secs(120), || {
            last = self.try_psql(database, sql);
            last.as_deref() == Ok(expected)
        });
        assert!(reached, "{sql} should answer {expected:?}, last answer: {last:?}");
    }

    /// Makes pgbench's tables in database `postgres`: 100,000 accounts (15 MB) per scale.
    ///
    /// # Panics
    /// When pgbench fails.
    #[track_caller]
    pub fn pgbench_init(&self, scale: u32) {
        super::run(self.client("pgbench").args(["-i", "-q", "-s", &scale.to_string()]));
    }

    /// Starts pgbench's load with 2 clients for `seconds` in the background; it ends early when the server does.
    pub fn pgbench_run_for(&self, seconds: u32) -> Background {
        let mut command = self.client("pgbench");
        command.args(["-n", "-c", "2", "-j", "1", "-T", &seconds.to_string()]);
        background(command)
    }

    /// Runs `count` pgbench transactions by one client and waits for them.
    ///
    /// # Panics
    /// When pgbench fails.
    #[track_caller]
    pub fn pgbench_transactions(&self, count: u32) {
        super::run(self.client("pgbench").args(["-n", "-c", "1", "-t", &count.to_string()]));
    }

    /// What pg_dump makes of a database, without the lines that differ from run to run.
    ///
    /// # Panics
    /// When pg_dump fails.
    #[track_caller]
    pub fn dump(&self, database: &str) -> String {
        let mut command = self.client("pg_dump");
        command.env("PGDATABASE", database);
        normalised(&super::run(&mut command))
    }

    /// The dumps of all databases that accept connections, by name, with roles and tablespaces under `""`.
    ///
    /// # Panics
    /// When a tool fails.
    #[track_caller]
    pub fn dump_all_databases(&self) -> BTreeMap<String, String> {
        let names = self.psql(
            "postgres",
            "select to_json(datname) from pg_database where datallowconn order by 1::text;",
        );
        let globals = super::run(self.client("pg_dumpall").arg("--globals-only"));
        let mut dumps = BTreeMap::from([(String::new(), normalised(&globals))]);
        for name in names.lines().map(from_json_text) {
            let dump = self.dump(&name);
            dumps.insert(name, dump);
        }
        dumps
    }

    /// Looks for broken heaps and B-trees in every database: `pg_amcheck --all --heapallindexed`. Needs a running primary.
    ///
    /// # Errors
    /// What pg_amcheck found.
    pub fn amcheck(&self) -> Result<(), String> {
        let mut command = self.client("pg_amcheck");
        command.env_remove("PGDATABASE").args(["--all", "--install-missing", "--heapallindexed"]);
        check(&mut command)
    }

    /// Checks the page checksums of the stopped data directory: `pg_checksums --check`.
    ///
    /// # Errors
    /// What pg_checksums found.
    pub fn checksums_check(&self) -> Result<(), String> {
        check(self.as_owner(self.bin("pg_checksums")).arg("--check").arg("-D").arg(self.data_directory()))
    }

    /// Compares a directory with its `backup_manifest`: `pg_verifybackup --no-parse-wal`.
    ///
    /// # Errors
    /// What pg_verifybackup found.
    pub fn verifybackup(&self, directory: &Path) -> Result<(), String> {
        check(self.as_owner(self.bin("pg_verifybackup")).arg("--no-parse-wal").arg(directory))
    }
}

fn check(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("could not start {command:?}: {error}"))?;
    answer(&format!("{command:?}"), &output).map(drop)
}

fn background(mut command: Command) -> Background {
    let what = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Background { child: Some(owner::spawn_tied(command, Signal::KILL)), what }
}

fn with_input(command: &mut Command, input: &str) -> Result<String, String> {
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("could not start {what}: {error}"))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let _ = writer.join();
    answer(&what, &output)
}

/// Drops what differs between two dumps of the same data: version comments and the random key of `\restrict`.
fn normalised(dump: &str) -> String {
    let differs = |line: &str| {
        ["-- Dumped ", "\\restrict ", "\\unrestrict "].iter().any(|start| line.starts_with(start))
    };
    dump.lines().filter(|line| !differs(line)).flat_map(|line| [line, "\n"]).collect()
}

/// A name as `to_json` prints it: quotes, backslashes and control characters are escaped.
fn from_json_text(text: &str) -> String {
    let inner = text.trim_start_matches('"');
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut name = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        name.push(match c {
            '\\' => match chars.next().unwrap_or('\\') {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            },
            other => other,
        });
    }
    name
}
