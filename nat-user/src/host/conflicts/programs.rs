//! BPF programs of others at the hooks that natbpf uses.

mod filters;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs},
};

use super::{Finding, Kind};
use crate::{
    config::model::{Config, Forwarding},
    host::netlink::{Kind as LinkKind, Link},
};

/// What a program is called by people: its name, as far as the kernel keeps it, and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    name: String,
    id: u32,
    is_ours: bool,
}

/// Einat's programs.
const OTHER_NATS: [&str; 2] = ["ingress_rev_sna", "egress_snat"];
/// The kernel keeps so many bytes of a name (`BPF_OBJ_NAME_LEN`, less the end).
const NAME_MAX: usize = 15;
/// natbpf's own.
const OWN_NAMES: [&str; 10] = [
    "nat_inbound",
    "nat_outbound",
    "nat_from_guest",
    "nat_to_guest",
    "nat_inbound_l3",
    "nat_outbound_l3",
    "nat_from_guest_l3",
    "nat_to_guest_l3",
    "nat_from_port",
    "nat_early",
];

impl Program {
    fn new(info: &ProgramInfo, own_maps: &BTreeSet<u32>) -> Self {
        let maps = info.map_ids().ok().flatten().unwrap_or_default();
        Self {
            name: info.name_as_str().unwrap_or("?").to_owned(),
            id: info.id(),
            is_ours: maps.iter().any(|id| own_maps.contains(id)),
        }
    }

    /// Whether it is one of another natbpf's.
    fn is_of_natbpf(&self) -> bool {
        let is_it = |name: &&str| self.name == name[..name.len().min(NAME_MAX)];
        OWN_NAMES.iter().any(is_it)
    }

    fn translates(&self) -> bool {
        OTHER_NATS.contains(&self.name.as_str())
    }

    fn shown(&self) -> String {
        format!("program {} (id {})", self.name, self.id)
    }
}

/// The numbers of the maps that are pinned by the instance with this `--bpffs`, of whatever version.
fn own_maps(bpffs: &Path) -> BTreeSet<u32> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    entries(bpffs)
        .flat_map(|version| entries(&version.path()).collect::<Vec<_>>())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| Some(MapInfo::from_pin(entry.path()).ok()?.id()))
        .collect()
}

/// A program by its number.
fn program(id: u32, own_maps: &BTreeSet<u32>) -> Option<Program> {
    let mut all = loaded_programs().flatten();
    let info = all.find(|info| info.id() == id)?;
    Some(Program::new(&info, own_maps))
}

/// The programs of one side of an interface, in the order in which they run. None where the kernel
/// has no such list, or does not show it.
fn listed(interface: &str, side: TcAttachType, own_maps: &BTreeSet<u32>) -> Vec<Program> {
    let programs = SchedClassifier::query_tcx(interface, side);
    let programs = programs.map(|(_, programs)| programs).unwrap_or_default();
    let one = |info| Program::new(info, own_maps);
    programs.iter().map(one).collect()
}

/// Programs of others where natbpf's are or would be.
pub(super) fn find(config: &Config, links: &[Link], bpffs: &Path) -> Vec<Finding> {
    let own_maps = own_maps(bpffs);
    let mut findings = Vec::new();
    for hook in hooks(config, links) {
        let programs = listed(&hook.interface, hook.side, &own_maps);
        let ours = programs.iter().position(|program| program.is_ours);
        let strangers = programs.iter().enumerate().filter(|(_, one)| !one.is_ours);
        for (at, program) in strangers {
            let order = ours.map(|ours| at.cmp(&ours));
            findings.extend(hook.finding(program, order == Some(std::cmp::Ordering::Less)));
        }
    }
    findings.extend(filters::find(&hooks(config, links)));
    for uplink in &config.uplinks {
        let Some(link) = links.iter().find(|link| link.name == uplink.interface) else {
            continue;
        };
        let program = foreign_xdp_program(link, &own_maps);
        findings.extend(program.map(|program| xdp(&uplink.interface, &program)));
    }
    findings
}

/// One side of an interface at which natbpf has a program.
struct Hook {
    interface: String,
    side: TcAttachType,
    /// Whether packets of the fast path pass those by that come after natbpf's.
    is_passed_by: bool,
}

