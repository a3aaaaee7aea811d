//! The start: from a configuration file to a data plane in use, or to the host as it was.

use anyhow::{Result, anyhow};
use nat_config::{Loaded, model::Config};
use nat_sys::netlink::Netlink;

use super::{
    Options,
    claims::Claims,
    external,
    fast_path::{Cause, FastPath},
    instance::Instance,
    neighbours::Neighbours,
    settings::Settings,
    tear_down,
    transition::Active,
};
use crate::{
    dataplane::{Dataplane, Lock, Pins, Sizes},
    dhcp::{self, Services},
    host::{
        change::Change,
        grace::ShortGrace,
        journal::Journal,
        setup::{self, Plan, Problem, Problems, Step},
    },
    refusals,
    state::{Numbers, State},
};

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
                // There was no data plane before, so none is left behind.
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
        for problem in unreachable_targets(&netlink, &loaded).await? {
            log::warn!("{problem}");
        }
        prepare_host(&netlink, &mut journal, &loaded).await?;
        let warnings = lasting_warnings(&loaded);
        let services = Services::new(&options.run_dir)?;
        let config = services.resolve(loaded.config);
        let has_pins = Pins::below(&options.bpffs).are_any();
        let known = known_state(&options).filter(|_| has_pins);
        let mut active = take_over(&options, &config, known.as_ref())?;
        active.state.warnings = warnings;
        if has_pins && known.is_none() {
            let highest = active.tables.dataplane.highest_rule()?;
            note_lost_names(&mut active.state, highest);
        }
        let mut claims = Claims::default();
        claims.inherit(known.iter().flat_map(external::answered_for));
        claims.inherit(journal.changes().iter().filter_map(Change::added_address));
        let mut instance = Self {
            fast_path: FastPath::take_over(active.tables.dataplane.pins())?,
            active,
            settings: Settings::default(),
            claims,
            awaited: Vec::new(),
            host_warnings: Vec::new(),
            refusals: refusals::Watch::default(),
            neighbours: Neighbours::default(),
            services,
            options,
            config,
            netlink,
            journal,
            _lock: lock,
        };
        instance.begin().await?;
        Ok(instance)
    }

    /// Activates the configuration for the first time.
    async fn begin(&mut self) -> Result<()> {
        let config = self.config.clone();
        self.put_in_use(&config).await?;
        self.follow_next_hops(Cause::Routes).await?;
        self.renew_fast_path().await;
        self.neighbours.look(&config, &self.options.bpffs);
        self.settle_claims().await
    }
}

/// Reads and checks the configuration.
pub(super) fn load_config(options: &Options) -> Result<Loaded> {
    let loaded = nat_config::load(&options.config).map_err(|error| anyhow!("{error}"))?;
    dhcp::check_installed(&loaded).map_err(|error| anyhow!("{error}"))?;
    Ok(loaded)
}

/// Sets bridges, addresses and sysctls as configured. Problems that only the host reveals are
/// reported with their place in the file.
pub(super) async fn prepare_host(
    netlink: &Netlink,
    journal: &mut Journal,
    loaded: &Loaded,
) -> Result<()> {
    let plan = Plan::from_config(&loaded.config);
    let result = setup::apply(netlink, journal, &plan, Step::BeforePrograms).await;
    let report = result.map_err(|error| {
        let problems = error.downcast_ref::<Problems>();
        match problems.and_then(|problems| problems.0.first()) {
            Some(problem) => anyhow!("{}", in_file(loaded, problem)),
            None => error,
        }
    })?;
    report.log();
    Ok(())
}

/// Guests of rules that the host's routes do not reach, each with its place in the file.
pub(super) async fn unreachable_targets(netlink: &Netlink, loaded: &Loaded) -> Result<Vec<String>> {
    let problems = setup::target_problems(netlink, &loaded.config).await?;
    Ok(problems.iter().map(|one| in_file(loaded, one)).collect())
}

/// A problem of the host, with the place in the file that asks for it.
fn in_file(loaded: &Loaded, problem: &Problem) -> String {
    let path: Vec<&str> = problem.key.iter().map(String::as_str).collect();
    let source = &loaded.source;
    source
        .diagnostic(&path, &problem.problem, &problem.remedy)
        .to_string()
}

/// Warnings that stay true for as long as the configuration is in use.
pub(super) fn lasting_warnings(loaded: &Loaded) -> Vec<String> {
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    warnings
}

/// Loads the programs over the tables of an earlier daemon, or over new ones.
fn take_over(options: &Options, config: &Config, known: Option<&State>) -> Result<Active> {
    let sizes = Sizes::of_config(config, config.rule_count());
    let pins = Pins::below(&options.bpffs);
    let taken = Dataplane::take_over(pins, &sizes, options.log_packets)?;
    if taken.2.is_some() {
        log::info!("migrating sessions to new tables");
    }
    let state = State::new(&options.config, &options.bpffs, known)?;
    Active::new(taken, state, options.log_packets)
}

/// What an earlier daemon left.
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
        "state.json was lost while the data plane ran: the counts of its {highest} rules continue \
         as (lost N), and those of the configuration's rules start at 0"
    );
    log::warn!("{warning}");
    state.warnings.push(warning);
}
