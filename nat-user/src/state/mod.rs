//! What the daemon stores for its successor and for the commands: `state.json` in the run
//! directory, and the lock that makes it the only one there.
//!
//! The maps contain numbers where people use names. [`Numbers`] connects the two, so it must live
//! as long as the maps. The file is replaced as a whole: a reader finds the old or the new one.
//! This module does not access maps or interfaces itself.

mod lock;
mod numbers;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
pub use lock::{Lock, lock};
pub use numbers::{Numbers, RuleEntry, RuleKind, Said};
use serde::{Deserialize, Serialize};

use crate::clock::boottime_s;

const FILE: &str = "state.json";
const NEW_FILE: &str = "state.json.new";

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
    /// `tc-ingress`, `tc-egress`, `xdp-native`, and the same with `-ipv6`.
    pub hooks: Vec<String>,
    /// How the programs are attached: `tcx` or `netlink`.
    pub attachment: String,
    /// The addresses in use: external ones of an uplink, the gateway of a network.
    pub addresses: Vec<IpAddr>,
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
    #[serde(rename = "held")]
    pub holder: Holder,
}

/// Who has an external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holder {
    /// An interface of the host, and not by natbpf.
    Host,
    /// The uplink's interface, by natbpf.
    Added,
    /// No interface: the programs answer ARP for it.
    Arp,
    /// No interface, and the probe has not shown yet whether another host has it.
    #[serde(rename = "asked")]
    Probed,
    /// Another host.
    Elsewhere,
    /// No interface, and other software must handle it (`claim = "none"`).
    Unclaimed,
    /// No interface, and there is no ARP on the uplink: it must be routed to the host.
    #[serde(rename = "nobody")]
    Routed,
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

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Instant};

    use nix::fcntl::{Flock, FlockArg};

    use super::{
        lock::{CHILD_LIMIT, CHILD_PAUSE, LOCK_FILE},
        *,
    };

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
                addresses: vec![[19, 19, 8, 10].into()],
                external: vec![External {
                    first: Ipv4Addr::new(19, 19, 8, 10),
                    last: Ipv4Addr::new(19, 19, 8, 10),
                    holder: Holder::Host,
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
