//! One configuration at work: what the daemon holds, and how it follows changes.

mod services;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nat_common::{
    tables::{
        bindings::Name,
        interfaces::{Interface, interface_flags, role},
        rules::rule_flags,
        sessions::{SessionKey4, View, flags},
    },
    wire::address::Addr4,
};
use nat_config::{
    Loaded,
    compile::{Environment, Ruleset, compile},
    model::{Config, Forwarding, Limits, NetworkId, Timeouts, UplinkAddresses, UplinkId},
};
use nat_sys::netlink::{Address, AddressScope, Kind, Layer, Link, LinkRoute, Netlink};
use nix::net::if_::if_nametoindex;
use settings::Settings;

use super::{
    Options,
    claims::Claims,
    covered::{PortTargets, is_covered},
    differences::differences,
    external,
    fast_path::{self, Cause, Ends, FastPath, is_open_port},
    identity::{self, said},
    interfaces::{Exits, exits, interfaces},
    mode,
    neighbours::Neighbours,
    policed::Bounds,
    tear_down,
};
use crate::{
    dataplane::{
        Bound, CarryOver, Dataplane, Expiry, Lock, Pins, Programs, SessionEntry, Sizes,
        attach::{self, Mechanism, Role, Target, XdpWish},
        local,
    },
    dhcp::{self, Services},
    host::{
        bridge_netfilter::BridgeNetfilter,
        change::Change,
        grace::ShortGrace,
        journal::Journal,
        policing::Policing,
        routing::{self, Routing},
        setup::{self, Plan, Problems, Report, Step},
        xdp_features::{XdpFeatures, xdp_features},
    },
    refusals,
    state::{InterfaceState, Numbers, RuleKind, State},
};

/// A running configuration.
pub(super) struct Instance {
    options: Options,
    config: Config,
    netlink: Netlink,
    journal: Journal,
    dataplane: Dataplane,
    programs: Programs,
    expiry: Expiry,
    state: State,
    applied: Applied,
    exits: Exits,
    settings: Settings,
    claims: Claims,
    /// What the host lacks and is waited for, or why it could not be set up.
    awaited: Vec<String>,
    /// What is told of the host, in the status.
    host_warnings: Vec<String>,
    /// Which guests are bound to which ports.
    bound: Bound,
    /// The rules in use, with what else is written along with them.
    rules: Option<(Ruleset, Timeouts, Limits)>,
    refusals: refusals::Watch,
    fast_path: FastPath,
    /// The tables that the next attachment takes over from.
    carry: Option<CarryOver>,
    neighbours: Neighbours,
    services: Services,
    /// Writes the programs' messages to the log as long as it lives.
    packet_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    _lock: Lock,
}

/// What was last written into the maps.
#[derive(Debug, Default, PartialEq, Eq)]
struct Applied {
    ruleset: Ruleset,
    targets: Vec<Target>,
    /// By index.
    interfaces: BTreeMap<u32, Interface>,
    bridge_netfilter: BridgeNetfilter,
    policing: Policing,
}

/// What the host is like.
struct Host {
    links: Vec<Link>,
    addresses: Vec<Address>,
    bridge_netfilter: BridgeNetfilter,
    routes: Vec<LinkRoute>,
    /// What drivers can do with XDP, by index.
    xdp: BTreeMap<u32, XdpFeatures>,
    policing: Policing,
    /// By index.
    uplinks: BTreeSet<u32>,
}

impl Instance {
    /// Brings the configuration up: host, programs, rules, attachments.
    pub(super) async fn start(options: Options) -> Result<Self> {
        let loaded = load_config(&options)?;
        let pins = Pins::below(&options.bpffs);
        let is_first = !pins.are_any();
        let lock = pins.lock()?;
        Dataplane::check(&pins)?;
        let (run_dir, bpffs) = (options.run_dir.clone(), options.bpffs.clone());
        match Self::bring_up(options, loaded, lock).await {
            Err(error) if is_first => {
                // Nothing was there before: nothing is left behind.
                match tear_down(&run_dir, &bpffs).await {
                    Ok(_) => Err(error),
                    Err(second) => Err(error.context(format!("and undoing failed: {second:#}"))),
                }
            }
            result => result,
        }
    }

    async fn bring_up(options: Options, loaded: Loaded, lock: Lock) -> Result<Self> {
        let netlink = Netlink::connect()?;
        ShortGrace::clean_up(&options.run_dir);
        let mut journal = Journal::open(&options.run_dir)?;
        let links = netlink.links().await?;
        nat_findings::refuse_another(&loaded.config, &links, &options.bpffs)?;
        // Routes may come later than this.
        for problem in target_problems(&netlink, &loaded).await? {
            log::warn!("{problem}");
        }
        prepare_host(&netlink, &mut journal, &loaded).await?;
        let warnings = warnings(&loaded);
        let services = Services::new(&options.run_dir)?;
        let config = services.resolve(loaded.config);
        let pins = Pins::below(&options.bpffs);
        let sizes = Sizes::new(config.limits.sessions, config.rule_count());
        let has_pins = pins.are_any();
        let known = known_state(&options).filter(|_| has_pins);
        let (dataplane, mut programs, carry) =
            Dataplane::take_over(pins, &sizes, options.log_packets)?;
        if carry.is_some() {
            log::info!("migrating sessions to new tables");
        }
        let packet_log = options.log_packets.then(|| programs.logger()).transpose()?;
        let mut state = State::new(&options.config, &options.bpffs, known.as_ref())?;
        state.warnings = warnings;
        if has_pins && known.is_none() {
            note_lost_names(&mut state, dataplane.highest_rule()?);
        }
        let mut claims = Claims::default();
        claims.inherit(known.iter().flat_map(external::answered_for));
        claims.inherit(journal.changes().iter().filter_map(Change::added_address));
        let instance = Self {
            state,
            applied: Applied::default(),
            exits: Exits::default(),
            settings: Settings::default(),
            claims,
            awaited: Vec::new(),
            host_warnings: Vec::new(),
            bound: Bound::default(),
            rules: None,
            refusals: refusals::Watch::default(),
            fast_path: FastPath::take_over(dataplane.pins())?,
            neighbours: Neighbours::default(),
            services,
            options,
            config,
            netlink,
            journal,
            dataplane,
            programs,
            expiry: Expiry::default(),
            carry,
            packet_log,
            _lock: lock,
        };
        instance.begin().await
    }

