//! What the commands print: for people as aligned text, for programs as JSON.
//!
//! Everything here turns plain values into text. It does not know where the values come from.

pub mod conntrack;
pub mod contents;
pub mod filter;
pub mod leases;
pub mod protocol;
pub mod session;
pub mod stats;
pub mod status;

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use nat_config::visible::visible;

/// The audience of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// People.
    Human,
    /// Programs.
    Json,
}

/// How full a table of the data plane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Occupancy {
    /// Entries in it.
    pub active: u64,
    /// Entries that it can hold.
    pub max: u64,
}

impl Format {
    /// By whether `--json` was given.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        if json { Self::Json } else { Self::Human }
    }
}

/// Writes a report to standard output. A reader that closes early, such as `head`, is no error.
///
/// # Errors
/// When it cannot be written.
pub fn to_stdout(report: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    is_read(print(report))
        .context("write to standard output")
        .map(|_| ())
}

fn print(report: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    report(&mut output)?;
    output.flush()
}

/// Whether there still is a reader.
fn is_read(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// An empty table with a header; the columns of numbers are aligned to the right.
fn table(header: &[&str], numbers: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn write_table(output: &mut dyn Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(output, "{}", visible(line.trim_end()))?;
    }
    Ok(())
}

/// `1536` as `1.5 KiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `11520` as `3 h 12 min`: the two largest units.
fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts
        .iter()
        .position(|(count, _)| *count > 0)
        .unwrap_or(parts.len() - 1);
    let mut text = String::new();
    for (count, unit) in parts.iter().skip(first).take(2) {
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = write!(text, "{space}{count} {unit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_are_shown_in_their_two_largest_units() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (11_520, "3 h 12 min"),
            (86_400 * 40 + 3600 * 5, "40 d 5 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        assert!(!is_read(Err(io::ErrorKind::BrokenPipe.into())).unwrap());
        assert!(is_read(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
