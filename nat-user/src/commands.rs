//! What the commands do: they ask the daemon, or read the data plane from its pins.

use std::{collections::HashMap, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};
use nat_common::{
    tables::{
        sessions::{SessionFlags, SessionKey},
        settings::Settings,
    },
    wire::address::{Addr4, Addr6},
};
use nat_config::Loaded;
use nat_findings::Finding;
use nat_sys::netlink::Netlink;

use crate::{
    bounds,
    cli::{Cli, Command, ConntrackCommand, ImportArgs, ImportCommand, PortArgs, PortCommand},
    clock,
    control::{self, Request},
    daemon::{self, Options},
    dataplane::{Dataplane, Pinned, Pins, SessionTable},
    dhcp,
    host::{
        import_options,
        journal::Journal,
        ports,
        setup::{self, Plan, Problem},
    },
    refusals,
    report::{
        self, Format, Occupancy, conntrack,
        contents::contents,
        filter::SessionFilter,
        leases::{self, LeaseView},
        session::{SessionView, Shown},
        stats::{self, StatsView},
        status::{self, StatusView},
    },
    state::{self, Numbers, State},
};

/// Runs the command and returns the exit code.
///
/// # Errors
///
/// What was refused or failed, and what to do about it.
pub fn execute(cli: Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Import(ImportCommand::Iptables(args)) => import_iptables(args),
        Command::Run(args) => run(&cli, args.log_packets),
        _ => serve(cli).map(|()| ExitCode::SUCCESS),
    }
}

/// The commands that either succeed or fail.
fn serve(cli: Cli) -> Result<()> {
    clock::set_time_scale(cli.time_scale);
    match &cli.command {
        Command::Run(args) => run(&cli, args.log_packets).map(drop),
        Command::Check(args) => runtime()?.block_on(check(&cli, args.without_host)),
        Command::Reload => print(control::request(&cli.run_dir, Request::Reload)?.into_result()?),
        Command::Status(args) => show_status(&cli, Format::new(args.json)),
        Command::Stats(args) if args.watch => {
            runtime()?.block_on(stats::watch(|| collect_stats(&cli), Format::new(args.json)))
        }
        Command::Stats(args) => {
            let stats = collect_stats(&cli)?;
            report::to_stdout(|output| stats::write_stats(output, &stats, Format::new(args.json)))
        }
        Command::Leases(args) => show_leases(&cli, Format::new(args.json)),
        Command::Conntrack(ConntrackCommand::List(args)) => {
            let found = Found::new(&cli, &args.filter)?;
            let views = found.views();
            let format = Format::new(args.json);
            report::to_stdout(|output| conntrack::list(output, views, &found.numbers, format))
        }
        Command::Conntrack(ConntrackCommand::Count(filter)) => {
            let found = Found::new(&cli, filter)?;
            report::to_stdout(|output| conntrack::count(output, found.views().len()))
        }
        Command::Conntrack(ConntrackCommand::Flush(filter)) => flush(&cli, filter),
        Command::Import(ImportCommand::Iptables(args)) => import_iptables(args).map(drop),
        Command::Port(command) => runtime()?.block_on(port(&cli, command)),
        Command::Down => down(&cli),
    }
}

/// Runs the daemon. Its exit code tells systemd whether to start another one.
fn run(cli: &Cli, log_packets: bool) -> Result<ExitCode> {
    clock::set_time_scale(cli.time_scale);
    let options = Options {
        config: cli.config.clone(),
        run_dir: cli.run_dir.clone(),
        bpffs: cli.bpffs.clone(),
        log_packets,
    };
    Ok(match runtime()?.block_on(daemon::run(options))? {
        daemon::End::Stopped => ExitCode::SUCCESS,
        daemon::End::Removed => ExitCode::from(REMOVED),
    })
}

