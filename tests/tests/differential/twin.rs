//! One NAT host with its surroundings. There are two equal ones: one translates with nftables, the
//! other with natbpf.
//!
//! ```text
//! net (19.19.8.1, the internet) ── eno1 19.19.8.10 .11 host vmbr1 172.22.161.254 ─┬─ vm1 .170
//!                                                                                 └─ vm2 .171
//! ```
//!
//! `net`, `vm1` and `vm2` have no addresses: their kernels answer nothing, every packet is the
//! test's own. The host knows their hardware addresses, so that nothing has to be asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::{Frame, Host, Lab, Natbpf, RawSocket};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use nix::unistd::Pid;

use kit::flawed::{Body, Dress, End, Flaw, Written};

pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 10);
/// A second public address; everything there except ssh is vm2's.
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 11);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 254);
pub(crate) const VM1: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 170);
pub(crate) const VM2: Ipv4Addr = Ipv4Addr::new(172, 22, 161, 171);
/// A router on the way, which sends errors about what others have sent.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Whom the markers come from and go to.
const MARKER_REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// Ports of the markers: forwarded to vm1, forwarded to vm2, and vm1's own.
pub(crate) const MARKER_PORTS: [u16; 3] = [9991, 9992, 9993];
const MARKER: &[u8] = b"\0marker\0";

/// Far longer than any packet takes; a loaded machine gets its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Both of two packets that are sent at once come out within this time, or one is lost.
const ALL_CAME: Duration = Duration::from_secs(3);
/// No entry may end while the packets are sent: clocks are not compared.
const LIFETIME_S: &str = "7440";

/// Where a packet is put on a wire, or comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Net,
    Vm1,
    Vm2,
    /// At the host itself: it sends, and what it receives comes out nowhere.
    Host,
}

impl Place {
    const ALL: [Self; 3] = [Self::Net, Self::Vm1, Self::Vm2];

    /// Where packets to an address go, once they are translated.
    pub(crate) fn of(address: Ipv4Addr) -> Self {
        match address {
            VM1 => Self::Vm1,
            VM2 => Self::Vm2,
            _ => Self::Net,
        }
    }
}

/// How natbpf is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Mapping and filtering by address and port, as netfilter has it.
    Netfilter,
    /// Mapping by the guest's endpoint, filtering by address: natbpf's own.
    Default,
    /// As netfilter has it, on hosts that drop what their connection tracking calls invalid.
    Firewall,
    /// The same with rules that come and go. All packets go through the kernel, so that both hosts
    /// follow at once.
    ChangingFirewall,
}

impl Manner {
    /// Whether the hosts have FORWARD rules.
    pub(crate) fn is_firewall(self) -> bool {
        matches!(self, Self::Firewall | Self::ChangingFirewall)
    }
}

/// The end of a wire at which packets are made and caught.
struct Wire {
    sending: RawSocket,
    receiving: RawSocket,
    own: [u8; 6],
    /// The host's end, as the kernel on the other side must see it.
    gateway: [u8; 6],
}

impl Wire {
    fn send(&self, packet: &[u8]) -> Result<()> {
        let ethernet = [&self.gateway[..], &self.own, &[0x08, 0x00], packet].concat();
        self.sending.send(&ethernet)
    }
}

/// What came out: where, and the frame.
pub(crate) type Caught = Vec<(Place, Frame)>;

/// A NAT host and its neighbours.
pub(crate) struct Side {
    // The order matters: natbpf must end before its host does.
    natbpf: Option<Natbpf>,
    wires: Vec<Wire>,
    /// By which the host itself sends whole packets.
    own: OwnedFd,
    /// The host's sockets, on the ports from which it sends datagrams.
    sockets: HashMap<u16, UdpSocket>,
    markers: u32,
    host: Host,
    _lab: Lab,
}

