//! Imported rules: two hosts that are alike, one with the original in netfilter, the other with
//! natbpf and what `natbpf import iptables` has made of it, get the same connections.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::{Host, Lab, Natbpf, Output};

/// A host with rules, and what is around it.
struct Scenario {
    /// The file with the rules.
    rules: &'static str,
    /// The interface that leads outside, and the host's address there.
    uplink: (&'static str, &'static str),
    /// More addresses that are routed to the host, or on its uplink.
    routed: &'static [&'static str],
    /// The guests' bridge and the host's address there.
    bridge: (&'static str, &'static str),
    /// Two guests.
    guests: [&'static str; 2],
    /// The bridge of the second one and the host's address there, if that is another.
    second: Option<(&'static str, &'static str)>,
    /// Ports at which the host itself does not answer.
    silent: &'static [u16],
    /// What is tried: who connects, and where to.
    probes: &'static [&'static str],
    /// Probes in which the two hosts differ, what each does, as `probe: netfilter / natbpf`.
    differences: &'static [&'static str],
}

/// An address far outside, and one that some rules leave alone.
const OUTSIDE: &str = "198.51.100.2";
const PARTNER: &str = "10.8.0.1";

/// Ports at which everybody answers.
const PORTS: [u16; 16] = [
    21, 22, 53, 80, 443, 2222, 5003, 6003, 7000, 8005, 8088, 8089, 9999, 10000, 10999, 11000,
];

/// One of the two hosts, with its neighbours.
struct Side {
    // The order matters: natbpf and the services end before their hosts do.
    natbpf: Option<Natbpf>,
    services: Vec<(String, Service)>,
    machines: Vec<Host>,
    lab: Lab,
}

impl Side {
    fn new(scenario: &Scenario) -> Result<Self> {
        let lab = Lab::new()?;
        let (out, host) = (lab.host("out")?, lab.vm_host("host")?);
        let mut machines = vec![out.clone(), host.clone()];
        let (uplink, own) = scenario.uplink;
        let (bridge, gateway) = scenario.bridge;
        lab.veth((&host, uplink), (&out, "eth0"))?;
        let own_address = own.split('/').next().context("an address")?;
        host.ip(&format!("address add {own} dev {uplink}"))?;
        out.ip(&format!(
            "address add {OUTSIDE}/32 dev lo\naddress add {PARTNER}/32 dev lo\n\
             route add {own_address}/32 dev eth0\n\
             route add 172.22.161.0/24 via {own_address} dev eth0 onlink src {PARTNER}"
        ))?;
        for address in scenario.routed {
            out.ip(&format!(
                "route add {address}/32 via {own_address} dev eth0 onlink"
            ))?;
        }
        // As routers and Proxmox have it. With it, netfilter sees what guests send to each other.
        let key = "net.bridge.bridge-nf-call-iptables";
        if host.sysctl(key).is_ok() {
            host.set_sysctl(key, "0")?;
        }
        host.ip(&format!("route add default dev {uplink}"))?;
        for (bridge, gateway) in [(bridge, gateway)].into_iter().chain(scenario.second) {
            host.ip(&format!(
                "link add {bridge} type bridge forward_delay 0 stp_state 0\nlink set {bridge} up\n\
                 address add {gateway} dev {bridge}"
            ))?;
        }
        host.set_sysctl("net.ipv4.ip_forward", "1")?;
        for (number, address) in scenario.guests.iter().enumerate() {
            let guest = lab.host(&format!("vm{}", number + 1))?;
            let port = format!("tap{number}");
            let (bridge, gateway) = match scenario.second {
                Some(second) if number == 1 => second,
                _ => scenario.bridge,
            };
            let (gateway, length) = gateway.split_once('/').context("a prefix")?;
            lab.veth((&host, &port), (&guest, "eth0"))?;
            host.ip(&format!("link set {port} master {bridge}"))?;
            guest.ip(&format!(
                "address add {address}/{length} dev eth0\nroute add default via {gateway}"
            ))?;
            machines.push(guest);
        }
        let mut side = Self {
            natbpf: None,
            services: Vec::new(),
            machines,
            lab,
        };
        side.serve(scenario)?;
        Ok(side)
    }