/// Writes the configuration to standard output, and remarks about lines to standard error.
fn import_iptables(args: &ImportArgs) -> Result<ExitCode> {
    let files: Vec<String> = args
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    bounds::hold(files.join(" and "));
    let mut options = nat_import::Options::default();
    if args.host {
        options = runtime()?.block_on(import_options::of_this_host())?;
    }
    options.policies = args.policies;
    options.addresses.extend(args.addresses.iter().cloned());
    let texts = args.files.iter().map(|file| nat_import::read(file));
    let texts: Vec<String> = texts.collect::<Result<_>>()?;
    let named = texts
        .iter()
        .map(String::as_str)
        .zip(files.iter().map(String::as_str));
    let imported = nat_import::together(&named.collect::<Vec<_>>(), &options)?;
    for finding in &imported.findings {
        eprintln!("{}", finding.show(&files[finding.file]));
    }
    if let Some(problem) = &imported.problem {
        let file = files.join(" and ");
        eprintln!("{file}: natbpf does not take the configuration as it is: {problem}");
    }
    report::to_stdout(|output| output.write_all(imported.toml.as_bytes()))?;
    Ok(if imported.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_EVERYTHING)
    })
}

/// The exit code if the configuration does not express all rules.
const NOT_EVERYTHING: u8 = 3;

/// The exit code of a daemon that `natbpf down` has ended. packaging/natbpf.service does not start
/// it again.
const REMOVED: u8 = 6;

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start tokio")
}

fn print(lines: Vec<String>) -> Result<()> {
    report::to_stdout(|output| lines.iter().try_for_each(|line| writeln!(output, "{line}")))
}

/// Checks the configuration, whether this host has what it names, and whether other software
/// conflicts with it.
async fn check(cli: &Cli, without_host: bool) -> Result<()> {
    let file = cli.config.as_path();
    bounds::hold(file.display().to_string());
    let loaded = nat_config::load(file).map_err(|error| anyhow!("{error}"))?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    if !without_host {
        dhcp::check_installed(&loaded).map_err(|error| anyhow!("{error}"))?;
        check_host(cli, &loaded).await?;
    }
    let contents = contents(&loaded.config);
    print(vec![format!("{}: {contents}, all right", file.display())])
}

/// A missing part of the host is an error. A conflict with other software is a warning.
async fn check_host(cli: &Cli, loaded: &Loaded) -> Result<()> {
    let netlink = Netlink::connect()?;
    let plan = Plan::from_config(&loaded.config);
    // While natbpf runs, what it has created belongs to the host.
    let journal = Journal::open(&cli.run_dir)?;
    let mut problems = setup::problems(&netlink, &plan, journal.changes()).await?;
    problems.extend(setup::target_problems(&netlink, &loaded.config).await?);
    let shown = |problem: &Problem| {
        let path: Vec<&str> = problem.key.iter().map(String::as_str).collect();
        let remedy = match problem.is_absence {
            true => format!("{}; --no-host checks without this host", problem.remedy),
            false => problem.remedy.clone(),
        };
        loaded.source.diagnostic(&path, &problem.problem, &remedy)
    };
    // natbpf waits for a missing interface and uses the rest.
    let (absences, problems) =
        (problems.iter()).partition::<Vec<_>, _>(|problem| problem.is_absence);
    for absence in absences {
        eprintln!("warning: {}", shown(absence));
    }
    if let Some(problem) = problems.first() {
        bail!("{}", shown(problem));
    }
    for finding in nat_findings::look_if_possible(&loaded.config, &cli.bpffs).await {
        eprintln!("warning: {finding}");
    }
    Ok(())
}

/// Conflicts of other software with the configuration in use.
fn conflicts(state: &State, bpffs: &Path) -> Result<Vec<Finding>> {
    match nat_config::load(&state.config) {
        Ok(loaded) => {
            let look = nat_findings::look_if_possible(&loaded.config, bpffs);
            Ok(runtime()?.block_on(look))
        }
        Err(error) => {
            log::debug!("no check for conflicts on the host: {error}");
            Ok(Vec::new())
        }
    }
}

fn open(cli: &Cli) -> Result<(Dataplane, State)> {
    let dataplane = Dataplane::open(Pins::below(&cli.bpffs))?;
    let state = State::load(&cli.run_dir)?.with_context(|| {
        format!(
            "no state.json in {}; name the --run-dir of natbpf run",
            cli.run_dir.display()
        )
    })?;
    Ok((dataplane, state))
}

