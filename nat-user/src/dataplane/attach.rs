//! Attaching the programs to interfaces, and detaching them.
//!
//! Since Linux 6.6, an attachment is a pinned link (TCX). Before, it is a filter of a `clsact`
//! qdisc, which persists without a pin (see `clsact`). In both cases a program is replaced in
//! place, without a gap.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::TcAttachOptions,
    },
    util::KernelVersion,
};
use nix::net::if_::if_nametoindex;

pub(crate) use super::clsact::foreign_filters;
use super::{Pins, Programs, clsact, link, local, xdp};
use crate::owned;

/// What an interface is to natbpf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A way to the outside.
    Uplink,
    /// An inside network.
    Network,
    /// A port of a network's bridge.
    Port,
    /// The same, where frames are checked.
    GuardedPort,
    /// NAT64's device: a network, whose packets become those of the other family.
    Nat64,
}

/// An interface to which the programs are attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What it is.
    pub role: Role,
    /// Whether its packets begin with an Ethernet header.
    pub has_ethernet: bool,
    /// Whether to attach the programs of IPv6 too.
    pub ipv6: bool,
    /// Whether IPv6 prefixes become others here.
    pub prefixes: bool,
    /// Whether to attach the XDP program too.
    pub xdp: XdpWish,
}

/// Whether to attach the XDP program to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpWish {
    /// No.
    No,
    /// If the driver takes it.
    May,
    /// Yes; otherwise it is an error.
    Must,
}

/// How programs are attached on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Links in the order of TCX.
    Tcx,
    /// Filters of a `clsact` qdisc.
    Netlink,
}

impl Mechanism {
    /// The best that the running kernel has.
    #[must_use]
    pub fn of_kernel() -> Self {
        let has_links =
            KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0));
        if has_links { Self::Tcx } else { Self::Netlink }
    }

    /// Its name in `natbpf status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Netlink => "clsact",
        }
    }
}

/// The hook of XDP programs that run in the driver, as `natbpf status` names it.
const XDP: &str = "xdp-native";
/// The same for packets of IPv6, which that program passes on.
const XDP_IPV6: &str = "xdp-native-ipv6";

/// A side of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ingress,
    Egress,
}

impl Side {
    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// A traffic control hook for the packets of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hook {
    side: Side,
    family: Family,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
    /// IPv6's messages between neighbours, which have a program of their own at uplinks.
    Neighbours,
    /// Both, at NAT64's device.
    Both,
    /// IPv6's prefixes that become others.
    Prefixes,
}

impl Hook {
    /// Its name in `natbpf status` and in the names of pins.
    const fn name(self) -> &'static str {
        match (self.side, self.family) {
            (Side::Ingress, Family::Ipv4) => "tc-ingress",
            (Side::Egress, Family::Ipv4) => "tc-egress",
            (Side::Ingress, Family::Ipv6) => "tc-ingress-ipv6",
            (Side::Egress, Family::Ipv6) => "tc-egress-ipv6",
            (_, Family::Neighbours) => "tc-ingress-neighbours",
            (_, Family::Both) => "tc-egress-nat64",
            (Side::Ingress, Family::Prefixes) => "tc-ingress-prefixes",
            (Side::Egress, Family::Prefixes) => "tc-egress-prefixes",
        }
    }

    /// The priority of its filter, where attachments are not links.
    const fn priority(self) -> u16 {
        match (self.family, self.side) {
            (Family::Ipv4, _) => clsact::PRIORITY,
            (Family::Ipv6, _) => clsact::PRIORITY_IPV6,
            (Family::Neighbours, _) => clsact::PRIORITY_NEIGHBOURS,
            (Family::Both, _) => clsact::PRIORITY_NAT64,
            (Family::Prefixes, Side::Ingress) => clsact::PRIORITY_FROM_PREFIX,
            (Family::Prefixes, Side::Egress) => clsact::PRIORITY_TO_PREFIX,
        }
    }

    /// Where its link goes among those that are there.
    fn order(self) -> LinkOrder {
        match (self.family, self.side) {
            (Family::Prefixes, Side::Egress) => LinkOrder::last(),
            _ => LinkOrder::first(),
        }
    }
}