impl Side {
    /// The host that translates with nftables.
    pub(crate) fn nftables(manner: Manner) -> Result<Self> {
        let side = Self::without_nat()?;
        side.set_firewall(manner, 0)?;
        let host = &side.host;
        host.set_sysctl("net.ipv4.ip_forward", "1")?;
        host.run_with_input(["nft", "-f", "-"], NFTABLES.as_bytes())?
            .expect_ok()?;
        for key in [
            "udp_timeout",
            "udp_timeout_stream",
            "icmp_timeout",
            "generic_timeout",
            "tcp_timeout_close",
            "tcp_timeout_fin_wait",
            "tcp_timeout_last_ack",
            "tcp_timeout_syn_recv",
            "tcp_timeout_syn_sent",
            "tcp_timeout_time_wait",
            "tcp_timeout_unacknowledged",
        ] {
            host.set_sysctl(&format!("net.netfilter.nf_conntrack_{key}"), LIFETIME_S)?;
        }
        side.ready()
    }

    /// The host that translates with natbpf. `fault` is what is changed in its rules, and into
    /// what.
    pub(crate) fn natbpf(manner: Manner, fault: Option<(&str, &str)>) -> Result<Self> {
        let mut side = Self::without_nat()?;
        let modes = match manner {
            Manner::Netfilter | Manner::Firewall | Manner::ChangingFirewall => {
                "mapping = \"address-and-port-dependent\"\n\
                 filtering = \"address-and-port-dependent\""
            }
            Manner::Default => "",
        };
        let mut config = NATBPF
            .replace("MODES", modes)
            .replace("LIFETIME", LIFETIME_S);
        if manner == Manner::ChangingFirewall {
            config.insert_str(0, "forwarding = \"kernel\"\n");
        }
        side.set_firewall(manner, 0)?;
        if let Some((from, to)) = fault {
            config = config.replace(from, to);
        }
        let place = side._lab.place();
        side.natbpf = Some(Natbpf::start(&side.host, place, &config)?);
        side.ready()
    }

    fn without_nat() -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.vm_host("host")?;
        let [net, vm1, vm2] = ["net", "vm1", "vm2"].map(|name| lab.host(name));
        let (net, vm1, vm2) = (net?, vm1?, vm2?);
        lab.veth((&host, "eno1"), (&net, "eth0"))?;
        lab.veth((&host, "tap1"), (&vm1, "eth0"))?;
        lab.veth((&host, "tap2"), (&vm2, "eth0"))?;
        host.ip(&format!(
            "link add vmbr1 type bridge forward_delay 0 stp_state 0\nlink set vmbr1 up\n\
             link set tap1 master vmbr1\nlink set tap2 master vmbr1\n\
             address add {GATEWAY}/24 dev vmbr1\n\
             address add {PUBLIC}/24 dev eno1\naddress add {SECOND}/24 dev eno1\n\
             neighbour add 19.19.8.1 lladdr {} nud permanent dev eno1\n\
             neighbour add {VM1} lladdr {} nud permanent dev vmbr1\n\
             neighbour add {VM2} lladdr {} nud permanent dev vmbr1\n\
             route add default via 19.19.8.1 dev eno1",
            text(net.mac("eth0")?),
            text(vm1.mac("eth0")?),
            text(vm2.mac("eth0")?),
        ))?;
        quieten(&host)?;
        let mut wires = Vec::new();
        for (neighbour, interface) in [(&net, "eno1"), (&vm1, "vmbr1"), (&vm2, "vmbr1")] {
            wires.push(Wire {
                sending: neighbour.raw("eth0")?,
                receiving: neighbour.listen("eth0")?,
                own: neighbour.mac("eth0")?,
                gateway: host.mac(interface)?,
            });
        }
        let own = host.enter(|| {
            let (flags, raw) = (SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
            socket(AddressFamily::Inet, SockType::Raw, flags, raw)
        })?;
        Ok(Self {
            natbpf: None,
            wires,
            own: own.context("a raw socket of the host's")?,
            sockets: HashMap::new(),
            markers: 0,
            host,
            _lab: lab,
        })
    }

