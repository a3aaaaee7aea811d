//! Several public addresses, routed to guests that are kept apart.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use lab::{Background, Capture, Host, Lab, Natbpf};

use super::super::dhcp::{Told, lease_in};

use super::matrix::Service::{Ping, Tcp, Udp};
use super::matrix::{Difference, Matrix, Questions, compare};
use super::{block, by_hand, configuration, extended, with_imported};

const HOST: Ipv4Addr = Ipv4Addr::new(123, 45, 12, 48);
const OUT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x48);
const GW6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const OUT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);

/// An address of a bridge's /64 of 2001:db8:0:100::/56.
fn of_bridge(number: u8, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0x100 + u16::from(number), 0, 0, 0, last)
}

/// The number of a guest's bridge and the public address behind it: all eight of the subnet and
/// the single ones.
fn publics() -> impl Iterator<Item = (u8, Ipv4Addr)> {
    let subnet = (112..=119).map(|last| (last, Ipv4Addr::new(123, 45, 90, last)));
    let single = (11..=13).map(|last| (last, Ipv4Addr::new(123, 45, 53, last)));
    subnet.chain(single)
}

/// Bridges on which there is a guest more, which is being installed and has a private address.
const INSTALLING: [u8; 2] = [112, 11];

/// ```text
/// vm112 123.45.90.112/32 ── tap112 br112 ┐
/// new112 by DHCP ────────── new112 br112 ┤
/// …                                      ┤ host 123.45.12.48/32 ── 123.45.12.1 gw ── out
/// vm119 123.45.90.119/32 ── tap119 br119 ┤ (eth0)
/// vm11 … vm13 123.45.53.11 … ── br11 …   ┘
/// ```
///
/// The provider takes frames from the host's Ethernet address alone.
struct World {
    out: Host,
    gw: Host,
    host: Host,
    guests: Vec<Host>,
    installing: Vec<Host>,
    make: fn(&Lab, &str) -> Result<Host>,
    lab: Lab,
}

impl World {
    fn new() -> Result<Self> {
        Self::of(Lab::host)
    }

    /// With machines that are made so.
    fn of(make: fn(&Lab, &str) -> Result<Host>) -> Result<Self> {
        let lab = Lab::new()?;
        let (out, gw, host) = (make(&lab, "out")?, make(&lab, "gw")?, lab.vm_host("host")?);
        lab.veth((&host, "eth0"), (&gw, "wan0"))?;
        lab.veth((&gw, "lan0"), (&out, "eth0"))?;
        host.ip(&format!(
            "address add {HOST}/32 dev eth0\nroute add 123.45.12.1 dev eth0\n\
             route add default via 123.45.12.1"
        ))?;
        gw.ip(&format!(
            "address add 123.45.12.1/32 dev wan0\naddress add 198.51.100.1/24 dev lan0\n\
             route add {HOST} dev wan0\nroute add 123.45.90.112/29 via {HOST}\n\
             route add 123.45.53.11 via {HOST}\nroute add 123.45.53.12 via {HOST}\n\
             route add 123.45.53.13 via {HOST}\nroute add 172.30.0.0/16 via {HOST}"
        ))?;
        gw.set_sysctl("net.ipv4.ip_forward", "1")?;
        out.ip(&format!(
            "address add {OUT}/24 dev eth0\nroute add default via 198.51.100.1"
        ))?;
        let mut net = Self {
            out,
            gw,
            host,
            make,
            guests: Vec::new(),
            installing: Vec::new(),
            lab,
        };
        for (number, public) in publics() {
            let guest = net.guest(&format!("vm{number}"), &format!("tap{number}"))?;
            guest.ip(&format!(
                "address add {public}/32 dev eth0\n\
                 route add default via 172.30.{number}.1 dev eth0 onlink"
            ))?;
            net.guests.push(guest);
        }
        for number in INSTALLING {
            let name = format!("new{number}");
            let guest = net.guest(&name, &name)?;
            guest.ip(&format!(
                "link set eth0 address 52:54:00:00:00:{number:02x}"
            ))?;
            net.installing.push(guest);
        }
        let key = "net.bridge.bridge-nf-call-iptables";
        if net.host.sysctl(key).is_ok() {
            net.host.set_sysctl(key, "0")?;
        }
        Ok(net)
    }

