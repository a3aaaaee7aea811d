//! Data planes of older layouts, as they were left by the natbpf of their time: see
//! `tests/fixtures`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use aya::programs::links::FdLink;
use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use lab::Natbpf;
use lab::topology::{Ipv6, Options, Proxmox};
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::{Load, at, exchange, snapshot};

/// What was left of a data plane.
#[derive(Deserialize)]
struct Left {
    recorded_s: u32,
    maps: BTreeMap<String, Table>,
}

/// A map, its keys and values in hexadecimal.
#[derive(Deserialize)]
struct Table {
    max_entries: u32,
    entries: BTreeMap<String, String>,
}

/// Which program was at which hook.
const HOOKS: [(&str, TcAttachType, &str, &str); 4] = [
    ("vmbr0", TcAttachType::Ingress, "tc-ingress", "nat_inbound"),
    ("vmbr0", TcAttachType::Egress, "tc-egress", "nat_outbound"),
    (
        "vmbr1",
        TcAttachType::Ingress,
        "tc-ingress",
        "nat_from_guest",
    ),
    ("vmbr1", TcAttachType::Egress, "tc-egress", "nat_to_guest"),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/layout-2")
        .join(name)
}

/// Lets the data plane live again on the host of the lab, as the one of this natbpf's bpffs.
fn revive(net: &Proxmox, natbpf: &Natbpf) -> Result<Left> {
    let mut left: Left = serde_json::from_slice(&fs::read(fixture("maps.json"))?)?;
    left.set_clocks()?;
    let pins = natbpf.bpffs().join("v2");
    for directory in ["links", "programs"] {
        fs::create_dir_all(pins.join(directory))?;
    }
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins);
    for (name, table) in &left.maps {
        loader.map_max_entries(name, table.max_entries);
    }
    let mut programs = loader.load_file(fixture("programs.o"))?;
    for (name, table) in &left.maps {
        table
            .write(&pins.join(name))
            .with_context(|| format!("fill {name}"))?;
    }
    for name in ["end_sessions", "expire_fragments"] {
        let program: &mut SchedClassifier = programs.program_mut(name).context(name)?.try_into()?;
        program.load()?;
        program.pin(pins.join("programs").join(name))?;
    }
    net.host.set_sysctl("net.ipv4.ip_forward", "1")?;
    net.host.enter(|| attach(&mut programs, &pins))??;
    fs::create_dir_all(natbpf.run_dir())?;
    fs::copy(fixture("state.json"), natbpf.run_dir().join("state.json"))?;
    Ok(left)
}

/// Attaches the programs where they were; called in the host's namespace.
fn attach(programs: &mut Ebpf, pins: &Path) -> Result<()> {
    for (interface, side, hook, name) in HOOKS {
        let program: &mut SchedClassifier = programs.program_mut(name).context(name)?.try_into()?;
        program.load().with_context(|| format!("load {name}"))?;
        let id = program.attach(interface, side)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        let index = nix::net::if_::if_nametoindex(interface)?;
        link.pin(pins.join("links").join(format!("{index}-{hook}")))?;
    }
    Ok(())
}

impl Left {
    /// Moves the sessions' clocks from when they were recorded to now.
    fn set_clocks(&mut self) -> Result<()> {
        // Where `opened_s` and `seen_s` stand in the record of a session, in hexadecimal digits.
        const CLOCKS: [usize; 2] = [40, 48];
        let now_s = clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec() as u32;
        let sessions = self.maps.get_mut("SESSIONS").context("no sessions")?;
        for record in sessions.entries.values_mut() {
            for place in CLOCKS {
                let digits = place..place + 8;
                let clock = bytes(&record[digits.clone()])?;
                let clock = u32::from_le_bytes(clock.as_slice().try_into()?);
                let clock = clock.wrapping_sub(self.recorded_s).wrapping_add(now_s);
                let text: String = clock
                    .to_le_bytes()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                record.replace_range(digits, &text);
            }
        }
        Ok(())
    }

    /// Packets that were counted each way under a rule.
    fn packets(&self, rule: u32) -> Result<(u64, u64)> {
        let key: String = rule
            .to_le_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let counters = self.maps["COUNTERS"]
            .entries
            .get(&key)
            .context("nothing counted")?;
        let words = bytes(counters)?;
        let word = |index: usize| {
            u64::from_le_bytes(words[8 * index..][..8].try_into().expect("eight bytes"))
        };
        Ok((word(0), word(2)))
    }
}

