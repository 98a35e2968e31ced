//! `demo`: a throw-away cluster, a dropped table, the recovery to just before, and the proof.
//!
//! Everything is in one temporary directory and belongs to one user; no other cluster is touched. `stage` makes the
//! cluster and takes it away again, also on Ctrl-C and on failure; here is the play. Refloat runs as a program of its own
//! for every step, as a person would type it.

mod stage;

use std::time::{Duration, Instant};

use clap::Args;
use refloat_types::ByteSize;

use self::stage::{Server, Stage};
use crate::Outcome;
use crate::cli::Global;
use crate::error::{CliError, Failure};
use crate::render::text::thousands;
use crate::render::{Out, on_terminal, time};

/// Show it on a throw-away cluster: backup, a dropped table, recovery to just before, the proof
///
/// Needs the programs of PostgreSQL 13 or later on this host, and about 500 MB in the directory for temporary files. No
/// other cluster is touched; nothing is left behind.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How much data: 1 is about 40 MB
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    scale: u32,
}

/// How the demonstration tells what it does.
struct Voice {
    out: Out,
    coloured: bool,
    began: Instant,
}

impl Voice {
    fn paint(&self, text: &str, paint: impl FnOnce(&str) -> String) -> String {
        if self.coloured { paint(text) } else { text.to_owned() }
    }
    fn title(&self, number: usize, text: &str) {
        use owo_colors::OwoColorize as _;
        let at =
            self.paint(&format!("{:>5.1} s", self.began.elapsed().as_secs_f64()), |t| t.dimmed().to_string());
        let text = self.paint(text, |t| t.bold().to_string());
        self.out.text(&format!("\n{number}  {text}   {at}\n"));
    }
    fn line(&self, text: &str) {
        self.out.text(&format!("   {text}\n"));
    }
    fn typed(&self, text: &str) {
        use owo_colors::OwoColorize as _;
        self.out.text(&format!("   {}\n", self.paint(&format!("$ {text}"), |t| t.cyan().to_string())));
    }
    fn said(&self, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            self.out.text(&format!("     {line}\n"));
        }
    }
    fn good(&self, text: &str) {
        use owo_colors::OwoColorize as _;
        self.line(&self.paint(text, |t| t.green().to_string()));
    }
}

/// What is true at a moment: each table with its rows and a checksum over all of them.
type Truth = Vec<(String, u64, String)>;

const TABLES: [&str; 3] = ["customers", "orders", "payments"];