    /// Takes the configuration into use for the first time.
    async fn begin(mut self) -> Result<Self> {
        self.state.sessions_max = self.dataplane.session_capacity()?;
        let config = self.config.clone();
        self.put_in_use(&config).await?;
        self.follow_next_hops(Cause::Routes).await?;
        self.keep_fast_path().await;
        self.neighbours.look(&config, &self.options.bpffs);
        self.settle_claims().await?;
        Ok(self)
    }

    /// Makes the next hops what the host's routes and links are now, and has neighbours and bridges
    /// looked at, which nothing waits for.
    pub(super) async fn follow_next_hops(&mut self, cause: Cause) -> Result<()> {
        let ends = self.fast_ends();
        self.fast_path.follow(&self.netlink, &ends, cause).await
    }

    /// Whether neighbours are about to be looked at anyway.
    pub(super) fn is_look_due(&self) -> bool {
        self.fast_path.is_look_due()
    }

    /// Waits until neighbours were looked at, if there is something to look for. Cancelling it
    /// loses nothing; then [`Self::take_neighbours`].
    pub(super) async fn looked(&mut self) -> Result<()> {
        let ends = self.fast_ends();
        self.fast_path.looked(&ends).await
    }

    /// Makes the next hops what the look says.
    pub(super) fn take_neighbours(&mut self) -> Result<()> {
        let ends = self.fast_ends();
        self.fast_path.take(&ends)
    }

    /// The interfaces between which the fast path runs.
    fn fast_ends(&self) -> Ends {
        let mut ends = Ends::default();
        if self.config.forwarding == Forwarding::Fast {
            for (index, interface) in &self.applied.interfaces {
                match interface.role {
                    role::UPLINK => ends.uplinks.insert(*index),
                    role::NETWORK => ends.networks.insert(*index),
                    _ => continue,
                };
            }
        }
        ends
    }

    /// Lets sessions take the fast path for some seconds more, if they may.
    pub(super) async fn keep_fast_path(&mut self) {
        let lease_s = fast_path::LEASE_S * crate::clock::time_scale();
        let until_s = match self.config.forwarding {
            Forwarding::Fast => crate::clock::monotonic_s() + lease_s,
            Forwarding::Kernel => 0,
        };
        if let Err(error) = self.dataplane.set_fast_until(until_s) {
            log::error!("{error:#}");
        }
        let ends = self.fast_ends();
        if let Err(error) = self.fast_path.care(&self.netlink, &ends).await {
            log::error!("refresh neighbours: {error:#}");
        }
    }

    /// Sends all packets through the kernel: nobody will follow its changes from now on.
    pub(super) fn leave_fast_path(&mut self) {
        if let Err(error) = self.dataplane.set_fast_until(0) {
            log::error!("{error:#}");
        }
    }

    /// What the programs are told of each rule.
    fn rule_flags(&self, config: &Config) -> BTreeMap<u32, u32> {
        let snat = config.snat.iter();
        let snat = snat.map(|rule| (RuleKind::Snat, &rule.name, rule.forwarding));
        let forwards = config.forwards.iter();
        let forwards = forwards.map(|rule| (RuleKind::Forward, &rule.name, rule.forwarding));
        let nats = config.nats.iter();
        let nats = nats.map(|rule| (RuleKind::Nat, &rule.name, rule.forwarding));
        snat.chain(forwards)
            .chain(nats)
            .filter(|(_, _, forwarding)| *forwarding == Forwarding::Kernel)
            .filter_map(|(kind, name, _)| self.state.numbers.find_rule(kind, name))
            .map(|rule| (rule, rule_flags::KERNEL))
            .collect()
    }

    async fn host(&self, config: &Config) -> Result<Host> {
        let links = self.netlink.links().await?;
        let index = |name: &String| {
            let link = links.iter().find(|link| link.name == *name);
            link.map(|link| link.index)
        };
        let uplinks = config.uplinks.iter().map(|uplink| &uplink.interface);
        let uplinks: BTreeSet<u32> = uplinks.filter_map(index).collect();
        let networks = config.networks.iter().map(|network| &network.interface);
        let ends = networks.filter_map(index).chain(uplinks.iter().copied());
        Ok(Host {
            policing: Policing::look(&links, &ends.collect())?,
            addresses: self.netlink.addresses().await?,
            bridge_netfilter: BridgeNetfilter::read()?,
            routes: self.netlink.routes().await?,
            xdp: xdp_features().context("ask drivers for XDP")?,
            links,
            uplinks,
        })
    }

    /// Takes a configuration into use on a host that is prepared for it: first the programs, then
    /// what has the kernel forward packets. So none goes out that they have not seen.
    async fn put_in_use(&mut self, config: &Config) -> Result<()> {
        let host = self.host(config).await?;
        self.follow_claims(config, &host);
        self.apply(config, &host)?;
        let plan = self.plan(config);
        let step = Step::Whole;
        let mut report = setup::apply(&self.netlink, &mut self.journal, &plan, step).await?;
        tell(&report);
        report.reset.clear();
        self.watch_settings(&plan);
        self.note_host(&report);
        self.follow_setup(config, &report).await.map(drop)
    }

