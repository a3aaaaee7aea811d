//! The host, natbpf on it, the traffic, and what must hold of them at any time.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::service::Service;
use lab::topology::Proxmox;
use lab::{Host, Natbpf};
use serde_json::Value;
use tests::traffic::{self, KEPT, Key, Options, Protocol, RULES, Traffic};
use tests::{at, snapshot};

use crate::leak::LeakWatch;
use crate::settings::Settings;

/// How long all sessions may take to get something through after an operation: a connection that
/// has sent into an interface that was down tries again after up to four seconds.
const WORK_LIMIT: Duration = Duration::from_secs(15);
/// How long natbpf may take to follow an address.
const FOLLOW_LIMIT: Duration = Duration::from_secs(3);
/// The host's own service, and the port of what the operations probe with.
const SERVICE_PORT: u16 = 9000;
const PROBE_PORT: u16 = 7100;
/// The daemon's memory and open files: far more than it needs with 2,000 sessions, far less than
/// an hour of leaking would take. Maps, programs and links alone are a hundred files.
const MOST_RSS_KB: u64 = 96 << 10;
const MOST_FILES: usize = 128;
/// The rule that probes are under, and how many sessions one may open: by the external address
/// before, by the one that stays, and by the new one.
const MASQUERADE: &str = RULES[0];
const MOST_PROBES: u64 = 3;
/// First external addresses, one after the other.
const ADDRESSES: std::ops::Range<u8> = 10..60;

/// Counters of each rule, by kind.
type Counters = BTreeMap<String, BTreeMap<&'static str, u64>>;
/// Counters that never go back.
const COUNTED: [&str; 5] = [
    "packets_in",
    "bytes_in",
    "packets_out",
    "bytes_out",
    "connections",
];

/// All of it.
pub(crate) struct World {
    // Ends before the hosts do.
    pub(crate) traffic: Traffic,
    pub(crate) natbpf: Natbpf,
    pub(crate) settings: Settings,
    pub(crate) first: Ipv4Addr,
    pub(crate) most_rss_kb: u64,
    leaks: LeakWatch,
    _service: Service,
    counters: Counters,
    /// Sessions that probes have opened so far.
    probes: u64,
    logs_read: HashMap<PathBuf, usize>,
    pristine: Vec<String>,
    pub(crate) net: Proxmox,
}

impl World {
    pub(crate) fn new(each: usize, packets_per_second: u32) -> Result<Self> {
        let net = Proxmox::new()?;
        traffic::add_kept_address(&net)?;
        let pristine = snapshot::take(&net.host)?;
        let leaks = LeakWatch::start(&net)?;
        let settings = Settings::default();
        let natbpf = net.natbpf(&settings.configuration(&net))?;
        let service = Service::tcp_echo(&net.host, &format!("0.0.0.0:{SERVICE_PORT}"))?;
        let options = Options {
            each,
            with_spare: true,
            packets_per_second,
            first: Proxmox::PUBLIC,
        };
        let traffic = Traffic::start(&net, &options)?;
        Ok(Self {
            traffic,
            natbpf,
            settings,
            first: Proxmox::PUBLIC,
            most_rss_kb: 0,
            leaks,
            _service: service,
            counters: Counters::new(),
            probes: 0,
            logs_read: HashMap::new(),
            pristine,
            net,
        })
    }

