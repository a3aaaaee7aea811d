//! Whether FORWARD chains let translated packets through, and which software owns these chains.

use crate::{
    Finding, Kind,
    fits::Flow,
    flows::{Direction, TCP, UDP, Way, inside_of},
    listed, place_name,
    rules::{Hook, Ruleset, Source},
    walk::{Budget, Fate, Place, filter},
};

/// How many rules of the configuration are checked individually, if the outcome for all guests
/// together is uncertain.
const SINGLE_MAX: usize = 500;

/// Chains that drop translated packets: one finding for each.
pub(super) fn find_drops(rules: &Ruleset, ways: &[Way], budget: &mut Budget) -> Vec<Finding> {
    let chains: Vec<usize> = rules.at(Hook::Forward, false).collect();
    let blocks = chains.into_iter().filter_map(|chain| {
        let mut blocked = Blocked::default();
        for group in groups(ways) {
            blocked.judge(rules, chain, &group, budget);
        }
        blocked.finding(rules, chain)
    });
    blocks.collect()
}

/// The flows between one network and one uplink, in one direction.
fn groups<'a>(ways: &'a [Way<'a>]) -> Vec<Vec<&'a Way<'a>>> {
    let mut groups: Vec<Vec<&Way>> = Vec::new();
    for way in ways {
        let alike = |group: &&mut Vec<&Way>| {
            group.first().is_some_and(|one| {
                one.direction == way.direction
                    && std::ptr::eq(one.network, way.network)
                    && std::ptr::eq(one.uplink, way.uplink)
            })
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(way),
            None => groups.push(vec![way]),
        }
    }
    groups
}

/// What one chain drops.
#[derive(Default)]
struct Blocked {
    first: Option<Place>,
    /// Rules of the configuration whose connections cannot be opened, or get no answers.
    opening: Vec<String>,
    answers: Vec<String>,
    /// What the chain would have to let through.
    missing: Vec<Passage>,
}

/// From one interface to another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passage {
    from: String,
    to: String,
    /// Packets of connections that are established are enough.
    answers_only: bool,
}

impl Blocked {
    fn judge(&mut self, rules: &Ruleset, chain: usize, group: &[&Way], budget: &mut Budget) {
        let common = common_fates(rules, chain, group, budget);
        let single = match common {
            Some(_) => group,
            None => &group[..group.len().min(SINGLE_MAX)],
        };
        for way in single {
            let (opening, answers) = common.unwrap_or_else(|| {
                let mut fate = |flows: &[Flow]| fate_of_all(rules, chain, flows, budget);
                (fate(&way.openings()), fate(&way.answers()))
            });
            let (inside, outside) = (&way.network.interface, &way.uplink.interface);
            let (from, to) = match way.direction {
                Direction::Out => (inside, outside),
                Direction::In => (outside, inside),
            };
            if let Fate::Dropped(place) = opening {
                self.first.get_or_insert(place);
                self.opening.push(way.rule.clone());
                self.miss(from, to, false);
            }
            if let Fate::Dropped(place) = answers {
                self.first.get_or_insert(place);
                if !matches!(opening, Fate::Dropped(_)) {
                    self.answers.push(way.rule.clone());
                }
                self.miss(to, from, true);
            }
        }
    }

    fn miss(&mut self, from: &str, to: &str, answers_only: bool) {
        let same = |one: &&mut Passage| one.from == from && one.to == to;
        match self.missing.iter_mut().find(same) {
            Some(passage) => passage.answers_only &= answers_only,
            None => self.missing.push(Passage {
                from: from.to_owned(),
                to: to.to_owned(),
                answers_only,
            }),
        }
    }