impl Target {
    /// The hooks in use on the interface, as `natbpf status` names them, once the possible
    /// attachments are made.
    #[must_use]
    pub fn hooks(&self) -> Vec<String> {
        // (The programs for neighbours and prefixes share hooks with IPv6's own.)
        let sides = self.programs().map(|(hook, _)| hook);
        let sides =
            sides.filter(|hook| !matches!(hook.family, Family::Neighbours | Family::Prefixes));
        let mut hooks: Vec<String> = sides.map(|hook| hook.name().to_owned()).collect();
        if self.xdp != XdpWish::No {
            hooks.push(XDP.to_owned());
        }
        if self.has_ipv6_in_xdp() {
            hooks.push(XDP_IPV6.to_owned());
        }
        hooks
    }

    /// Whether the XDP program passes packets of IPv6 on to another one.
    fn has_ipv6_in_xdp(&self) -> bool {
        self.ipv6 && self.xdp != XdpWish::No
    }

    /// The programs of the traffic control hooks.
    fn programs(&self) -> impl Iterator<Item = (Hook, &'static str)> {
        let of = |family| move |&(side, name): &(Side, &'static str)| (Hook { side, family }, name);
        let ipv4 = self.programs_of_ipv4().iter().map(of(Family::Ipv4));
        let ipv6 = self.programs_of_ipv6().iter().map(of(Family::Ipv6));
        let neighbours = self.programs_of_neighbours().iter();
        let neighbours = neighbours.map(of(Family::Neighbours));
        let nat64 = self.programs_of_nat64().iter().map(of(Family::Both));
        // Each goes before those that were attached earlier.
        let last = neighbours.chain(nat64).filter(|_| self.ipv6);
        let prefixes = self.programs_of_prefixes().iter();
        last.chain(ipv4)
            .chain(ipv6.filter(|_| self.ipv6))
            .chain(prefixes.map(of(Family::Prefixes)))
    }

    fn programs_of_ipv4(&self) -> &'static [(Side, &'static str)] {
        use Side::{Egress, Ingress};
        match (self.role, self.has_ethernet) {
            (Role::Uplink, true) => &[(Ingress, "nat_inbound"), (Egress, "nat_outbound")],
            (Role::Uplink, false) => &[(Ingress, "nat_inbound_l3"), (Egress, "nat_outbound_l3")],
            (Role::Network | Role::Nat64, true) => {
                &[(Ingress, "nat_from_guest"), (Egress, "nat_to_guest")]
            }
            (Role::Network | Role::Nat64, false) => {
                &[(Ingress, "nat_from_guest_l3"), (Egress, "nat_to_guest_l3")]
            }
            (Role::Port, _) => &[(Ingress, "nat_from_port")],
            (Role::GuardedPort, _) => &[(Ingress, "nat_from_guarded_port")],
        }
    }

    fn programs_of_ipv6(&self) -> &'static [(Side, &'static str)] {
        use Side::{Egress, Ingress};
        match (self.role, self.has_ethernet) {
            (Role::Uplink, true) => &[(Ingress, "nat6_inbound"), (Egress, "nat6_outbound")],
            (Role::Uplink, false) => &[(Ingress, "nat6_inbound_l3"), (Egress, "nat6_outbound_l3")],
            (Role::Network | Role::Nat64, true) => {
                &[(Ingress, "nat6_from_guest"), (Egress, "nat6_to_guest")]
            }
            (Role::Network | Role::Nat64, false) => &[
                (Ingress, "nat6_from_guest_l3"),
                (Egress, "nat6_to_guest_l3"),
            ],
            (Role::Port, _) => &[(Ingress, "nat6_from_port")],
            (Role::GuardedPort, _) => &[(Ingress, "nat6_from_guarded_port")],
        }
    }

    fn programs_of_neighbours(&self) -> &'static [(Side, &'static str)] {
        match (self.role, self.has_ethernet) {
            (Role::Uplink, true) => &[(Side::Ingress, "nat6_neighbours")],
            _ => &[],
        }
    }

    /// They see external addresses, and all others internal ones.
    fn programs_of_prefixes(&self) -> &'static [(Side, &'static str)] {
        use Side::{Egress, Ingress};
        match (self.role, self.has_ethernet) {
            (Role::Uplink | Role::Network, _) if !self.prefixes => &[],
            (Role::Uplink | Role::Network, true) => {
                &[(Ingress, "nat6_from_prefix"), (Egress, "nat6_to_prefix")]
            }
            (Role::Uplink | Role::Network, false) => &[
                (Ingress, "nat6_from_prefix_l3"),
                (Egress, "nat6_to_prefix_l3"),
            ],
            (Role::Port | Role::GuardedPort | Role::Nat64, _) => &[],
        }
    }

    /// Behind the device's programs as a network.
    fn programs_of_nat64(&self) -> &'static [(Side, &'static str)] {
        match self.role {
            Role::Nat64 => &[(Side::Egress, "nat64_translate")],
            _ => &[],
        }
    }

    /// Whether no such interface of this name exists any more.
    fn is_gone(&self) -> bool {
        if_nametoindex(self.name.as_str()).ok() != Some(self.index)
    }

    fn pin(&self, pins: &Pins, hook: &str) -> PathBuf {
        pins.links().join(format!("{}-{hook}", self.index))
    }

    fn note(&self, pins: &Pins) -> PathBuf {
        pins.links().join(self.index.to_string())
    }

    /// Its possible names among the links' pins.
    fn pins(&self, pins: &Pins) -> Vec<PathBuf> {
        let hooks = self.programs().map(|(hook, _)| hook.name());
        let xdp = (self.xdp != XdpWish::No).then_some(XDP);
        let links = hooks.chain(xdp).map(|hook| self.pin(pins, hook));
        links.chain([self.note(pins)]).collect()
    }
}