    /// Starts natbpf again, which must find the sessions as they were.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.natbpf.launch()
    }

    /// Reloads with these settings, which must end so many sessions.
    pub(crate) fn reload(&mut self, settings: Settings, ended: usize) -> Result<String> {
        let said = self.natbpf.reload(&settings.configuration(&self.net))?;
        self.settings = settings;
        let summary = said.lines().last().unwrap_or_default().to_owned();
        ensure!(
            summary.ends_with(&format!("; {ended} sessions ended")),
            "{ended} sessions should have ended: {said}"
        );
        Ok(summary)
    }

    /// These sessions as natbpf names them.
    pub(crate) fn keys_of(&self, sessions: &[usize]) -> Result<Vec<Key>> {
        sessions
            .iter()
            .map(|session| self.traffic.key(*session))
            .collect()
    }

    /// natbpf knows none of these sessions.
    pub(crate) fn are_gone(&self, keys: &[Key]) -> Result<()> {
        let known = self.known()?;
        match keys.iter().find(|key| known.contains_key(key)) {
            Some(key) => bail!("natbpf still knows {key}"),
            None => Ok(()),
        }
    }

    /// The sessions that natbpf knows, with their rules.
    fn known(&self) -> Result<BTreeMap<Key, String>> {
        let sessions = self.natbpf.conntrack(&[])?;
        sessions
            .iter()
            .map(|session| known_session(session).with_context(|| session.to_string()))
            .collect()
    }

    /// Waits until natbpf uses an address, or does not.
    pub(crate) fn status_shows(&self, address: Ipv4Addr, shown: bool) -> Result<()> {
        let (begun, address) = (Instant::now(), address.to_string());
        loop {
            let status = self.natbpf.status()?;
            let mut interfaces = status["interfaces"].as_array().into_iter().flatten();
            let shows = interfaces.any(|interface| {
                let addresses = interface["addresses"].as_array();
                addresses.is_some_and(|all| all.iter().any(|one| *one == *address))
            });
            if shows == shown {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < FOLLOW_LIMIT,
                "{address}, shown {shows}: {status}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The first external address that comes next.
    pub(crate) fn take_next_address(&mut self) -> Ipv4Addr {
        let [a, b, c, last] = self.first.octets();
        let next = if last + 1 < ADDRESSES.end {
            last + 1
        } else {
            ADDRESSES.start
        };
        self.first = Ipv4Addr::new(a, b, c, next);
        self.first
    }

    /// Ends the sessions that probes have made, and counts them: some by the address before as
    /// well. To be called while no other session by masquerade is opened.
    pub(crate) fn end_probes(&mut self) -> Result<()> {
        let remote = at(Proxmox::CLI, PROBE_PORT).to_string();
        let words = ["conntrack", "flush", "--remote", &remote];
        self.natbpf.cli(&words)?.expect_ok()?;
        let counted = self.count()?[MASQUERADE]["connections"];
        let probes = counted.checked_sub(self.traffic.opened()[MASQUERADE]);
        let more = probes.and_then(|probes| probes.checked_sub(self.probes));
        self.probes = probes.unwrap_or_default();
        ensure!(
            more.is_some_and(|more| (1..=MOST_PROBES).contains(&more)),
            "one probe has opened {more:?} sessions"
        );
        Ok(())
    }

    /// Counters of this rule begin again.
    pub(crate) fn forget_counters_of(&mut self, rule: &str) {
        self.counters.remove(rule);
    }

    /// Everything that must hold at any time.
    pub(crate) fn check(&mut self, expected_in_log: Option<&str>) -> Result<()> {
        self.traffic.all_work(Instant::now(), WORK_LIMIT)?;
        self.leaks.is_clean()?;
        self.counters_have_not_gone_back()?;
        self.sessions_are_known()?;
        for address in [self.first, KEPT] {
            answers(&self.net.cli, at(address, SERVICE_PORT))
                .with_context(|| format!("the host's own service at {address}"))?;
        }
        self.log_is_clean(expected_in_log)?;
        self.daemon_is_small()?;
        self.traffic.is_well()
    }

    /// The counters of all rules.
    fn count(&self) -> Result<Counters> {
        let stats = self.natbpf.stats()?;
        let mut all = Counters::new();
        for rule in stats["rules"].as_array().context("no rules")? {
            let name = rule["name"].as_str().context("a rule without name")?;
            let counts = COUNTED.map(|kind| (kind, rule[kind].as_u64().unwrap_or_default()));
            all.insert(name.to_owned(), counts.into());
        }
        Ok(all)
    }

    fn counters_have_not_gone_back(&mut self) -> Result<()> {
        let now = self.count()?;
        for (name, before) in &self.counters {
            let Some(now) = now.get(name) else { continue };
            for (kind, before) in before {
                let now = now[kind];
                ensure!(
                    now >= *before,
                    "{kind} of {name} went from {before} to {now}"
                );
            }
        }
        // Another rule of the same name may count from 0.
        self.counters = now
            .into_iter()
            .filter(|(name, _)| !name.starts_with("other-"))
            .collect();
        let opened = self.traffic.opened();
        for (rule, opened) in opened {
            let counted = self.counters.get(rule).map(|counts| counts["connections"]);
            let probes = if rule == MASQUERADE { self.probes } else { 0 };
            let opened = opened + probes;
            ensure!(
                counted == Some(opened),
                "rule {rule} counts {counted:?} connections, {opened} were opened"
            );
        }
        Ok(())
    }

    /// natbpf knows exactly the sessions that there are.
    fn sessions_are_known(&self) -> Result<()> {
        let (known, are) = (self.known()?, self.traffic.keys());
        let all = self.traffic.all().len();
        ensure!(are.len() == all, "{} of {all} sessions are open", are.len());
        for (key, (session, rule)) in &are {
            match known.get(key) {
                None => bail!("natbpf does not know session {session}: {key}, rule {rule}"),
                Some(under) if under != rule => {
                    bail!("session {session}, {key}, is under {under}, not {rule}")
                }
                Some(_) => {}
            }
        }
        let nobodys: Vec<&Key> = known.keys().filter(|key| !are.contains_key(key)).collect();
        match nobodys.first() {
            Some(first) => bail!(
                "{} sessions are nobody's: {first}, under {}",
                nobodys.len(),
                known[first]
            ),
            None => Ok(()),
        }
    }

    /// The daemons have logged no error but the expected one since this was last asked.
    fn log_is_clean(&mut self, expected: Option<&str>) -> Result<()> {
        for entry in fs::read_dir(self.net.lab().folder()).context("the lab's folder")? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !name.starts_with("host-") || !name.ends_with(".log") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let read = self.logs_read.entry(path).or_default();
            let new = text.get(*read..).unwrap_or_default();
            *read = text.len();
            let bad = |line: &&str| {
                (line.contains("ERROR") || line.contains("error:") || line.contains("panicked"))
                    && !expected.is_some_and(|expected| line.contains(expected))
            };
            if let Some(line) = new.lines().find(bad) {
                bail!("natbpf has logged: {line}");
            }
        }
        Ok(())
    }

    fn daemon_is_small(&mut self) -> Result<()> {
        ensure!(self.natbpf.is_running(), "natbpf has ended");
        let process = PathBuf::from(format!("/proc/{}", self.natbpf.id().context("no natbpf")?));
        let status = fs::read_to_string(process.join("status")).context("natbpf's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let words = line.and_then(|line| line.split_whitespace().next());
        let rss_kb: u64 = words.context("no VmRSS")?.parse()?;
        let files = fs::read_dir(process.join("fd"))
            .context("natbpf's files")?
            .count();
        self.most_rss_kb = self.most_rss_kb.max(rss_kb);
        ensure!(rss_kb < MOST_RSS_KB, "natbpf holds {rss_kb} kB");
        ensure!(files < MOST_FILES, "natbpf has {files} files open");
        Ok(())
    }

    /// Takes natbpf down, after which the host must look as if it had never been there.
    pub(crate) fn end(mut self) -> Result<()> {
        self.traffic.is_well()?;
        if self.first != Proxmox::PUBLIC {
            self.net.exchange_address(self.first, Proxmox::PUBLIC)?;
        }
        drop(self.traffic);
        self.natbpf.down()?;
        let after = snapshot::take(&self.net.host)?;
        let difference = snapshot::difference(&self.pristine, &after);
        ensure!(
            difference.is_empty(),
            "after `natbpf down` the host is another:\n{difference}"
        );
        for folder in [self.natbpf.bpffs().to_owned(), self.natbpf.run_dir()] {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            ensure!(left.is_empty(), "{}: {left:?} are left", folder.display());
        }
        Ok(())
    }
}

fn known_session(session: &Value) -> Result<(Key, String)> {
    let end = |side: &str| -> Result<SocketAddrV4> {
        let address = session[side]["address"].as_str().context("no address")?;
        let port = session[side]["port"].as_u64().context("no port")?;
        Ok(SocketAddrV4::new(address.parse()?, u16::try_from(port)?))
    };
    let protocol = match session["protocol"].as_str() {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        _ => bail!("neither tcp nor udp"),
    };
    let key = Key {
        protocol,
        internal: end("internal")?,
        external: end("external")?,
        remote: end("remote")?,
    };
    let rule = session["rule"].as_str().context("no rule")?;
    Ok((key, rule.to_owned()))
}

/// A service that sends back what it gets does.
fn answers(client: &Host, service: SocketAddrV4) -> Result<()> {
    let mut stream = client.tcp(service)?;
    stream.write_all(b"are you there?")?;
    let mut answer = [0; 14];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"are you there?", "answered {answer:?}");
    Ok(())
}