    fn guest(&self, name: &str, tap: &str) -> Result<Host> {
        let guest = (self.make)(&self.lab, name)?;
        self.lab.veth((&self.host, tap), (&guest, "eth0"))?;
        // As many systems have it: what a router says of shorter ways is not believed.
        guest.set_sysctl("net.ipv4.conf.all.accept_redirects", "0")?;
        guest.set_sysctl("net.ipv4.conf.eth0.accept_redirects", "0")?;
        Ok(guest)
    }

    /// All as people set it up.
    fn by_hand(&self) -> Result<Background> {
        by_hand(&self.host, "hetzner", &[])?;
        self.around()
    }

    /// The bridges, the routes and DHCP, without rules.
    fn around(&self) -> Result<Background> {
        let mut words: Vec<String> = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--bind-interfaces",
            "--except-interface=lo",
            "--dhcp-authoritative",
            "--pid-file",
        ]
        .map(str::to_owned)
        .into();
        let leases = self.lab.folder().join("leases");
        words.push(format!("--dhcp-leasefile={}", leases.display()));
        for (number, public) in publics() {
            self.host.ip(&format!(
                "link add br{number} type bridge forward_delay 0 stp_state 0\n\
                 address add 172.30.{number}.1/24 dev br{number}\nlink set br{number} up\n\
                 link set tap{number} master br{number}\n\
                 route add {public}/32 dev br{number} src {HOST}"
            ))?;
            words.push(format!("--interface=br{number}"));
            words.push(format!(
                "--dhcp-range=172.30.{number}.10,172.30.{number}.200,3600"
            ));
        }
        for number in INSTALLING {
            let name = format!("link set new{number} master br{number}");
            self.host.ip(&name)?;
        }
        self.host.spawn(words)
    }

    /// The same with IPv6 beside it: a prefix that the provider routes to the host.
    fn with_ipv6() -> Result<Self> {
        let net = Self::of(Lab::dual_host)?;
        net.host.ip(&format!(
            "address add {HOST6}/64 dev eth0 nodad\nroute add default via {GW6} dev eth0"
        ))?;
        net.gw.ip(&format!(
            "address add {GW6}/64 dev wan0 nodad\naddress add 2001:db8:ffff::1/64 dev lan0 nodad\n\
             route add 2001:db8:0:100::/56 via {HOST6}"
        ))?;
        net.gw.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        net.out.ip(&format!(
            "address add {OUT6}/64 dev eth0 nodad\nroute add default via 2001:db8:ffff::1"
        ))?;
        for (guest, (number, _)) in net.guests.iter().zip(publics()) {
            let (own, gateway) = (of_bridge(number, 0x10), of_bridge(number, 1));
            guest.ip(&format!(
                "address add {own}/64 dev eth0 nodad\nroute add default via {gateway}"
            ))?;
        }
        Ok(net)
    }

    /// IPv6 as people set it up, on the bridges that are there.
    fn ipv6_by_hand(&self) -> Result<()> {
        for (number, _) in publics() {
            let gateway = of_bridge(number, 1);
            self.host
                .ip(&format!("address add {gateway}/64 dev br{number} nodad"))?;
        }
        self.host.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let restored = ["ip6tables-restore"];
        self.host
            .run_with_input(restored, RULES6.as_bytes())?
            .expect_ok()
            .map(drop)
    }

    fn matrix6(&self) -> Result<Matrix> {
        let machines: Vec<&Host> = [&self.out, &self.host]
            .into_iter()
            .chain(&self.guests)
            .collect();
        let gateways = [112, 11].map(|number| of_bridge(number, 1));
        let guests = publics().map(|(number, _)| of_bridge(number, 0x10));
        let addresses = [HOST6, OUT6].into_iter().chain(gateways).chain(guests);
        let addresses: Vec<Ipv6Addr> = addresses.collect();
        Questions {
            machines: &machines,
            addresses: &addresses,
            own: &[],
            services: &[Tcp(80), Udp(7000), Ping],
            forwarded: &[],
        }
        .ask()
    }

    /// The guests' taps, as they are attached when the guests start.
    fn attach(&self, natbpf: &Natbpf) -> Result<()> {
        let taps = publics().map(|(number, _)| (number, format!("tap{number}")));
        let new = INSTALLING.map(|number| (number, format!("new{number}")));
        for (number, tap) in taps.chain(new) {
            let network = format!("br{number}");
            natbpf
                .cli(&["port", "add", "--network", &network, &tap])?
                .expect_ok()?;
        }
        Ok(())
    }

    /// Those that are being installed get their addresses.
    fn leases(&self) -> Result<Vec<Told>> {
        let names = self.installing.iter();
        names
            .map(|guest| lease_in(&self.lab, guest, guest.name()))
            .collect()
    }

    fn matrix(&self, leased: &[Told]) -> Result<Matrix> {
        let machines = [&self.out, &self.host].into_iter();
        let machines = machines.chain(&self.guests).chain(&self.installing);
        let machines: Vec<&Host> = machines.collect();
        let inside = [112, 11].map(|number| Ipv4Addr::new(172, 30, number, 1));
        let addresses = [HOST, OUT].into_iter().chain(inside);
        let addresses = addresses.chain(publics().map(|(_, public)| public));
        let addresses = addresses.chain(leased.iter().map(|told| told.address));
        let addresses: Vec<Ipv4Addr> = addresses.collect();
        Questions {
            machines: &machines,
            addresses: &addresses,
            own: &[],
            services: &[Tcp(80), Udp(7000), Ping],
            forwarded: &[],
        }
        .ask()
    }

    /// What the provider lets in: frames of the host's Ethernet address, with public addresses.
    fn is_clean(&self, wire: Capture) -> Result<()> {
        let own = self.host.mac("eth0")?;
        let frames = wire.stop();
        let sent = frames.iter().filter(|frame| !frame.outgoing);
        let mut count = 0;
        for frame in sent {
            ensure!(
                frame.bytes[6..12] == own,
                "of another: {:02x?}",
                frame.bytes
            );
            if let Some(packet) = frame.packet() {
                ensure!(packet.source.octets()[0] == 123, "on the wire: {packet}");
                count += 1;
            }
        }
        ensure!(count > 0, "nothing was sent to the provider");
        Ok(())
    }

    /// Without the recipe's `policy` no guests are separated, and without its `host` guests have
    /// less access to the host.
    fn policies_are_what_does_it(&self, natbpf: &Natbpf, other: Ipv4Addr) -> Result<()> {
        let config = configuration("hetzner")?;
        let ask = |from: &Host, to: &Host, address| {
            Questions {
                machines: &[from, to],
                addresses: &[address],
                own: &[],
                services: &[Tcp(80), Udp(7000), Ping],
                forwarded: &[],
            }
            .ask()
        };
        let [one, two] = [&self.installing[0], &self.installing[1]];
        natbpf.reload(&config.replace("policy = \"drop\"\n", ""))?;
        let open = ask(one, two, other)?;
        let reached = open.values().all(|answer| answer.starts_with("new11 sees"));
        ensure!(reached, "without policy: {open:?}");
        natbpf.reload(&config.replace("host = \"all\"\n", ""))?;
        let less = ask(&self.guests[0], &self.host, HOST)?;
        let of_guest = |service: &str| less.get(&format!("vm112 {service}")).map(String::as_str);
        ensure!(
            of_guest("tcp 123.45.12.48 80") == Some("nothing")
                && of_guest("udp 123.45.12.48 7000") == Some("nothing")
                && of_guest("ping 123.45.12.48") == Some("host sees 123.45.90.112"),
            "without host: {less:?}"
        );
        Ok(())
    }
}

