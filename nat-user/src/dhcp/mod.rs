//! DHCP and DNS for the guests of a network: a dnsmasq for each, which natbpf configures, starts
//! and watches, and with DNS64 an unbound that dnsmasq asks (`dns64`).
//!
//! A dnsmasq outlives the daemon, as the data plane does, and the next daemon takes it over;
//! `natbpf down` ends it. All its files are in `dhcp` in the run directory, named after the
//! network's interface. natbpf reads its leases from its file ([`lease`]), so rules that name a
//! guest follow them ([`names`]).

mod conf;
mod conf6;
mod dns64;
mod farewell;
mod files;
mod followed;
mod holder;
pub mod lease;
pub mod names;
mod process;
mod router;
mod service;
mod stall;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream};
use nat_config::{Diagnostic, Loaded, model::Config};

use self::{
    conf::Conf,
    files::{Files, Program},
    followed::Followed,
    lease::{Look, Watch},
    names::Leases,
    process::Process,
    service::Service,
    stall::Waiting,
};

/// The directory in the run directory.
const FOLDER: &str = "dhcp";
/// The file for `natbpf status`, in [`FOLDER`].
const WARNINGS: &str = "warnings.json";
const NEW_WARNINGS: &str = "warnings.json.new";

/// How many are started or ended at the same time: this is mostly waiting.
const AT_ONCE: usize = 32;

/// All dnsmasqs of this host, and what serves beside them.
pub struct Services {
    folder: PathBuf,
    services: BTreeMap<Key, Service>,
    /// The host's name servers, as DNS64 has them.
    servers: Vec<IpAddr>,
    leases: Watch,
    /// What was last written for `natbpf status`.
    told: Vec<String>,
}

/// An interface and a program that serves there.
type Key = (String, Program);

/// Refuses a configuration with DHCP or DNS on a host without dnsmasq.
///
/// # Errors
/// The message.
pub fn check_installed(loaded: &Loaded) -> Result<(), Box<Diagnostic>> {
    let mut networks = loaded.config.networks.iter();
    let is_missing = |program| process::find_program(program).is_none();
    let served = networks.find(|network| network.is_served());
    let Some(network) = served.filter(|_| is_missing(Program::Dnsmasq)) else {
        let mut networks = loaded.config.networks.iter();
        let has_dns64 = networks.find(|network| network.dns.as_ref().is_some_and(|dns| dns.dns64));
        return match has_dns64.filter(|_| is_missing(Program::Unbound)) {
            Some(network) => Err(missing(loaded, &network.name, "dns", Program::Unbound)),
            None => Ok(()),
        };
    };
    let part = match (&network.dhcp, &network.dhcp6, &network.ra) {
        (None, None, None) => "dns",
        (None, None, Some(_)) => "ra",
        _ => "dhcp",
    };
    Err(missing(loaded, &network.name, part, Program::Dnsmasq))
}

fn missing(loaded: &Loaded, network: &str, part: &str, program: Program) -> Box<Diagnostic> {
    let problem = format!("is served by {}, which is not installed", program.name());
    let remedy = format!("install Debian's package {}", program.package());
    let path = ["network", network, part];
    Box::new(loaded.source.diagnostic(&path, &problem, &remedy))
}