fn hooks(config: &Config, links: &[Link]) -> Vec<Hook> {
    use TcAttachType::{Egress, Ingress};
    let is_fast = config.forwarding == Forwarding::Fast;
    let mut hooks = Vec::new();
    let uplinks = config.uplinks.iter().map(|uplink| &uplink.interface);
    let networks = config.networks.iter().map(|network| &network.interface);
    for name in uplinks.chain(networks) {
        let link = links.iter().find(|link| link.name == *name);
        let is_bridge = link.is_some_and(|link| link.kind == LinkKind::Bridge);
        let is_uplink = config
            .uplinks
            .iter()
            .any(|uplink| uplink.interface == *name);
        for side in [Ingress, Egress] {
            // The fast path leaves out a bridge, but not the device that packets leave by.
            let is_passed_by = match side {
                Ingress => is_uplink || !is_bridge,
                _ => is_bridge,
            };
            hooks.push(Hook {
                interface: name.clone(),
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
            side: Ingress,
            is_passed_by: true,
        }));
    }
    hooks
}

impl Hook {
    fn place(&self) -> String {
        let side = match self.side {
            TcAttachType::Ingress => "ingress",
            _ => "egress",
        };
        format!("{} (tc {side})", self.interface)
    }

    fn finding(&self, program: &Program, is_first: bool) -> Option<Finding> {
        let (what, why, remedy) = if program.is_of_natbpf() || program.translates() {
            let whose = if program.translates() {
                "of another NAT, as einat names its own,"
            } else {
                "of another natbpf"
            };
            (
                format!("{} {whose} is attached", program.shown()),
                "two translations of the same packets take each other's ports and answers",
                "end one of the two: natbpf down with its own --run-dir and --bpffs",
            )
        } else if is_first {
            (
                format!("{} runs before natbpf's", program.shown()),
                "natbpf sees only what it passes on by TC_ACT_UNSPEC; what it ends by TC_ACT_OK \
                 is not translated",
                "nothing if it is made so; otherwise attach it after natbpf's",
            )
        } else if self.is_passed_by {
            return Some(passed_by(self, &program.shown()));
        } else {
            return None;
        };
        Some(Finding {
            kind: Kind::BpfProgram,
            place: self.place(),
            what,
            why: why.to_owned(),
            remedy: remedy.to_owned(),
            commands: Vec::new(),
        })
    }
}

/// Something of somebody else's that comes after natbpf's program.
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
        why: "it sees packets before natbpf does, and as long as it is there natbpf has no XDP of \
              its own there: mode = \"auto\" stays with traffic control, mode = \"xdp\" is refused"
            .to_owned(),
        remedy: format!("nothing if it is meant; otherwise ip link set dev {interface} xdp off"),
        commands: Vec::new(),
    }
}

/// Refuses interfaces at which another natbpf is at work.
///
/// # Errors
/// When there is one; with the interface and its program.
pub fn refuse_another(config: &Config, links: &[Link], bpffs: &Path) -> Result<()> {
    let own_maps = own_maps(bpffs);
    for hook in hooks(config, links) {
        let programs = listed(&hook.interface, hook.side, &own_maps);
        let another = (programs.iter()).find(|one| !one.is_ours && one.is_of_natbpf());
        if let Some(program) = another {
            bail!(
                "{}: {} of another natbpf is attached; end that one first, by natbpf down with its \
                 own --run-dir and --bpffs",
                hook.place(),
                program.shown()
            );
        }
    }
    Ok(())
}

/// The program of somebody else's that holds the XDP hook of an interface, in words.
#[must_use]
pub fn foreign_xdp(link: &Link, bpffs: &Path) -> Option<String> {
    let program = foreign_xdp_program(link, &own_maps(bpffs))?;
    Some(format!("{} is attached there", program.shown()))
}

fn foreign_xdp_program(link: &Link, own_maps: &BTreeSet<u32>) -> Option<Program> {
    let attached = [link.xdp.native, link.xdp.generic, link.xdp.offloaded];
    let mut attached = attached.into_iter().flatten();
    attached.find_map(|id| program(id, own_maps).filter(|program| !program.is_ours))
}
