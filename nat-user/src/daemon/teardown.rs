//! Removing everything that natbpf made.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use nat_sys::netlink::Netlink;

use crate::{
    dataplane::{Pins, attach},
    dhcp,
    host::{
        grace::{self, ShortGrace},
        journal::Journal,
        setup,
    },
    refusals,
    state::State,
};

/// Takes the data plane down and the host back to what it was. Gives what was done, line by line.
///
/// # Errors
///
/// When something could not be removed; the rest is.
pub async fn tear_down(run_dir: &Path, bpffs: &Path) -> Result<Vec<String>> {
    let pins = Pins::below(bpffs);
    let mut lines = dhcp::end_all(run_dir).await?;
    // A damaged state file must not keep anybody from getting rid of it.
    let state = State::load(run_dir).unwrap_or_else(|error| {
        lines.push(format!("{error:#}; removed it"));
        None
    });
    let netlink = Netlink::connect()?;
    ShortGrace::clean_up(run_dir);
    let attached = state.as_ref().map_or(0, |state| state.interfaces.len());
    let grace = ShortGrace::begin(run_dir, attached);
    // As long as the programs are there, nothing leaves untranslated: they go last.
    let report = undo_host(&netlink, run_dir).await;
    if let Some(state) = state {
        detach_filters(&netlink, &state).await?;
    }
    if pins.are_any() {
        lines.push(format!("removed programs and maps in {}", bpffs.display()));
    }
    pins.remove()?;
    drop(grace);
    let report = report?;
    lines.extend(report.done);
    lines.extend(report.notes);
    if !report.failed.is_empty() {
        anyhow::bail!("{}", report.failed.join("; "));
    }
    remove_run_files(run_dir)?;
    Ok(lines)
}

/// Takes the host back to what it was.
async fn undo_host(netlink: &Netlink, run_dir: &Path) -> Result<setup::Report> {
    let mut journal = Journal::open(run_dir)?;
    setup::undo(netlink, &mut journal).await
}

/// Takes filters off the interfaces and their ports, where attachments are not links.
async fn detach_filters(netlink: &Netlink, state: &State) -> Result<()> {
    let own = |index: u32| state.interfaces.iter().any(|one| one.index == index);
    for link in netlink.links().await? {
        if own(link.index) || link.master.is_some_and(own) {
            attach::detach_filters(&link.name);
        }
    }
    Ok(())
}

/// What natbpf keeps in its run directory, with what an interrupted write leaves.
const RUN_FILES: [&str; 10] = [
    "state.json",
    "state.json.new",
    refusals::FILE,
    refusals::NEW_FILE,
    "host.json",
    "host.json.new",
    "control.sock",
    "control.sock.new",
    "lock",
    grace::FILE,
];

/// Removes natbpf's own files, and the directory if nothing else is in it.
fn remove_run_files(run_dir: &Path) -> Result<()> {
    for name in RUN_FILES {
        let path = run_dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    // It stays if somebody keeps other things in it, or if systemd made it.
    let _in_use = fs::remove_dir(run_dir);
    Ok(())
}
