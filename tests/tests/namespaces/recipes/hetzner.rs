//! Several public addresses, routed to guests that are kept apart.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use lab::{Background, Capture, Host, Lab, Natbpf};

use super::super::dhcp::{Told, lease_in};

use super::matrix::Service::{Ping, Tcp, Udp};
use super::matrix::{Difference, Matrix, Questions, compare};
use super::{by_hand, configuration, with_imported};

const HOST: Ipv4Addr = Ipv4Addr::new(123, 45, 12, 48);
const OUT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

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
    lab: Lab,
}

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (out, gw, host) = (lab.host("out")?, lab.host("gw")?, lab.vm_host("host")?);
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
        let guest = self.lab.host(name)?;
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