/// Loads the programs that these interfaces need. This happens before anything is attached, so a
/// refusal by the kernel changes nothing.
///
/// # Errors
///
/// At the first that the kernel refuses.
pub fn load_programs(programs: &mut Programs, targets: &[Target]) -> Result<()> {
    for target in targets {
        for (_, program) in target.programs() {
            programs.program(program)?;
        }
        if target.xdp != XdpWish::No {
            programs.xdp()?;
            programs.xdp_ipv6()?;
        }
    }
    Ok(())
}

/// Attaches the programs to exactly these interfaces: older programs are replaced, and links of
/// other interfaces are removed.
///
/// If XDP is optional and cannot be attached, it is given up. Returns where and why.
///
/// # Errors
///
/// At the first that the kernel refuses; earlier attachments stay. An interface that no longer
/// exists is skipped.
pub fn attach_programs(
    programs: &mut Programs,
    pins: &Pins,
    targets: &mut [Target],
) -> Result<Vec<(u32, String)>> {
    let mut refused = Vec::new();
    programs.join_xdp(targets.iter().any(Target::has_ipv6_in_xdp))?;
    for target in &mut *targets {
        match attach_target(programs, pins, target) {
            Ok(why) => refused.extend(why.map(|why| (target.index, why))),
            // It disappeared after the look at the host; the kernel reports that too.
            Err(error) if target.is_gone() => log::debug!("{error:#}"),
            Err(error) => return Err(error),
        }
    }
    let wanted: BTreeSet<PathBuf> = targets
        .iter()
        .flat_map(|target| target.pins(pins))
        .collect();
    remove_others(pins, &wanted)?;
    Ok(refused)
}

