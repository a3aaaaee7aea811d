//! Networks beside each other.

use crate::{
    model::Network,
    syntax::{Fault, Report},
    tables::Item,
    text::words::quote,
};

/// Networks must not share addresses: a guest is found by its address alone.
pub(super) fn overlaps(networks: &[Item<'_, Network>], report: &mut Report<'_>) {
    let mut by_start: Vec<_> = networks.iter().collect();
    by_start.sort_by_key(|network| network.value.address.network());
    let mut reaches_furthest: Option<&Item<'_, Network>> = None;
    for network in by_start {
        let (range, before) = (network.value.address, reaches_furthest);
        if let Some(before) =
            before.filter(|before| before.value.address.contains(&range.network()))
        {
            let in_file = if before.section.at < network.section.at {
                (before, network)
            } else {
                (network, before)
            };
            report.error(overlap(in_file));
        }
        if before.is_none_or(|before| before.value.address.broadcast() < range.broadcast()) {
            reaches_furthest = Some(network);
        }
    }
}

fn overlap((first, second): (&Item<'_, Network>, &Item<'_, Network>)) -> Fault {
    let problem = format!(
        "{} overlaps {} of network {}",
        second.value.address.trunc(),
        first.value.address.trunc(),
        quote(&first.value.name),
    );
    let remedy = "give each network its own prefix";
    second
        .section
        .fault("address", &problem, remedy)
        .see(first.section.at)
}
