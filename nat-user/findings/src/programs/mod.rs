//! Foreign BPF programs at the hooks that natbpf uses.

mod query;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use aya::programs::{
    TcAttachType,
    links::{FdLink, PinnedLink},
    loaded_programs,
};
use nat_config::model::{Config, Forwarding};
use nat_sys::netlink::{Kind as LinkKind, Link};

use crate::{Finding, Kind};

/// A program at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    id: u32,
    /// As far as the kernel stores it and shows it, which needs CAP_SYS_ADMIN.
    name: Option<String>,
    is_ours: bool,
    /// Where another natbpf has pinned it.
    other_bpffs: Option<PathBuf>,
}

/// The known programs, by their numbers.
#[derive(Debug, Default)]
struct Known {
    ours: BTreeSet<u32>,
    of_others: BTreeMap<u32, PathBuf>,
    names: BTreeMap<u32, String>,
}

/// Einat's programs.
const OTHER_NATS: [&str; 2] = ["ingress_rev_sna", "egress_snat"];
/// The kernel stores this many bytes of a name (`BPF_OBJ_NAME_LEN` without the terminating zero).
const NAME_MAX: usize = 15;
/// natbpf's own.
const OWN_NAMES: [&str; 11] = [
    "nat_inbound",
    "nat_outbound",
    "nat_from_guest",
    "nat_to_guest",
    "nat_inbound_l3",
    "nat_outbound_l3",
    "nat_from_guest_l3",
    "nat_to_guest_l3",
    "nat_from_port",
    "nat_from_guarded_port",
    "nat_early",
];

impl Known {
    /// Recognises natbpf's own programs by their links, which any version pins below its `--bpffs`,
    /// and those of another natbpf by links that are pinned beside it.
    fn look(bpffs: &Path) -> Self {
        let mut known = Self {
            ours: pinned_programs(bpffs).into_iter().collect(),
            ..Self::default()
        };
        let beside = bpffs.parent().map(entries).unwrap_or_default();
        for other in beside.into_iter().filter(|path| path != bpffs) {
            let programs = pinned_programs(&other).into_iter();
            known
                .of_others
                .extend(programs.map(|id| (id, other.clone())));
        }
        for info in loaded_programs().flatten() {
            let name = info.name_as_str().unwrap_or_default().to_owned();
            known.names.insert(info.id(), name);
        }
        known
    }