    fn serve(&mut self, scenario: &Scenario) -> Result<()> {
        for machine in &self.machines {
            for port in PORTS {
                if machine.name() == "host" && scenario.silent.contains(&port) {
                    continue;
                }
                let (name, all) = (machine.name(), format!("0.0.0.0:{port}"));
                let web = Service::http(machine, &all)?;
                self.services.push((format!("tcp {name}"), web));
                let mirror = Service::udp_mirror(machine, &all)?;
                self.services.push((format!("udp {name}"), mirror));
            }
        }
        Ok(())
    }

    fn machine(&self, name: &str) -> Result<&Host> {
        let mut machines = self.machines.iter();
        let found = machines.find(|machine| machine.name() == name);
        found.with_context(|| format!("no machine is called {name}"))
    }

    /// Loads rules into netfilter.
    fn restore(&self, rules: &str) -> Result<()> {
        let host = self.machine("host")?;
        host.run_with_input(["iptables-restore"], rules.as_bytes())?
            .expect_ok()
            .map(drop)
    }

    /// Imports the rules and runs natbpf with the result, beside the rules that stay in netfilter:
    /// with policies, nothing of the filter table.
    fn import(&mut self, file: &Path, filter: Filter) -> Result<()> {
        let host = self.machine("host")?;
        let said = imported(host, file, filter)?;
        let left: BTreeSet<usize> = said
            .stderr
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(&format!("{}:", file.display()))?;
                rest.split(':').next()?.parse().ok()
            })
            .collect();
        let mut table = "";
        let text = fs::read_to_string(file)?;
        let kept = (1..).zip(text.lines()).filter(|(number, line)| {
            table = line.strip_prefix('*').unwrap_or(table);
            let is_filter = table == "filter" && filter == Filter::Policies;
            !is_filter && (table != "nat" || !line.contains("-A ") || left.contains(number))
        });
        let kept: Vec<&str> = kept.map(|(_, line)| line).collect();
        self.restore(&(kept.join("\n") + "\n"))?;
        let natbpf = Natbpf::start(host, self.lab.place(), &said.stdout)
            .with_context(|| format!("{}\n{}", said.stdout, said.stderr))?;
        natbpf.cli(&["check"])?.expect_ok()?;
        self.natbpf = Some(natbpf);
        Ok(())
    }

    /// Tries a probe, `vm1 tcp 19.19.8.10:80` for example, and says who got it and whom they see.
    fn probe(&self, probe: &str) -> Result<String> {
        let words: Vec<&str> = probe.split(' ').collect();
        let [from, protocol, to] = words[..] else {
            anyhow::bail!("{probe} is no probe");
        };
        let (from, to) = (self.machine(from)?, to.parse::<SocketAddrV4>()?);
        let before: Vec<usize> = self.services.iter().map(|(_, s)| s.peers().len()).collect();
        let answered = match protocol {
            "tcp" => service::http_get(from, to).is_ok(),
            _ => {
                let socket = from.udp("0.0.0.0:0")?;
                socket.set_read_timeout(Some(Duration::from_millis(700)))?;
                service::seen_at(&socket, to).is_ok()
            }
        };
        if !answered {
            return Ok("nothing".to_owned());
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            for ((name, service), before) in self.services.iter().zip(&before) {
                let peers = service.peers();
                if peers.len() > *before && name.starts_with(protocol) {
                    let who = name.split(' ').nth(1).unwrap_or_default();
                    return Ok(format!("{who} sees {}", peers[*before].ip()));
                }
            }
        }
        anyhow::bail!("{probe} was answered by nobody here")
    }
}

/// What happens to the filter table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// It stays in netfilter.
    Netfilter,
    /// It becomes policies, and netfilter has none of it.
    Policies,
}

/// What `natbpf import iptables` says on a host.
pub(super) fn imported(host: &Host, file: &Path, filter: Filter) -> Result<Output> {
    let binary = Natbpf::binary()?.display().to_string();
    let mut words = vec![
        binary,
        "import".to_owned(),
        "iptables".to_owned(),
        "--host".to_owned(),
    ];
    if filter == Filter::Policies {
        words.push("--policies".to_owned());
    }
    words.push(file.display().to_string());
    host.run(words)
}

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../nat-user/tests/fixtures/{name}.rules"))
}

