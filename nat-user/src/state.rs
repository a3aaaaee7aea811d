//! What the daemon stores for its successor and for the commands: `state.json` in the run
//! directory, and the lock that makes it the only one there.
//!
//! The maps contain numbers where people use names. [`Numbers`] connects the two, so it must live
//! as long as the maps. The file is replaced as a whole: a reader finds the old or the new one.
//! This module does not access maps or interfaces itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nat_config::compile::Numbering;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::clock::boottime_s;
use crate::owned;

/// How long a child of a killed natbpf may take to execute another program.
const CHILD_LIMIT: Duration = Duration::from_secs(1);
/// The pause between two checks of that.
const CHILD_PAUSE: Duration = Duration::from_millis(10);

const FILE: &str = "state.json";
const NEW_FILE: &str = "state.json.new";
const LOCK_FILE: &str = "lock";

/// What the daemon has set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of the natbpf that wrote it.
    pub version: String,
    /// Process of the daemon, which may have ended: see [`crate::control::is_running`].
    pub pid: u32,
    /// Generation of the rule set in use.
    pub generation: u32,
    /// When the daemon started, in seconds of the clock that also counts suspended time and never
    /// jumps ([`crate::clock::boottime_s`]).
    pub started_boottime_s: u64,
    /// The configuration file.
    pub config: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs: PathBuf,
    /// How many sessions the table holds.
    pub sessions_max: u32,
    /// What the numbers in the maps mean.
    pub numbers: Numbers,
    /// Interfaces with programs attached.
    pub interfaces: Vec<InterfaceState>,
    /// What the configuration needs and the host lacks.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How the host itself reaches forwards; empty if that is not known yet.
    #[serde(default)]
    pub local: String,
}

/// An interface with programs attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What it is: `uplink` or `network`.
    pub role: String,
    /// Name of the uplink or network.
    pub owner: String,
    /// `tc-ingress`, `tc-egress`, `xdp-native`, `xdp-generic`.
    pub hooks: Vec<String>,
    /// How the programs are attached: `tcx` or `netlink`.
    pub attachment: String,
    /// The addresses in use: external ones of an uplink, the gateway of a network.
    pub addresses: Vec<Ipv4Addr>,
    /// The external addresses of an uplink, and who has them; in their order.
    #[serde(default)]
    pub external: Vec<External>,
    /// Which hooks the fast path uses there, and why; empty where there is none.
    #[serde(default)]
    pub fast_path: String,
    /// The largest TCP segment in bytes that connections through it may announce, if there is one.
    #[serde(default)]
    pub mss: Option<u16>,
}

/// Consecutive external addresses with the same owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// The lowest address.
    pub first: Ipv4Addr,
    /// The highest address, itself included.
    pub last: Ipv4Addr,
    /// Who has them.
    pub held: Held,
}

/// Who has an external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// An interface of the host, and not by natbpf.
    Host,
    /// The uplink's interface, by natbpf.
    Added,
    /// No interface: the programs answer ARP for it.
    Arp,
    /// No interface, and the probe has not shown yet whether another host has it.
    Asked,
    /// Another host.
    Elsewhere,
    /// No interface, and other software must handle it (`claim = "none"`).
    Unclaimed,
    /// No interface, and there is no ARP on the uplink: it must be routed to the host.
    Nobody,
}

/// A kind of rule; names are unique within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleKind {
    /// `[[snat]]`.
    Snat,
    /// `[[forward]]`.
    Forward,
    /// `[[nat]]`.
    Nat,
    /// `[[policy]]`.
    Policy,
    /// The default policy of a network; it has the network's name.
    Default,
}

/// How many kinds of rules there are.
const RULE_KINDS: usize = 5;

/// The numbers that represent the configuration's names in maps.
///
/// A name keeps its number while the data plane lives, and no number is reused: sessions and
/// counters refer to it, also after their rule is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "StoredNumbers", into = "StoredNumbers")]
pub struct Numbers {
    /// Uplinks, from 1.
    pub uplinks: BTreeMap<String, u16>,
    /// Networks, from 1.
    pub networks: BTreeMap<String, u16>,
    /// The rule with number `n` is at `n - 1`.
    rules: Vec<RuleEntry>,
    by_name: [HashMap<String, u32>; RULE_KINDS],
}

