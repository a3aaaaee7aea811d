//! One NAT host of IPv6 with its surroundings, as in [`crate::differential::twin`]: one translates
//! with nftables, the other with natbpf.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kit::packets::{At, ETHERNET, udp};
use lab::{Host, Lab, Natbpf, RawSocket};

use crate::differential::twin::text;

/// The bytes of an address.
pub(super) type Ip = [u8; 16];

pub(super) const PUBLIC: Ip = Ipv6Addr::new(0x2001, 0xdb8, 8, 0, 0, 0, 0, 0x10).octets();
/// A second public address, which is vm2's.
pub(super) const SECOND: Ip = Ipv6Addr::new(0x2001, 0xdb8, 8, 0, 0, 0, 0, 0x11).octets();
pub(super) const GATEWAY: Ip = Ipv6Addr::new(0xfd22, 0, 0, 0, 0, 0, 0, 0xfe).octets();
pub(super) const VM1: Ip = Ipv6Addr::new(0xfd22, 0, 0, 0, 0, 0, 0, 0x170).octets();
pub(super) const VM2: Ip = Ipv6Addr::new(0xfd22, 0, 0, 0, 0, 0, 0, 0x171).octets();
const MARKER_REMOTE: Ip = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0x99).octets();
const MARKER_PORTS: [u16; 3] = [9991, 9992, 9993];
const MARKER: &[u8] = b"\0marker\0";
const PATIENCE: Duration = Duration::from_secs(10);

/// Neighbour discovery and listener reports, which hosts send of themselves.
const OF_THE_LINK: [u8; 7] = [130, 133, 134, 135, 136, 137, 143];

/// Where a packet is put on a wire, or comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Net,
    Vm1,
    Vm2,
}

impl Place {
    const ALL: [Self; 3] = [Self::Net, Self::Vm1, Self::Vm2];

    pub(super) fn of(address: Ip) -> Self {
        match address {
            VM1 => Self::Vm1,
            VM2 => Self::Vm2,
            _ => Self::Net,
        }
    }
}

struct Wire {
    sending: RawSocket,
    receiving: RawSocket,
    own: [u8; 6],
    gateway: [u8; 6],
}

/// A NAT host and its neighbours.
pub(super) struct Side {
    // natbpf must end before its host does.
    natbpf: Option<Natbpf>,
    wires: Vec<Wire>,
    markers: u32,
    host: Host,
    lab: Lab,
}

impl Side {
    pub(super) fn nftables() -> Result<Self> {
        let mut side = Self::without_nat()?;
        let host = &side.host;
        host.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        host.run_with_input(["nft", "-f", "-"], NFTABLES.as_bytes())?
            .expect_ok()?;
        for key in [
            "udp_timeout",
            "icmpv6_timeout",
            "generic_timeout",
            "tcp_timeout_syn_sent",
        ] {
            host.set_sysctl(&format!("net.netfilter.nf_conntrack_{key}"), "7440")?;
        }
        side.ready()?;
        Ok(side)
    }

    /// `fault` is what is changed in natbpf's rules, and into what.
    pub(super) fn natbpf(fault: Option<(&str, &str)>) -> Result<Self> {
        let mut side = Self::without_nat()?;
        let config = match fault {
            Some((from, to)) => NATBPF.replace(from, to),
            None => NATBPF.to_owned(),
        };
        side.natbpf = Some(Natbpf::start(&side.host, side.lab.place(), &config)?);
        side.ready()?;
        Ok(side)
    }