/// Sends all probes at both hosts, and compares.
fn alike(scenario: &Scenario) -> Result<()> {
    alike_with(scenario, Filter::Netfilter)
}

fn alike_with(scenario: &Scenario, filter: Filter) -> Result<()> {
    let file = fixture(scenario.rules);
    let netfilter = Side::new(scenario)?;
    netfilter.restore(&fs::read_to_string(&file)?)?;
    let mut natbpf = Side::new(scenario)?;
    natbpf.import(&file, filter)?;
    let mut differences = Vec::new();
    let mut all = String::new();
    for probe in scenario.probes {
        let (original, imported) = (netfilter.probe(probe)?, natbpf.probe(probe)?);
        all += &format!("{probe}: {original} / {imported}\n");
        if original != imported {
            differences.push(format!("{probe}: {original} / {imported}"));
        }
    }
    println!("{}:\n{all}", scenario.rules);
    ensure!(
        differences == scenario.differences,
        "differences {differences:#?}, should be {:#?}\n{all}",
        scenario.differences
    );
    Ok(())
}

#[test]
fn import_of_scenario_proxmox_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "proxmox",
        uplink: ("vmbr0", "19.19.8.10/24"),
        routed: &[],
        bridge: ("vmbr1", "172.22.161.254/24"),
        guests: ["172.22.161.170", "172.22.161.171"],
        second: None,
        silent: &[],
        probes: &[
            "out tcp 19.19.8.10:10000",
            "out tcp 19.19.8.10:10999",
            "out tcp 19.19.8.10:11000",
            "out tcp 19.19.8.10:9999",
            "out udp 19.19.8.10:10000",
            "vm1 tcp 198.51.100.2:7000",
            "vm2 udp 198.51.100.2:7000",
            "vm2 tcp 198.51.100.2:10000",
            "vm1 tcp 172.22.161.254:9999",
            "vm1 udp 172.22.161.171:80",
            "vm2 tcp 19.19.8.10:9999",
            "vm2 tcp 19.19.8.10:10000",
            "vm1 tcp 19.19.8.10:10000",
        ],
        // Half a hairpin.
        differences: &[
            "vm2 tcp 19.19.8.10:10000: nothing / vm1 sees 19.19.8.10",
            "vm1 tcp 19.19.8.10:10000: nothing / vm1 sees 19.19.8.10",
        ],
    })
}

#[test]
fn import_of_scenario_kvm_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "kvm",
        uplink: ("eth0", "10.10.10.190/24"),
        routed: &["192.168.82.0"],
        bridge: ("virbr0", "192.168.122.1/24"),
        guests: ["192.168.122.140", "192.168.122.141"],
        second: None,
        silent: &[],
        probes: &[
            "out tcp 192.168.82.0:80",
            "out tcp 10.10.10.190:80",
            "out udp 10.10.10.190:80",
            "vm1 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:53",
            "vm1 udp 192.168.122.1:53",
            "vm1 tcp 192.168.122.141:80",
            "vm2 tcp 192.168.82.0:80",
        ],
        // Half a hairpin.
        differences: &["vm2 tcp 192.168.82.0:80: nothing / vm1 sees 10.10.10.190"],
    })
}

#[test]
fn import_of_scenario_snat_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "snat",
        uplink: ("eth0", "192.168.38.116/24"),
        routed: &[],
        bridge: ("veth0", "1.1.1.3/24"),
        guests: ["1.1.1.2", "1.1.1.4"],
        second: None,
        silent: &[],
        probes: &[
            "vm1 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:53",
            "vm1 tcp 1.1.1.3:80",
            "vm1 tcp 192.168.38.116:53",
            "vm1 tcp 1.1.1.4:80",
            "out tcp 192.168.38.116:80",
        ],
        differences: &[],
    })
}