    /// Takes into use what setting the host up has changed: ports of bridges, addresses. Says
    /// whether there was anything.
    async fn follow_setup(&mut self, config: &Config, report: &Report) -> Result<bool> {
        if report.done.is_empty() {
            return Ok(false);
        }
        let host = self.host(config).await?;
        let has_changed = !self.is_applied(config, &host);
        if has_changed {
            self.apply(config, &host)?;
        }
        Ok(has_changed)
    }

    fn environment(&self, config: &Config, host: &Host) -> Environment {
        environment(config, host, self.journal.changes(), &self.claims)
    }

    /// What the host should look like. Addresses that another host has are not put on interfaces.
    fn plan(&self, config: &Config) -> Plan {
        let mut plan = Plan::from_config(config);
        for uplink in &mut plan.uplinks {
            (uplink.addresses).retain(|address| self.claims.is_ours(*address));
        }
        plan
    }

    /// Asks for external addresses that no interface holds, from now on.
    fn follow_claims(&mut self, config: &Config, host: &Host) {
        let added = self.journal.changes().iter();
        let added: BTreeSet<Ipv4Addr> = added.filter_map(Change::added_address).collect();
        let held = host.addresses.iter().map(|address| address.net.addr());
        let held = held.filter(|address| !added.contains(address)).collect();
        self.claims.follow(config, &host.links, &held);
    }

    /// Waits until it is known which external addresses are free, and takes these.
    async fn settle_claims(&mut self) -> Result<()> {
        let mut has_changed = false;
        while let Some(due) = self.claims.is_settled_after() {
            tokio::time::sleep_until(due.into()).await;
            has_changed |= self.claims.care();
        }
        self.tell_of_host();
        match has_changed {
            true => self.refresh().await,
            false => Ok(()),
        }
    }

    /// When [`Self::care_for_claims`] has something to do.
    pub(super) fn claims_due(&self) -> Option<tokio::time::Instant> {
        self.claims.is_due_at().map(tokio::time::Instant::from_std)
    }

    /// Asks, announces and listens by ARP. Says whether the rules must follow.
    pub(super) fn care_for_claims(&mut self) -> bool {
        let has_changed = self.claims.care();
        self.tell_of_host();
        has_changed
    }

    /// Whether nothing would change if the configuration were applied to the host as it is now.
    fn is_applied(&self, config: &Config, host: &Host) -> bool {
        let environment = self.environment(config, host);
        let mut numbers = self.state.numbers.clone();
        let ruleset = compile(config, &environment, &mut numbers);
        let interfaces = interfaces(config, &host.bounds(), host.bridge_netfilter, &numbers);
        let applied = Applied {
            ruleset,
            targets: targets(config, host, &interfaces),
            interfaces,
            bridge_netfilter: host.bridge_netfilter,
            policing: host.policing.clone(),
        };
        applied == self.applied
    }

    /// Writes the rules, attaches the programs, and notes both. The rules come first: a program
    /// never runs without them.
    fn apply(&mut self, config: &Config, host: &Host) -> Result<()> {
        let environment = self.environment(config, host);
        let mut numbers = self.state.numbers.clone();
        let said = said(config);
        numbers.recognise(&said);
        let ruleset = compile(config, &environment, &mut numbers);
        numbers.describe(&said);
        let has_new_tables = self.make_room(config.limits.sessions, numbers.rule_count())?;
        let interfaces = interfaces(config, &host.bounds(), host.bridge_netfilter, &numbers);
        let wished = targets(config, host, &interfaces);
        let mut targets = wished.clone();
        let mut refused = leave_foreign_xdp(&mut targets, host, &self.options)?;
        let begun = Instant::now();
        attach::load(&mut self.programs, &targets)?;
        log::info!("programs loaded in {} ms", begun.elapsed().as_millis());
        let begun = Instant::now();
        self.state.numbers = numbers;
        if has_new_tables {
            self.rules = None;
        }
        self.write_rules((ruleset.clone(), config.timeouts, config.limits))?;
        self.mark_active(config);
        self.dataplane.set_rule_flags(&self.rule_flags(config))?;
        self.dataplane.set_interfaces(&interfaces)?;
        self.bind_guests(config, host, &interfaces)?;
        refused.extend(self.attach(&mut targets, &ruleset)?);
        self.follow_exits(config, host)?;
        for (_, why) in &refused {
            log::warn!("XDP is not used: {why}");
        }
        log::info!(
            "generation {} in use after {} ms",
            self.state.generation,
            begun.elapsed().as_millis()
        );
        self.state.interfaces = interface_states(config, host, &interfaces, &targets, &refused);
        self.note_external(config, host, &environment);
        self.applied = Applied {
            ruleset,
            targets: wished,
            interfaces,
            bridge_netfilter: host.bridge_netfilter,
            policing: host.policing.clone(),
        };
        self.state.save(&self.options.run_dir)
    }

    /// Writes the rules, unless they are those in use.
    fn write_rules(&mut self, rules: (Ruleset, Timeouts, Limits)) -> Result<()> {
        if self.rules.as_ref() != Some(&rules) {
            // If writing fails, they are written again next time.
            self.rules = None;
            let (ruleset, timeouts, limits) = &rules;
            self.state.generation = self.dataplane.set_rules(ruleset, timeouts, limits)?;
            self.rules = Some(rules);
        }
        Ok(())
    }

