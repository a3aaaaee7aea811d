//! Files that commands are given to read: a regular one, or a pipe.

use std::{
    fs::{File, OpenOptions},
    io::{self, Cursor, ErrorKind, Read},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// How long a pipe may be without a writer.
const PATIENCE: Duration = Duration::from_secs(4);
/// The interval of checks for a writer.
const PAUSE: Duration = Duration::from_millis(10);

/// Opens a file. A pipe may be as slow as its writer, but must have one.
///
/// # Errors
/// When the file cannot be opened, or a pipe has no writer for four seconds.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    open_within(path, PATIENCE)
}

fn open_within(path: &Path, patience: Duration) -> io::Result<Box<dyn Read>> {
    let mut options = OpenOptions::new();
    // Otherwise opening waits for a writer.
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let is_pipe = file.metadata()?.file_type().is_fifo();
    let first = match is_pipe {
        true => first_of(&file, patience)?,
        false => Vec::new(),
    };
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(io::Error::from)?;
    Ok(Box::new(Cursor::new(first).chain(file)))
}

/// Whether a pipe has a writer; it may not have written anything yet.
fn first_of(mut pipe: &File, patience: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut bytes = vec![0; 4096];
    loop {
        match pipe.read(&mut bytes) {
            // No process has it open for writing.
            Ok(0) if Instant::now() >= deadline => {
                let problem = format!("no data arrived on this pipe within {patience:?}");
                return Err(io::Error::new(ErrorKind::TimedOut, problem));
            }
            Ok(0) => thread::sleep(PAUSE),
            Ok(length) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn read(path: &Path, patience: Duration) -> io::Result<String> {
        let mut text = String::new();
        open_within(path, patience)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_pipe_without_a_writer_is_an_error_and_one_with_a_slow_writer_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let error = read(&pipe, PAUSE).unwrap_err().to_string();
        assert!(error.contains("no data arrived"), "{error}");
        let text = "a".repeat(100_000);
        let writer = thread::spawn({
            let (pipe, text) = (pipe.clone(), text.clone());
            move || fs::write(pipe, text).unwrap()
        });
        assert!(read(&pipe, Duration::from_secs(60)).unwrap() == text);
        writer.join().unwrap();
    }

    #[test]
    fn a_file_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "text").unwrap();
        assert_eq!(read(file.path(), PAUSE).unwrap(), "text");
        assert!(read(Path::new("/nowhere"), PAUSE).is_err());
    }
}