#[test]
fn import_of_scenario_docker_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "docker",
        uplink: ("eth0", "10.10.10.190/24"),
        routed: &[],
        bridge: ("ns_br", "175.18.0.1/24"),
        guests: ["175.18.0.2", "175.18.0.3"],
        second: None,
        silent: &[8088],
        probes: &[
            "out tcp 10.10.10.190:8088",
            "out tcp 10.10.10.190:8089",
            "out tcp 10.10.10.190:80",
            "out udp 10.10.10.190:8088",
            "vm1 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:8088",
            "vm1 tcp 175.18.0.1:80",
            "vm1 tcp 175.18.0.3:80",
            "host tcp 10.10.10.190:8088",
            "host tcp 10.10.10.190:8089",
            "host tcp 127.0.0.1:8088",
            "vm2 tcp 10.10.10.190:8088",
            "vm2 tcp 198.51.100.2:8088",
            "vm2 tcp 175.18.0.1:8088",
        ],
        differences: &[
            // The guest sees the host by its address in their network.
            "host tcp 10.10.10.190:8088: vm1 sees 10.10.10.190 / vm1 sees 175.18.0.1",
            "host tcp 127.0.0.1:8088: nothing / vm1 sees 175.18.0.1",
            // Hidden behind the gateway, or shown by the external address.
            "vm2 tcp 10.10.10.190:8088: vm1 sees 175.18.0.1 / vm1 sees 10.10.10.190",
            // The rule names no destination.
            "vm2 tcp 198.51.100.2:8088: vm1 sees 175.18.0.1 / out sees 10.10.10.190",
            "vm2 tcp 175.18.0.1:8088: vm1 sees 175.18.0.1 / nothing",
        ],
    })
}

#[test]
fn import_of_scenario_hetzner_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "hetzner",
        uplink: ("eth0", "123.45.12.48/32"),
        routed: &[],
        bridge: ("br112", "172.30.112.1/24"),
        guests: ["172.30.112.10", "172.30.112.11"],
        second: None,
        silent: &[],
        probes: &[
            "vm1 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:53",
            "vm1 tcp 172.30.112.1:80",
            "vm1 tcp 172.30.112.11:80",
            "out tcp 123.45.12.48:80",
        ],
        differences: &[],
    })
}

#[test]
fn import_of_libvirts_rules_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "libvirt",
        uplink: ("eth0", "10.10.10.190/24"),
        routed: &["192.168.122.140"],
        bridge: ("virbr0", "192.168.122.1/24"),
        guests: ["192.168.122.140", "192.168.122.141"],
        second: None,
        silent: &[],
        probes: &[
            "vm1 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:53",
            "vm1 udp 192.168.122.1:53",
            "vm1 tcp 192.168.122.141:80",
            "out tcp 10.10.10.190:80",
            // Rejected by libvirt's filter rules.
            "out udp 192.168.122.140:80",
        ],
        differences: &[],
    })
}

#[test]
fn import_of_libvirts_filter_rules_treats_packets_alike() -> Result<()> {
    let scenario = Scenario {
        rules: "libvirt",
        uplink: ("eth0", "10.10.10.190/24"),
        routed: &["192.168.122.140"],
        bridge: ("virbr0", "192.168.122.1/24"),
        guests: ["192.168.122.140", "192.168.122.141"],
        second: None,
        silent: &[],
        probes: &[
            "vm1 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:53",
            "vm1 udp 192.168.122.1:53",
            "vm1 tcp 192.168.122.1:22",
            "vm1 tcp 192.168.122.141:80",
            "host tcp 192.168.122.140:22",
            "host udp 192.168.122.141:53",
            "out tcp 10.10.10.190:80",
            "out udp 192.168.122.140:80",
            "out tcp 192.168.122.140:22",
        ],
        differences: &[],
    };
    alike_with(&scenario, Filter::Policies)
}