fn occupancy<A: Pinned>(sessions: &SessionTable<A>) -> Result<Occupancy> {
    let entries = sessions.entries()?;
    let is_host = |flags: SessionFlags| flags.contains(SessionFlags::HOST);
    let active = entries
        .iter()
        .filter(|entry| entry.is_primary() && !is_host(entry.record.flags))
        .count();
    Ok(Occupancy {
        active: active as u64,
        max: sessions.capacity()?.into(),
    })
}

/// How full the session tables are, that of IPv6 if natbpf carries it.
fn occupancies(dataplane: &Dataplane) -> Result<(Occupancy, Option<Occupancy>)> {
    let ipv6 = dataplane.ipv6.as_ref();
    let ipv6 = ipv6.map(|tables| occupancy(&tables.sessions)).transpose()?;
    Ok((occupancy(&dataplane.ipv4.sessions)?, ipv6))
}

fn collect_stats(cli: &Cli) -> Result<StatsView> {
    let (dataplane, state) = open(cli)?;
    let drops = dataplane.drops()?;
    let counters = |rule| dataplane.rule_counters(rule);
    StatsView::collect(&state.numbers, counters, &drops, occupancies(&dataplane)?)
}

fn show_status(cli: &Cli, format: Format) -> Result<()> {
    let (dataplane, state) = open(cli)?;
    let tables = dataplane
        .occupancies()?
        .into_iter()
        .map(|(name, active, max)| {
            (
                name,
                Occupancy {
                    active: active.into(),
                    max: max.into(),
                },
            )
        });
    let (sessions, sessions_ipv6) = occupancies(&dataplane)?;
    let sessions_ipv6 = sessions_ipv6.map(|ipv6| ("sessions_ipv6", ipv6));
    let status = StatusView {
        state: &state,
        is_running: control::is_running(&cli.run_dir),
        sessions,
        tables: sessions_ipv6.into_iter().chain(tables).collect(),
        refusals: [
            dhcp::warnings(&cli.run_dir),
            refusals::warnings(&cli.run_dir, clock::boottime_s()),
        ]
        .concat(),
        conflicts: conflicts(&state, &cli.bpffs)?,
    };
    report::to_stdout(|output| status::write_status(output, &status, format))
}

fn show_leases(cli: &Cli, format: Format) -> Result<()> {
    let (_, state) = open(cli)?;
    let now_s = dhcp::lease::now_s();
    let networks = state.interfaces.iter().filter(|one| one.role == "network");
    let views = networks.flat_map(|network| {
        let file = dhcp::lease_file(&cli.run_dir, &network.name);
        let leases = dhcp::lease::read(&file, now_s).into_iter();
        let leases = leases.map(|lease| LeaseView::new(&network.owner, lease, now_s));
        let leases6 = dhcp::lease::read6(&file, now_s).into_iter();
        leases.chain(leases6.map(|lease| LeaseView::of_ipv6(&network.owner, lease, now_s)))
    });
    let views: Vec<LeaseView> = views.collect();
    report::to_stdout(|output| leases::write_leases(output, &views, format))
}

/// The sessions that a filter lets through.
struct Found {
    dataplane: Dataplane,
    numbers: Numbers,
    ipv4: Vec<(SessionKey<Addr4>, SessionView)>,
    ipv6: Vec<(SessionKey<Addr6>, SessionView)>,
}

impl Found {
    fn new(cli: &Cli, filter: &SessionFilter) -> Result<Self> {
        let (dataplane, State { numbers, .. }) = open(cli)?;
        if let Some(rule) = filter
            .rule
            .as_deref()
            .filter(|rule| !numbers.knows_rule(rule))
        {
            bail!("no rule is called `{rule}`; natbpf stats shows them");
        }
        let matches =
            |view: &SessionView| filter.matches(view, numbers.rule_name(view.rule_number));
        let settings = dataplane.settings()?;
        let ipv4 = matching(&dataplane.ipv4.sessions, &settings, matches)?;
        let ipv6 = match &dataplane.ipv6 {
            Some(tables) => matching(&tables.sessions, &settings, matches)?,
            None => Vec::new(),
        };
        Ok(Self {
            dataplane,
            numbers,
            ipv4,
            ipv6,
        })
    }