    /// Waits until all paths are open.
    fn ready(mut self) -> Result<Self> {
        self.exchange(Place::Net, &[])
            .context("the first markers")?;
        Ok(self)
    }

    /// What natbpf on this host has counted and logged, for a failure's report.
    pub(crate) fn account(&self) -> String {
        let Some(natbpf) = &self.natbpf else {
            return String::new();
        };
        let drops = natbpf.stats().map(|stats| stats["drops"].to_string());
        format!(
            "natbpf's drops: {}",
            drops.unwrap_or_else(|e| e.to_string())
        )
    }

    /// Sends packets on a wire and returns all resulting output.
    ///
    /// All of it runs on one CPU (see [`stay_on_one_cpu`]), whose queue is first in, first out:
    /// when markers have made the same way, nothing is under way any more.
    pub(crate) fn exchange(&mut self, at: Place, packets: &[Vec<u8>]) -> Result<Caught> {
        for packet in packets {
            self.send(at, packet)?;
        }
        self.markers += 1;
        let payload = [MARKER, &self.markers.to_be_bytes()].concat();
        for (place, marker) in markers(&payload) {
            self.send(place, &marker.whole())?;
        }
        let mut caught = Vec::new();
        for place in Place::ALL {
            self.catch(place, &payload, &mut caught)?;
        }
        Ok(caught)
    }

    /// Sends a packet on a wire twice, by two CPUs at once if there are two, and returns the
    /// resulting output: two packets, or what there is after a while.
    pub(crate) fn send_at_once(&mut self, at: Place, packet: &[u8]) -> Result<Caught> {
        let ready = AtomicUsize::new(0);
        let wire = &self.wires[at as usize];
        let send = || -> Result<()> {
            ready.fetch_add(1, Ordering::SeqCst);
            while ready.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
            wire.send(packet)
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| -> Result<()> {
                let chosen = go_to_another_cpu();
                chosen.and(send())
            });
            let sent = send();
            let other = other.join().map_err(|_| anyhow!("the other thread"))?;
            sent.and(other)
        })?;
        let mut caught = Vec::new();
        let deadline = Instant::now() + ALL_CAME;
        while caught.len() < 2 && Instant::now() < deadline {
            caught.extend(self.exchange(at, &[])?);
        }
        Ok(caught)
    }

    /// Writes the host's FORWARD rules: those of a stateful firewall, and before them those of
    /// [`DROPS`] whose bit is set.
    pub(crate) fn set_firewall(&self, manner: Manner, drops: usize) -> Result<()> {
        if !manner.is_firewall() {
            return Ok(());
        }
        let chosen = DROPS.iter().enumerate();
        let chosen = chosen.filter(|(bit, _)| drops >> bit & 1 != 0);
        let rules: String = chosen.map(|(_, rule)| format!("{rule} drop\n")).collect();
        let table = format!(
            "table ip firewall\ndelete table ip firewall\ntable ip firewall {{\nchain forward {{\n\
             type filter hook forward priority filter; policy drop;\n{rules}\
             ct state invalid drop\nct state established,related accept\nct state new accept\n}}\n\
             }}\n"
        );
        let host = &self.host;
        let written = host.run_with_input(["nft", "-f", "-"], table.as_bytes())?;
        written.expect_ok().map(drop)
    }

    /// Has the host hold the port from which it sends datagrams, as every program does that sends
    /// some. Nobody reads what comes to it.
    pub(crate) fn hold(&mut self, port: u16) -> Result<()> {
        if let Entry::Vacant(place) = self.sockets.entry(port) {
            place.insert(self.host.udp(&format!("{PUBLIC}:{port}"))?);
        }
        Ok(())
    }

    fn send(&self, at: Place, packet: &[u8]) -> Result<()> {
        if at != Place::Host {
            return self.wires[at as usize].send(packet);
        }
        let to = packet.get(16..20).context("no destination")?;
        let to = SockaddrIn::new(to[0], to[1], to[2], to[3], 0);
        let sent = sendto(self.own.as_raw_fd(), packet, &to, MsgFlags::empty());
        sent.map(drop).context("send from the host")
    }

    /// Takes what has come out at a place, up to the marker with this payload.
    fn catch(&self, place: Place, payload: &[u8], caught: &mut Caught) -> Result<()> {
        let wire = &self.wires[place as usize];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(frame) = wire.receiving.receive().context("receive")? else {
                if Instant::now() > deadline {
                    bail!("the marker did not come out at {place:?} within {PATIENCE:?}");
                }
                wire.receiving.wait(Duration::from_millis(100));
                continue;
            };
            // A bridge floods what it does not know the port of, and IPv6 announces itself.
            let is_ours = frame.bytes.get(..6) == Some(&wire.own)
                && frame.bytes.get(12..14) == Some(&[0x08, 0x00]);
            if frame.outgoing || !is_ours {
                continue;
            }
            if frame.bytes.ends_with(payload) {
                return Ok(());
            }
            caught.push((place, frame));
        }
    }
}