#[test]
fn import_of_dockers_filter_rules_treats_packets_alike() -> Result<()> {
    let scenario = Scenario {
        rules: "docker-engine",
        uplink: ("eth0", "10.10.10.190/24"),
        routed: &["172.17.0.2", "172.18.0.2"],
        bridge: ("docker0", "172.17.0.1/16"),
        guests: ["172.17.0.2", "172.18.0.2"],
        second: Some(("br-5e2b1f0d3c4a", "172.18.0.1/16")),
        silent: &[],
        probes: &[
            "out tcp 10.10.10.190:8080",
            "out tcp 10.10.10.190:80",
            // Published, but no rule accepts it.
            "out udp 10.10.10.190:53",
            "out tcp 172.17.0.2:22",
            "out udp 172.18.0.2:53",
            "vm1 tcp 198.51.100.2:22",
            "vm1 udp 198.51.100.2:7000",
            "vm2 tcp 198.51.100.2:22",
            "vm2 udp 198.51.100.2:7000",
            "vm1 tcp 172.18.0.2:22",
            "vm1 udp 172.18.0.2:53",
            "vm2 tcp 172.17.0.2:22",
            "vm2 udp 172.17.0.2:80",
            "vm2 tcp 172.17.0.2:80",
            "vm1 tcp 172.17.0.1:22",
            "vm2 udp 172.18.0.1:7000",
            "host tcp 172.17.0.2:22",
            "host tcp 172.18.0.2:22",
        ],
        differences: &[
            // Masquerade that is meant for what leaves the host.
            "vm1 tcp 172.18.0.2:22: vm2 sees 172.18.0.1 / vm2 sees 172.17.0.2",
            "vm1 udp 172.18.0.2:53: vm2 sees 172.18.0.1 / vm2 sees 172.17.0.2",
            "vm2 tcp 172.17.0.2:80: vm1 sees 172.17.0.1 / vm1 sees 172.18.0.2",
        ],
    };
    alike_with(&scenario, Filter::Policies)
}

#[test]
fn import_of_post_up_rules_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "proxmox-post-up",
        uplink: ("vmbr0", "19.19.8.10/24"),
        routed: &["19.19.8.11"],
        bridge: ("vmbr1", "172.22.161.254/24"),
        guests: ["172.22.161.170", "172.22.161.171"],
        second: None,
        silent: &[],
        probes: &[
            "out tcp 19.19.8.10:22",
            "out tcp 19.19.8.10:80",
            "out tcp 19.19.8.10:443",
            "out tcp 19.19.8.10:8005",
            "out udp 19.19.8.10:5003",
            "out tcp 19.19.8.10:5003",
            "out tcp 19.19.8.10:2222",
            "out tcp 19.19.8.10:21",
            "out udp 19.19.8.10:443",
            "out tcp 19.19.8.10:9999",
            "vm1 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:5003",
            // Left alone by name.
            "vm1 tcp 10.8.0.1:80",
            "vm1 udp 10.8.0.1:53",
            "vm1 tcp 172.22.161.254:80",
            "vm1 udp 172.22.161.171:80",
            // No rule sends guests there.
            "vm1 tcp 19.19.8.10:2222",
            "vm1 tcp 19.19.8.10:21",
            "vm2 tcp 19.19.8.10:80",
        ],
        differences: &[
            // Hidden behind the gateway, or shown by the external address.
            "vm2 tcp 19.19.8.10:80: vm1 sees 172.22.161.254 / vm1 sees 19.19.8.10",
        ],
    })
}

#[test]
fn import_of_an_address_for_one_guest_treats_packets_alike() -> Result<()> {
    alike(&Scenario {
        rules: "one-to-one",
        uplink: ("vmbr0", "19.19.8.10/24"),
        routed: &["19.19.8.11"],
        bridge: ("vmbr1", "172.22.161.254/24"),
        guests: ["172.22.161.170", "172.22.161.171"],
        second: None,
        silent: &[],
        probes: &[
            "out tcp 19.19.8.11:22",
            "out tcp 19.19.8.11:80",
            "out udp 19.19.8.11:53",
            "out tcp 19.19.8.10:22",
            "out tcp 19.19.8.10:80",
            "out tcp 19.19.8.10:8005",
            "out udp 19.19.8.10:5003",
            "vm1 tcp 198.51.100.2:80",
            "vm2 tcp 198.51.100.2:80",
            "vm2 udp 198.51.100.2:53",
            "vm1 tcp 172.22.161.254:80",
            "vm1 tcp 172.22.161.171:80",
            "vm1 tcp 19.19.8.10:22",
            "vm1 tcp 19.19.8.11:80",
            "vm2 tcp 19.19.8.10:80",
            "vm1 udp 19.19.8.10:5003",
        ],
        differences: &[
            // Hidden behind the gateway, or shown by their external addresses.
            "vm1 tcp 19.19.8.11:80: vm2 sees 172.22.161.254 / vm2 sees 19.19.8.10",
            "vm2 tcp 19.19.8.10:80: vm1 sees 172.22.161.254 / vm1 sees 19.19.8.11",
            "vm1 udp 19.19.8.10:5003: vm2 sees 172.22.161.254 / vm2 sees 19.19.8.10",
        ],
    })
}