/// A rule that is or was configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// Its number, from 1.
    pub number: u32,
    /// Its kind.
    pub kind: RuleKind,
    /// Its name.
    pub name: String,
    /// Whether it is configured now.
    pub is_active: bool,
    /// A hash of its content, without its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<u64>,
}

/// What a rule of a configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its kind.
    pub kind: RuleKind,
    /// Its name, which may be its position.
    pub name: String,
    /// A hash of all but the name.
    pub says: u64,
}

/// [`Numbers`] as the file has them.
#[derive(Clone, Serialize, Deserialize)]
struct StoredNumbers {
    uplinks: BTreeMap<String, u16>,
    networks: BTreeMap<String, u16>,
    rules: Vec<RuleEntry>,
}

impl State {
    /// The initial state of this daemon, with the numbers that the data plane has from an earlier
    /// one.
    ///
    /// # Errors
    /// When a path is relative and the working directory is gone.
    pub fn new(config: &Path, bpffs: &Path, earlier: Option<&Self>) -> Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("locate {}", path.display()))
        };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: earlier.map_or(0, |state| state.generation),
            started_boottime_s: boottime_s(),
            config: absolute(config)?,
            bpffs: absolute(bpffs)?,
            sessions_max: earlier.map_or(0, |state| state.sessions_max),
            numbers: earlier
                .map(|state| state.numbers.clone())
                .unwrap_or_default(),
            interfaces: Vec::new(),
            warnings: Vec::new(),
            local: String::new(),
        })
    }

    /// Reads the state in the run directory; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn load(run_dir: &Path) -> Result<Option<Self>> {
        let file = run_dir.join(FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        let state = serde_json::from_slice(&bytes).map_err(|error| {
            anyhow!(
                "{} is damaged ({error}); natbpf run makes a new one",
                file.display()
            )
        })?;
        Ok(Some(state))
    }

    /// Replaces the state in the run directory.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then.
    pub fn save(&self, run_dir: &Path) -> Result<()> {
        let file = run_dir.join(FILE);
        self.write(run_dir, &file)
            .with_context(|| format!("write {}", file.display()))
    }

    fn write(&self, run_dir: &Path, file: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let new = run_dir.join(NEW_FILE);
        let mut output = File::create(&new)?;
        output.write_all(&text)?;
        output.sync_all()?;
        fs::rename(&new, file)?;
        File::open(run_dir)?.sync_all()?;
        Ok(())
    }

    /// Removes the state from the run directory, even if it is missing or damaged.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    pub fn remove(run_dir: &Path) -> Result<()> {
        for name in [FILE, NEW_FILE] {
            let file = run_dir.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// For how long the daemon that wrote this has been running, if it still does.
    #[must_use]
    pub fn uptime_s(&self) -> u64 {
        boottime_s().saturating_sub(self.started_boottime_s)
    }
}

impl Numbers {
    /// For maps that contain rules up to this number whose names are lost: these numbers are never
    /// reused.
    #[must_use]
    pub fn after_lost(highest: u32) -> Self {
        let mut numbers = Self::default();
        for number in 1..=highest {
            // No name in a configuration has parentheses.
            numbers.rule(RuleKind::Snat, &format!("(lost {number})"));
        }
        numbers.set_active(|_, _| false);
        numbers
    }

    /// The number of an uplink, from 1.
    ///
    /// # Panics
    /// When more than 65,535 different names have been asked for.
    pub fn uplink(&mut self, name: &str) -> u16 {
        number_of(&mut self.uplinks, name)
    }

    /// The number of a network, from 1; 0 in maps means none.
    ///
    /// # Panics
    /// When more than 65,535 different names have been asked for.
    pub fn network(&mut self, name: &str) -> u16 {
        number_of(&mut self.networks, name)
    }