    /// Attaches the programs to these interfaces and takes them off others, migrating the sessions
    /// of tables that are replaced. Returns where XDP is refused, and why.
    fn attach(&mut self, targets: &mut [Target], ruleset: &Ruleset) -> Result<Vec<(u32, String)>> {
        for target in &self.applied.targets {
            // (Links go with their pins.)
            if !targets.iter().any(|kept| kept.index == target.index) {
                attach::detach_filters(&target.name);
            }
        }
        if let Some(carry) = &mut self.carry {
            carry.begin()?;
        }
        let grace = ShortGrace::begin(&self.options.run_dir, self.new_attachments(targets));
        let refused = attach::attach(&mut self.programs, self.dataplane.pins(), targets)?;
        drop(grace);
        let own = ruleset.own.as_deref();
        self.state.local = local::attach(&mut self.programs, self.dataplane.pins(), own);
        if let Some(carry) = self.carry.take() {
            carry.finish(&mut self.dataplane, &mut self.programs)?;
        }
        Ok(refused)
    }

    /// Tells the programs by what guests' packets may leave, now that the programs are there.
    fn follow_exits(&mut self, config: &Config, host: &Host) -> Result<()> {
        let exits = exits(config, &host.links, &self.state.numbers);
        if exits != self.exits {
            self.dataplane
                .set_exits(&exits.uplinks, &exits.interfaces)?;
            self.exits = exits;
        }
        Ok(())
    }

    /// Binds the Ethernet addresses of guests to ports: to those that the configuration names, or
    /// where their bridge has them now.
    fn bind_guests(
        &mut self,
        config: &Config,
        host: &Host,
        interfaces: &BTreeMap<u32, Interface>,
    ) -> Result<()> {
        let ports = interfaces.iter();
        let ports = ports.filter(|(_, port)| port.flags & interface_flags::GUARDED != 0);
        let mut bound = Bound {
            ports: ports.map(|(index, _)| *index).collect(),
            ..Bound::default()
        };
        for guest in &config.guests {
            let network = &config.networks[guest.network.0];
            let number = self.state.numbers.networks.get(&network.name).copied();
            let bridge = host.link(&network.interface);
            let bridge = bridge.filter(|link| network.anti_spoof && link.kind == Kind::Bridge);
            let (Some(bridge), Some(number)) = (bridge, number) else {
                continue;
            };
            let name = Name::of_mac(guest.mac, number);
            match &guest.port {
                Some(port) => {
                    let port = host.link(port).map_or(0, |link| link.index);
                    bound.fixed.insert(name, port);
                }
                None => {
                    bound.sought.insert(name, bridge.index);
                }
            }
        }
        self.dataplane.bind(&bound)?;
        self.bound = bound;
        Ok(())
    }

    /// Forgets names that ports no longer have. To be called every minute or so.
    pub(super) fn keep_bindings(&mut self) {
        if !self.bound.ports.is_empty()
            && let Err(error) = self.dataplane.bind(&self.bound)
        {
            log::error!("{error:#}");
        }
    }

    /// Notes who has the external addresses of each uplink.
    fn note_external(&mut self, config: &Config, host: &Host, environment: &Environment) {
        for (uplink, id) in config.uplinks.iter().zip((0..).map(UplinkId)) {
            let name = &uplink.interface;
            let added = external::added_to(name, self.journal.changes());
            let link = host.link(name);
            let has_arp = link.is_some_and(|link| link.layer == Layer::Ethernet);
            let mut states = self.state.interfaces.iter_mut();
            let state = states.find(|state| state.role == "uplink" && state.owner == uplink.name);
            if let Some(state) = state {
                let arp = (&added, has_arp);
                state.external = external::external(config, environment, id, arp, &self.claims);
            }
        }
    }

    /// How many interfaces get programs that have none, or lose theirs.
    fn new_attachments(&self, targets: &[Target]) -> usize {
        let before: HashSet<u32> = (self.applied.targets.iter())
            .map(|target| target.index)
            .collect();
        let now: HashSet<u32> = targets.iter().map(|target| target.index).collect();
        before.symmetric_difference(&now).count()
    }

    /// Makes the tables as large as they have to be, with all that is in them.
    /// Says whether there are new ones.
    fn make_room(&mut self, sessions: u32, rules: u32) -> Result<bool> {
        let (has_sessions, has_rules) = (
            self.dataplane.session_capacity()?,
            self.dataplane.rule_capacity(),
        );
        // What is just being taken over comes first; the next reload looks at it again.
        if (has_sessions == sessions && has_rules > rules) || self.carry.is_some() {
            return Ok(false);
        }
        let wanted = Sizes::new(sessions, rules as usize);
        let sizes = Sizes {
            rules: wanted.rules.max(has_rules),
            ..wanted
        };
        let begun = Instant::now();
        let (mut dataplane, mut programs, mut carry) =
            self.dataplane.resize(&sizes, self.options.log_packets)?;
        let targets = &self.applied.targets;
        attach::load(&mut programs, targets)?;
        carry.begin()?;
        let attached = attach::attach(&mut programs, dataplane.pins(), &mut targets.clone());
        if let Err(error) = attached {
            carry.give_up()?;
            let pins = self.dataplane.pins();
            attach::attach(&mut self.programs, pins, &mut targets.clone())?;
            self.state.local = local::attach(
                &mut self.programs,
                pins,
                self.applied.ruleset.own.as_deref(),
            );
            return Err(error);
        }
        let own = self.applied.ruleset.own.as_deref();
        self.state.local = local::attach(&mut programs, dataplane.pins(), own);
        carry.finish(&mut dataplane, &mut programs)?;
        if self.options.log_packets {
            self.packet_log = Some(programs.logger()?);
        }
        self.dataplane = dataplane;
        self.programs = programs;
        self.expiry = Expiry::default();
        self.state.sessions_max = sessions;
        log::info!(
            "room for {sessions} sessions and {} rules after {} ms",
            sizes.rules,
            begun.elapsed().as_millis()
        );
        Ok(true)
    }