/// What does not work at the moment, for `natbpf status`.
#[must_use]
pub fn warnings(run_dir: &Path) -> Vec<String> {
    let text = fs::read(run_dir.join(FOLDER).join(WARNINGS)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The file of leases of the network that is on an interface.
#[must_use]
pub fn lease_file(run_dir: &Path, interface: &str) -> PathBuf {
    Files::of(&run_dir.join(FOLDER), interface).leases
}

/// Ends every dnsmasq of a run directory and removes their files. Returns what was done, in lines.
///
/// # Errors
/// When a process does not end or a file cannot be removed.
pub async fn end_all(run_dir: &Path) -> Result<Vec<String>> {
    let folder = folder_of(run_dir)?;
    let mut running = Vec::new();
    for (interface, program) in keys_in(&folder) {
        let files = Files::of_program(&folder, &interface, program);
        if let Some(process) = Process::find(&files) {
            let is_router = program == Program::Dnsmasq && conf::is_router(&files);
            running.push(((interface, program), process, is_router));
        }
    }
    let ends = running.into_iter();
    let ends = ends.map(|((interface, program), process, is_router)| async move {
        process.end().await?;
        if is_router {
            farewell::say_all(&interface);
        }
        Ok(format!("ended {} on {interface}", program.name()))
    });
    let ended: Vec<Result<String>> = stream::iter(ends).buffered(AT_ONCE).collect().await;
    let lines = ended.into_iter().collect::<Result<_>>()?;
    for program in [Program::Unbound, Program::Dnsmasq] {
        let folder = files::folder_of(&folder, program);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(lines)
}

/// Absolute, because a dnsmasq is recognised by the path of its configuration.
fn folder_of(run_dir: &Path) -> Result<PathBuf> {
    let folder = run_dir.canonicalize();
    let folder = folder.or_else(|_| std::path::absolute(run_dir));
    let folder = folder.with_context(|| format!("find {}", run_dir.display()))?;
    Ok(folder.join(FOLDER))
}

/// The interfaces that have files, with the programs whose files they are.
fn keys_in(folder: &Path) -> BTreeSet<Key> {
    let of_program = |program| {
        let entries = fs::read_dir(files::folder_of(folder, program));
        let entries = entries.into_iter().flatten().flatten();
        let interfaces = entries.filter_map(|entry| Files::interface_of(&entry.file_name()));
        interfaces.map(move |interface| (interface, program))
    };
    let dnsmasq = of_program(Program::Dnsmasq);
    dnsmasq.chain(of_program(Program::Unbound)).collect()
}

impl Services {
    /// Knows no dnsmasq yet; see [`Services::follow`].
    ///
    /// # Errors
    /// When the run directory has no place.
    pub fn new(run_dir: &Path) -> Result<Self> {
        Ok(Self {
            folder: folder_of(run_dir)?,
            services: BTreeMap::new(),
            servers: Vec::new(),
            leases: Watch::default(),
            told: Vec::new(),
        })
    }

    /// Serves the networks of the configuration on the existing interfaces, given by name with
    /// their indices. A running dnsmasq with the right configuration continues, whichever daemon
    /// started it.
    pub async fn follow(&mut self, config: &Config, interfaces: &BTreeMap<String, u32>) {
        self.servers = dns64::host_servers();
        let mut wanted = BTreeMap::new();
        let mut named = BTreeSet::new();
        for network in conf::served(config) {
            let interface = &network.interface;
            named.insert((interface.clone(), Program::Dnsmasq));
            if let Some(index) = interfaces.get(interface) {
                let mut want = |program, conf| {
                    let key = (interface.clone(), program);
                    wanted.insert(key, (network.name.clone(), conf));
                };
                want(Program::Dnsmasq, Conf::new(config, network, *index));
                if let Some(conf) = Conf::of_dns64(config, network, *index, &self.servers) {
                    want(Program::Unbound, conf);
                }
            }
        }
        self.end_others(&wanted, &named).await;
        for (key, service) in &mut self.services {
            if let Some((_, conf)) = wanted.get(key) {
                service.conf = conf.clone();
            }
        }
        let (folder, services) = (&self.folder, &self.services);
        let missing = wanted
            .into_iter()
            .filter(|(key, _)| !services.contains_key(key));
        let starts = missing.map(|((interface, program), (network, conf))| async move {
            let files = Files::of_program(folder, &interface, program);
            let service = Service::take_over_or_start(network, files, conf).await;
            ((interface, program), service)
        });
        let started: Vec<_> = stream::iter(starts).buffered(AT_ONCE).collect().await;
        self.services.extend(started);
        self.tell(config);
    }

    /// Ends each dnsmasq that is no longer needed or has another configuration. If a network has no
    /// service any more, its leases are removed too.
    async fn end_others(&mut self, wanted: &BTreeMap<Key, (String, Conf)>, named: &BTreeSet<Key>) {
        let mut unwanted = Vec::new();
        for key in keys_in(&self.folder) {
            let files = Files::of_program(&self.folder, &key.0, key.1);
            let wish = wanted.get(&key).map(|(_, conf)| conf);
            let is_right = match self.services.get(&key) {
                Some(service) => wish.is_some_and(|conf| conf.serves(&service.conf)),
                // It belongs to an earlier daemon. Its files contain its configuration.
                None => wish.is_some_and(|conf| conf.is_written(&files)),
            };
            if is_right {
                continue;
            }
            let known = self.services.remove(&key);
            let router = known.as_ref().and_then(|known| known.conf.router.clone());
            let process = known
                .and_then(Service::into_process)
                .or_else(|| Process::find(&files));
            let next = wish.and_then(|conf| conf.router.clone());
            unwanted.push((key, files, process, router.zip(Some(next))));
        }
        let ends = unwanted
            .into_iter()
            .map(|(key, files, process, router)| async move {
                if let Some(process) = process
                    && let Err(error) = process.end().await
                {
                    log::error!("{error:#}");
                }
                if let Some((router, next)) = router {
                    router.say_goodbye(next.as_ref());
                }
                if !named.contains(&key) {
                    files.remove();
                }
            });
        stream::iter(ends)
            .buffered(AT_ONCE)
            .collect::<Vec<()>>()
            .await;
        // (One that could not even write its files.)
        self.services.retain(|key, service| {
            wanted
                .get(key)
                .is_some_and(|(_, conf)| conf.serves(&service.conf))
        });
    }

    /// Restarts each program that has ended. Call it about once a second.
    pub async fn care(&mut self, config: &Config) {
        self.follow_servers(config).await;
        let waiting = match self.services.is_empty() {
            true => Waiting::default(),
            false => Waiting::now(),
        };
        for service in self.services.values_mut() {
            service.care(&waiting).await;
        }
        self.tell(config);
    }

    /// Restarts each unbound whose forwarders are the host's name servers, if these have changed.
    async fn follow_servers(&mut self, config: &Config) {
        let mut unbounds = self.services.keys();
        if !unbounds.any(|(_, program)| *program == Program::Unbound) {
            return;
        }
        let servers = dns64::host_servers();
        if servers == self.servers {
            return;
        }
        self.servers = servers;
        for network in conf::served(config) {
            let key = (network.interface.clone(), Program::Unbound);
            let Some(service) = self.services.get_mut(&key) else {
                continue;
            };
            let conf = Conf::of_dns64(config, network, service.conf.index, &self.servers);
            if let Some(conf) = conf.filter(|conf| !conf.serves(&service.conf)) {
                service.restart(conf).await;
            }
        }
    }

    /// The configuration with the addresses that its guests have by lease.
    #[must_use]
    pub fn resolve(&self, config: Config) -> Config {
        let leases = Leases::read(&self.folder, &config);
        names::resolve(config, &leases)
    }

    /// Whether leases, or prefixes of networks that follow their interfaces, were added, removed or
    /// changed since the last call.
    pub fn have_leases_changed(&mut self, config: &Config) -> bool {
        if Followed::read(config).has_changed(config) {
            return true;
        }
        let files = conf::served(config).map(|network| Files::of(&self.folder, &network.interface));
        let files: Vec<PathBuf> = files.map(|files| files.leases).collect();
        self.leases.look(&files) == Look::Changed
    }

    /// Makes the next look report a change.
    pub fn look_at_leases_again(&mut self) {
        self.leases = Watch::default();
    }

    /// Writes the file for `natbpf status`.
    pub fn tell(&mut self, config: &Config) {
        let problems = self.services.values().filter_map(Service::problem);
        let absent = conf::served(config)
            .filter(|network| {
                let key = (network.interface.clone(), Program::Dnsmasq);
                !self.services.contains_key(&key)
            })
            .map(|network| {
                format!(
                    "network {}: DHCP and DNS wait for {}",
                    network.name, network.interface
                )
            });
        let told: Vec<String> = problems
            .chain(absent)
            .chain(names::inactive(config))
            .collect();
        if told == self.told {
            return;
        }
        match self.write_warnings(&told) {
            Ok(()) => self.told = told,
            Err(error) => log::warn!("{error:#}"),
        }
    }

    fn write_warnings(&self, told: &[String]) -> Result<()> {
        let (file, new) = (self.folder.join(WARNINGS), self.folder.join(NEW_WARNINGS));
        let text = serde_json::to_vec(told)?;
        files::make_folder(&self.folder)?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("write {}", file.display()))
    }
}