    /// The number of a rule, from 1, and the rule is configured from now on; 0 in maps means none.
    ///
    /// # Panics
    /// When more than 4,294,967,295 different names have been asked for.
    pub fn rule(&mut self, kind: RuleKind, name: &str) -> u32 {
        if let Some(number) = self.find_rule(kind, name) {
            self.rules[number as usize - 1].is_active = true;
            return number;
        }
        let number = u32::try_from(self.rules.len() + 1).expect("fewer than 2^32 rules");
        self.rules.push(RuleEntry {
            number,
            kind,
            name: name.to_owned(),
            is_active: true,
            says: None,
        });
        self.by_name[kind as usize].insert(name.to_owned(), number);
        number
    }

    /// Matches the rules of a configuration with those that have numbers: by name and content, else
    /// by content, else by name. A rule that is found under another name gets the new one.
    pub fn recognise(&mut self, said: &[Said]) {
        let mut found: Vec<Option<usize>> = Vec::with_capacity(said.len());
        let mut taken = HashSet::new();
        let by_name = |one: &Said| Some(self.find_rule(one.kind, &one.name)? as usize - 1);
        for one in said {
            let place = by_name(one).filter(|place| self.rules[*place].says == Some(one.says));
            taken.extend(place);
            found.push(place);
        }
        let mut by_words: HashMap<(RuleKind, u64), Vec<usize>> = HashMap::new();
        for (place, rule) in self.rules.iter().enumerate().rev() {
            if let Some(says) = rule
                .says
                .filter(|_| rule.is_active && !taken.contains(&place))
            {
                by_words.entry((rule.kind, says)).or_default().push(place);
            }
        }
        for (one, found) in said
            .iter()
            .zip(&mut found)
            .filter(|(_, found)| found.is_none())
        {
            *found = by_words.get_mut(&(one.kind, one.says)).and_then(Vec::pop);
            taken.extend(*found);
        }
        let mut renamed = Vec::new();
        for (one, place) in said.iter().zip(found) {
            renamed.extend(
                place
                    .filter(|place| self.rules[*place].name != one.name)
                    .map(|p| (p, one)),
            );
        }
        // All old names are removed before any new one is added: two rules may have exchanged
        // theirs.
        for (place, one) in &renamed {
            self.by_name[one.kind as usize].remove(&self.rules[*place].name);
        }
        for (place, one) in renamed {
            if let Some(former) = self.find_rule(one.kind, &one.name) {
                self.retire(one.kind, former);
            }
            self.rules[place].name.clone_from(&one.name);
            self.by_name[one.kind as usize].insert(one.name.clone(), self.rules[place].number);
        }
    }

    /// Removes the name from a rule that is gone, because another rule has it now.
    fn retire(&mut self, kind: RuleKind, number: u32) {
        let rule = &mut self.rules[number as usize - 1];
        let names = &mut self.by_name[kind as usize];
        names.remove(&rule.name);
        // No name in a configuration has parentheses.
        let mut name = format!("{} (removed)", rule.name);
        if names.contains_key(&name) {
            name = format!("{} (removed, {number})", rule.name);
        }
        names.insert(name.clone(), number);
        rule.name = name;
    }

    /// Records the content of the rules that have numbers.
    pub fn describe(&mut self, said: &[Said]) {
        for one in said {
            if let Some(number) = self.find_rule(one.kind, &one.name) {
                self.rules[number as usize - 1].says = Some(one.says);
            }
        }
    }

    /// Records which rules are configured now.
    pub fn set_active(&mut self, is_active: impl Fn(RuleKind, &str) -> bool) {
        for rule in &mut self.rules {
            rule.is_active = is_active(rule.kind, &rule.name);
        }
    }

    /// The number of a rule that has one.
    #[must_use]
    pub fn find_rule(&self, kind: RuleKind, name: &str) -> Option<u32> {
        self.by_name[kind as usize].get(name).copied()
    }

    /// All rules that are or were configured, in the order of their numbers.
    #[must_use]
    pub fn rules(&self) -> &[RuleEntry] {
        &self.rules
    }

