//! `init` as a person at a terminal sees it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use refloat_testkit::cluster::wait_until;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::errors::Scene;

const PROMPT: &str = "(Enter alone: later, by key confirm): ";

/// A program at a terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(scene: &Scene, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("ours");
        let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("of ASCII");
        let line = || File::options().read(true).write(true).open(&name).expect("it opens");
        let mut command = scene.command(arguments);
        command.stdin(Stdio::from(line())).stdout(Stdio::from(line())).stderr(Stdio::from(line()));
        let child = command.spawn().expect("starts");
        drop(command);
        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone().expect("a descriptor");
        let (send, screen) = channel();
        // Ends when nothing has the terminal open any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, screen, seen: String::new() }
    }

    /// Waits for a text that was not seen before, and answers with a line.
    fn answer(&mut self, prompt: &str, line: &str) {
        let from = self.seen.len();
        let began = Instant::now();
        while !self.seen[from..].contains(prompt) {
            let left = Duration::from_secs(60).checked_sub(began.elapsed());
            let more = left.and_then(|left| self.screen.recv_timeout(left).ok());
            let more = more.unwrap_or_else(|| panic!("waited for {prompt:?}, saw:\n{}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
        writeln!(self.keyboard, "{line}").expect("it listens");
    }

    /// Its exit code and everything that was on the screen.
    fn end(mut self) -> (Option<i32>, String) {
        let mut ended = None;
        let is_over = wait_until(Duration::from_secs(60), || {
            ended = self.child.try_wait().expect("it was started");
            ended.is_some()
        });
        if !is_over {
            self.child.kill().expect("ours");
        }
        let status = ended.unwrap_or_else(|| panic!("it waits for more:\n{}", self.seen));
        while let Ok(more) = self.screen.recv_timeout(Duration::from_secs(60)) {
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
        (status.code(), self.seen.replace('\r', ""))
    }
}

#[test]
fn the_sheet_is_shown_once_and_its_passphrase_asked_back() {
    let scene = Scene::new();
    let mut terminal = Terminal::start(&scene, &["init"]);
    terminal.answer(PROMPT, "something else");
    terminal.answer(PROMPT, "correct horse battery staple");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    assert_eq!(screen.matches("REFLOAT RECOVERY SHEET").count(), 1, "{screen}");
    assert!(screen.contains("does not open repository \"backup\"; try again"), "{screen}");
    // On the sheet, and not where it was typed.
    assert_eq!(screen.matches("correct horse battery staple").count(), 1, "{screen}");
    assert!(!screen.contains("something else"), "{screen}");
    let check = scene.run(&["check", "--json"]);
    assert!(check.stdout.contains("kept, as somebody has shown"), "{}", check.stdout);
}

#[test]
fn enter_alone_confirms_later() {
    let scene = Scene::new();
    let mut terminal = Terminal::start(&scene, &["init"]);
    terminal.answer(PROMPT, "");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    let check = scene.run(&["check"]);
    assert!(
        check.stdout.contains("no one has shown that the recovery sheet is kept"),
        "{}{}",
        check.stdout,
        check.stderr
    );

    let mut terminal = Terminal::start(&scene, &["key", "confirm"]);
    terminal.answer(": ", "correct horse battery staple");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(!screen.contains("correct horse"), "{screen}");
    let check = scene.run(&["check"]);
    assert!(check.stdout.contains("kept, as somebody has shown"), "{}{}", check.stdout, check.stderr);
}
