//! Configurations that differ in what concerns no live session.

use std::fmt;

use lab::topology::Proxmox;
use tests::traffic::{self, SPARE};

use crate::random::Random;

/// What of the configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    forwarding: Option<&'static str>,
    forwards: Vec<u64>,
    snats: Vec<u64>,
    sessions: Option<u64>,
    per_guest: Option<[u64; 2]>,
    timeouts: Option<[u64; 3]>,
    /// Whether the network is closed but for what all of the traffic needs, by so many policies.
    policies: Option<u64>,
    /// The spare forward that is left out.
    without: Option<usize>,
}

impl Settings {
    /// Draws some.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut some = |most| (0..random.below(most)).collect::<Vec<u64>>();
        let (forwards, snats) = (some(6), some(4));
        Self {
            forwarding: random.one_of(&[None, Some("fast"), Some("kernel")]),
            forwards: forwards.iter().map(|_| 2000 + random.below(1000)).collect(),
            snats: snats.iter().map(|_| random.below(250)).collect(),
            sessions: random.maybe().then(|| Self::draw_sessions(random)),
            per_guest: random
                .maybe()
                .then(|| [0; 2].map(|_| 5000 + random.below(20_000))),
            timeouts: random
                .maybe()
                .then(|| [120, 240, 7440].map(|least| least + random.below(100))),
            policies: random.maybe().then(|| 1 + random.below(100)),
            without: None,
        }
    }

    /// A size of the session table that holds all that there may be.
    pub(crate) fn draw_sessions(random: &mut Random) -> u64 {
        16_384 + random.below(300_000)
    }

    /// The same with another size of the session table.
    pub(crate) fn with_sessions(&self, sessions: u64) -> Self {
        Self {
            sessions: Some(sessions),
            ..self.clone()
        }
    }

    /// The same without one of the spare forwards.
    pub(crate) fn without_spare(&self, spare: usize) -> Self {
        Self {
            without: Some(spare),
            ..self.clone()
        }
    }

    /// The file.
    pub(crate) fn configuration(&self, net: &Proxmox) -> String {
        let mut file = String::new();
        if let Some(forwarding) = self.forwarding {
            file += &format!("forwarding = \"{forwarding}\"\n");
        }
        file += &match self.policies {
            Some(_) => closed(&traffic::config(net)),
            None => traffic::config(net),
        };
        for spare in (0..SPARE.len()).filter(|spare| self.without != Some(*spare)) {
            file += &traffic::spare_config(spare);
        }
        file += &self.additions();
        file
    }

    fn additions(&self) -> String {
        let mut file = String::new();
        for (n, second) in self.snats.iter().enumerate() {
            file += &format!(
                "[[snat]]\nname = \"other-{n}\"\nsource = \"10.{second}.{n}.0/24\"\nuplink = \
                 \"wan\"\n\
                 to = \"masquerade\"\n"
            );
        }
        for (n, port) in self.forwards.iter().enumerate() {
            file += &format!(
                "[[forward]]\nname = \"other-{n}\"\nuplink = \"wan\"\nprotocol = \"tcp\"\n\
                 ports = {}\nto = \"{}\"\n",
                port + 1000 * n as u64,
                Proxmox::VM1
            );
        }
        for n in 0..self.policies.unwrap_or(0) {
            file += &format!(
                "[[policy]]\nname = \"other-{n}\"\nfrom = \"10.{n}.0.0/16\"\naction = \"drop\"\n"
            );
        }
        if self.policies.is_some() {
            // Named: a policy without a name is shown by its place, where another setting has
            // another policy.
            for (from, to) in [("lan", "wan"), ("wan", "lan")] {
                file += &format!(
                    "[[policy]]\nname = \"{from}-to-{to}\"\nfrom = \"{from}\"\nto = \"{to}\"\n\
                     action = \"accept\"\n"
                );
            }
        }
        let limits = [
            ("sessions", self.sessions),
            ("sessions_per_guest", self.per_guest.map(|each| each[0])),
            ("ports_per_guest", self.per_guest.map(|each| each[1])),
        ];
        file += &table("limits", &limits);
        let timeout = |n: usize| self.timeouts.map(|timeouts| timeouts[n]);
        let timeouts = [
            ("udp", timeout(0)),
            ("tcp_opening", timeout(1)),
            ("tcp_established", timeout(2)),
        ];
        file + &table("timeouts", &timeouts)
    }
}

/// The same with a closed network.
fn closed(file: &str) -> String {
    let address = "address = \"172.22.161.254/24\"\n";
    assert!(file.contains(address), "the network is there: {file}");
    file.replace(address, &format!("{address}policy = \"drop\"\n"))
}

fn table(name: &str, keys: &[(&str, Option<u64>)]) -> String {
    let lines = keys
        .iter()
        .filter_map(|(key, value)| Some(format!("{key} = {}\n", (*value)?)));
    format!("[{name}]\n{}", lines.collect::<String>())
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forwarding {}", self.forwarding.unwrap_or("unsaid"))?;
        write!(f, ", {} more forwards", self.forwards.len())?;
        write!(f, ", {} more snats", self.snats.len())?;
        if let Some(sessions) = self.sessions {
            write!(f, ", {sessions} sessions")?;
        }
        if self.per_guest.is_some() {
            write!(f, ", limits per guest")?;
        }
        if self.timeouts.is_some() {
            write!(f, ", timeouts")?;
        }
        if let Some(policies) = self.policies {
            write!(f, ", closed with {policies} policies")?;
        }
        Ok(())
    }
}
