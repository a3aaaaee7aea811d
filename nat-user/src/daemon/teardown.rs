//! Removing everything that natbpf has created.

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

/// Removes the data plane and restores the host. Returns what was done, line by line.
///
/// # Errors
///
/// When something could not be removed; the rest is.
pub async fn tear_down(run_dir: &Path, bpffs: &Path) -> Result<Vec<String>> {
    let pins = Pins::below(bpffs);
    let mut lines = dhcp::end_all(run_dir).await?;
    // A damaged state file must not prevent its removal.
    let state = State::load(run_dir).unwrap_or_else(|error| {
        lines.push(format!("{error:#}; removed it"));
        None
    });
    let netlink = Netlink::connect()?;
    ShortGrace::clean_up(run_dir);
    let attached = state.as_ref().map_or(0, |state| state.interfaces.len());
    let grace = ShortGrace::begin(run_dir, attached);
    // While the programs are attached, no packet leaves untranslated, so they are removed last.
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

/// Restores the host.
async fn undo_host(netlink: &Netlink, run_dir: &Path) -> Result<setup::Report> {
    let mut journal = Journal::open(run_dir)?;
    setup::undo(netlink, &mut journal).await
}

/// Removes filters from the interfaces and their ports, where attachments are not links.
async fn detach_filters(netlink: &Netlink, state: &State) -> Result<()> {
    let own = |index: u32| state.interfaces.iter().any(|one| one.index == index);
    for link in netlink.links().await? {
        if own(link.index) || link.master.is_some_and(own) {
            attach::detach_filters(&link.name);
        }
    }
    Ok(())
}

/// The files of natbpf in its run directory beside its state, including those of an interrupted
/// write.
const RUN_FILES: [&str; 8] = [
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
    State::remove(run_dir)?;
    for name in RUN_FILES {
        let path = run_dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    // It stays if it contains other files, or if systemd created it.
    let _in_use = fs::remove_dir(run_dir);
    Ok(())
}