    fn mark_active(&mut self, config: &Config) {
        let snat = config
            .snat
            .iter()
            .map(|rule| (RuleKind::Snat, rule.name.clone()));
        let forwards = config
            .forwards
            .iter()
            .map(|rule| (RuleKind::Forward, rule.name.clone()));
        let nats = config
            .nats
            .iter()
            .map(|rule| (RuleKind::Nat, rule.name.clone()));
        let policies = config.policies.iter();
        let policies = policies.map(|rule| (RuleKind::Policy, rule.name.clone()));
        let networks = config.networks.iter();
        let defaults = networks.map(|network| (RuleKind::Default, network.name.clone()));
        let translating = snat.chain(forwards).chain(nats);
        let active: HashSet<(RuleKind, String)> =
            translating.chain(policies).chain(defaults).collect();
        self.state
            .numbers
            .set_active(|kind, name| active.contains(&(kind, name.to_owned())));
    }

    /// Whether a setting of the host has changed that nobody tells of.
    pub(super) fn has_changed_settings(&self) -> bool {
        match BridgeNetfilter::read() {
            Ok(now) => now != self.applied.bridge_netfilter,
            Err(error) => {
                log::debug!("{error:#}");
                false
            }
        }
    }

    /// Looks at the host again and follows what has changed.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        let config = self.config.clone();
        // Ports that have appeared are attached, a bridge that was deleted is made again. What the
        // host lacks meanwhile is waited for.
        let plan = self.plan(&config);
        self.set_up_again(&plan, Step::BeforePrograms, false).await;
        let host = self.host(&config).await?;
        self.follow_claims(&config, &host);
        let plan = self.plan(&config);
        let mut before = (self.external_addresses(), self.target_networks());
        let mut has_changed = !self.is_applied(&config, &host);
        let mut ended = 0;
        match has_changed {
            true => {
                self.apply(&config, &host)?;
                ended += self.end_sessions_of_moved(&before)?;
                // Below only what the set-up moves is looked for: to look reads all sessions.
                before = (self.external_addresses(), self.target_networks());
            }
            false => self.follow_exits(&config, &host)?,
        }
        // An interface that is new has the kernel's settings, which nobody has changed.
        let are_watched = !has_changed;
        if let Some(report) = self.set_up_again(&plan, Step::Whole, are_watched).await {
            has_changed |= self.follow_setup(&config, &report).await?;
        }
        if !has_changed {
            return Ok(());
        }
        ended += self.end_sessions_of_moved(&before)?;
        self.follow_next_hops(Cause::Surroundings).await?;
        log::info!("followed a change of interfaces, addresses or routes; {ended} sessions ended");
        Ok(())
    }

    /// Whether an interface of the configuration is there that the programs do not know yet.
    pub(super) fn is_interface_new(&self) -> bool {
        let uplinks = self.config.uplinks.iter().map(|one| &one.interface);
        let networks = self.config.networks.iter().map(|one| &one.interface);
        uplinks.chain(networks).any(|name| {
            let index = if_nametoindex(name.as_str());
            index.is_ok_and(|index| !self.applied.interfaces.contains_key(&index))
        })
    }

    /// Brings the host to what the plan asks for, as far as that goes. What it lacks is told once.
    async fn set_up_again(&mut self, plan: &Plan, step: Step, are_watched: bool) -> Option<Report> {
        match setup::apply(&self.netlink, &mut self.journal, plan, step).await {
            Ok(mut report) => {
                report.done.iter().for_each(|line| log::info!("{line}"));
                if !are_watched {
                    report.reset.clear();
                }
                if step == Step::Whole {
                    self.note_host(&report);
                }
                Some(report)
            }
            Err(error) => {
                self.awaited = vec![format!("{error:#}")];
                self.tell_of_host();
                None
            }
        }
    }

    /// Reads the configuration again and takes it into use. Gives what changed, line by line.
    pub(super) async fn reload(&mut self) -> Result<Vec<String>> {
        let mut loaded = load_config(&self.options)?;
        let unreachable = target_problems(&self.netlink, &loaded).await?;
        if let Some(problem) = unreachable.first() {
            bail!("{problem}");
        }
        let links = self.netlink.links().await?;
        nat_findings::refuse_another(&loaded.config, &links, &self.options.bpffs)?;
        // A bridge that goes takes its programs off, and the kernel waits for each.
        let (old, new) = (self.config.networks.len(), loaded.config.networks.len());
        let grace = ShortGrace::begin(&self.options.run_dir, old.saturating_sub(new));
        prepare_host(&self.netlink, &mut self.journal, &loaded).await?;
        drop(grace);
        let warnings = warnings(&loaded);
        loaded.config = self.services.resolve(loaded.config);
        let before = (self.external_addresses(), self.target_networks());
        let (old, old_numbers) = (self.config.clone(), self.state.numbers.clone());
        self.state.warnings = warnings;
        let host_warnings = std::mem::take(&mut self.host_warnings);
        self.state.warnings.extend(host_warnings.iter().cloned());
        self.host_warnings = host_warnings;
        if let Err(error) = self.put_in_use(&loaded.config).await {
            self.go_back(&old).await;
            return Err(error);
        }
        let mut lines = differences(&old, &loaded.config);
        let new = (&loaded.config, &self.state.numbers);
        let gone = identity::changed((&old, &old_numbers), new);
        let mut ended = self.end_changed(&gone)?;
        ended += self.end_sessions_of_moved(&before)?;
        self.config = loaded.config;
        self.settle_claims().await?;
        self.follow_next_hops(Cause::Routes).await?;
        self.keep_fast_path().await;
        self.neighbours.look(&self.config, &self.options.bpffs);
        self.follow_services().await;
        lines.push(format!(
            "generation {}; {ended} sessions ended",
            self.state.generation
        ));
        Ok(lines)
    }

    /// Takes the configuration in use before a failed reload into use again.
    async fn go_back(&mut self, old: &Config) {
        let result = async {
            let plan = self.plan(old);
            let step = Step::BeforePrograms;
            setup::apply(&self.netlink, &mut self.journal, &plan, step).await?;
            self.put_in_use(old).await
        };
        if let Err(error) = result.await {
            log::error!("return to the previous configuration: {error:#}");
        }
    }

    fn external_addresses(&self) -> BTreeSet<Ipv4Addr> {
        let addresses = &self.applied.ruleset.addresses;
        addresses
            .iter()
            .map(|(address, _)| Ipv4Addr::from(address.0))
            .collect()
    }

    /// Ends the sessions on external addresses that are no longer used, and those of guests that
    /// are behind another network now. Gets both as they were before.
    fn end_sessions_of_moved(
        &self,
        (addresses, networks): &(BTreeSet<Ipv4Addr>, BTreeMap<Addr4, u16>),
    ) -> Result<u32> {
        Ok(self.end_sessions_of_lost_addresses(addresses)?
            + self.end_sessions_of_moved_targets(networks)?)
    }

    /// Ends the sessions on external addresses that are no longer used.
    fn end_sessions_of_lost_addresses(&self, before: &BTreeSet<Ipv4Addr>) -> Result<u32> {
        let now = self.external_addresses();
        let lost: BTreeSet<Ipv4Addr> = before.difference(&now).copied().collect();
        if lost.is_empty() {
            return Ok(0);
        }
        self.end_matching(|entry| lost.contains(&external_address(entry)))
    }

    /// The network of each guest that is forwarded to, 0 if it is in none.
    fn target_networks(&self) -> BTreeMap<Addr4, u16> {
        let forwards = self.applied.ruleset.forwards.iter();
        forwards
            .map(|(_, forward)| (forward.to, forward.network))
            .collect()
    }

    /// Ends the sessions of guests that are behind another network now: what they send is not known
    /// by the former one.
    fn end_sessions_of_moved_targets(&self, before: &BTreeMap<Addr4, u16>) -> Result<u32> {
        let mut moved = self.target_networks();
        moved.retain(|to, now| *now != 0 && before.get(to).is_some_and(|before| before != now));
        if moved.is_empty() {
            return Ok(0);
        }
        let is_former = |guest: Addr4, network: u16| {
            moved.contains_key(&guest) && before.get(&guest) == Some(&network)
        };
        self.end_matching(|entry| {
            let (key, record) = (&entry.key, &entry.record);
            (key.view == View::Inside as u8 && is_former(key.source, key.network))
                || (record.peer_view == View::Inside as u8
                    && is_former(record.destination, record.peer_network))
        })
    }

    /// Ends the sessions of rules that have changed, but for those that the rule as it is now would
    /// open in the same way: a range of ports may have grown.
    fn end_changed(&self, changed: &BTreeSet<u32>) -> Result<u32> {
        if changed.is_empty() {
            return Ok(0);
        }
        let targets = PortTargets::new(&self.applied.ruleset);
        self.end_matching(|entry| {
            changed.contains(&entry.record.rule) && !is_covered(entry, &targets)
        })
    }

    fn end_matching(&self, matches: impl Fn(&SessionEntry) -> bool) -> Result<u32> {
        let entries = self.dataplane.session_entries()?;
        let is_primary = |entry: &&SessionEntry| entry.record.flags & flags::PRIMARY != 0;
        let keys: Vec<SessionKey4> = entries
            .iter()
            .filter(is_primary)
            .filter(|entry| matches(entry))
            .map(|entry| entry.key)
            .collect();
        self.dataplane.end(&keys)
    }

    /// Ends idle sessions and frees fragments that wait in vain; `true` if there is more to do.
    pub(super) fn sweep(&mut self) -> bool {
        if let Err(error) = self.dataplane.expire_fragments() {
            log::error!("free fragments: {error:#}");
        }
        let result = self
            .expiry
            .pass(&self.dataplane, crate::clock::monotonic_s());
        match result {
            Ok(pass) => {
                if pass.ended > 0 {
                    log::debug!("{} sessions expired", pass.ended);
                }
                pass.is_cut_short
            }
            Err(error) => {
                log::error!("end idle sessions: {error:#}");
                false
            }
        }
    }

    /// Tells the operator of what is refused because something is exhausted.
    pub(super) fn watch_refusals(&mut self) {
        let now_s = crate::clock::boottime_s();
        if !self.refusals.is_due(now_s) {
            return;
        }
        let look = match self.dataplane.drops() {
            Ok(drops) => self.refusals.look(&drops, now_s),
            Err(error) => return log::error!("count refusals: {error:#}"),
        };
        for (level, line) in look.lines {
            log::log!(level, "{line}");
        }
        if look.has_changed
            && let Err(error) = refusals::save(&self.options.run_dir, &self.refusals.refusals())
        {
            log::warn!("{error:#}");
        }
    }

    /// Writes the programs' debug messages to the log.
    pub(super) fn flush_packet_log(&mut self) {
        if let Some(packet_log) = &mut self.packet_log {
            packet_log.flush();
        }
    }

    /// Removes everything.
    pub(super) async fn down(self) -> Result<Vec<String>> {
        let Options { run_dir, bpffs, .. } = self.options.clone();
        drop(self);
        tear_down(&run_dir, &bpffs).await
    }
}