    /// How many rules have a number, which is also the highest one.
    #[must_use]
    pub fn rule_count(&self) -> u32 {
        self.rules.last().map_or(0, |rule| rule.number)
    }

    /// The rule with this number.
    #[must_use]
    pub fn rule_by_number(&self, number: u32) -> Option<&RuleEntry> {
        self.rules.get((number as usize).checked_sub(1)?)
    }

    /// The name of the rule with this number, empty if there is none.
    #[must_use]
    pub fn rule_name(&self, number: u32) -> &str {
        self.rule_by_number(number).map_or("", |rule| &rule.name)
    }

    /// Whether a rule of any kind has or had this name.
    #[must_use]
    pub fn knows_rule(&self, name: &str) -> bool {
        self.by_name.iter().any(|names| names.contains_key(name))
    }
}

impl Numbering for Numbers {
    fn uplink(&mut self, name: &str) -> u16 {
        self.uplink(name)
    }

    fn network(&mut self, name: &str) -> u16 {
        self.network(name)
    }

    fn snat(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Snat, name)
    }

    fn forward(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Forward, name)
    }

    fn nat(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Nat, name)
    }

    fn policy(&mut self, name: &str) -> u32 {
        self.rule(RuleKind::Policy, name)
    }

    fn default_of(&mut self, network: &str) -> u32 {
        self.rule(RuleKind::Default, network)
    }
}

fn number_of(numbers: &mut BTreeMap<String, u16>, name: &str) -> u16 {
    if let Some(&number) = numbers.get(name) {
        return number;
    }
    // Names are never removed, so this is the first number that was never used.
    let number = u16::try_from(numbers.len() + 1).expect("fewer than 65,536 names");
    numbers.insert(name.to_owned(), number);
    number
}

impl TryFrom<StoredNumbers> for Numbers {
    type Error = String;

    fn try_from(stored: StoredNumbers) -> Result<Self, String> {
        let StoredNumbers {
            uplinks,
            networks,
            rules,
        } = stored;
        for (kind, numbers) in [("uplinks", &uplinks), ("networks", &networks)] {
            let mut given: Vec<u16> = numbers.values().copied().collect();
            given.sort_unstable();
            if !given.into_iter().map(usize::from).eq(1..=numbers.len()) {
                return Err(format!(
                    "the numbers of {kind} are not 1 to {}",
                    numbers.len()
                ));
            }
        }
        let mut by_name: [HashMap<_, _>; RULE_KINDS] = Default::default();
        for (rule, number) in rules.iter().zip(1..) {
            let is_new = by_name[rule.kind as usize]
                .insert(rule.name.clone(), number)
                .is_none();
            if rule.number != number || !is_new {
                return Err(format!(
                    "rule number {} is out of order or appears twice",
                    rule.number
                ));
            }
        }
        Ok(Self {
            uplinks,
            networks,
            rules,
            by_name,
        })
    }
}

impl From<Numbers> for StoredNumbers {
    fn from(numbers: Numbers) -> Self {
        let Numbers {
            uplinks,
            networks,
            rules,
            ..
        } = numbers;
        Self {
            uplinks,
            networks,
            rules,
        }
    }
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Snat => "snat",
            Self::Forward => "forward",
            Self::Nat => "nat",
            Self::Policy => "policy",
            Self::Default => "default",
        })
    }
}

/// The lock that makes a natbpf the only one of a run directory, until it is dropped or the process
/// ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Creates the run directory if it is missing, and takes its lock.
///
/// # Errors
/// When another natbpf holds it, or the directory cannot be used.
pub fn lock(run_dir: &Path) -> Result<Lock> {
    make_run_dir(run_dir).with_context(|| format!("create {}", run_dir.display()))?;
    owned::check(run_dir)?;
    let path = run_dir.join(LOCK_FILE);
    // Not truncated: until it is locked, its content belongs to another process.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut file = match take(file) {
        Ok(file) => file,
        Err((file, Errno::EWOULDBLOCK)) => return Err(held(run_dir, file)),
        Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
    };
    if file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
        // `natbpf down` removed it between the two steps: this lock is on a deleted file.
        return lock(run_dir);
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(Lock { _file: file })
}

