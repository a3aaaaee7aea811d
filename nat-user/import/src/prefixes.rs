//! Whole prefixes in both directions: SNPT and DNPT of the mangle table, or NETMAP, to `[[nat]]`
//! (NPTv6).

use ipnet::IpNet;

use super::{
    dump::Dump,
    family::Family,
    findings::Findings,
    flatten::{self, Step},
    plan::{Nat, Origin, Plan},
    ranges::Addresses,
    rule::Action,
    topology::Topology,
};

/// The longest prefix that natbpf maps to another one.
const LONGEST: u8 = 64;

const ONE_WAY: &str = "maps a prefix in one direction, and natbpf's [[nat]] maps it in both: no \
    rule of the file maps it back";
const TOO_LONG: &str = "natbpf's [[nat]] maps prefixes of 1 to 64 bits, both of one length";
const NOT_ALL: &str = "natbpf's [[nat]] maps all packets of a prefix by one uplink";
const CHECKSUM: &str = "NETMAP replaces the prefix only; natbpf also changes 16 bits behind it, so \
    that no checksum changes (RFC 6296): guests have other external addresses, so change names \
    in the DNS, and prefer SNPT and DNPT where addresses are compared";

pub(super) struct Prefixes<'a, 'd> {
    pub(super) topology: &'a Topology,
    pub(super) findings: &'a mut Findings<'d>,
    pub(super) plan: &'a mut Plan,
}

/// A prefix that a rule turns into another one.
struct Mapping<'s> {
    step: &'s Step,
    from: IpNet,
    to: IpNet,
}

impl<'a, 'd> Prefixes<'a, 'd> {
    /// The steps of SNPT and DNPT, before and after routing.
    pub(super) fn steps(dump: &Dump) -> [Vec<Step>; 2] {
        ["PREROUTING", "POSTROUTING"].map(|hook| {
            let mut steps = flatten::steps(dump, "mangle", hook).unwrap_or_default();
            steps.retain(|step| matches!(step.action, Action::Npt { .. }));
            steps
        })
    }

    /// Before all other rules: what is part of a `[[nat]]` is nothing else.
    pub(super) fn translate(&mut self, nat: [&[Step]; 2], npt: &[Vec<Step>; 2]) {
        if self.topology.family == Family::V4 {
            return;
        }
        let [before, after] = nat;
        self.pairs(&netmaps(before, true), &netmaps(after, false));
        let [before, after] = [mappings(&npt[0]), mappings(&npt[1])];
        self.pairs(&before, &after);
        for step in npt.iter().flatten() {
            if !self.findings.is_done(step.rule) {
                self.findings.untranslated(step.rule, ONE_WAY);
            }
        }
    }

    fn pairs(&mut self, before: &[Mapping<'_>], after: &[Mapping<'_>]) {
        for out in after {
            let is_back = |back: &&Mapping<'_>| back.from == out.to && back.to == out.from;
            let Some(back) = before.iter().find(is_back) else {
                continue;
            };
            let is_netmap = matches!(out.step.action, Action::Netmap(_));
            if let Err(reason) = self.pair(back, out) {
                // (A short NETMAP still becomes a rule for each address.)
                if !is_netmap {
                    self.findings.untranslated(out.step.rule, reason);
                    self.findings.untranslated(back.step.rule, reason);
                }
            } else if is_netmap {
                self.findings.warning(out.step.rule, CHECKSUM);
            }
        }
    }

    fn pair(&mut self, back: &Mapping<'_>, out: &Mapping<'_>) -> Result<(), &'static str> {
        let length = out.from.prefix_len();
        if length != out.to.prefix_len() || !(1..=LONGEST).contains(&length) {
            return Err(TOO_LONG);
        }
        let [own, external] = [out.from, out.to].map(Addresses::prefix);
        let (leaving, entering) = (&out.step.condition, &back.step.condition);
        let mut rest = [leaving.clone(), entering.clone()];
        for rest in &mut rest {
            rest.sources = Addresses::full();
            rest.destinations = Addresses::full();
            rest.input = Default::default();
            rest.output = Default::default();
        }
        let is_plain = rest.iter().all(|rest| *rest == Default::default())
            && leaving.sources == own
            && leaving.destinations.is_full()
            && entering.destinations == external
            && entering.sources.is_full();
        if !is_plain {
            return Err(NOT_ALL);
        }
        let mut uplinks = self.topology.uplinks.iter();
        let of_both = |interface: &str| {
            leaving.output.matches(interface) && entering.input.matches(interface)
        };
        let uplink = uplinks
            .position(|up| of_both(&up.interface))
            .ok_or(NOT_ALL)?;
        let mut networks = self.topology.networks.iter();
        let mut origin = Origin::default();
        for rule in [out.step.rule, back.step.rule] {
            origin.add(rule);
            self.findings.done(rule);
        }
        let nat = Nat {
            name: String::new(),
            uplink,
            address: out.to,
            to: out.from,
            hairpin: networks.any(|network| entering.input.matches(&network.interface)),
            origin,
        };
        if !self
            .plan
            .nats
            .iter()
            .any(|known| known.address == nat.address)
        {
            self.plan.nats.push(nat);
        }
        Ok(())
    }
}

fn mappings(steps: &[Step]) -> Vec<Mapping<'_>> {
    let read = |step: &'_ Step| match step.action {
        Action::Npt { from, to } => Some((from, to)),
        _ => None,
    };
    let with = |step| read(step).map(|(from, to)| Mapping { step, from, to });
    steps.iter().filter_map(with).collect()
}

/// NETMAP of a whole prefix that is too large for a rule for each of its addresses.
fn netmaps(steps: &[Step], by_destination: bool) -> Vec<Mapping<'_>> {
    let read = |step: &'_ Step| -> Option<(IpNet, IpNet)> {
        let Action::Netmap(to) = &step.action else {
            return None;
        };
        let named = match by_destination {
            true => &step.condition.destinations,
            false => &step.condition.sources,
        };
        match named.prefixes(Family::V6)[..] {
            [from] if from.prefix_len() == to.prefix_len() => Some((from, *to)),
            _ => None,
        }
    };
    let with = |step| read(step).map(|(from, to)| Mapping { step, from, to });
    steps.iter().filter_map(with).collect()
}