/// One packet for each place to come out at, by the way that others take.
fn markers(payload: &[u8]) -> [(Place, Written); 3] {
    let marker = |from: End, to: End| Written {
        from,
        to,
        body: Body::Udp {
            payload: payload.to_vec(),
            summed: true,
        },
        dress: Dress {
            ttl: 64,
            tos: 0,
            id: 1,
            dont_fragment: true,
            options: Vec::new(),
            fragments: 1,
            is_reversed: false,
            padding: 0,
        },
        flaw: Flaw::None,
    };
    let [to_vm1, to_vm2, from_vm1] = MARKER_PORTS;
    let remote = (MARKER_REMOTE, 7);
    [
        (Place::Net, marker(remote, (PUBLIC, to_vm1))),
        (Place::Net, marker(remote, (PUBLIC, to_vm2))),
        (Place::Vm1, marker((VM1, from_vm1), (MARKER_REMOTE, 8))),
    ]
}

/// Switches off what the host would do by itself, or not do for the sake of a rate.
fn quieten(host: &Host) -> Result<()> {
    for (key, value) in [
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv4.icmp_msgs_per_sec", "1000000"),
        ("net.ipv4.icmp_msgs_burst", "1000000"),
        ("net.ipv4.tcp_invalid_ratelimit", "0"),
        ("net.ipv4.ipfrag_time", LIFETIME_S),
        ("net.ipv6.conf.all.disable_ipv6", "1"),
    ] {
        host.set_sysctl(key, value)?;
    }
    for scope in ["all", "default", "eno1", "vmbr1"] {
        for key in ["send_redirects", "accept_redirects"] {
            host.set_sysctl(&format!("net.ipv4.conf.{scope}.{key}"), "0")?;
        }
    }
    let key = "net.bridge.bridge-nf-call-iptables";
    // Without the module br_netfilter, netfilter never sees bridged frames.
    if host.sysctl(key).is_ok() {
        host.set_sysctl(key, "0")?;
    }
    Ok(())
}

/// Keeps this thread on one of the CPUs that it may use, other threads on others: a veth hands
/// packets over on the CPU on which they were sent.
pub(crate) fn stay_on_one_cpu() -> Result<()> {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("CPUs of this thread")?;
    let cpus: Vec<_> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect();
    ensure!(!cpus.is_empty(), "this thread may use no CPU");
    let turn = THREADS.fetch_add(1, Ordering::Relaxed);
    let mut one = CpuSet::new();
    one.set(cpus[turn % cpus.len()]).context("CPU set")?;
    sched_setaffinity(this, &one).context("stay on one CPU")
}