    fn finding(&self, rules: &Ruleset, chain: usize) -> Option<Finding> {
        let place = self.first?;
        let owner = Owner::of(rules, chain, place);
        let mut dropped = Vec::new();
        if !self.opening.is_empty() {
            dropped.push(format!("new connections of {}", listed(&self.opening)));
        }
        if !self.answers.is_empty() {
            dropped.push(format!("answers in those of {}", listed(&self.answers)));
        }
        let (remedy, commands) = owner.remedy(rules, chain, &self.missing);
        Some(Finding {
            kind: Kind::ForwardDrop,
            place: format!("{}{}", place_name(rules, place), owner.shown()),
            what: format!("drops {}", dropped.join(" and ")),
            why:
                "the host forwards translated packets only if every FORWARD chain lets them through"
                    .to_owned(),
            remedy,
            commands,
        })
    }
}

/// The outcome for opening packets and answers, if it is certain and the same for the whole group.
fn common_fates(
    rules: &Ruleset,
    chain: usize,
    group: &[&Way],
    budget: &mut Budget,
) -> Option<(Fate, Fate)> {
    let first = group.first()?;
    let whole = Way {
        guests: inside_of(first.network, first.guests)?,
        protocols: vec![TCP, UDP],
        ports: Vec::new(),
        ..(*first).clone()
    };
    let fits = |way: &&&Way| {
        let is_usual = |protocol: &u8| whole.protocols.contains(protocol);
        whole.guests.contains(&way.guests) && way.protocols.iter().all(is_usual)
    };
    if group.len() < 2 || !group.iter().all(|way| fits(&way)) {
        return None;
    }
    let opening = fate_of_all(rules, chain, &whole.openings(), budget);
    let answers = fate_of_all(rules, chain, &whole.answers(), budget);
    (opening != Fate::Mixed && answers != Fate::Mixed).then_some((opening, answers))
}

/// All count as dropped only if each protocol is: an owner who lets one protocol through has
/// considered the others.
fn fate_of_all(rules: &Ruleset, chain: usize, flows: &[Flow], budget: &mut Budget) -> Fate {
    let fates = flows.iter().map(|flow| filter(rules, chain, flow, budget));
    let fates: Vec<Fate> = fates.collect();
    let is_dropped = |fate: &Fate| matches!(fate, Fate::Dropped(_));
    match fates.first() {
        Some(first) if fates.iter().all(is_dropped) => *first,
        Some(_) if fates.iter().all(|fate| *fate == Fate::Passes) => Fate::Passes,
        _ => Fate::Mixed,
    }
}

/// The software that owns the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Docker,
    Firewalld,
    Ufw,
    Pve,
    PveNft,
    Libvirt,
    Unknown,
}

impl Owner {
    /// Recognised by the chain that drops packets, and by its neighbours if the policy drops them.
    fn of(rules: &Ruleset, base: usize, place: Place) -> Self {
        let dropping = &rules.chains[place.chain];
        let has = |name| rules.has_beside(base, name);
        match (dropping.table.as_str(), dropping.name.as_str()) {
            ("inet firewalld" | "ip firewalld", _) => Self::Firewalld,
            (table, _) if table.ends_with(" proxmox-firewall") => Self::PveNft,
            (table, _) if table.ends_with(" libvirt_network") => Self::Libvirt,
            (_, name) if name.starts_with("PVEFW-") => Self::Pve,
            (_, name) if name.starts_with("LIBVIRT_FW") => Self::Libvirt,
            (_, name) if name.starts_with("DOCKER") => Self::Docker,
            (_, name) if name.starts_with("ufw-") => Self::Ufw,
            (_, name) if name.starts_with("FWDI_") || name.starts_with("FWD_") => Self::Firewalld,
            _ if has("ufw-before-forward") => Self::Ufw,
            _ if has("FORWARD_IN_ZONES") || has("FORWARD_ZONES") => Self::Firewalld,
            _ if has("DOCKER-USER") || has("DOCKER") => Self::Docker,
            _ if has("PVEFW-FORWARD") => Self::Pve,
            _ => Self::Unknown,
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Docker => " (Docker)",
            Self::Firewalld => " (firewalld)",
            Self::Ufw => " (ufw)",
            Self::Pve => " (pve-firewall)",
            Self::PveNft => " (proxmox-firewall)",
            Self::Libvirt => " (libvirt)",
            Self::Unknown => "",
        }
    }

