//! The future content of the configuration: rules with their source lines.

use std::net::IpAddr;

use ipnet::IpNet;

/// A range of ports, both ends included.
pub(super) type PortRange = (u16, u16);

/// What every table of the configuration has besides its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// Its source rules, by position in the file's rules.
    pub(super) rules: Vec<usize>,
    /// Its remarks.
    pub(super) remarks: Vec<String>,
    /// Lines about rules of another file that say the same.
    pub(super) elsewhere: Vec<String>,
}

impl Origin {
    pub(super) fn add(&mut self, rule: usize) {
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    pub(super) fn remark(&mut self, remark: impl Into<String>) {
        let remark = remark.into();
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }
}

/// A `[[forward]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) name: String,
    pub(super) uplink: usize,
    pub(super) protocols: Vec<&'static str>,
    pub(super) address: Option<IpAddr>,
    /// Empty for all ports.
    pub(super) ports: Vec<PortRange>,
    pub(super) to: IpAddr,
    /// Empty for the same ports.
    pub(super) to_ports: Vec<PortRange>,
    pub(super) hairpin: bool,
    /// Whether the host itself reaches it.
    pub(super) local: bool,
    /// Whether the uplink's `keep` excludes ports from it.
    pub(super) spares: bool,
    pub(super) origin: Origin,
}

impl Forward {
    /// The guest's ports.
    pub(super) fn inside_ports(&self) -> &[PortRange] {
        if self.to_ports.is_empty() {
            &self.ports
        } else {
            &self.to_ports
        }
    }

    pub(super) fn is_all(&self) -> bool {
        self.protocols == ["all"]
    }
}

/// Whose packets a `[[snat]]` is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Network(usize),
    Prefix(IpNet),
}

/// A `[[snat]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snat {
    pub(super) name: String,
    pub(super) source: Source,
    /// The same as a prefix.
    pub(super) prefix: IpNet,
    pub(super) uplink: usize,
    /// `None` is masquerade.
    pub(super) to: Option<(IpAddr, IpAddr)>,
    pub(super) ports: Option<PortRange>,
    pub(super) exclude: Vec<IpNet>,
    pub(super) origin: Origin,
}

/// A `[[nat]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nat {
    pub(super) name: String,
    pub(super) uplink: usize,
    /// An address, or a prefix (NPTv6).
    pub(super) address: IpNet,
    pub(super) to: IpNet,
    pub(super) hairpin: bool,
    pub(super) origin: Origin,
}

/// A `[[policy]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) name: String,
    /// Empty for any.
    pub(super) from: Vec<String>,
    /// Empty for any.
    pub(super) to: Vec<String>,
    /// Empty for all.
    pub(super) protocols: Vec<&'static str>,
    /// Empty for all ports.
    pub(super) ports: Vec<PortRange>,
    pub(super) is_accept: bool,
    pub(super) origin: Origin,
}

/// The default policy of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    /// The line that drops flows, if any.
    pub(super) drops: Option<(usize, String)>,
    /// Rules for which natbpf needs no policy.
    pub(super) implied: Origin,
    /// The services of the host for guests, for each network; `None` is everything.
    pub(super) hosts: Vec<Option<Services>>,
}

/// What guests may ask of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Services {
    pub(super) words: Vec<String>,
    pub(super) origin: Origin,
}

/// The content to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) forwards: Vec<Forward>,
    pub(super) snats: Vec<Snat>,
    pub(super) nats: Vec<Nat>,
    pub(super) policies: Vec<Policy>,
    pub(super) defaults: Defaults,
    /// Ports that the host keeps, because a rule excludes them from a wider one.
    pub(super) kept: Vec<String>,
    /// `keep` of the uplinks, if it is not the default, and why.
    pub(super) keep: Option<(Vec<String>, String)>,
    /// `mss_clamp` of single uplinks.
    pub(super) mss_clamp: Vec<(usize, Option<u16>, Origin)>,
}

impl Plan {
    /// Whether a rule is part of a `[[nat]]`.
    pub(super) fn is_nat(&self, rule: usize) -> bool {
        self.nats.iter().any(|nat| nat.origin.rules.contains(&rule))
    }
}
