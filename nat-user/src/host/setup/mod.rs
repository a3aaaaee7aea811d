//! Sets up the host as configured, and restores it.
//!
//! [`apply`] compares a [`Plan`] with the host and the journal, makes the missing changes, and
//! undoes those that only an earlier plan needed. It may be called again at any time: correct
//! settings are left unchanged and cost no write. A run that fails undoes its own changes.
//!
//! What it sets, and why the data path needs it:
//! - `net/ipv4/ip_forward`: the kernel routes between uplink and guests. If it is on but off for
//!   one of the interfaces, `conf/INTERFACE/forwarding`.
//! - For `[[route]]` a route to the network for each prefix; with `proxy_arp` that setting of the
//!   network, with `arp` an entry for each address on the uplink (`ip neigh add proxy`).
//! - `fs/inotify/max_user_instances`, if there are more networks with DHCP or DNS than it allows.
//! - `send_redirects` off for `all` and the networks (the kernel sends when one of the two is on):
//!   a hairpinned packet leaves by the interface by which it came, and a redirect would make the
//!   guest send the next one directly to its neighbour, without translation.
//!
//! `rp_filter` stays as it is: translation at TC ingress and egress leaves the source of a packet
//! as it was when the filter looks at it, on the interface where it came in. That holds for a
//! server that reaches itself, whose packets have one address as source and destination then.

mod problem;
mod routes;
mod run;
mod targets;

use std::{fmt, fs::File, io::Read as _, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use nat_config::model::{Config, Forwarding, Mode, UplinkId};
use nat_sys::{
    netlink::{Link, Netlink},
    sysctl::Key,
};
pub use problem::{Problem, Problems, problems};
pub use routes::Route;
use run::Run;
pub use targets::target_problems;

use super::{
    change::{Change, Undone},
    journal::Journal,
};

/// What the host should look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The ways to the outside.
    pub uplinks: Vec<Uplink>,
    /// The inside networks.
    pub networks: Vec<Network>,
    /// The addresses that are routed to guests.
    pub routes: Vec<Route>,
    /// Whether packets of established sessions go past the kernel.
    pub has_fast_path: bool,
    /// How many networks are served by a dnsmasq of their own.
    pub served_networks: u32,
}

/// What an uplink asks of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The name in `[uplink.NAME]`.
    pub name: String,
    /// The interface, which must exist.
    pub interface: String,
    /// Addresses that it is to have where no interface of the host has them.
    pub addresses: Vec<Ipv4Addr>,
    /// Whether its driver must take an XDP program.
    pub needs_xdp: bool,
}

/// What a network asks of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The name in `[network.NAME]`.
    pub name: String,
    /// The bridge or plain interface.
    pub interface: String,
    /// The address that it is to have, with the length of its prefix.
    pub address: Ipv4Net,
    /// Whether to make the bridge if it is missing.
    pub create: bool,
    /// Interfaces to attach to the bridge if natbpf made it.
    pub ports: Vec<String>,
    /// Whether these ports may not reach each other by the bridge.
    pub isolated: bool,
}

/// What was done, in lines for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Changes made or undone, in that order.
    pub done: Vec<String>,
    /// What was left as it is, and why.
    pub notes: Vec<String>,
    /// What should have been undone and could not be; it stays in the journal.
    pub failed: Vec<String>,
    /// What the host lacks and natbpf waits for.
    pub awaited: Vec<String>,
    /// Settings that were set, each with the value that it had.
    pub reset: Vec<(Key, String)>,
}

impl Report {
    /// Logs what was done to the host, and what was left unchanged.
    pub(crate) fn log(&self) {
        for line in self.done.iter().chain(&self.notes) {
            log::info!("{line}");
        }
    }
}

impl Plan {
    /// The part of a configuration that is about interfaces.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let claimed = config.claimed_addresses();
        let addresses_of = |id: UplinkId| {
            let own = claimed.iter().filter(|(_, uplink)| **uplink == id);
            own.map(|(address, _)| *address).collect()
        };
        let uplinks = config.uplinks.iter().zip((0..).map(UplinkId));
        let uplinks = uplinks.map(|(uplink, id)| Uplink {
            name: uplink.name.clone(),
            interface: uplink.interface.clone(),
            addresses: addresses_of(id),
            needs_xdp: uplink.mode == Mode::Xdp && config.forwarding == Forwarding::Fast,
        });
        let networks = config.networks.iter().map(|network| Network {
            name: network.name.clone(),
            interface: network.interface.clone(),
            address: network.address,
            create: network.create,
            ports: network.ports.clone(),
            isolated: network.isolated,
        });
        Self {
            uplinks: uplinks.collect(),
            networks: networks.collect(),
            routes: (config.routes.iter())
                .map(|route| Route::from_config(config, route))
                .collect(),
            has_fast_path: config.forwarding == Forwarding::Fast,
            served_networks: (config.networks.iter())
                .filter(|network| network.dhcp.is_some() || network.dns.is_some())
                .count() as u32,
        }
    }
}