    /// The remedy, and commands for it.
    fn remedy(self, rules: &Ruleset, chain: usize, missing: &[Passage]) -> (String, Vec<String>) {
        let user = match self {
            Self::Docker if rules.has_beside(chain, "DOCKER-USER") => "DOCKER-USER",
            _ => &rules.chains[chain].name,
        };
        let accept = |to| {
            let one = |passage: &Passage| passage.command(rules, chain, to);
            missing.iter().map(one).collect::<Vec<_>>()
        };
        let keep = "and put it where this host keeps its rules";
        match self {
            Self::Docker => (format!("let it through, {keep}"), accept(user)),
            Self::Unknown => (format!("let it through if it should pass, {keep}"), accept(user)),
            Self::Ufw => {
                let one = |Passage { from, to, .. }: &Passage| {
                    format!("ufw route allow in on {from} out on {to}")
                };
                let ways = missing.iter().filter(|passage| !passage.answers_only);
                ("let it through by ufw".to_owned(), ways.map(one).collect())
            }
            Self::Firewalld => firewalld(missing),
            Self::Pve => (
                "let it through before pve-firewall's chain, or with rules of direction forward in \
                 Datacenter, Firewall (policy_forward: ACCEPT in /etc/pve/firewall/cluster.fw)"
                    .to_owned(),
                accept(user),
            ),
            Self::PveNft => (
                "set policy_forward: ACCEPT under [OPTIONS] in /etc/pve/firewall/cluster.fw \
                 (Datacenter, Firewall, Options), or add rules of direction forward there"
                    .to_owned(),
                Vec::new(),
            ),
            Self::Libvirt => (
                "have libvirt leave the network's packets alone: <forward mode=\"open\"/> in virsh \
                 net-edit, then virsh net-destroy and net-start"
                    .to_owned(),
                Vec::new(),
            ),
        }
    }
}

/// Zones for both sides, and the needed policies between them. The zone of the uplink stays
/// unchanged.
fn firewalld(missing: &[Passage]) -> (String, Vec<String>) {
    let needed: Vec<&Passage> = (missing.iter())
        .filter(|passage| !passage.answers_only)
        .collect();
    let mut commands = Vec::new();
    for (number, Passage { from, to, .. }) in needed.iter().enumerate() {
        let policy = match number {
            0 => "natbpf".to_owned(),
            number => format!("natbpf-{number}"),
        };
        let zone =
            |interface: &str| format!("\"$(firewall-cmd --get-zone-of-interface={interface})\"");
        commands.push(format!("firewall-cmd --permanent --new-policy={policy}"));
        commands.push(format!(
            "firewall-cmd --permanent --policy={policy} --add-ingress-zone={} --add-egress-zone={}",
            zone(from),
            zone(to)
        ));
        commands.push(format!(
            "firewall-cmd --permanent --policy={policy} --set-target=ACCEPT"
        ));
    }
    commands.push("firewall-cmd --reload".to_owned());
    let text = "put the guests' interface in a zone, such as trusted if they may reach all of this \
                host \
                (firewall-cmd --permanent --zone=trusted --add-interface=…), and let the zones \
                reach \
                each other";
    (text.to_owned(), commands)
}

impl Passage {
    fn command(&self, rules: &Ruleset, chain: usize, user_chain: &str) -> String {
        let Self {
            from,
            to,
            answers_only,
        } = self;
        let own = &rules.chains[chain];
        let tool = match own.source {
            Source::Nft => {
                let state = if *answers_only {
                    "ct state established,related "
                } else {
                    ""
                };
                return format!(
                    "nft insert rule {} {user_chain} iifname \"{from}\" oifname \"{to}\" \
                     {state}accept",
                    own.table
                );
            }
            source => source.tool(rules.family),
        };
        let table = match own.table.as_str() {
            "filter" => String::new(),
            other => format!("-t {other} "),
        };
        let state = if *answers_only {
            "-m conntrack --ctstate RELATED,ESTABLISHED "
        } else {
            ""
        };
        format!("{tool} {table}-I {user_chain} -i {from} -o {to} {state}-j ACCEPT")
    }
}