impl Table {
    fn write(&self, pin: &Path) -> Result<()> {
        const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
        const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;
        let map = MapData::from_pin(pin)?;
        let is_per_cpu = map.info()?.map_type()? as u32 == BPF_MAP_TYPE_PERCPU_ARRAY;
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        for (key, value) in &self.entries {
            let (key, mut value) = (bytes(key)?, bytes(value)?);
            if is_per_cpu {
                // All on the first one.
                value.resize(value.len() * cpus, 0);
            }
            let attr = [
                map.fd().as_fd().as_raw_fd() as u64,
                key.as_ptr() as u64,
                value.as_ptr() as u64,
                0,
            ];
            // SAFETY: `union bpf_attr` for this command: map (and padding), key, value, flags; key
            // and value are as long as the map's, and live through the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    BPF_MAP_UPDATE_ELEM,
                    &raw const attr,
                    size_of_val(&attr),
                )
            };
            ensure!(result == 0, "{}", io::Error::last_os_error());
        }
        Ok(())
    }
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    let byte = |at| {
        u8::from_str_radix(text.get(at..at + 2).context("half a byte")?, 16).context("no digit")
    };
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The packets of a rule, each way.
fn packets(natbpf: &Natbpf, rule: &str) -> Result<(u64, u64)> {
    let stats: Value = natbpf.stats()?;
    let rules = stats["rules"].as_array().context("no rules")?;
    let rule = rules
        .iter()
        .find(|one| one["name"] == rule)
        .context("no such rule")?;
    let count = |way: &str| rule[way].as_u64().context("no count");
    Ok((count("packets_in")?, count("packets_out")?))
}

#[test]
fn l10_sessions_and_counts_of_layout_2_are_carried_over_under_load() -> Result<()> {
    let net = Proxmox::new()?;
    is_carried_over(&net, &net.config(), &["tc-ingress", "tc-egress"])
}

#[test]
fn l6_1_sessions_of_an_older_layout_outlive_an_upgrade_that_adds_ipv6() -> Result<()> {
    let net = Proxmox::with(&Options {
        ipv6: Some(Ipv6::ROUTED),
        ..Options::default()
    })?;
    let config = net.config().replace(
        "\"172.22.161.254/24\"",
        "[\"172.22.161.254/24\", \"2001:db8:0:101::1/64\"]",
    );
    let hooks = [
        "tc-ingress",
        "tc-egress",
        "tc-ingress-ipv6",
        "tc-egress-ipv6",
    ];
    is_carried_over(&net, &config, &hooks)
}

/// Starts with the data plane of layout 2, which is taken over under load, and has these hooks
/// then.
fn is_carried_over(net: &Proxmox, config: &str, hooks: &[&str]) -> Result<()> {
    let before = snapshot::take(&net.host)?;
    let mut natbpf = Natbpf::prepare(&net.host, net.lab().place(), Natbpf::binary()?, config)?;
    let left = revive(net, &natbpf)?;
    let (server, client) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.cli.udp("198.51.100.2:6000")?,
    );
    let (first, second) = (net.vm1.udp("0.0.0.0:5000")?, net.vm2.udp("0.0.0.0:5000")?);
    let (service, hairpin) = (net.vm2.udp("0.0.0.0:10000")?, net.vm1.udp("0.0.0.0:6000")?);
    let talk = || -> Result<[_; 4]> {
        Ok([
            exchange(&first, at(Proxmox::CLI, 7000), &server, b"kept port")?,
            exchange(&second, at(Proxmox::CLI, 7000), &server, b"another port")?,
            exchange(&client, at(Proxmox::PUBLIC, 10000), &service, b"in")?,
            exchange(&hairpin, at(Proxmox::PUBLIC, 10000), &service, b"hairpin")?,
        ])
    };
    let seen = talk().context("the old programs")?;
    let load = Load::start(&net.vm1, at(Proxmox::CLI, 7100), &net.cli, 7100)?;

    natbpf.launch()?;
    ensure!(talk()? == seen, "mappings have changed");
    let (_, sent) = load.finish()?;
    ensure!(
        !natbpf.bpffs().join("v2").exists(),
        "the old one is still there"
    );

    for interface in natbpf.status()?["interfaces"].as_array().context("none")? {
        let found = interface["hooks"].as_array().context("no hooks")?;
        ensure!(
            hooks.iter().all(|hook| found.contains(&json!(hook))),
            "{interface}"
        );
    }

    // Twice each way since; of the others, the first guest's load.
    let (count_in, count_out) = left.packets(2)?;
    let counted = packets(&natbpf, "vm2-udp")?;
    ensure!(counted == (count_in + 4, count_out + 4), "{counted:?}");
    let (count_in, count_out) = left.packets(4)?;
    let counted = packets(&natbpf, "lan-out")?;
    let sent = u64::from(sent) + 4;
    ensure!(
        counted == (count_in + sent, count_out + sent),
        "{counted:?}, {sent} sent"
    );

    natbpf.cli(&["down"])?.expect_ok()?;
    net.host.set_sysctl("net.ipv4.ip_forward", "0")?;
    let after = snapshot::take(&net.host)?;
    ensure!(after == before, "{}", snapshot::difference(&before, &after));
    Ok(())
}