impl Host {
    fn bounds(&self) -> Bounds<'_> {
        Bounds {
            policing: &self.policing,
            links: &self.links,
            uplinks: &self.uplinks,
        }
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The addresses of an interface, the one first that the host itself would use: the kernel
    /// lists those of narrower scopes before it.
    fn addresses_of(&self, link: &Link) -> Vec<Ipv4Addr> {
        let own = self
            .addresses
            .iter()
            .filter(|address| address.ifindex == link.index);
        let mut own: Vec<&Address> = own.collect();
        own.sort_by_key(|address| (address.scope != AddressScope::Universe, address.secondary));
        own.into_iter().map(|address| address.net.addr()).collect()
    }
}

/// Guests that rules name and that the host's routes do not lead to, each with its place in the
/// file.
async fn target_problems(netlink: &Netlink, loaded: &Loaded) -> Result<Vec<String>> {
    let problems = setup::target_problems(netlink, &loaded.config).await?;
    let told = problems.iter().map(|one| {
        let path: Vec<&str> = one.key.iter().map(String::as_str).collect();
        let diagnostic = (loaded.source).diagnostic(&path, &one.problem, &one.remedy);
        diagnostic.to_string()
    });
    Ok(told.collect())
}

fn load_config(options: &Options) -> Result<Loaded> {
    let loaded = nat_config::load(&options.config).map_err(|error| anyhow!("{error}"))?;
    dhcp::check_installed(&loaded).map_err(|error| anyhow!("{error}"))?;
    Ok(loaded)
}