impl Demo {
    /// Does it.
    pub(crate) fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let out = Out { json: global.json, quiet: global.quiet };
        let coloured = on_terminal() && crate::environment("NO_COLOR").is_none();
        let voice = Voice { out, coloured, began: Instant::now() };
        let stage = Stage::set(global.verbose > 0)?;
        let result = self.play(&voice, &stage);
        stage.clear();
        let document = result.map_err(|error| Failure::from(CliError::Demo(error)))?;
        voice.out.text(&format!(
            "\nDone in {}; the cluster, the repository and the copy are gone again.\n\
             Your own:  write /etc/refloat/refloat.toml, then refloat init, check, backup.   refloat  shows how to begin\n",
            time::seconds(voice.began.elapsed().as_secs_f64())
        ));
        voice.out.document(&document);
        Ok(Outcome::Done)
    }

    fn play(&self, voice: &Voice, stage: &Stage) -> Result<serde_json::Value, String> {
        voice.title(1, &format!("A cluster with real data: PostgreSQL {}", stage.version()));
        stage.make_cluster()?;
        let server = stage.start()?;
        let size = self.fill(&server)?;
        voice.line(&format!("a shop: {} in 3 tables, {}", "customers, orders, payments", ByteSize(size)));

        voice.title(2, "Protect it: a repository, archiving, a full backup");
        let made = stage.refloat(voice, &["init", "--key-kept"])?;
        voice.said(&first_lines(&made, 2));
        server.reload()?;
        let checked = stage.refloat(voice, &["check", "prod"])?;
        voice.said(&lines_with(&checked, "archiving"));
        let began = Instant::now();
        let backup = stage.refloat(voice, &["backup", "prod"])?;
        let backup_seconds = began.elapsed().as_secs_f64();
        voice.said(&backup);

        voice.title(3, "Business goes on: orders come in, WAL is archived");
        let orders = trade(&server, Duration::from_secs(3))?;
        voice.line(&format!("{} orders in 3 s", thousands(orders)));
        let truth = truth(&server)?;
        for (table, rows, sum) in &truth {
            voice.line(&format!("{table:<10} {:>9} rows   checksum {sum}", thousands(*rows)));
        }
        std::thread::sleep(Duration::from_millis(300));
        let moment = server.value("select now()")?;
        voice.line(&format!("remember this moment: {moment}"));
        std::thread::sleep(Duration::from_millis(300));

        voice.title(4, "The accident");
        voice.typed("psql shop -c 'DROP TABLE orders CASCADE'");
        server.sql("drop table orders cascade")?;
        server.sql("insert into customers (name, city) select 'after the accident', 'nowhere' from generate_series(1, 100)")?;
        let gone = server.value("select coalesce(to_regclass('orders')::text, 'gone')")?;
        voice.line(&format!("orders: {gone}; the server runs on, and so do the customers"));
        let switched = stage.refloat(voice, &["wal", "switch", "prod"])?;
        voice.said(&first_lines(&switched, 1));

        voice.title(5, "Back to just before, beside the running server");
        let copy = stage.directory().join("copy");
        let began = Instant::now();
        let copy_text = copy.display().to_string();
        let restored = stage
            .refloat(voice, &["restore", "prod", &moment, "--to", &copy_text, "--as", "copy", "--yes"])?;
        voice.said(&first_lines(&restored, 2));
        let recovered = stage.start_copy(&copy)?;
        let restore_seconds = began.elapsed().as_secs_f64();

        voice.title(6, "The proof");
        let found = self::truth(&recovered)?;
        for ((table, rows, sum), (_, rows_now, sum_now)) in truth.iter().zip(&found) {
            if (rows, sum) != (rows_now, sum_now) {
                return Err(format!(
                    "{table} is not what it was: {rows} rows, {sum} before; {rows_now} rows, {sum_now} now"
                ));
            }
            voice.good(&format!("{table:<10} {:>9} rows   checksum {sum_now}   equal", thousands(*rows_now)));
        }
        let stored = stage.repository_bytes();
        voice.line("");
        voice.line(&format!(
            "backup   {} for {}, {} in the repository with all WAL, encrypted",
            time::seconds(backup_seconds),
            ByteSize(size),
            ByteSize(stored)
        ));
        voice.line(&format!(
            "recovery {} from the command to the first query",
            time::seconds(restore_seconds)
        ));
        Ok(serde_json::json!({
            "postgresql": stage.version(), "cluster_bytes": size, "repository_bytes": stored,
            "backup_seconds": backup_seconds, "recovery_seconds": restore_seconds, "moment": moment,
            "tables": found.iter().map(|(table, rows, sum)| serde_json::json!({ "table": table, "rows": rows, "checksum": sum })).collect::<Vec<_>>(),
            "equal": true, "seconds": voice.began.elapsed().as_secs_f64(),
        }))
    }

    /// Fills the shop; answers the cluster's size.
    fn fill(&self, server: &Server) -> Result<u64, String> {
        let customers = 20_000 * u64::from(self.scale);
        let orders = 150_000 * u64::from(self.scale);
        server.in_database("postgres", "create database shop")?;
        server.sql(
            "create table customers (id bigint generated always as identity primary key, name text not null, city text, \
             since timestamptz not null default now()); \
             create table orders (id bigint generated always as identity primary key, customer bigint not null, \
             item text not null, amount numeric(10,2) not null, at timestamptz not null default clock_timestamp()); \
             create table payments (id bigint generated always as identity primary key, order_id bigint not null, \
             amount numeric(10,2) not null, reference text not null)",
        )?;
        server.sql(&format!(
            "insert into customers (name, city) select 'Customer ' || g, (array['Bonn', 'Oslo', 'Lima', 'Kyoto'])[1 + g % 4] \
             from generate_series(1, {customers}) g; \
             insert into orders (customer, item, amount) select 1 + (g::bigint * 7919) % {customers}, md5(g::text), (g % 50000) / 100.0 \
             from generate_series(1, {orders}) g; \
             insert into payments (order_id, amount, reference) select id, amount, md5(item) from orders where id % 2 = 0; \
             create index on orders (customer); create index on payments (order_id); analyze"
        ))?;
        let size = server.value("select sum(pg_database_size(oid))::bigint from pg_database")?;
        size.parse().map_err(|_| format!("the server answered \"{size}\" for its size"))
    }
}

/// Orders come in, one transaction each, for a while.
fn trade(server: &Server, length: Duration) -> Result<u64, String> {
    let before = count(server)?;
    let began = Instant::now();
    while began.elapsed() < length {
        let one = "begin; insert into orders (customer, item, amount) values (1 + (random() * 1000)::int, md5(random()::text), 9.99); \
                   insert into payments (order_id, amount, reference) select max(id), 9.99, 'card' from orders; commit;";
        server.sql(&one.repeat(50))?;
    }
    Ok(count(server)?.saturating_sub(before))
}

fn count(server: &Server) -> Result<u64, String> {
    let text = server.value("select count(*) from orders")?;
    text.parse().map_err(|_| format!("the server answered \"{text}\" for a count"))
}

fn truth(server: &Server) -> Result<Truth, String> {
    TABLES
        .iter()
        .map(|table| {
            let text = server.value(&format!(
                "select count(*) || ' ' || md5(string_agg(md5(t::text), '' order by id)) from {table} t"
            ))?;
            let (rows, sum) =
                text.split_once(' ').ok_or_else(|| format!("the server answered \"{text}\""))?;
            let rows = rows.parse().map_err(|_| format!("the server answered \"{text}\""))?;
            Ok(((*table).to_owned(), rows, sum.get(..12).unwrap_or(sum).to_owned()))
        })
        .collect()
}

fn first_lines(text: &str, number: usize) -> String {
    text.lines().take(number).collect::<Vec<_>>().join("\n")
}

fn lines_with(text: &str, word: &str) -> String {
    text.lines().filter(|line| line.contains(word)).collect::<Vec<_>>().join("\n")
}