    fn program(&self, id: u32) -> Program {
        Program {
            id,
            name: self.names.get(&id).cloned(),
            is_ours: self.ours.contains(&id),
            other_bpffs: self.of_others.get(&id).cloned(),
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The programs of the links that are pinned in `BPFFS/VERSION/links`.
fn pinned_programs(bpffs: &Path) -> Vec<u32> {
    let program = |pin: PathBuf| {
        let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
        Some(link.info().ok()?.program_id())
    };
    entries(bpffs)
        .iter()
        .flat_map(|version| entries(&version.join("links")))
        .filter_map(program)
        .collect()
}

impl Program {
    /// Whether it belongs to another natbpf.
    fn is_of_natbpf(&self) -> bool {
        let is_it = |own: &&str| self.name.as_deref() == Some(&own[..own.len().min(NAME_MAX)]);
        !self.is_ours && (self.other_bpffs.is_some() || OWN_NAMES.iter().any(is_it))
    }

    fn translates(&self) -> bool {
        let is_it = |other: &&str| self.name.as_deref() == Some(*other);
        OTHER_NATS.iter().any(is_it)
    }

    fn shown(&self) -> String {
        match &self.name {
            Some(name) => format!("program {name} (id {})", self.id),
            None => format!("program with id {}", self.id),
        }
    }

    /// How to stop the other natbpf to which this program belongs.
    fn end_of_natbpf(&self) -> String {
        let bpffs = match &self.other_bpffs {
            Some(bpffs) => format!("--bpffs {}", bpffs.display()),
            None => "its --bpffs".to_owned(),
        };
        format!("end that one: run natbpf down with {bpffs} and its --run-dir")
    }
}

/// The programs of one side of an interface, in the order in which they run. None if the kernel has
/// no such list, or does not show it.
fn listed(hook: &Hook, known: &Known) -> Vec<Program> {
    let ids = query::attached(hook.index, hook.side);
    ids.into_iter().map(|id| known.program(id)).collect()
}

/// Foreign programs at natbpf's hooks.
pub(super) fn find_programs(config: &Config, links: &[Link], bpffs: &Path) -> Vec<Finding> {
    let known = Known::look(bpffs);
    let mut findings = Vec::new();
    for hook in hooks(config, links) {
        let programs = listed(&hook, &known);
        let ours = programs.iter().position(|program| program.is_ours);
        let strangers = programs.iter().enumerate().filter(|(_, one)| !one.is_ours);
        for (at, program) in strangers {
            let order = ours.map(|ours| at.cmp(&ours));
            findings.extend(hook.finding(program, order == Some(std::cmp::Ordering::Less)));
        }
    }
    for uplink in &config.uplinks {
        let Some(link) = links.iter().find(|link| link.name == uplink.interface) else {
            continue;
        };
        let program = foreign_xdp_program(link, &known);
        findings.extend(program.map(|program| xdp(&uplink.interface, &program)));
    }
    findings
}

/// One side of an interface at which natbpf has a program.
struct Hook {
    interface: String,
    index: u32,
    side: TcAttachType,
    /// Whether packets of the fast path bypass the programs after natbpf's.
    is_passed_by: bool,
}

fn hooks(config: &Config, links: &[Link]) -> Vec<Hook> {
    use TcAttachType::{Egress, Ingress};
    let is_fast = config.forwarding == Forwarding::Fast;
    let mut hooks = Vec::new();
    let uplinks = config.uplinks.iter().map(|uplink| &uplink.interface);
    let networks = config.networks.iter().map(|network| &network.interface);
    for name in uplinks.chain(networks) {
        let Some(link) = links.iter().find(|link| link.name == *name) else {
            continue;
        };
        let is_bridge = link.kind == LinkKind::Bridge;
        let is_uplink = config
            .uplinks
            .iter()
            .any(|uplink| uplink.interface == *name);
        for side in [Ingress, Egress] {
            // The fast path bypasses a bridge, but not the device by which packets leave.
            let is_passed_by = match side {
                Ingress => is_uplink || !is_bridge,
                _ => is_bridge,
            };
            hooks.push(Hook {
                interface: name.clone(),
                index: link.index,
                side,
                is_passed_by: is_fast && is_passed_by,
            });
        }
    }
    for network in config.networks.iter().filter(|_| is_fast) {
        let bridge = links.iter().find(|link| link.name == network.interface);
        let Some(bridge) = bridge.filter(|link| link.kind == LinkKind::Bridge) else {
            continue;
        };
        let ports = links
            .iter()
            .filter(|link| link.master == Some(bridge.index));
        hooks.extend(ports.map(|port| Hook {
            interface: port.name.clone(),
            index: port.index,
            side: Ingress,
            is_passed_by: true,
        }));
    }
    hooks
}

const TWO_NATS: &str = "two translations of the same packets take each other's ports and answers";

impl Hook {
    fn place(&self) -> String {
        let side = match self.side {
            TcAttachType::Ingress => "ingress",
            _ => "egress",
        };
        format!("{} (tc {side})", self.interface)
    }

    fn finding(&self, program: &Program, is_first: bool) -> Option<Finding> {
        let shown = program.shown();
        let (what, why, remedy) = if program.is_of_natbpf() {
            (
                format!("{shown} of another natbpf is attached"),
                TWO_NATS,
                program.end_of_natbpf(),
            )
        } else if program.translates() {
            (
                format!("{shown} of another NAT is attached (einat uses this name)"),
                TWO_NATS,
                "end one of the two".to_owned(),
            )
        } else if is_first {
            (
                format!("{shown} runs before natbpf's"),
                "natbpf sees only packets that it passes on with TC_ACT_UNSPEC; packets that it \
                 accepts with TC_ACT_OK are not translated",
                "do nothing if it passes packets on with TC_ACT_UNSPEC; otherwise attach it after \
                 natbpf's"
                    .to_owned(),
            )
        } else if self.is_passed_by {
            return Some(passed_by(self, &shown));
        } else {
            return None;
        };
        Some(Finding {
            kind: Kind::BpfProgram,
            place: self.place(),
            what,
            why: why.to_owned(),
            remedy,
            commands: Vec::new(),
        })
    }
}

/// Whether a foreign program comes after natbpf's.
fn passed_by(hook: &Hook, name: &str) -> Finding {
    Finding {
        kind: Kind::BpfProgram,
        place: hook.place(),
        what: format!("{name} does not see the packets of established sessions"),
        why: "the fast path ends before it".to_owned(),
        remedy:
            "set forwarding = \"kernel\" if it must see them all; at ingress, a program that is \
                 attached before natbpf's does"
                .to_owned(),
        commands: Vec::new(),
    }
}

fn xdp(interface: &str, program: &Program) -> Finding {
    Finding {
        kind: Kind::BpfProgram,
        place: format!("{interface} (XDP)"),
        what: format!("{} is attached", program.shown()),
        why: "it sees packets before natbpf does, and natbpf cannot use XDP on this interface \
              meanwhile: mode = \"auto\" uses traffic control, mode = \"xdp\" is refused"
            .to_owned(),
        remedy: format!(
            "do nothing if this is intended; otherwise ip link set dev {interface} xdp \
            off"
        ),
        commands: Vec::new(),
    }
}

/// Refuses interfaces at which another natbpf is at work.
///
/// # Errors
/// When there is one; with the interface and its program.
pub fn refuse_another(config: &Config, links: &[Link], bpffs: &Path) -> Result<()> {
    let known = Known::look(bpffs);
    for hook in hooks(config, links) {
        let programs = listed(&hook, &known);
        if let Some(program) = programs.iter().find(|program| program.is_of_natbpf()) {
            let (place, shown) = (hook.place(), program.shown());
            let remedy = program.end_of_natbpf();
            bail!("{place}: {shown} of another natbpf is attached; {remedy}");
        }
    }
    Ok(())
}

/// A description of the foreign program at the XDP hook of an interface.
#[must_use]
pub fn foreign_xdp(link: &Link, bpffs: &Path) -> Option<String> {
    let program = foreign_xdp_program(link, &Known::look(bpffs))?;
    Some(format!("{} is attached there", program.shown()))
}

fn foreign_xdp_program(link: &Link, known: &Known) -> Option<Program> {
    let attached = [link.xdp.native, link.xdp.generic, link.xdp.offloaded];
    let mut attached = attached.into_iter().flatten();
    let program = attached.next().map(|id| known.program(id));
    program.filter(|program| !program.is_ours)
}