/// (dnsmasq enters it as another user, whatever the umask of this process is.)
fn make_run_dir(run_dir: &Path) -> io::Result<()> {
    if run_dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(run_dir)?;
    fs::set_permissions(run_dir, fs::Permissions::from_mode(0o755))
}

/// Takes the lock. A child that a killed natbpf has just forked also holds it until it executes
/// another program, so wait for that.
fn take(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    let deadline = Instant::now() + CHILD_LIMIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((other, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                if holder(&other).is_none_or(runs) {
                    return Err((other, Errno::EWOULDBLOCK));
                }
                file = other;
                thread::sleep(CHILD_PAUSE);
            }
            result => return result,
        }
    }
}

/// The process that has written its number into the lock, if one has.
fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether such a process exists; a zombie does not count.
fn runs(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn held(run_dir: &Path, file: File) -> anyhow::Error {
    // Without its pid the error is still clear enough.
    let holder = match holder(&file) {
        Some(pid) => format!("another natbpf (pid {pid})"),
        None => "another natbpf".to_owned(),
    };
    anyhow!(
        "{holder} uses --run-dir {}; stop it or choose another --run-dir",
        run_dir.display()
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A run directory whose lock another process holds, with this number in it.
    fn locked_by(pid: u32) -> (tempfile::TempDir, Flock<File>) {
        let run_dir = tempfile::tempdir().unwrap();
        let path = run_dir.path().join(LOCK_FILE);
        fs::write(&path, format!("{pid}\n")).unwrap();
        let file = File::open(&path).unwrap();
        let other = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        (run_dir, other)
    }

    #[test]
    fn a_lock_that_a_killed_ones_child_still_has_is_waited_for() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let (run_dir, other) = locked_by(gone.id());
        let child = thread::spawn(move || {
            thread::sleep(10 * CHILD_PAUSE);
            drop(other);
        });
        lock(run_dir.path()).unwrap();
        child.join().unwrap();
    }

    #[test]
    fn a_lock_of_one_that_runs_is_refused_at_once() {
        let (run_dir, _other) = locked_by(std::process::id());
        let begun = Instant::now();
        let refused = lock(run_dir.path()).unwrap_err().to_string();
        assert!(begun.elapsed() < CHILD_LIMIT, "it waited");
        let pid = format!("(pid {})", std::process::id());
        assert!(refused.contains(&pid), "{refused}");
    }

    fn state() -> State {
        let mut numbers = Numbers::default();
        numbers.uplink("wan");
        numbers.network("lan");
        numbers.rule(RuleKind::Snat, "lan-out");
        numbers.rule(RuleKind::Forward, "web");
        State {
            version: "0.1.0".to_owned(),
            pid: 7,
            generation: 3,
            started_boottime_s: boottime_s(),
            config: "natbpf.toml".into(),
            bpffs: "bpffs".into(),
            sessions_max: 1000,
            numbers,
            interfaces: vec![InterfaceState {
                name: "vmbr0".to_owned(),
                index: 2,
                role: "uplink".to_owned(),
                owner: "wan".to_owned(),
                hooks: vec!["tc-ingress".to_owned()],
                attachment: "tcx".to_owned(),
                addresses: vec![Ipv4Addr::new(19, 19, 8, 10)],
                external: vec![External {
                    first: Ipv4Addr::new(19, 19, 8, 10),
                    last: Ipv4Addr::new(19, 19, 8, 10),
                    held: Held::Host,
                }],
                fast_path: "tc".to_owned(),
                mss: Some(1452),
            }],
            warnings: vec![],
            local: String::new(),
        }
    }

    #[test]
    fn numbers_whose_names_are_lost_are_not_given_again() {
        let mut numbers = Numbers::after_lost(3);
        assert_eq!(numbers.rule(RuleKind::Forward, "web"), 4);
        assert_eq!(numbers.rule_name(2), "(lost 2)");
        assert!(numbers.rules()[..3].iter().all(|rule| !rule.is_active));
    }

    #[test]
    fn a_new_daemon_keeps_the_numbers_of_the_one_before() {
        let earlier = state();
        let state = State::new("a.toml".as_ref(), "/bpf".as_ref(), Some(&earlier)).unwrap();
        assert_eq!(state.numbers, earlier.numbers);
        assert!(state.config.is_absolute() && state.interfaces.is_empty());
    }

    #[test]
    fn a_saved_journal_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(State::load(directory.path()).unwrap(), None);
        let mut state = state();
        state.save(directory.path()).unwrap();
        state.generation += 1;
        state.save(directory.path()).unwrap();
        assert_eq!(State::load(directory.path()).unwrap(), Some(state));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        State::remove(directory.path()).unwrap();
        State::remove(directory.path()).unwrap();
        assert_eq!(State::load(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_damaged_state_is_reported_in_one_line_with_the_consequence() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "{\"version\": \"0.1.0\"", "{}", "\u{0}\u{0}", "[1]"] {
            fs::write(directory.path().join(FILE), text).unwrap();
            let error = format!("{:#}", State::load(directory.path()).unwrap_err());
            assert!(error.contains("state.json is damaged") && error.contains("natbpf run"));
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_state_whose_numbers_contradict_each_other_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&state()).unwrap();
        for (right, wrong) in [
            ("\"number\":2", "\"number\":3"),
            ("\"wan\":1", "\"wan\":2"),
            ("\"lan\":1", "\"lan\":1,\"dmz\":1"),
        ] {
            assert!(text.contains(right));
            fs::write(directory.path().join(FILE), text.replace(right, wrong)).unwrap();
            assert!(State::load(directory.path()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_keep_their_numbers_and_numbers_are_never_given_twice() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.rule(RuleKind::Snat, "a"), 1);
        assert_eq!(numbers.rule(RuleKind::Forward, "a"), 2);
        assert_eq!(
            [
                numbers.uplink("w"),
                numbers.uplink("x"),
                numbers.uplink("w")
            ],
            [1, 2, 1]
        );
        assert_eq!(numbers.network("w"), 1);

        numbers.set_active(|_, _| false);
        let text = serde_json::to_string(&numbers).unwrap();
        let mut numbers: Numbers = serde_json::from_str(&text).unwrap();
        assert_eq!(numbers.rule(RuleKind::Nat, "a"), 3);
        assert_eq!(numbers.rule(RuleKind::Forward, "b"), 4);
        assert_eq!(numbers.rule(RuleKind::Forward, "a"), 2);
        assert_eq!((numbers.uplink("y"), numbers.network("v")), (3, 2));
        let active: Vec<bool> = numbers.rules().iter().map(|rule| rule.is_active).collect();
        assert_eq!(active, [false, true, true, true]);
        assert_eq!(
            (
                numbers.rule_name(1),
                numbers.rule_name(0),
                numbers.rule_name(5)
            ),
            ("a", "", "")
        );
        assert!(numbers.knows_rule("b") && !numbers.knows_rule("c"));
    }

    #[test]
    fn a_second_natbpf_with_the_same_run_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("a/b");
        let first = lock(&run_dir).unwrap();
        let error = lock(&run_dir).unwrap_err().to_string();
        let expected = format!(
            "another natbpf (pid {}) uses --run-dir {}; stop it or choose another --run-dir",
            std::process::id(),
            run_dir.display()
        );
        assert_eq!(error, expected);
        drop(first);
        lock(&run_dir).unwrap();
    }

    #[test]
    fn uptime_counts_from_the_start_and_never_below_zero() {
        let mut state = state();
        state.started_boottime_s = boottime_s() + 1000;
        assert_eq!(state.uptime_s(), 0);
        state.started_boottime_s = boottime_s().saturating_sub(5);
        assert!((5..10).contains(&state.uptime_s()));
    }
}
