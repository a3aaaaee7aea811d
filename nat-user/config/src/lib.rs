//! The configuration file: from text to a checked [`model::Config`], or to errors with place,
//! problem and remedy.
//!
//! The modules are layers, the lowest first: `text` and `model` (plain checked data), `syntax`
//! (TOML tables whose parts have their place), `values` (one value), `tables` (one table),
//! `checks` (tables beside each other). `compile` makes the entries of the rule tables from the
//! model alone.
//!
//! Nothing here looks at the host: other modules check what depends on the host (does an interface
//! exist?), and report it with [`Source::diagnostic`].

pub mod compile;
pub mod model;

mod checks;
mod syntax;
mod tables;
mod text;
mod values;

#[cfg(test)]
mod tests;

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use self::{
    model::Config,
    syntax::{Document, Fault, Places, Report, Section},
    text::{lines::Lines, words},
};
pub use self::{
    syntax::{ConfigError, Diagnostic},
    text::{input, lines::Position, visible},
};

/// 100,000 forwards are two thirds of this, and take 300 MB of memory to check. Anything larger is
/// not a configuration but something like `/dev/zero`.
const LARGEST_FILE: u64 = 16 << 20;
/// How many values a file may have: a text of nothing else takes the most memory. 100,000 forwards
/// are two thirds of this.
const MOST_VALUES: usize = 1_500_000;
/// How many marks that the parser records one by one a file may have.
const MOST_MARKS: usize = 3_500_000;

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// Warnings about valid but probably unintended settings, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// The places of its parts, for errors that depend on the host.
    pub source: Source,
}

/// The text of a configuration.
#[derive(Debug, Clone)]
pub struct Source {
    file: Arc<Path>,
    text: Arc<str>,
}

/// Reads and checks a configuration file. It looks at nothing but the file.
///
/// # Errors
/// When the file cannot be read, is not UTF-8, is not TOML or does not make a configuration.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let bytes = read(path).map_err(|error| unreadable(path, &error))?;
    if let Some((problem, remedy)) = excess(&bytes) {
        return Err(whole_file(path, None, problem, remedy));
    }
    match str::from_utf8(&bytes) {
        Ok(text) => parse(text, path),
        Err(error) => Err(not_utf8(path, &bytes, error.valid_up_to())),
    }
}

/// What a file has too much of, checked before it is parsed, and what to do.
fn excess(bytes: &[u8]) -> Option<(String, &'static str)> {
    let (mut values, mut marks) = (0, 0);
    for byte in bytes {
        match byte {
            b',' | b'=' | b'{' => values += 1,
            // `[[forward]]` takes as much as four values.
            b'[' => values += 2,
            b'\n' | b'#' | b'.' | b'"' | b'\'' => marks += 1,
            _ => {}
        }
    }
    if values > MOST_VALUES {
        let problem = format!("has more than {MOST_VALUES} values");
        return Some((problem, "write ranges instead of lists"));
    }
    let problem = format!("has more than {MOST_MARKS} lines, dots and quotation marks");
    (marks > MOST_MARKS).then_some((problem, "name a configuration file"))
}

/// Checks the text of a configuration. `file` is the name under which messages speak of it.
///
/// # Errors
/// When the text is not TOML or does not make a configuration.
pub fn parse(text: &str, file: &Path) -> Result<Loaded, ConfigError> {
    let source = Source {
        file: file.into(),
        text: text.into(),
    };
    let Document { table, places } = match syntax::document(text) {
        Ok(document) => document,
        Err((first, others)) => {
            let report = Report::new(text, Places::default());
            return Err(report.refuse(first, others, &source.file));
        }
    };
    let mut report = Report::new(text, places);
    let root = Section::root(&table, tables::KEYS);
    let parts = tables::read(&root, text.len(), &mut report);
    checks::check(&parts, &mut report);
    let warnings = report.finish(&source.file)?;
    Ok(Loaded {
        config: parts.into_config(),
        warnings,
        source,
    })
}

impl Source {
    /// A message about a key of this configuration that depends on the host, such as an interface
    /// that does not exist. `path` is that of the key, as in `["uplink", "wan", "interface"]`; a
    /// key that is not written stands for the table around it.
    #[must_use]
    pub fn diagnostic(&self, path: &[&str], problem: &str, remedy: &str) -> Diagnostic {
        let (at, places) = match syntax::document(&self.text) {
            Ok(document) => (syntax::locate(&document.table, path), document.places),
            Err(_) => (0, Places::default()),
        };
        let fault = Fault {
            at,
            key: words::dotted(path),
            problem: problem.to_owned(),
            see: None,
            remedy: remedy.to_owned(),
        };
        Report::new(&self.text, places).remark(fault, &self.file)
    }

    /// The file's name, as it was given.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    let (problem, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (
            "there is no such file",
            "write it, or name another with --config",
        ),
        io::ErrorKind::IsADirectory => ("is a directory", "name a file in it"),
        io::ErrorKind::PermissionDenied => {
            ("may not be read", "run as root, or change its permissions")
        }
        io::ErrorKind::FileTooLarge => ("is larger than 16 MiB", "name a configuration file"),
        _ => {
            let problem = format!("cannot be read: {error}");
            return whole_file(path, None, problem, "name a file that can");
        }
    };
    whole_file(path, None, problem.to_owned(), remedy)
}

fn not_utf8(path: &Path, bytes: &[u8], at: usize) -> ConfigError {
    let position = Lines::new(bytes).position(at);
    let byte = bytes.get(at).copied().unwrap_or_default();
    let problem = format!("byte 0x{byte:02x} is not UTF-8");
    whole_file(path, Some(position), problem, "save the file as UTF-8")
}

fn whole_file(
    path: &Path,
    position: Option<Position>,
    problem: String,
    remedy: &str,
) -> ConfigError {
    let diagnostic = Diagnostic {
        file: path.into(),
        position,
        key: String::new(),
        problem,
        remedy: remedy.to_owned(),
    };
    diagnostic.into()
}
