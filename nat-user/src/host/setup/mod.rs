//! Sets up the host as configured, and restores it.
//!
//! [`apply`] compares a [`Plan`] with the host and the journal, makes the missing changes, and
//! undoes those that only an earlier plan needed. It may be called again at any time: correct
//! settings are left unchanged and cost no write. A run that fails undoes its own changes.
//!
//! What it sets, and why the data path needs it:
//! - `net/ipv4/ip_forward`: the kernel routes between uplink and guests. If it is on but off for
//!   one of the interfaces, `conf/INTERFACE/forwarding`.
//! - For IPv6 `net/ipv6/conf/all/forwarding` and that of each uplink and network; before that
//!   `accept_ra` = 2 on an uplink that has its routes from router advertisements, which the kernel
//!   ignores otherwise from then on.
//! - For `[[route]]` a route to the network for each prefix; with `proxy_arp` that setting of the
//!   network, with `arp` an entry for each address on the uplink (`ip neigh add proxy`).
//! - For a network with `ndp` routes to its prefixes that come before those of the uplink's link,
//!   and on the uplink frames to all groups, because solicitations of guests go to many. The groups
//!   of known guests are joined too, for switches that forward only to those who have joined.
//! - `fs/inotify/max_user_instances`, if there are more networks with DHCP or DNS than it allows.
//! - `send_redirects` off for `all` and the networks (the kernel sends when one of the two is on):
//!   a hairpinned packet leaves by the interface by which it came, and a redirect would make the
//!   guest send the next one directly to its neighbour, without translation.
//!
//! `rp_filter` stays as it is: translation at TC ingress and egress leaves the source of a packet
//! as it was when the filter looks at it, on the interface where it came in. That holds for a
//! server that reaches itself, whose packets have one address as source and destination then.
mod bridge;
mod check;
mod ipv6;
mod links;
mod ndp;
mod plan;
mod problem;
mod report;
mod routes;
mod run;
mod settings;
mod targets;
mod undo;

use anyhow::Result;
use nat_sys::netlink::Netlink;

pub(super) use self::bridge::make_bridge;
use self::run::Run;
pub use self::{
    check::problems,
    plan::{Network, Plan, Route, Step, Uplink},
    problem::{Problem, Problems},
    report::Report,
    settings::settings,
    targets::target_problems,
    undo::undo,
};
use super::journal::Journal;

/// Makes the changes that the plan needs. If it fails, it undoes its own changes; those of earlier
/// runs stay. If it is interrupted, by a kill or by dropping the future, the journal on disk has
/// all its changes.
///
/// # Errors
/// [`Problems`] (to be downcast) when the plan does not fit the host; nothing is changed then. A
/// missing interface is no problem: the daemon waits for it and sets up the rest. Otherwise when
/// the kernel refuses a change or the journal cannot be written.
pub async fn apply(
    netlink: &Netlink,
    journal: &mut Journal,
    plan: &Plan,
    step: Step,
) -> Result<Report> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses_in().await?;
    let present = routes::present(netlink, plan).await?;
    let problems = check::find(plan, &links, &addresses, &present, journal.changes());
    let (absences, problems) =
        (problems.into_iter()).partition::<Vec<_>, _>(|problem| problem.is_absence);
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    let awaited = absences.into_iter().map(|absence| {
        let (missing, remedy) = (absence.problem, absence.remedy);
        format!("{missing}: its rules are inactive until it appears ({remedy})")
    });
    let before = journal.changes().to_vec();
    let whole = plan;
    let plan = &plan.present(&links);
    let mut run = Run {
        netlink,
        journal,
        report: Report {
            awaited: awaited.collect(),
            ..Report::default()
        },
        kept: Vec::new(),
        todo: Vec::new(),
    };
    match run.make(plan, links, step).await {
        Ok(()) => {
            match step {
                Step::BeforePrograms => run.undo(|change| !whole.is_about(change)).await,
                Step::Whole => run.undo_unwanted().await,
            }
            Ok(run.report)
        }
        Err(error) => {
            run.roll_back(before).await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
