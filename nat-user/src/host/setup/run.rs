//! One run of a set-up: what is missing is planned, then made, in an order that can be undone.

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use nat_sys::{
    netlink::{Kind, Link, Netlink},
    sysctl::Key,
};

use super::{
    bridge::random_mac,
    links::{Held, master_name, named},
    plan::{Network, Plan, Step, Uplink},
    report::Report,
    settings::tracking,
    undo::undo_each,
};
use crate::host::{
    change::{self, Change},
    journal::Journal,
};

/// As many instances of inotify as the kernel usually lets a user have.
const USUAL_WATCHERS: u32 = 128;

/// One run of [`apply`](super::apply).
pub(super) struct Run<'a> {
    pub(super) netlink: &'a Netlink,
    pub(super) journal: &'a mut Journal,
    pub(super) report: Report,
    /// The changes of the plan that natbpf has made, in this run or an earlier one.
    pub(super) kept: Vec<Change>,
    /// The changes still to make.
    pub(super) todo: Vec<Change>,
}

impl Run<'_> {
    pub(super) async fn make(
        &mut self,
        plan: &Plan,
        mut links: Vec<Link>,
        step: Step,
    ) -> Result<()> {
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
        let addresses = self.netlink.addresses_in().await?;
        for network in &plan.networks {
            self.plan_network(network, &links, &addresses)?;
        }
        for uplink in &plan.uplinks {
            self.plan_claims(uplink, &links, &addresses)?;
        }
        self.plan_gateways(plan, &links, &addresses)?;
        self.make_planned().await?;

        self.plan_routes(plan, &links).await?;
        self.plan_ndp(plan, &links).await?;
        self.make_planned().await?;
        self.make_forwarding(plan).await
    }

    /// Turns on forwarding in the kernel, last of all.
    async fn make_forwarding(&mut self, plan: &Plan) -> Result<()> {
        // Before ip_forward sets them too, so that their values are known.
        for network in &plan.networks {
            self.plan_forwarding(Key::ipv4_conf(&network.interface, "forwarding")?)?;
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
        match plan.has_ipv6 {
            true => self.make_ipv6_forwarding(plan).await,
            false => Ok(()),
        }
    }

    /// An interface's own setting. The record of that of all may have its original value.
    pub(super) fn plan_forwarding(&mut self, key: Key) -> Result<()> {
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
                let Some(Change::Bridge {
                    name, mac, nat64, ..
                }) = ours
                else {
                    return Ok(());
                };
                // The index is missing if the daemon was killed just after it created the bridge.
                let known = Change::Bridge {
                    name: name.clone(),
                    mac: *mac,
                    ifindex: Some(bridge.index),
                    nat64: *nat64,
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
                    nat64: network.is_nat64,
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

    pub(super) fn plan_sysctl(&mut self, key: Key, set: &str) -> Result<()> {
        let now = (key.read()?).with_context(|| format!("there is no sysctl {key}"))?;
        let is_so = now == set;
        let is_of_all = key.is_ip_forward() || key.is_ipv6_forward();
        let change = if is_of_all && !is_so {
            change::make::forwarding_on(key, now)?
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
        addresses: &[Held],
    ) -> Result<()> {
        let name = &network.interface;
        let link = named(links, name).with_context(|| format!("interface {name} has vanished"))?;
        // The owner of a bridge adds its address, and would find it taken.
        let is_ours = network.create || link.kind != Kind::Bridge;
        for net in self.possible(network)? {
            let address = Change::Address {
                interface: name.clone(),
                ifindex: link.index,
                address: net,
            };
            let mut held = addresses.iter();
            let has_it = held.any(|held| held.ifindex == link.index && held.net == net);
            if is_ours || has_it {
                self.want(address, has_it, links);
            } else {
                self.report.awaited.push(format!(
                    "{name} does not have {net}: natbpf waits for its owner to add it, and guests \
                     have no gateway until then (create = true has natbpf add it)"
                ));
            }
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
    fn plan_claims(&mut self, uplink: &Uplink, links: &[Link], addresses: &[Held]) -> Result<()> {
        let name = &uplink.interface;
        let link = named(links, name).with_context(|| format!("interface {name} has vanished"))?;
        for claimed in &uplink.addresses {
            let net = IpNet::from(*claimed);
            let is_claim = |held: &&Held| held.ifindex == link.index && held.net == net;
            let holders = addresses
                .iter()
                .filter(|held| held.net.addr() == net.addr());
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
        let has_isolated =
            |known: Option<&Change>| matches!(known, Some(Change::Port { isolated: true, .. }));
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
    pub(super) fn want(&mut self, change: Change, is_so: bool, links: &[Link]) {
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
    pub(super) async fn make_planned(&mut self) -> Result<bool> {
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
    pub(super) async fn undo_unwanted(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        self.undo(|change| !kept.iter().any(|kept| kept.same_object(change)))
            .await;
    }

    pub(super) async fn undo(&mut self, is_unwanted: impl Fn(&Change) -> bool) {
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
    pub(super) async fn roll_back(&mut self, before: Vec<Change>) {
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