    fn views(&self) -> Vec<SessionView> {
        let ipv4 = self.ipv4.iter().map(|(_, view)| *view);
        ipv4.chain(self.ipv6.iter().map(|(_, view)| *view))
            .collect()
    }

    /// Ends them all, and returns how many have ended.
    fn end(&self) -> Result<u32> {
        let ipv4 = end_all(&self.dataplane.ipv4.sessions, &self.ipv4)?;
        Ok(match &self.dataplane.ipv6 {
            Some(tables) => ipv4 + end_all(&tables.sessions, &self.ipv6)?,
            None => ipv4,
        })
    }
}

/// The sessions of a table, each with its primary key.
fn matching<A: Pinned + Shown>(
    sessions: &SessionTable<A>,
    settings: &Settings,
    matches: impl Fn(&SessionView) -> bool,
) -> Result<Vec<(SessionKey<A>, SessionView)>> {
    let now_s = clock::monotonic_s();
    let entries = sessions.entries()?;
    let by_key: HashMap<_, _> = entries
        .iter()
        .map(|entry| (entry.key, &entry.record))
        .collect();
    let views = entries.iter().filter_map(|entry| {
        let peer = by_key.get(&entry.peer_key()).copied();
        let view = SessionView::from_entries(&entry.key, &entry.record, peer, settings, now_s)?;
        matches(&view).then_some((entry.key, view))
    });
    Ok(views.collect())
}

fn end_all<A: Pinned>(
    sessions: &SessionTable<A>,
    found: &[(SessionKey<A>, SessionView)],
) -> Result<u32> {
    let keys: Vec<SessionKey<A>> = found.iter().map(|(key, _)| *key).collect();
    let mut ended = 0;
    // A session in which a packet passed at the same moment is tried again.
    for _ in 0..FLUSH_ATTEMPTS {
        ended += sessions.end(&keys)?;
        if ended as usize >= keys.len() {
            break;
        }
    }
    Ok(ended)
}

fn flush(cli: &Cli, filter: &SessionFilter) -> Result<()> {
    let ended = Found::new(cli, filter)?.end()?;
    if control::is_running(&cli.run_dir)
        && let Err(error) = control::request(&cli.run_dir, Request::Flushed { ended })
    {
        log::debug!("tell the daemon about ended sessions: {error:#}");
    }
    print(vec![format!("{ended} sessions ended")])
}

const FLUSH_ATTEMPTS: u32 = 3;

/// Attaches or detaches a guest's interface. Prints nothing on success.
async fn port(cli: &Cli, command: &PortCommand) -> Result<()> {
    let (PortCommand::Add(args) | PortCommand::Del(args)) = command;
    let PortArgs { interface, network } = args;
    let netlink = Netlink::connect()?;
    let is_gone = netlink.link(interface).await?.is_none();
    if is_gone && matches!(command, PortCommand::Del(_)) {
        return Ok(());
    }
    let config = nat_config::load(&cli.config)
        .map_err(|error| anyhow!("{error}"))?
        .config;
    let variable = std::env::var(ports::NETWORK_VARIABLE).ok();
    let network = network.as_ref().or(variable.as_ref()).map(String::as_str);
    match command {
        PortCommand::Add(_) => {
            let network = ports::choose(&config, network)?;
            ports::add(&netlink, &config, network, interface, &cli.run_dir).await
        }
        PortCommand::Del(_) => {
            let network = network.map(|name| ports::choose(&config, Some(name)));
            ports::delete(&netlink, &config, network.transpose()?, interface).await
        }
    }
}

/// Removes everything: the daemon does it if it runs.
fn down(cli: &Cli) -> Result<()> {
    if control::is_running(&cli.run_dir) {
        return print(control::request(&cli.run_dir, Request::Down)?.into_result()?);
    }
    daemon::check_privileges()?;
    let lock = state::lock(&cli.run_dir)?;
    let lines = runtime()?.block_on(daemon::tear_down(&cli.run_dir, &cli.bpffs))?;
    drop(lock);
    print(if lines.is_empty() {
        vec!["nothing to remove".to_owned()]
    } else {
        lines
    })
}
