//! Output of steps that run at the same time: each line begins with the step's label.
//!
//! The label belongs to a thread. Without one, output is unchanged.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};

thread_local! {
    static LABEL: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `make`, with `label` at the beginning of all lines that this thread prints in it.
pub fn labelled<T>(label: &str, make: impl FnOnce() -> T) -> T {
    let before = LABEL.replace(Some(label.to_owned()));
    let made = make();
    LABEL.set(before);
    made
}

/// The label of this thread's lines.
#[must_use]
pub fn label() -> Option<String> {
    LABEL.with_borrow(Clone::clone)
}

/// Prints a line of progress on stderr.
pub fn say(text: &str) {
    write_line(io::stderr().lock(), label().as_deref(), text.as_bytes());
}

/// Prints a line of a result on stdout.
pub fn print(text: &str) {
    write_line(io::stdout().lock(), label().as_deref(), text.as_bytes());
}

/// Writes one line at once, so that lines of other threads stay intact. A closed reader is no
/// error. Under a label, empty lines are skipped.
fn write_line(mut to: impl Write, label: Option<&str>, text: &[u8]) {
    if label.is_some() && text.is_empty() {
        return;
    }
    let mut line = Vec::with_capacity(text.len() + 32);
    if let Some(label) = label {
        line.extend_from_slice(format!("[{label}] ").as_bytes());
    }
    line.extend_from_slice(text);
    line.push(b'\n');
    let _unheard = to.write_all(&line).and_then(|()| to.flush());
}

/// Runs `command` to its end, with its output as progress on stderr.
///
/// # Errors
/// When the program cannot be started.
pub(crate) fn run_shown(command: &mut Command) -> io::Result<ExitStatus> {
    let Some(label) = label() else {
        let status = command.stdout(Stdio::from(io::stderr())).status();
        return status;
    };
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn();
    // The command's own ends of the pipe are closed with the replaced values.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child?;
    pass_on(reader, &label);
    child.wait()
}

/// Prints all lines of `from` on stderr, each behind this label.
pub fn pass_on(from: impl Read, label: &str) {
    for text in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        write_line(io::stderr().lock(), Some(label), &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_under_a_label_is_written_behind_it() {
        let mut written = Vec::new();
        write_line(&mut written, Some("kernel 6.1"), b"test a ... ok");
        write_line(&mut written, Some("kernel 6.1"), b"");
        write_line(&mut written, None, b"test b ... ok");
        assert_eq!(written, b"[kernel 6.1] test a ... ok\ntest b ... ok\n");
    }

    #[test]
    fn a_label_holds_for_one_thread_and_ends_with_its_step() {
        let inside = labelled("outer", || {
            let elsewhere = std::thread::spawn(label).join().unwrap();
            (labelled("inner", label), label(), elsewhere)
        });
        let expected = (Some("inner".to_owned()), Some("outer".to_owned()), None);
        assert_eq!(inside, expected);
        assert_eq!(label(), None);
    }

    #[test]
    fn a_labelled_command_ends_with_its_own_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let status = labelled("test", || run_shown(&mut command)).unwrap();
        assert_eq!(status.code(), Some(3));
    }
}