/// Makes bridges, addresses and sysctls what the configuration wants. What only the host could
/// tell is said of the place in the file.
async fn prepare_host(netlink: &Netlink, journal: &mut Journal, loaded: &Loaded) -> Result<()> {
    let plan = Plan::from_config(&loaded.config);
    let report = setup::apply(netlink, journal, &plan, Step::BeforePrograms)
        .await
        .map_err(|error| {
            match error
                .downcast_ref::<Problems>()
                .and_then(|problems| problems.0.first())
            {
                Some(problem) => {
                    let path: Vec<&str> = problem.key.iter().map(String::as_str).collect();
                    anyhow!(
                        "{}",
                        loaded
                            .source
                            .diagnostic(&path, &problem.problem, &problem.remedy)
                    )
                }
                None => error,
            }
        })?;
    tell(&report);
    Ok(())
}

/// What an earlier daemon has left.
fn known_state(options: &Options) -> Option<State> {
    State::load(&options.run_dir).unwrap_or_else(|error| {
        log::warn!("{error:#}");
        None
    })
}

/// The numbers in the maps have lost their names.
fn note_lost_names(state: &mut State, highest: u32) {
    state.numbers = Numbers::after_lost(highest);
    let warning = format!(
        "state.json was lost while the data plane lived: its {highest} rules are counted as \
         (lost N), and those of the configuration anew"
    );
    log::warn!("{warning}");
    state.warnings.push(warning);
}

/// Writes to the log what was done to the host, and what was left.
fn tell(report: &Report) {
    for line in report.done.iter().chain(&report.notes) {
        log::info!("{line}");
    }
}

/// Warnings that stay true for as long as the configuration is in use.
fn warnings(loaded: &Loaded) -> Vec<String> {
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    warnings
}

fn environment(config: &Config, host: &Host, changes: &[Change], claims: &Claims) -> Environment {
    let own = |interface: &str| {
        let link = host.link(interface);
        let mut own = link.map(|link| host.addresses_of(link)).unwrap_or_default();
        let added = external::added_to(interface, changes);
        own.retain(|address| !added.contains(address));
        own
    };
    let uplinks = config.uplinks.iter();
    let uplink_addresses: Vec<_> = uplinks.map(|uplink| own(&uplink.interface)).collect();
    let sources = config.uplinks.iter().zip(&uplink_addresses);
    let sources = sources.map(|(uplink, own)| {
        let candidates = match &uplink.addresses {
            UplinkAddresses::Fixed(addresses) => addresses,
            UplinkAddresses::Interface => own,
        };
        let device = host.link(&uplink.interface).map_or(0, |link| link.index);
        routing::sources(device, &host.routes, &host.addresses, candidates)
    });
    Environment {
        sources: sources.collect(),
        places: places(config, host),
        uplink_addresses,
        host_addresses: host
            .addresses
            .iter()
            .map(|address| address.net.addr())
            .collect(),
        silent: claims.silent(config),
    }
}

/// Behind which networks the host's routes put the guests that rules name. What goes by an uplink
/// or nowhere is as if nothing were known of it: an interface may be down for a moment.
fn places(config: &Config, host: &Host) -> HashMap<Ipv4Addr, Option<NetworkId>> {
    let routing = Routing::new(&host.routes);
    let index = |name: &str| host.link(name).map(|link| link.index);
    let uplinks = config.uplinks.iter();
    let uplinks: Vec<_> = uplinks.map(|uplink| index(&uplink.interface)).collect();
    let networks = config.networks.iter();
    let networks: Vec<_> = networks.map(|network| index(&network.interface)).collect();
    let forwards = config.forwards.iter().map(|rule| &rule.to);
    let targets = forwards.chain(config.nats.iter().map(|rule| &rule.to));
    targets
        .filter_map(|to| {
            let to = to.now()?;
            let device = routing.to(to)?.device;
            if device.is_none() || uplinks.contains(&device) {
                return None;
            }
            let network = networks.iter().position(|network| *network == device);
            let by_prefix = config.networks.iter();
            let mut by_prefix = by_prefix.map(|network| network.address.contains(&to));
            // What its prefix says already needs no entry of its own.
            let is_known = by_prefix.position(|holds| holds) == network && network.is_some();
            (!is_known).then_some((to, network.map(NetworkId)))
        })
        .collect()
}