/// Attaches the programs to one interface. Returns why it has no XDP, if XDP was optional.
fn attach_target(
    programs: &mut Programs,
    pins: &Pins,
    target: &mut Target,
) -> Result<Option<String>> {
    note(pins, target)?;
    for (hook, name) in target.programs() {
        let program = programs.program(name)?;
        attach_one(program, pins, target, hook)
            .with_context(|| format!("attach {name} to {} ({})", target.name, hook.name()))?;
    }
    // (Links that are not wanted any more go with their pins.)
    if Mechanism::of_kernel() == Mechanism::Netlink {
        let hooks = target.programs().map(|(hook, _)| hook);
        let wanted: Vec<_> = hooks
            .map(|hook| (hook.side.attach_type(), hook.priority()))
            .collect();
        clsact::keep(&target.name, &wanted)?;
    }
    if target.xdp == XdpWish::No {
        return Ok(None);
    }
    match xdp::attach(programs.xdp()?, &target.name, &target.pin(pins, XDP)) {
        Ok(()) => Ok(None),
        Err(error) if target.xdp == XdpWish::May => {
            target.xdp = XdpWish::No;
            Ok(Some(format!("{error:#}")))
        }
        Err(error) => {
            let name = &target.name;
            Err(error.context(format!(
                "attach nat_early to {name} ({XDP}); mode = \"tc\" does without"
            )))
        }
    }
}

/// Detaches everything except these pins and notes.
fn remove_others(pins: &Pins, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(pins.links()).context("read the links' pins")? {
        let path = entry?.path();
        if wanted.contains(&path) || local::is_pin(&path) {
            continue;
        }
        match noted(&path) {
            Some(index) => {
                clsact::detach(index).with_context(|| format!("interface {index}"))?;
                fs::remove_dir(&path).with_context(|| format!("remove {}", path.display()))?;
            }
            None => link::remove(&path)?,
        }
    }
    Ok(())
}

/// Detaches everything that is pinned or noted here.
///
/// # Errors
///
/// When something cannot be removed.
pub(super) fn detach_programs(pins: &Pins) -> Result<()> {
    match pins.links().exists() {
        true => remove_others(pins, &BTreeSet::new()),
        false => Ok(()),
    }
}

/// Records that an interface has filters, where attachments are not links, by a directory among the
/// links' pins that is named after the index. This happens before anything is attached, so that
/// none is forgotten.
fn note(pins: &Pins, target: &Target) -> Result<()> {
    if Mechanism::of_kernel() == Mechanism::Tcx {
        return Ok(());
    }
    owned::make(&target.note(pins))
}

/// The index of an interface that has filters, if this is a note.
fn noted(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.parse().ok()
}

fn attach_one(
    program: &mut SchedClassifier,
    pins: &Pins,
    target: &Target,
    hook: Hook,
) -> Result<()> {
    match Mechanism::of_kernel() {
        Mechanism::Tcx => attach_link(program, pins, target, hook),
        Mechanism::Netlink => {
            let side = hook.side.attach_type();
            clsact::attach_filter(program, &target.name, side, hook.priority())
        }
    }
}

fn attach_link(
    program: &mut SchedClassifier,
    pins: &Pins,
    target: &Target,
    hook: Hook,
) -> Result<()> {
    let path = target.pin(pins, hook.name());
    if path.exists() {
        let link = FdLink::from(PinnedLink::from_pin(&path)?);
        let updated = program.attach_to_link(link.try_into()?);
        match updated {
            // Only the pin may hold the link, so that the link goes with the pin.
            Ok(id) => {
                drop(program.take_link(id)?);
                return Ok(());
            }
            // The interface is gone, and its link with it.
            Err(_) => fs::remove_file(&path)?,
        }
    }
    let order = TcAttachOptions::TcxOrder(hook.order());
    let id = program.attach_with_options(&target.name, hook.side.attach_type(), order)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(&path)?;
    Ok(())
}

/// Removes natbpf's filters from an interface, where attachments are not links. (Links go with
/// their pins.)
pub fn detach_filters(interface: &str) {
    if Mechanism::of_kernel() == Mechanism::Netlink
        && let Ok(index) = if_nametoindex(interface)
        && let Err(error) = clsact::detach(index)
    {
        log::warn!("detach the programs from {interface}: {error:#}");
    }
}