const GATEWAYS: [Difference<'_>; 3] = {
    const fn row(probes: &str) -> Difference<'_> {
        Difference {
            probes,
            by_hand: "host sees 198.51.100.2",
            natbpf: "nothing",
            why: "no inside address is seen outside, not even by who has a route to it",
        }
    }
    [
        row("out tcp 172.30.112.1|172.30.11.1 80"),
        row("out udp 172.30.112.1|172.30.11.1 7000"),
        row("out ping 172.30.112.1|172.30.11.1"),
    ]
};

/// The rules of IPv4 for a prefix.
const RULES6: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s 2001:db8:0:100::/56 -i br+ -o eth0 -j ACCEPT
-A FORWARD -d 2001:db8:0:100::/56 -i eth0 -o br+ -j ACCEPT
-A FORWARD -s 2001:db8:0:100::/56 -d 2001:db8:0:100::/56 -i br+ -o br+ -j ACCEPT
COMMIT
";

/// The recipe with what its page says of IPv6.
fn with_ipv6() -> Result<String> {
    let address = "address = \"172.30.{n}.1/24\"\n";
    let config = extended("hetzner")?;
    ensure!(config.contains(address), "{config}");
    Ok(config.replace(address, &block("hetzner", "toml template")?))
}

#[test]
fn recipe_hetzner_matches_the_rules_in_both_families() -> Result<()> {
    let (original, original6) = {
        let net = World::with_ipv6()?;
        let _dnsmasq = net.by_hand()?;
        net.ipv6_by_hand()?;
        let told = net.leases()?;
        (net.matrix(&told)?, net.matrix6()?)
    };
    let net = World::with_ipv6()?;
    let natbpf = Natbpf::start(&net.host, net.lab.place(), &with_ipv6()?)?;
    net.attach(&natbpf)?;
    let told = net.leases()?;
    compare(&original, &net.matrix(&told)?, &GATEWAYS)?;
    let wire = net.gw.capture("wan0")?;
    let matrix = net.matrix6()?;
    let own = net.host.mac("eth0")?;
    let frames = wire.stop();
    let is_foreign = |frame: &&lab::Frame| !frame.outgoing && frame.bytes[6..12] != own;
    let foreign = frames.iter().find(is_foreign);
    ensure!(foreign.is_none(), "of another: {foreign:?}");
    compare(&original6, &matrix, &[])?;
    // It is the policies that do it.
    natbpf.reload(&with_ipv6()?.replace("2001:db8:0:100::/56", "2001:db8:0:1ff::/64"))?;
    let guest = of_bridge(112, 0x10);
    let closed = Questions {
        machines: &[&net.out, &net.guests[0], &net.guests[8]],
        addresses: &[guest],
        own: &[],
        services: &[Tcp(80)],
        forwarded: &[],
    }
    .ask()?;
    for from in ["out", "vm11"] {
        let probe = format!("{from} tcp {guest} 80");
        ensure!(closed[&probe] == "nothing", "{probe}: {}", closed[&probe]);
    }
    Ok(())
}