/// How far a plan is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Up to the point before packets are forwarded: bridges are created and stay down, and
    /// interfaces that are no longer networks stop forwarding.
    BeforePrograms,
    /// Completely. The programs are attached.
    Whole,
}

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
    let addresses = netlink.addresses().await?;
    let present = routes::present(netlink, plan).await?;
    let problems = problem::find(plan, &links, &addresses, &present, journal.changes());
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

/// The settings of the kernel that a plan relies on, each with the value that it needs, as far as
/// the kernel does not report their changes.
///
/// # Errors
/// When the name of an interface cannot be the name of a file.
pub fn settings(plan: &Plan) -> Result<Vec<(Key, &'static str)>> {
    let mut settings = vec![
        (Key::ip_forward()?, "1"),
        (Key::ipv4_conf("all", "send_redirects")?, "0"),
    ];
    if plan.has_fast_path {
        settings.extend(tracking()?.map(|key| (key, "1")));
    }
    for network in &plan.networks {
        let key = Key::ipv4_conf(&network.interface, "send_redirects")?;
        settings.push((key, "0"));
    }
    Ok(settings)
}

/// Settings of connection tracking, where it is in use: it must accept packets whose sequence
/// numbers it has missed.
fn tracking() -> Result<[Key; 2]> {
    let key = |setting| Key::new(&["net", "netfilter", setting]);
    Ok([
        key("nf_conntrack_tcp_be_liberal")?,
        // From Linux 5.14 on.
        key("nf_conntrack_tcp_ignore_invalid_rst")?,
    ])
}

/// Creates a bridge, and nothing else of a plan, when no daemon runs: the next daemon treats it as
/// its own.
///
/// # Errors
/// When the kernel refuses or the journal cannot be written.
pub(super) async fn make_bridge(
    netlink: &Netlink,
    journal: &mut Journal,
    name: &str,
) -> Result<()> {
    let mut bridge = Change::Bridge {
        name: name.to_owned(),
        mac: random_mac()?,
        ifindex: None,
    };
    journal.record(bridge.clone());
    journal.save()?;
    bridge.make(netlink).await?;
    journal.record(bridge);
    journal.save()
}

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

impl Plan {
    /// The part of the plan whose interfaces exist or will be created.
    fn present(&self, links: &[Link]) -> Self {
        let is_there = |name: &str| named(links, name).is_some();
        let mut present = self.clone();
        present.uplinks.retain(|uplink| is_there(&uplink.interface));
        present
            .networks
            .retain(|network| network.create || is_there(&network.interface));
        let has_network = |name: &str| (present.networks.iter()).any(|one| one.interface == name);
        present
            .routes
            .retain(|route| has_network(&route.interface) && is_there(&route.uplink));
        present
    }

    /// Whether a change is to an interface that the plan still has, or to none in particular.
    fn is_about(&self, change: &Change) -> bool {
        let has = |name: &str| self.interfaces().any(|interface| interface == name);
        let mut ports = self.networks.iter().flat_map(|network| &network.ports);
        match change {
            Change::Sysctl { key, .. } => key.interface().is_none_or(has),
            Change::Bridge { name, .. } => has(name),
            Change::Port { bridge, .. } => has(bridge),
            Change::LinkUp { name, .. } => has(name) || ports.any(|port| port == name),
            Change::Address { interface, .. }
            | Change::Route { interface, .. }
            | Change::ArpProxy { interface, .. } => has(interface),
        }
    }

    fn interfaces(&self) -> impl Iterator<Item = &str> {
        let uplinks = self.uplinks.iter().map(|uplink| uplink.interface.as_str());
        let networks = self
            .networks
            .iter()
            .map(|network| network.interface.as_str());
        uplinks.chain(networks)
    }
}

/// Undoes changes, the last first. Returns those that could not be undone, in order.
///
/// Changes to a bridge that will be deleted end with it and are not undone one by one.
async fn undo_each(netlink: &Netlink, changes: Vec<Change>, report: &mut Report) -> Vec<Change> {
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

fn named<'l>(links: &'l [Link], name: &str) -> Option<&'l Link> {
    links.iter().find(|link| link.name == name)
}

fn master_name(link: &Link, links: &[Link]) -> Option<String> {
    let master = links
        .iter()
        .find(|master| Some(master.index) == link.master);
    master.map(|master| master.name.clone())
}

/// A unicast address of the locally administered kind (IEEE 802-2014 section 8.4).
fn random_mac() -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut mac))
        .context("read /dev/urandom")?;
    mac[0] = (mac[0] & !0x01) | 0x02;
    Ok(mac)
}

impl Report {
    /// Whether there is nothing to report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.notes.is_empty() && self.failed.is_empty()
    }

    /// All lines: done, left, failed.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let failed = self.failed.iter().map(|line| format!("failed: {line}"));
        let others = self.done.iter().chain(&self.notes).cloned();
        others.chain(failed)
    }
}

/// One line; `nothing` if it is empty.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&self.lines().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests;