    fn without_nat() -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.dual_host("host")?;
        let [net, vm1, vm2] = ["net", "vm1", "vm2"].map(|name| lab.host(name));
        let (net, vm1, vm2) = (net?, vm1?, vm2?);
        lab.veth((&host, "eno1"), (&net, "eth0"))?;
        lab.veth((&host, "tap1"), (&vm1, "eth0"))?;
        lab.veth((&host, "tap2"), (&vm2, "eth0"))?;
        let [public, second, gateway] = [PUBLIC, SECOND, GATEWAY].map(Ipv6Addr::from);
        let [first_guest, second_guest] = [VM1, VM2].map(Ipv6Addr::from);
        host.ip(&format!(
            "link add vmbr1 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             link set vmbr1 up\nlink set tap1 master vmbr1\nlink set tap2 master vmbr1\n\
             address add {gateway}/64 dev vmbr1 nodad\n\
             address add {public}/64 dev eno1 nodad\naddress add {second}/64 dev eno1 nodad\n\
             neighbour add 2001:db8:8::1 lladdr {} nud permanent dev eno1\n\
             neighbour add {first_guest} lladdr {} nud permanent dev vmbr1\n\
             neighbour add {second_guest} lladdr {} nud permanent dev vmbr1\n\
             route add default via 2001:db8:8::1 dev eno1",
            text(net.mac("eth0")?),
            text(vm1.mac("eth0")?),
            text(vm2.mac("eth0")?),
        ))?;
        let key = "net.bridge.bridge-nf-call-ip6tables";
        // Without the module br_netfilter, netfilter never sees bridged frames.
        if host.sysctl(key).is_ok() {
            host.set_sysctl(key, "0")?;
        }
        let mut wires = Vec::new();
        for (neighbour, interface) in [(&net, "eno1"), (&vm1, "vmbr1"), (&vm2, "vmbr1")] {
            wires.push(Wire {
                sending: neighbour.raw("eth0")?,
                receiving: neighbour.listen("eth0")?,
                own: neighbour.mac("eth0")?,
                gateway: host.mac(interface)?,
            });
        }
        Ok(Self {
            natbpf: None,
            wires,
            markers: 0,
            host,
            lab,
        })
    }

    fn ready(&mut self) -> Result<()> {
        let sent = self.exchange(Place::Net, &[]);
        sent.map(drop).context("the first markers")
    }

    /// What natbpf on this host has dropped, for a failure's report.
    pub(super) fn account(&self) -> String {
        let stats = self.natbpf.as_ref().and_then(|natbpf| natbpf.stats().ok());
        stats.map_or_else(String::new, |stats| stats["drops"].to_string())
    }

    /// Sends packets on a wire and returns all that comes out anywhere, from the IP header on. When
    /// markers have made the same way on the one CPU, nothing is under way any more.
    pub(super) fn exchange(
        &mut self,
        at: Place,
        packets: &[Vec<u8>],
    ) -> Result<Vec<(Place, Vec<u8>)>> {
        for packet in packets {
            self.send(at, packet)?;
        }
        self.markers += 1;
        let payload = [MARKER, &self.markers.to_be_bytes()].concat();
        let [to_vm1, to_vm2, from_vm1] = MARKER_PORTS;
        let remote = At(MARKER_REMOTE, 7);
        for (place, marker) in [
            (Place::Net, udp(remote, At(PUBLIC, to_vm1))),
            (Place::Net, udp(remote, At(PUBLIC, to_vm2))),
            (Place::Vm1, udp(At(VM1, from_vm1), At(MARKER_REMOTE, 8))),
        ] {
            self.send(place, &marker.payload(&payload).bytes()[ETHERNET..])?;
        }
        let mut caught = Vec::new();
        for place in Place::ALL {
            self.catch(place, &payload, &mut caught)?;
        }
        Ok(caught)
    }

    fn send(&self, at: Place, packet: &[u8]) -> Result<()> {
        let wire = &self.wires[at as usize];
        let ethernet = [&wire.gateway[..], &wire.own, &[0x86, 0xdd], packet].concat();
        wire.sending.send(&ethernet)
    }

    fn catch(
        &self,
        place: Place,
        payload: &[u8],
        caught: &mut Vec<(Place, Vec<u8>)>,
    ) -> Result<()> {
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
            let is_ours = frame.bytes.get(..6) == Some(&wire.own)
                && frame.bytes.get(12..14) == Some(&[0x86, 0xdd]);
            let packet = frame.bytes.get(ETHERNET..).unwrap_or_default();
            let kind = packet.get(40).filter(|_| packet.get(6) == Some(&58));
            let is_of_link = kind.is_some_and(|kind| OF_THE_LINK.contains(kind));
            if frame.outgoing || !is_ours || is_of_link {
                continue;
            }
            if packet.ends_with(payload) {
                return Ok(());
            }
            caught.push((place, packet.to_vec()));
        }
    }
}

const NFTABLES: &str = "
table ip6 twin {
chain before {
type nat hook prerouting priority dstnat;
ip6 daddr 2001:db8:8::10 tcp dport 10000-10019 dnat to fd22::170
ip6 daddr 2001:db8:8::10 udp dport 10000-10019 dnat to fd22::171
ip6 daddr 2001:db8:8::10 tcp dport 8000 dnat to [fd22::171]:80
ip6 daddr 2001:db8:8::10 icmpv6 type echo-request dnat to fd22::170
ip6 daddr 2001:db8:8::10 udp dport 9991 dnat to fd22::170
ip6 daddr 2001:db8:8::10 udp dport 9992 dnat to fd22::171
ip6 daddr 2001:db8:8::11 meta l4proto { tcp, udp, esp } dnat to fd22::171
ip6 daddr 2001:db8:8::11 icmpv6 type echo-request dnat to fd22::171
}
chain after {
type nat hook postrouting priority srcnat;
ip6 saddr fd22::/64 oifname eno1 snat to 2001:db8:8::10
ip6 saddr fd22::/64 ip6 daddr fd22::/64 ct status dnat snat to 2001:db8:8::10
}
}
";

/// The same rules, for natbpf.
const NATBPF: &str = r#"
[uplink.wan]
interface = "eno1"

[network.lan]
interface = "vmbr1"
address = "fd22::fe/64"

[[snat]]
name = "out"
network = "lan"
uplink = "wan"
to = "2001:db8:8::10"
mapping = "address-and-port-dependent"
filtering = "address-and-port-dependent"

[[forward]]
name = "vm1-tcp"
uplink = "wan"
protocol = "tcp"
address = "2001:db8:8::10"
ports = "10000-10019"
to = "fd22::170"

[[forward]]
name = "vm2-udp"
uplink = "wan"
protocol = "udp"
address = "2001:db8:8::10"
ports = "10000-10019"
to = "fd22::171"

[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
address = "2001:db8:8::10"
ports = 8000
to = "fd22::171"
to_ports = 80

[[forward]]
name = "ping"
uplink = "wan"
protocol = "icmp"
address = "2001:db8:8::10"
to = "fd22::170"

[[forward]]
name = "marker-1"
uplink = "wan"
protocol = "udp"
address = "2001:db8:8::10"
ports = 9991
to = "fd22::170"

[[forward]]
name = "marker-2"
uplink = "wan"
protocol = "udp"
address = "2001:db8:8::10"
ports = 9992
to = "fd22::171"

[[forward]]
name = "second"
uplink = "wan"
protocol = "all"
address = "2001:db8:8::11"
to = "fd22::171"

[timeouts]
udp = 7440
tcp_opening = 7440
icmp = 7440
other = 7440
"#;