/// The interfaces that are there, as the programs are told of them.
fn targets(config: &Config, host: &Host, interfaces: &BTreeMap<u32, Interface>) -> Vec<Target> {
    let uplinks = config.uplinks.iter().filter_map(|uplink| {
        let link = host.link(&uplink.interface)?;
        let choice = mode::choose(config, uplink, link, &host.links, &host.xdp);
        Some((link, Role::Uplink, choice.xdp))
    });
    let networks = config.networks.iter().filter_map(|network| {
        let link = host.link(&network.interface)?;
        Some((link, Role::Network, XdpWish::No))
    });
    let ports = interfaces
        .iter()
        .filter(|(_, interface)| interface.role == role::PORT)
        .filter_map(|(index, interface)| {
            let link = host.links.iter().find(|link| link.index == *index)?;
            let role = match interface.flags & interface_flags::GUARDED {
                0 => Role::Port,
                _ => Role::GuardedPort,
            };
            Some((link, role, XdpWish::No))
        });
    uplinks
        .chain(networks)
        .chain(ports)
        .map(|(link, role, xdp)| Target {
            name: link.name.clone(),
            index: link.index,
            role,
            has_ethernet: link.layer == Layer::Ethernet,
            xdp,
        })
        .collect()
}

/// Gives up XDP where a program of somebody else's has it: says where, and whose.
fn leave_foreign_xdp(
    targets: &mut [Target],
    host: &Host,
    options: &Options,
) -> Result<Vec<(u32, String)>> {
    let mut refused = Vec::new();
    for target in targets.iter_mut().filter(|one| one.xdp != XdpWish::No) {
        let link = host.links.iter().find(|link| link.index == target.index);
        let Some(why) = link.and_then(|link| nat_findings::foreign_xdp(link, &options.bpffs))
        else {
            continue;
        };
        if target.xdp == XdpWish::Must {
            bail!(
                "attach nat_early to {name}: XDP {why}; take it off (ip link set dev {name} xdp \
                 off), or set mode = \"tc\"",
                name = target.name
            );
        }
        target.xdp = XdpWish::No;
        refused.push((target.index, why));
    }
    Ok(refused)
}

/// What is remembered of the interfaces.
fn interface_states(
    config: &Config,
    host: &Host,
    told: &BTreeMap<u32, Interface>,
    targets: &[Target],
    refused: &[(u32, String)],
) -> Vec<InterfaceState> {
    let hooks = |link: &Link| {
        let target = targets.iter().find(|target| target.index == link.index);
        target.map(Target::hooks).unwrap_or_default()
    };
    let uplinks = config
        .uplinks
        .iter()
        .map(|up| ("uplink", &up.name, &up.interface));
    let networks = config
        .networks
        .iter()
        .map(|net| ("network", &net.name, &net.interface));
    uplinks
        .chain(networks)
        .map(|(role, owner, name)| {
            let link = host.link(name);
            InterfaceState {
                name: name.clone(),
                index: link.map_or(0, |link| link.index),
                role: role.to_owned(),
                owner: owner.clone(),
                hooks: link.map(hooks).unwrap_or_default(),
                attachment: Mechanism::of_kernel().name().to_owned(),
                addresses: link.map(|link| host.addresses_of(link)).unwrap_or_default(),
                external: Vec::new(),
                fast_path: link
                    .map(|link| fast_path_of(config, host, link, targets, refused))
                    .unwrap_or_default(),
                mss: link
                    .and_then(|link| told.get(&link.index))
                    .map(|interface| interface.mss)
                    .filter(|mss| *mss != 0),
            }
        })
        .collect()
}

/// Which hooks the fast path uses on an interface, and why, and what it leaves out, in words.
fn fast_path_of(
    config: &Config,
    host: &Host,
    link: &Link,
    targets: &[Target],
    refused: &[(u32, String)],
) -> String {
    let hooks = hooks_of_fast_path(config, host, link, targets, refused);
    if hooks.starts_with("off") {
        return hooks;
    }
    let has_xdp = targets.iter().any(|target| target.xdp != XdpWish::No);
    let exceptions = host.bounds().exceptions(link, has_xdp);
    [vec![hooks], exceptions].concat().join("; ")
}

/// Which hooks the fast path uses on an interface, and why, in words.
fn hooks_of_fast_path(
    config: &Config,
    host: &Host,
    link: &Link,
    targets: &[Target],
    refused: &[(u32, String)],
) -> String {
    if config.forwarding == Forwarding::Kernel {
        return "off (forwarding = \"kernel\")".to_owned();
    }
    let Some(uplink) = config.uplinks.iter().find(|up| up.interface == link.name) else {
        let is_own_port = |target: &&Target| {
            let port = host.links.iter().find(|port| port.index == target.index);
            let is_port = matches!(target.role, Role::Port | Role::GuardedPort);
            is_port
                && port.is_some_and(|port| {
                    port.master == Some(link.index) && is_open_port(port, link, &host.bounds())
                })
        };
        return match (link.kind == Kind::Bridge, link.layer) {
            (true, _) => format!("tc at {} ports", targets.iter().filter(is_own_port).count()),
            (false, Layer::Ethernet) => "tc".to_owned(),
            (false, _) => "off (no Ethernet header)".to_owned(),
        };
    };
    let choice = mode::choose(config, uplink, link, &host.links, &host.xdp);
    let why = refused
        .iter()
        .find(|(index, _)| *index == link.index)
        .map_or(choice.why, |(_, why)| why.clone());
    let has_xdp = targets
        .iter()
        .any(|target| target.index == link.index && target.xdp != XdpWish::No);
    match (has_xdp, link.layer) {
        (true, _) => format!("xdp and tc ({why})"),
        (false, Layer::Ethernet) => format!("tc ({why})"),
        (false, _) => "off (no Ethernet header)".to_owned(),
    }
}

/// The external address of the session that a primary entry stands for.
fn external_address(entry: &SessionEntry) -> Ipv4Addr {
    match entry.record.flags & flags::HAIRPIN != 0 {
        true => entry.key.destination.0.into(),
        false => entry.record.source.0.into(),
    }
}