#[test]
fn recipe_hetzner_matches_the_rules() -> Result<()> {
    let (original, told_by_hand) = {
        let net = World::new()?;
        let _dnsmasq = net.by_hand()?;
        let told = net.leases()?;
        (net.matrix(&told)?, told)
    };
    let net = World::new()?;
    let config = configuration("hetzner")?;
    let natbpf = Natbpf::start(&net.host, net.lab.place(), &config)?;
    net.attach(&natbpf)?;
    let told = net.leases()?;
    ensure!(
        told.iter()
            .zip(&told_by_hand)
            .all(|(a, b)| a.address == b.address),
        "guests were told {told_by_hand:?}, and are told {told:?}"
    );
    let wire = net.gw.capture("wan0")?;
    let matrix = net.matrix(&told)?;
    net.is_clean(wire)?;
    compare(&original, &matrix, &GATEWAYS)?;
    net.policies_are_what_does_it(&natbpf, told[1].address)
}

#[test]
fn imported_policies_of_hetzner_match_the_rules() -> Result<()> {
    let original = {
        let net = World::new()?;
        let _dnsmasq = net.by_hand()?;
        let told = net.leases()?;
        net.matrix(&told)?
    };
    let net = World::new()?;
    let _dnsmasq = net.around()?;
    let _natbpf = with_imported(&net.host, &net.lab, "hetzner")?;
    let told = net.leases()?;
    compare(&original, &net.matrix(&told)?, &GATEWAYS)
}
