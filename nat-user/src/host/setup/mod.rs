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
mod targets;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nat_config::model::{Config, Forwarding, Mode, UplinkId};
use nat_sys::netlink::{Address, Kind, Link, Netlink};
use nat_sys::sysctl::Key;

use super::change::{self, Change, Undone};
use super::journal::Journal;

pub use self::problem::{Problem, Problems, problems};
pub use self::routes::Route;
pub use self::targets::target_problems;

/// As many instances of inotify as the kernel usually lets a user have.
const USUAL_WATCHERS: u32 = 128;

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

/// One run of [`apply`].
struct Run<'a> {
    netlink: &'a Netlink,
    journal: &'a mut Journal,
    report: Report,
    /// The changes of the plan that natbpf has made, in this run or an earlier one.
    kept: Vec<Change>,
    /// The changes still to make.
    todo: Vec<Change>,
}

impl Run<'_> {
    async fn make(&mut self, plan: &Plan, mut links: Vec<Link>, step: Step) -> Result<()> {
        for network in &plan.networks {
            self.plan_bridge(network, &links)?;
        }
        if self.make_planned().await? {
            links = self.netlink.links().await?;
        }
        if step == Step::BeforePrograms {
            return Ok(());
        }

        self.plan_sysctl(Key::ipv4_conf("all", "send_redirects")?, "0")?;
        for network in &plan.networks {
            self.plan_sysctl(Key::ipv4_conf(&network.interface, "send_redirects")?, "0")?;
        }
        if plan.has_fast_path {
            self.plan_tracking()?;
        }
        self.plan_watches(plan.served_networks)?;
        let addresses = self.netlink.addresses().await?;
        for network in &plan.networks {
            self.plan_network(network, &links, &addresses)?;
        }
        for uplink in &plan.uplinks {
            self.plan_claims(uplink, &links, &addresses)?;
        }
        self.plan_gateways(plan, &links, &addresses)?;
        self.make_planned().await?;

        self.plan_routes(plan, &links).await?;
        self.make_planned().await?;
        self.make_forwarding(plan).await
    }

    /// Turns on forwarding in the kernel, last of all.
    async fn make_forwarding(&mut self, plan: &Plan) -> Result<()> {
        // Before ip_forward sets them too, so that their values are known.
        for network in &plan.networks {
            self.plan_forwarding(&network.interface)?;
        }
        self.plan_sysctl(Key::ip_forward()?, "1")?;
        self.make_planned().await?;
        for uplink in &plan.uplinks {
            let key = Key::ipv4_conf(&uplink.interface, "forwarding")?;
            let now = key.read()?.unwrap_or_default();
            let is_so = now == "1";
            self.want(Change::staying_sysctl(key, now, "1"), is_so, &[]);
        }
        self.make_planned().await?;
        Ok(())
    }

    /// A network's own setting. The record of ip_forward may have its original value.
    fn plan_forwarding(&mut self, interface: &str) -> Result<()> {
        let key = Key::ipv4_conf(interface, "forwarding")?;
        let now = (key.read()?).with_context(|| format!("there is no sysctl {key}"))?;
        let mut changes = self.journal.changes().iter();
        let before = changes.find_map(|change| change.forwarding_before(&key));
        let before = before.map_or(now.clone(), str::to_owned);
        let change = Change::sysctl(key, before.clone(), "1");
        let is_noted = before == now || self.journal.find(&change).is_some();
        self.want(change, now == "1" && is_noted, &[]);
        Ok(())
    }

    fn plan_bridge(&mut self, network: &Network, links: &[Link]) -> Result<()> {
        match named(links, &network.interface) {
            Some(bridge) => {
                let ours = self
                    .journal
                    .changes()
                    .iter()
                    .find(|known| known.made(bridge));
                let Some(Change::Bridge { name, mac, .. }) = ours else {
                    return Ok(());
                };
                // The index is missing if the daemon was killed just after it created the bridge.
                let known = Change::Bridge {
                    name: name.clone(),
                    mac: *mac,
                    ifindex: Some(bridge.index),
                };
                self.journal.record(known.clone());
                self.kept.push(known);
            }
            None => {
                // A deleted bridge is recreated with the Ethernet address that its guests know.
                let known = (self.journal.changes().iter()).find_map(|known| match known {
                    Change::Bridge { name, mac, .. } if *name == network.interface => Some(*mac),
                    _ => None,
                });
                self.todo.push(Change::Bridge {
                    name: network.interface.clone(),
                    mac: known.map_or_else(random_mac, Ok)?,
                    ifindex: None,
                });
            }
        }
        Ok(())
    }

    /// Connection tracking, where it is in use, sees the beginning and the end of a connection and
    /// little in between. It must not treat the end as invalid because of that.
    ///
    /// It lets packets outside its window pass, but learns nothing from them, so it knows only the
    /// acknowledgements of the beginning. A reset more than 2 GiB later is before them
    /// (`nf_conntrack_tcp_packet()` in `net/netfilter/nf_conntrack_proto_tcp.c`).
    fn plan_tracking(&mut self) -> Result<()> {
        for key in tracking()? {
            if key.read()?.is_some() {
                self.plan_sysctl(key, "1")?;
            }
        }
        Ok(())
    }

    /// Each dnsmasq watches files, for which the kernel lets a user have 128 instances by default.
    fn plan_watches(&mut self, served: u32) -> Result<()> {
        if served <= USUAL_WATCHERS / 2 {
            return Ok(());
        }
        let key = Key::new(&["fs", "inotify", "max_user_instances"])?;
        let needed = served.saturating_add(USUAL_WATCHERS);
        let Some(before) = key.read()? else {
            return Ok(());
        };
        let is_enough = before.parse::<u32>().is_ok_and(|now| now >= needed);
        let change = Change::sysctl(key, before, &needed.to_string());
        self.want(change, is_enough, &[]);
        Ok(())
    }

    fn plan_sysctl(&mut self, key: Key, set: &str) -> Result<()> {
        let now = (key.read()?).with_context(|| format!("there is no sysctl {key}"))?;
        let is_so = now == set;
        let change = if key.is_ip_forward() && !is_so {
            change::forwarding_on(key, now)?
        } else {
            Change::sysctl(key, now, set)
        };
        self.want(change, is_so, &[]);
        Ok(())
    }

    fn plan_network(
        &mut self,
        network: &Network,
        links: &[Link],
        addresses: &[Address],
    ) -> Result<()> {
        let name = &network.interface;
        let link = named(links, name).with_context(|| format!("interface {name} has vanished"))?;
        let address = Change::Address {
            interface: name.clone(),
            ifindex: link.index,
            address: network.address,
        };
        let has_it = addresses
            .iter()
            .any(|held| held.ifindex == link.index && held.net == network.address);
        // The owner of a bridge adds its address, and would find it taken.
        let is_ours = network.create || link.kind != Kind::Bridge;
        if is_ours || has_it {
            self.want(address, has_it, links);
        } else {
            self.report.awaited.push(format!(
                "{name} does not have {}: natbpf waits for its owner to add it, and guests have no \
                 gateway until then (create = true has natbpf add it)",
                network.address
            ));
        }
        if self.kept.iter().any(|kept| kept.made(link)) {
            for port in &network.ports {
                self.plan_port(port, network.isolated, link, links);
            }
        } else if !network.ports.is_empty() {
            self.report.notes.push(format!(
                "{name} was there before: its ports are left as they are"
            ));
        }
        if is_ours {
            self.want_up(link, links);
        }
        Ok(())
    }

    /// External addresses. An address that an interface of the host holds is left to its owner.
    fn plan_claims(
        &mut self,
        uplink: &Uplink,
        links: &[Link],
        addresses: &[Address],
    ) -> Result<()> {
        let name = &uplink.interface;
        let link = named(links, name).with_context(|| format!("interface {name} has vanished"))?;
        for claimed in &uplink.addresses {
            let net = Ipv4Net::from(*claimed);
            let is_claim = |held: &&Address| held.ifindex == link.index && held.net == net;
            let holders = addresses.iter().filter(|held| held.net.addr() == *claimed);
            let (claims, others): (Vec<_>, Vec<_>) = holders.partition(is_claim);
            if others.is_empty() {
                let change = Change::Address {
                    interface: name.clone(),
                    ifindex: link.index,
                    address: net,
                };
                self.want(change, !claims.is_empty(), links);
            }
        }
        Ok(())
    }

    fn plan_port(&mut self, port: &str, isolated: bool, bridge: &Link, links: &[Link]) {
        let Some(link) = named(links, port) else {
            let note = format!("there is no {port} to attach to {} yet", bridge.name);
            self.report.notes.push(note);
            return;
        };
        // Up first: undoing in reverse order shows to which bridge the port moved.
        self.want_up(link, links);
        let change = Change::Port {
            port: port.to_owned(),
            ifindex: link.index,
            bridge: bridge.name.clone(),
            previous: master_name(link, links),
            isolated,
        };
        let has_isolated = |known: Option<&Change>| matches!(known, Some(Change::Port { isolated, .. }) if *isolated);
        // A port that other software has isolated stays isolated.
        let is_so = match link.port.is_some_and(|port| port.isolated) {
            true => isolated || !has_isolated(self.journal.find(&change)),
            false => !isolated,
        };
        self.want(change, link.master == Some(bridge.index) && is_so, links);
    }

    fn want_up(&mut self, link: &Link, links: &[Link]) {
        let change = Change::LinkUp {
            name: link.name.clone(),
            ifindex: link.index,
            master: master_name(link, links),
        };
        self.want(change, link.up, links);
    }

    /// Plans a change, unless the host already has that state. A change of an earlier run is kept.
    fn want(&mut self, change: Change, is_so: bool, links: &[Link]) {
        if !is_so {
            self.todo.push(change);
        } else if let Some(known) = self.journal.find(&change)
            && known.is_about(links)
        {
            self.kept.push(known.clone());
        }
    }

    /// Makes the planned changes, after recording all of them on disk. Returns whether there were
    /// any.
    async fn make_planned(&mut self) -> Result<bool> {
        let todo = std::mem::take(&mut self.todo);
        let mut again = Vec::with_capacity(todo.len());
        for change in &todo {
            again.push(self.journal.find(change).is_some());
            if let Change::Sysctl { key, .. } = change {
                let now = key.read()?.unwrap_or_default();
                self.report.reset.push((key.clone(), now));
            }
        }
        for change in &todo {
            self.journal.record(change.clone());
        }
        self.journal.save()?;
        let any = !todo.is_empty();
        for (mut change, again) in todo.into_iter().zip(again) {
            change.make(self.netlink).await?;
            self.report.done.push(match (&change, again) {
                (Change::Sysctl { key, set, .. }, true) => format!("set {key} to {set} again"),
                _ => change.to_string(),
            });
            self.journal.record(change.clone());
            self.kept.push(change);
        }
        self.journal.save()?;
        Ok(any)
    }

    /// Undoes what an earlier plan asked for and this one does not.
    async fn undo_unwanted(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        self.undo(|change| !kept.iter().any(|kept| kept.same_object(change)))
            .await;
    }

    async fn undo(&mut self, is_unwanted: impl Fn(&Change) -> bool) {
        let (unwanted, wanted) =
            (self.journal.changes().iter().cloned()).partition::<Vec<_>, _>(is_unwanted);
        let mut remaining = undo_each(self.netlink, unwanted, &mut self.report).await;
        remaining.extend(wanted);
        self.journal.replace(remaining);
        if let Err(error) = self.journal.save() {
            self.report.failed.push(format!("{error:#}"));
        }
    }

    /// Undoes the changes of this run. `before` is the journal at its start.
    async fn roll_back(&mut self, before: Vec<Change>) {
        let mut report = Report::default();
        let mut new = Vec::new();
        for change in self.journal.changes() {
            match before.iter().find(|known| known.same_object(change)) {
                Some(known) if known == change => {}
                // It moved from one of our bridges to another.
                Some(known @ (Change::Port { .. } | Change::Route { .. })) => {
                    if let Err(error) = known.clone().make(self.netlink).await {
                        report.failed.push(format!("{error:#}"));
                    }
                }
                _ => new.push(change.clone()),
            }
        }
        let failed = undo_each(self.netlink, new, &mut report).await;
        self.journal.replace(before);
        failed
            .into_iter()
            .for_each(|change| self.journal.record(change));
        if let Err(error) = self.journal.save() {
            report.failed.push(format!("{error:#}"));
        }
        let level = if report.failed.is_empty() {
            log::Level::Info
        } else {
            log::Level::Warn
        };
        log::log!(level, "undid the changes made so far: {report}");
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
