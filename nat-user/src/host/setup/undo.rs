//! Undoing changes to the host.

use anyhow::Result;
use nat_sys::netlink::Netlink;

use super::report::Report;
use crate::host::{
    change::{Change, Undone},
    journal::Journal,
};

/// Undoes all changes in the journal, the last first. A failure is reported, stays in the journal,
/// and does not stop the rest.
///
/// # Errors
/// When the journal cannot be written.
pub async fn undo(netlink: &Netlink, journal: &mut Journal) -> Result<Report> {
    let mut report = Report::default();
    let changes = journal.changes().to_vec();
    let remaining = undo_each(netlink, changes, &mut report).await;
    journal.replace(remaining);
    journal.save()?;
    Ok(report)
}

/// Undoes changes, the last first. Returns those that could not be undone, in order.
///
/// Changes to a bridge that will be deleted end with it and are not undone one by one.
pub(super) async fn undo_each(
    netlink: &Netlink,
    changes: Vec<Change>,
    report: &mut Report,
) -> Vec<Change> {
    let bridges: Vec<_> = (changes.iter())
        .filter(|change| matches!(change, Change::Bridge { .. }))
        .cloned()
        .collect();
    let goes_with = |change: &Change| bridges.iter().find(|bridge| change.goes_with(bridge));
    let mut failed = Vec::new();
    let mut note = |change: &Change, outcome: Result<Undone>| match outcome {
        Ok(Undone::Done(how)) => report.done.push(how),
        Ok(Undone::Nothing) => {}
        Ok(Undone::LeftAlone(what)) => report.notes.push(what),
        Err(error) => {
            report.failed.push(format!("{error:#}"));
            failed.push(change.clone());
        }
    };
    let is_bridge = |change: &&Change| matches!(change, Change::Bridge { .. });
    for change in changes.iter().rev() {
        if !is_bridge(&change) && goes_with(change).is_none() {
            note(change, change.undo(netlink).await);
        }
    }
    // At the end, when ports have returned; together, because that takes no longer than one.
    let last_first: Vec<&Change> = changes.iter().rev().filter(is_bridge).collect();
    match Change::undo_bridges(&last_first, netlink).await {
        Ok(outcomes) => {
            let outcomes = last_first.into_iter().zip(outcomes);
            outcomes.for_each(|(bridge, outcome)| note(bridge, outcome));
        }
        Err(error) => {
            let bridges = last_first.into_iter();
            let why = format!("{error:#}");
            bridges.for_each(|bridge| note(bridge, Err(anyhow::anyhow!("{why}"))));
        }
    }
    let remains = |change: &Change| failed.contains(goes_with(change).unwrap_or(change));
    changes.into_iter().filter(remains).collect()
}
