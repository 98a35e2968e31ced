use std::process::Command;

use refloat_pg::conf::{comment_out, effective, recovery_settings, set};

use super::cluster::{Cluster, run, tool};

#[test]
fn what_is_effective_is_what_the_server_says() {
    let cluster = Cluster::create(
        "Work_Mem = 5MB\nwork_mem 6MB # twice\nlog_line_prefix = 'it''s \\'%m\\' \\\\ [%p] # not a comment'\n\
         search_path = '\"$user\", public'\nrefloat.odd = 'two\\nlines\\101'\ninclude_dir 'more'\n\
         include_if_exists = 'none.conf'\ninclude 'more/last'\nseq_page_cost = 1.5\nrandom_page_cost=0x2\n",
    );
    let more = cluster.data.join("more");
    std::fs::create_dir(&more).expect("made");
    std::fs::write(more.join("b.conf"), "work_mem = 7MB\nmaintenance_work_mem = 9MB").expect("written");
    std::fs::write(more.join("a.conf"), "work_mem = '8MB'\n").expect("written");
    std::fs::write(more.join(".c.conf"), "broken").expect("written");
    std::fs::write(more.join("last"), "geqo = off\n").expect("written");
    let owner = ["-R", "--reference"];
    run(Command::new("chown").args(owner).arg(cluster.data.join("base")).arg(&more));
    cluster.pg_ctl("start");
    cluster.sql("alter system set cursor_tuple_fraction = 0.25");
    cluster.sql("alter system set archive_command = 'a ''b'' \\c'");
    cluster.sql("select pg_reload_conf()");

    let ours = effective(&cluster.data.join("postgresql.conf"), None).expect("readable");
    assert_eq!(ours.problems, []);
    // The view lists every line; `applied` names the ones that win (others need a restart and are listed as well).
    let rows = cluster.sql(
        "select distinct on (lower(name)) lower(name) || chr(1) || replace(setting, chr(10), '<nl>') || chr(1) || \
         sourcefile || chr(1) || sourceline from pg_file_settings order by lower(name), seqno desc",
    );
    let mut count = 0;
    for row in rows.lines() {
        let [name, value, file, line]: [&str; 4] =
            row.split('\u{1}').collect::<Vec<_>>().try_into().expect("four columns");
        let setting = ours.get(name).unwrap_or_else(|| panic!("{name} was not found"));
        assert_eq!(setting.text().replace('\n', "<nl>"), value, "{name}");
        assert_eq!(setting.file.display().to_string(), file, "{name}");
        assert_eq!(setting.line.to_string(), line, "{name}");
        count += 1;
    }
    assert_eq!(count, ours.settings.len());
    assert!(count > 20);
    for name in ["work_mem", "log_line_prefix", "archive_command", "refloat.odd"] {
        assert!(ours.get(name).is_some(), "{name}");
    }
    assert_eq!(ours.text("work_mem").as_deref(), Some("7MB"));
}

#[test]
fn a_server_starts_after_old_targets_were_commented_out() {
    let cluster = Cluster::create(
        "recovery_target_time = '2026-01-01 00:00:00+00'\nrecovery_target_name = 'before'\n\
         restore_command = 'false'\npromote_trigger_file = 'x'\nrecovery_target_timeline = 7",
    );
    std::fs::write(cluster.data.join("recovery.signal"), "").expect("written");
    assert!(!cluster.try_pg_ctl("start"), "two targets are fatal");
    let path = cluster.data.join("postgresql.conf");
    let text = std::fs::read(&path).expect("readable");
    let done = comment_out(&text, &recovery_settings(15), "set aside by a restore");
    assert_eq!(done.names.len(), 5);
    let text = set(&done.text, "restore_command", "/bin/false 'it''s' \\ \"%p\"").expect("can be said");
    let text = set(&text, "recovery_target_timeline", "latest").expect("can be said");
    let text = set(&text, "recovery_target_action", "promote").expect("can be said");
    std::fs::write(&path, text).expect("written");
    cluster.pg_ctl("start");
    assert_eq!(cluster.sql("show restore_command"), "/bin/false 'it''s' \\ \"%p\"");
    assert_eq!(cluster.sql("show recovery_target_time"), "");
    let mut said = tool("postgres");
    said.args(["-C", "recovery_target_action", "-D"]).arg(&cluster.data);
    assert_eq!(run(&mut said).trim(), "promote");
}
