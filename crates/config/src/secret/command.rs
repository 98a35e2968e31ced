//! Runs the program that prints a secret.
//!
//! Its environment is empty but for PATH, its input is empty, and it has 30 seconds; then it is killed with everything
//! it started.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::read::{SecretFault, read_bounded};

/// A vault that takes longer is down.
const DEADLINE: Duration = Duration::from_secs(30);

/// Enough of a complaint to see what is wrong.
const COMPLAINT: u64 = 4096;

pub(super) fn run(words: &[String]) -> Result<Zeroizing<Vec<u8>>, SecretFault> {
    run_for(words, DEADLINE)
}

fn run_for(words: &[String], deadline: Duration) -> Result<Zeroizing<Vec<u8>>, SecretFault> {
    let program = words.first().cloned().unwrap_or_default();
    let failed = |why: String| SecretFault::Command { program: program.clone(), why };
    let mut child = Command::new(&program)
        .args(words.get(1..).unwrap_or_default())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (sender, answers) = mpsc::channel();
    let complaints = sender.clone();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || sender.send(Answer::Output(read_bounded(stdout))));
    }
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // Only for the message of a failure: what cannot be read is left out.
            let _ = stderr.take(COMPLAINT).read_to_end(&mut text);
            complaints.send(Answer::Complaint(String::from_utf8_lossy(&text).into_owned()))
        });
    }
    let outcome = wait(&mut child, &answers, Instant::now() + deadline);
    if outcome.is_err() {
        kill_group(&mut child);
    }
    let (status, output, complaint) = outcome.map_err(failed)?;
    if !status.success() {
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty());
        let last: String = last.unwrap_or("it said nothing").trim().chars().take(200).collect();
        return Err(failed(format!("{status}: {last}")));
    }
    output.map_err(|error| failed(error.to_string()))
}

enum Answer {
    Output(io::Result<Zeroizing<Vec<u8>>>),
    Complaint(String),
}

type Ended = (ExitStatus, io::Result<Zeroizing<Vec<u8>>>, String);

/// Waits for both pipes to close and the program to end.
fn wait(child: &mut Child, answers: &mpsc::Receiver<Answer>, until: Instant) -> Result<Ended, String> {
    let late = || "it did not answer in time".to_owned();
    let (mut output, mut complaint) = (None, None);
    while output.is_none() || complaint.is_none() {
        let left = until.checked_duration_since(Instant::now()).ok_or_else(late)?;
        match answers.recv_timeout(left).map_err(|_| late())? {
            Answer::Output(bytes) => output = Some(bytes),
            Answer::Complaint(text) => complaint = Some(text),
        }
    }
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => {
                let output = output.unwrap_or_else(|| Ok(Zeroizing::new(Vec::new())));
                return Ok((status, output, complaint.unwrap_or_default()));
            }
            None if Instant::now() >= until => return Err(late()),
            // Both pipes are closed: the program is about to end.
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn kill_group(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id())
        && let Some(pid) = rustix::process::Pid::from_raw(pid)
    {
        // It may have ended meanwhile: then there is nothing to kill.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_program_prints_the_secret_in_an_empty_environment() {
        let bytes = run(&sh("printf '%s' \"${HOME-no home}\"")).expect("it runs");
        assert_eq!(*bytes, b"no home");
    }

    #[test]
    fn its_failure_is_told_with_its_last_word() {
        let error = run(&sh("echo hidden; echo vault is sealed >&2; exit 3")).expect_err("it fails");
        assert_eq!(error.to_string(), "could not get a secret from /bin/sh: exit status: 3: vault is sealed");
        let error = run(&["/nowhere/vault".to_owned()]).expect_err("it is not there");
        assert_eq!(
            error.to_string(),
            "could not get a secret from /nowhere/vault: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn it_is_killed_with_its_children_when_it_hangs() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let script = format!("sleep 600 & echo $! > {}; wait", file.path().display());
        let begun = Instant::now();
        let error = run_for(&sh(&script), Duration::from_millis(500)).expect_err("it hangs");
        assert_eq!(error.to_string(), "could not get a secret from /bin/sh: it did not answer in time");
        assert!(begun.elapsed() < Duration::from_secs(30));
        let pid = std::fs::read_to_string(file.path()).expect("it can be read").trim().to_owned();
        assert!(!pid.is_empty(), "the child had time to start");
        // Killed, it is gone or a zombie until somebody reaps it.
        let alive = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            !status.is_empty() && !status.contains("State:\tZ")
        };
        while alive() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        assert!(!alive(), "the child was killed too");
    }
}