/// Puts this thread on another CPU than the one that it has inherited, if the process may use one.
fn go_to_another_cpu() -> Result<()> {
    let this = Pid::from_raw(0);
    let inherited = sched_getaffinity(this).context("CPUs of this thread")?;
    let allowed = sched_getaffinity(Pid::this()).context("CPUs of this process")?;
    let is = |set: &CpuSet, cpu: usize| set.is_set(cpu).unwrap_or(false);
    let other = (0..CpuSet::count()).find(|cpu| is(&allowed, *cpu) && !is(&inherited, *cpu));
    let Some(other) = other else { return Ok(()) };
    let mut one = CpuSet::new();
    one.set(other).context("CPU set")?;
    sched_setaffinity(this, &one).context("go to another CPU")
}

pub(super) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What firewalls drop for a while: inside addresses, whichever NAT translates. (The markers always
/// pass.)
pub(crate) const DROPS: [&str; 4] = [
    "ip saddr 172.22.161.170 udp dport != 8",
    "ip daddr 172.22.161.171 udp dport 10000-10019",
    "ip daddr 172.22.161.0/24 tcp flags & (syn|ack) == ack",
    "ip saddr 172.22.161.171 icmp type echo-request",
];

/// The rules, for nftables.
const NFTABLES: &str = "
table ip twin {
chain before {
type nat hook prerouting priority dstnat;
ip daddr 19.19.8.10 tcp dport 10000-10019 dnat to 172.22.161.170
ip daddr 19.19.8.10 udp dport 10000-10019 dnat to 172.22.161.171
ip daddr 19.19.8.10 tcp dport 8000 dnat to 172.22.161.171:80
ip daddr 19.19.8.10 udp dport 5300 dnat to 172.22.161.170:53
ip daddr 19.19.8.10 icmp type echo-request dnat to 172.22.161.170
ip daddr 19.19.8.10 udp dport 9991 dnat to 172.22.161.170
ip daddr 19.19.8.10 udp dport 9992 dnat to 172.22.161.171
ip daddr 19.19.8.11 tcp dport 22 accept
ip daddr 19.19.8.11 dnat to 172.22.161.171
}
chain after {
type nat hook postrouting priority srcnat;
ip saddr 172.22.161.0/24 oifname eno1 snat to 19.19.8.10
ip saddr 172.22.161.0/24 ip daddr 172.22.161.0/24 ct status dnat snat to 19.19.8.10
}
}
";

/// The same rules, for natbpf.
const NATBPF: &str = r#"
[uplink.wan]
interface = "eno1"

[network.lan]
interface = "vmbr1"
address = "172.22.161.254/24"

[[snat]]
name = "out"
network = "lan"
uplink = "wan"
to = "19.19.8.10"
MODES

[[forward]]
name = "vm1-tcp"
uplink = "wan"
protocol = "tcp"
address = "19.19.8.10"
ports = "10000-10019"
to = "172.22.161.170"

[[forward]]
name = "vm2-udp"
uplink = "wan"
protocol = "udp"
address = "19.19.8.10"
ports = "10000-10019"
to = "172.22.161.171"

[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
address = "19.19.8.10"
ports = 8000
to = "172.22.161.171"
to_ports = 80

[[forward]]
name = "dns"
uplink = "wan"
protocol = "udp"
address = "19.19.8.10"
ports = 5300
to = "172.22.161.170"
to_ports = 53

[[forward]]
name = "ping"
uplink = "wan"
protocol = "icmp"
address = "19.19.8.10"
to = "172.22.161.170"

[[forward]]
name = "marker-1"
uplink = "wan"
protocol = "udp"
address = "19.19.8.10"
ports = 9991
to = "172.22.161.170"

[[forward]]
name = "marker-2"
uplink = "wan"
protocol = "udp"
address = "19.19.8.10"
ports = 9992
to = "172.22.161.171"

[[forward]]
name = "second"
uplink = "wan"
protocol = "all"
address = "19.19.8.11"
to = "172.22.161.171"

[timeouts]
udp = LIFETIME
tcp_opening = LIFETIME
tcp_established = LIFETIME
tcp_closing = LIFETIME
icmp = LIFETIME
other = LIFETIME
fragment = LIFETIME
"#;