#[test]
fn import_leaves_rules_that_go_on_working_in_netfilter() -> Result<()> {
    alike(&Scenario {
        rules: "stays",
        uplink: ("vmbr0", "19.19.8.10/24"),
        routed: &["19.19.8.11"],
        bridge: ("vmbr1", "172.22.161.254/24"),
        guests: ["172.22.161.170", "172.22.161.171"],
        second: None,
        silent: &[],
        probes: &[
            // To the host itself, from guests.
            "vm1 tcp 198.51.100.2:8088",
            // Certain senders only.
            "out tcp 19.19.8.10:2222",
            // By protocol and port.
            "vm1 tcp 198.51.100.2:53",
            "vm1 udp 198.51.100.2:53",
            "vm2 tcp 198.51.100.2:80",
            "out tcp 19.19.8.10:80",
        ],
        differences: &[],
    })
}

#[test]
fn import_of_filter_rules_treats_packets_alike() -> Result<()> {
    let scenario = Scenario {
        rules: "filtered",
        uplink: ("eno1", "19.19.8.10/24"),
        routed: &["172.22.162.10"],
        bridge: ("vmbr1", "172.22.161.254/24"),
        guests: ["172.22.161.170", "172.22.162.10"],
        second: Some(("vmbr2", "172.22.162.254/24")),
        silent: &[],
        probes: &[
            // Forwards, some of which are restricted.
            "out tcp 19.19.8.10:2222",
            "out tcp 19.19.8.10:8088",
            "out udp 19.19.8.10:5003",
            "out tcp 19.19.8.10:6003",
            // Straight to guests; to the first one from an address that is not let in.
            "out tcp 172.22.161.170:22",
            "out tcp 172.22.162.10:22",
            "out udp 172.22.162.10:9999",
            // From guests.
            "vm1 tcp 198.51.100.2:80",
            "vm1 tcp 198.51.100.2:21",
            "vm1 udp 198.51.100.2:53",
            "vm1 udp 198.51.100.2:7000",
            "vm2 tcp 198.51.100.2:21",
            "vm2 tcp 10.8.0.1:7000",
            // From one network to the other.
            "vm1 tcp 172.22.162.10:443",
            "vm1 tcp 172.22.162.10:80",
            "vm1 udp 172.22.162.10:443",
            "vm2 tcp 172.22.161.170:443",
            "vm2 udp 172.22.161.170:53",
            // To the host.
            "vm1 udp 172.22.161.254:53",
            "vm1 tcp 172.22.161.254:53",
            "vm1 tcp 172.22.161.254:2222",
            "vm1 tcp 172.22.161.254:22",
            "vm1 udp 172.22.161.254:7000",
            "vm2 udp 172.22.162.254:7000",
            "vm2 tcp 172.22.161.254:22",
            "vm2 tcp 19.19.8.10:53",
            "vm2 tcp 19.19.8.10:443",
            "host tcp 172.22.161.170:22",
            "host udp 172.22.162.10:7000",
        ],
        differences: &[],
    };
    alike_with(&scenario, Filter::Policies)
}

#[test]
fn import_of_a_filter_rule_about_one_guest_treats_packets_alike() -> Result<()> {
    let scenario = Scenario {
        rules: "filtered",
        uplink: ("eno1", "19.19.8.10/24"),
        routed: &[],
        bridge: ("vmbr1", "172.22.161.254/24"),
        // The first one has the address of a rule.
        guests: ["172.22.161.171", "172.22.162.10"],
        second: Some(("vmbr2", "172.22.162.254/24")),
        silent: &[],
        probes: &[
            "vm1 tcp 198.51.100.2:80",
            "vm1 tcp 198.51.100.2:443",
            "vm2 tcp 198.51.100.2:80",
            "out tcp 19.19.8.10:2222",
            "out udp 19.19.8.10:5003",
        ],
        differences: &[],
    };
    alike_with(&scenario, Filter::Policies)
}
