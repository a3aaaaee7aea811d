//! Running the tools that show rules, with limits of time and size: a rule set may have 100,000
//! rules, and a tool may wait for a lock of another process.

use std::{
    io::{self, Read},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// How long a tool may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How much it may print: 100,000 rules of nftables in JSON.
const LARGEST: u64 = 64 << 20;
const TOO_LONG: &str = "it took longer than 2 s";
/// The interval of checks whether it has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// The result of running a tool.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its output.
    Said(String),
    /// It is missing.
    Absent,
    /// It failed with this message, for example because of missing privileges.
    Failed(String),
    /// It took too long or printed too much.
    TooMuch(&'static str),
}

/// Runs a tool to its end.
pub(super) fn run(program: &str, arguments: &[&str]) -> Outcome {
    let spawned = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("PATH", path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match spawned {
        Ok(child) => watch(child),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Outcome::Absent,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// The tools are found as for root, whatever the user's PATH.
fn path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{own}:/usr/local/sbin:/usr/sbin:/sbin")
}

fn watch(mut child: Child) -> Outcome {
    let deadline = Instant::now() + LIMIT;
    let printed = read(child.stdout.take());
    let complained = read(child.stderr.take());
    // The output ends when the tool does, or before, so no timeout check is needed until then.
    let printed = printed.recv_timeout(LIMIT);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline && printed.is_ok() => thread::sleep(PAUSE),
            _ => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Outcome::TooMuch(TOO_LONG);
            }
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let complaint = complained.recv_timeout(left).unwrap_or_default();
    match printed {
        // It has ended, but a child still holds its output.
        Err(_) => Outcome::TooMuch(TOO_LONG),
        Ok(text) if text.len() as u64 >= LARGEST => Outcome::TooMuch(
            "its output is larger than 64 \
            MiB",
        ),
        Ok(text) if status.success() => Outcome::Said(text),
        _ => Outcome::Failed(complaint.lines().next().unwrap_or_default().to_owned()),
    }
}

/// Reads to the end in a separate thread, which ends with the tool.
fn read(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // Output before an error is incomplete, and not a rule set.
            let _ = pipe.take(LARGEST).read_to_end(&mut bytes);
        }
        // The receiver may be gone.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tools_output_is_read_to_the_end() {
        let Outcome::Said(text) = run("sh", &["-c", "seq 1 200000"]) else {
            panic!("no output");
        };
        assert!(text.ends_with("\n200000\n"));
    }

    #[test]
    fn a_tool_may_be_absent_or_fail() {
        assert!(matches!(
            run("natbpf-has-no-such-tool", &[]),
            Outcome::Absent
        ));
        let failed = run("sh", &["-c", "echo no rights >&2; exit 4"]);
        assert!(
            matches!(&failed, Outcome::Failed(why) if why == "no rights"),
            "{failed:?}"
        );
    }

    #[test]
    fn a_tool_that_hangs_or_never_ends_its_output_is_left() {
        let begun = Instant::now();
        assert!(matches!(run("sleep", &["60"]), Outcome::TooMuch(_)));
        assert!(begun.elapsed() < LIMIT * 2);
        assert!(matches!(run("yes", &[]), Outcome::TooMuch(_)));
    }

    /// The limits hold for every tool and its children: two seconds, 64 MiB, the first line of its
    /// error.
    #[test]
    fn time_output_and_complaints_of_a_tool_are_bounded() {
        // It has printed everything and does not end; it has ended, and a child keeps the output
        // open.
        for script in ["echo all; exec >&-; exec sleep 60", "sleep 60 & echo all"] {
            let begun = Instant::now();
            let outcome = run("sh", &["-c", script]);
            assert!(matches!(outcome, Outcome::TooMuch(_)), "{outcome:?}");
            assert!(begun.elapsed() >= LIMIT, "{script}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{script}");
        }
        for (len, is_taken) in [(LARGEST - 1, true), (LARGEST, false)] {
            let outcome = run("head", &["-c", &len.to_string(), "/dev/zero"]);
            match outcome {
                Outcome::Said(text) => assert!(is_taken && text.len() as u64 == len),
                Outcome::TooMuch(_) => assert!(!is_taken, "{len}"),
                other => panic!("{len}: {other:?}"),
            }
        }
        let loud = "yes complaint | head -c 1000000 >&2; exit 1";
        let outcome = run("sh", &["-c", loud]);
        assert!(
            matches!(&outcome, Outcome::Failed(why) if why == "complaint"),
            "{outcome:?}"
        );
    }
}
