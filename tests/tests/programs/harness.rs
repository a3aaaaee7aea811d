//! A data plane with rules, pinned on a separate bpffs and attached nowhere.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::maps::{Array, LpmTrie, Map, MapData, lpm_trie::Key};
use nat_common::tables::{
    interfaces::{Interface, role},
    settings::Settings,
};
use nat_config::compile::{Environment, compile};
use nat_user::{
    dataplane::{Dataplane, Pins, Plain, Programs, Rulesets, Sizes, TestRunOutput},
    state::Numbers,
};
use tempfile::TempDir;

/// The loopback interface, the one that exists in every network namespace.
pub(super) const HOOK: u32 = 1;
/// Where a guest's packets come into the host.
pub(super) const LAN: u32 = 77;

/// The number by which the maps know the guests' network.
pub(super) const NETWORK_NUMBER: u16 = 1;

/// The host's own and only external address.
pub(super) const PUBLIC: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 10);

const CONFIG: &str = r#"
[uplink.wan]
interface = "wan0"
[network.lan]
interface = "lan0"
address = "172.22.161.254/24"
[[snat]]
name = "out"
network = "lan"
uplink = "wan"
to = "masquerade"
exclude = ["10.0.0.0/8"]
[[forward]]
name = "web"
uplink = "wan"
protocol = ["tcp", "udp"]
ports = "10000-10999"
to = "172.22.161.170"
[[forward]]
name = "ping"
uplink = "wan"
protocol = "icmp"
to = "172.22.161.170"
"#;

/// A loaded data plane.
pub(super) struct Plane {
    pub(super) dataplane: Dataplane,
    pub(super) programs: Programs,
    directory: Mounted,
}

/// A directory that natbpf mounts a bpffs on, unmounted at the end.
struct Mounted(TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let path = self.0.path().join("bpf");
        if let Err(error) = Pins::below(&path).remove() {
            eprintln!("clean up {}: {error:#}", path.display());
        }
    }
}

impl Plane {
    pub(super) fn new() -> Result<Self> {
        Self::with_room_for(1024)
    }

    /// With the programs of IPv6.
    pub(super) fn with_ipv6() -> Result<Self> {
        let mut plane = Self::new()?;
        let pins = plane.pins();
        let sizes = Sizes::new(1024, 16).with_ipv6(Some(1024));
        plane.programs.load_ipv6(&pins, &sizes, false)?;
        Ok(plane)
    }

    /// With room for this many sessions.
    pub(super) fn with_room_for(sessions: u32) -> Result<Self> {
        let directory = Mounted(tempfile::tempdir()?);
        let pins = Pins::below(&directory.0.path().join("bpf"));
        let sizes = Sizes::new(sessions, 16);
        let (mut dataplane, programs) =
            Dataplane::load(pins, &sizes, false).context("load; are the tests run as root?")?;
        let config = nat_config::parse(CONFIG, Path::new("test.toml"))?.config;
        let environment = Environment {
            uplink_addresses: vec![vec![PUBLIC]],
            silent: Default::default(),
            host_addresses: [PUBLIC].into(),
            ..Environment::default()
        };
        let rulesets = Rulesets {
            ipv4: compile(&config, &environment, &mut Numbers::default()),
            ipv6: None,
            answers: Vec::new(),
        };
        dataplane.set_rules(&rulesets, &config.timeouts, &config.limits)?;
        Ok(Self {
            dataplane,
            programs,
            directory,
        })
    }

    /// Where natbpf pins below.
    pub(super) fn bpffs(&self) -> PathBuf {
        self.directory.0.path().join("bpf")
    }

    /// Where a data plane of this version is pinned.
    pub(super) fn pins(&self) -> Pins {
        Pins::below(&self.bpffs())
    }

    /// A pinned map.
    pub(super) fn map(&self, name: &str) -> Result<MapData> {
        let path = self.pins().map(name);
        MapData::from_pin(&path).with_context(|| format!("open map {}", path.display()))
    }

    /// The generation of the rules in use.
    pub(super) fn generation(&self) -> Result<u16> {
        let settings: Array<_, Plain<Settings>> =
            Array::try_from(Map::Array(self.map("SETTINGS")?))?;
        Ok(settings.get(&0, 0)?.0.generation as u16)
    }

    /// Adds an entry to a table of prefixes.
    pub(super) fn put<K: bytemuck::Pod, V: bytemuck::Pod>(
        &self,
        table: &str,
        bits: u32,
        key: K,
        value: V,
    ) -> Result<()> {
        let mut trie: LpmTrie<_, Plain<K>, Plain<V>> =
            LpmTrie::try_from(Map::LpmTrie(self.map(table)?))?;
        trie.insert(&Key::new(bits, Plain(key)), Plain(value), 0)?;
        Ok(())
    }

    /// A packet from outside at the uplink.
    pub(super) fn inbound(&mut self, packet: &[u8]) -> Result<TestRunOutput> {
        self.run("nat_inbound", role::UPLINK, packet, HOOK)
    }

    /// A packet from a guest, routed to the uplink.
    pub(super) fn outbound(&mut self, packet: &[u8]) -> Result<TestRunOutput> {
        self.run("nat_outbound", role::UPLINK, packet, LAN)
    }

    /// A packet of the host's own at the uplink.
    pub(super) fn host_outbound(&mut self, packet: &[u8]) -> Result<TestRunOutput> {
        self.run("nat_outbound", role::UPLINK, packet, 0)
    }

    /// Any program on any hook.
    pub(super) fn run(
        &mut self,
        program: &str,
        role: u16,
        packet: &[u8],
        ingress: u32,
    ) -> Result<TestRunOutput> {
        let interface = |role| Interface {
            role,
            number: NETWORK_NUMBER,
            ..Interface::default()
        };
        let interfaces = BTreeMap::from([(LAN, interface(role::NETWORK)), (HOOK, interface(role))]);
        self.dataplane.set_interfaces(&interfaces)?;
        self.programs.test_run(program, packet, HOOK, ingress)
    }

    /// How many packets were dropped for a reason.
    pub(super) fn dropped(&self, reason: &str) -> Result<u64> {
        self.dataplane
            .drops()?
            .get(reason)
            .copied()
            .context("no such reason")
    }
}
