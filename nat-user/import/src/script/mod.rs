//! The file, line by line: what `iptables-save`, `iptables-nft-save` and `iptables -S` print, and
//! files that call iptables: scripts and hooks, `/etc/network/interfaces`, wg-quick, units of
//! systemd.
//!
//! natbpf runs nothing. It assumes that a command that decides about another one succeeds, and
//! marks the dependent rule as doubtful.

mod blocks;
mod commands;
mod families;
mod programs;
mod reader;
mod saved;
mod sections;
#[cfg(test)]
mod tests;

pub(super) use self::families::family;
use self::{
    commands::WRITTEN,
    programs::is_of_nat,
    reader::{Input, Reader},
    saved::NO_LINE,
};
use super::{
    dump::{Dump, Place},
    family::Family,
    shell::{LONGEST_LINE, first_word},
};

/// No real script nests blocks that deep.
const DEEPEST_BLOCK: usize = 256;

/// Reads a file; `file` is its name, which tells wg-quick's interface.
///
/// # Errors
/// The number of the line that is not a line of iptables-save, and what is wrong with it.
pub(super) fn read(family: Family, text: &str, file: &str) -> Result<Dump, (usize, String)> {
    let dump = read_lines(family, text, file)?;
    if dump.tables.is_empty() && dump.unread.is_empty() {
        return Err(match dump.aside.first() {
            Some((line, _, _)) => (*line, NO_LINE.to_owned()),
            None => (
                0,
                "contains no rules: give the output of iptables-save".to_owned(),
            ),
        });
    }
    Ok(dump)
}

fn read_lines(family: Family, text: &str, file: &str) -> Result<Dump, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_interfaces = text
        .lines()
        .any(|line| matches!(first_word(line), "iface" | "auto" | "allow-hotplug"));
    let mut reader = Reader {
        is_interfaces,
        own_name: wg_name(file),
        ..Reader::default()
    };
    reader.dump.family = family;
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let mut whole = line.trim().to_owned();
        while reader.table.is_none() && continues(&whole) {
            whole.pop();
            let Some((_, next)) = lines.next().filter(|_| whole.len() <= LONGEST_LINE) else {
                break;
            };
            whole.push_str(next.trim());
        }
        let result = reader.bounded(number, &whole);
        result.map_err(|problem| (number, problem))?;
    }
    // (Rules of IPv4 are also typed by hand.)
    if family == Family::V6 && reader.table.as_ref().is_some_and(|table| table.is_saved) {
        let problem =
            "is the last line, and the COMMIT of its table is missing: the file is cut off";
        return Err((text.lines().count(), problem.to_owned()));
    }
    reader.end_of_list();
    Ok(reader.dump)
}

/// Whether a line continues in the next one.
fn continues(line: &str) -> bool {
    let backslashes = line.chars().rev().take_while(|c| *c == '\\').count();
    backslashes % 2 == 1 && !line.starts_with('#')
}

/// The interface of a wg-quick file.
fn wg_name(file: &str) -> Option<String> {
    let name = file.rsplit('/').next()?.strip_suffix(".conf")?;
    (!name.is_empty() && name.len() <= 15).then(|| name.to_owned())
}

impl Reader {
    /// A line, as long as there are not too many.
    fn bounded(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.len() > LONGEST_LINE {
            return Err(format!("is longer than {} KiB", LONGEST_LINE >> 10));
        }
        self.line(number, line)?;
        if self.blocks.depth() > DEEPEST_BLOCK {
            return Err(format!("is inside more than {DEEPEST_BLOCK} blocks"));
        }
        self.dump.spent.excess().map_or(Ok(()), Err)
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let Some((end, input)) = &self.here else {
            return self.saved(number, line);
        };
        if line == end {
            self.here = None;
            self.table = None;
            return Ok(());
        }
        match input {
            Input::Loaded => return self.saved(number, line),
            Input::Others if line == "*nat" || is_of_nat(line) => {
                let place = Place::at(number, line);
                self.dump.left(place, WRITTEN);
            }
            Input::Others | Input::Elsewhere => {}
        }
        Ok(())
    }
}
