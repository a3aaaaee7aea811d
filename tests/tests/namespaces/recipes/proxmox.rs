//! One public address, many guests.

use std::net::Ipv4Addr;

use anyhow::Result;
use lab::topology::Proxmox;

use super::matrix::Service::{Ping, Tcp, Udp};
use super::matrix::{Difference, Matrix, Questions, Service, compare};
use super::{by_hand, configuration, extended};

const HAIRPIN: &str = "half a hairpin: the guest answers the other one directly, or itself, by an \
    address that nobody has asked";
const LOCAL: &str = "the host itself reaches what it forwards";
const NOT_OUTSIDE: &str = "no inside address is seen outside, not even by who has a route to it";

/// What both rules and recipe do, however many protocols are forwarded.
const DIFFERENCES: [Difference<'_>; 5] = [
    Difference {
        probes: "vm1|vm2 tcp 19.19.8.10 10000|10999",
        by_hand: "nothing",
        natbpf: "vm1 sees 19.19.8.10",
        why: HAIRPIN,
    },
    Difference {
        probes: "host tcp 19.19.8.10|127.0.0.1 10000|10999",
        by_hand: "refused",
        natbpf: "vm1 sees 172.22.161.254",
        why: LOCAL,
    },
    Difference {
        probes: "cli|srv2 tcp 172.22.161.170|172.22.161.171|172.22.161.254 10000|10999|11000|22",
        by_hand: "*",
        natbpf: "nothing",
        why: NOT_OUTSIDE,
    },
    Difference {
        probes: "cli|srv2 udp 172.22.161.170|172.22.161.171 10000|10999|11000|22",
        by_hand: "*",
        natbpf: "nothing",
        why: NOT_OUTSIDE,
    },
    Difference {
        probes: "cli|srv2 ping 172.22.161.170|172.22.161.171|172.22.161.254",
        by_hand: "*",
        natbpf: "nothing",
        why: NOT_OUTSIDE,
    },
];

fn matrix(net: &Proxmox, forwarded: &[Service]) -> Result<Matrix> {
    // A remote may send packets for the inside network to the host.
    net.isp.ip("route replace 172.22.161.0/24 via 19.19.8.10")?;
    let ports = [10000, 10999, 11000, 22];
    let services = ports.into_iter().flat_map(|port| [Tcp(port), Udp(port)]);
    let services: Vec<Service> = services.chain([Ping]).collect();
    Questions {
        machines: &[&net.cli, &net.srv2, &net.host, &net.vm1, &net.vm2],
        addresses: &[
            Proxmox::PUBLIC,
            Proxmox::GATEWAY,
            Proxmox::VM1,
            Proxmox::VM2,
            Proxmox::CLI,
        ],
        own: &[Ipv4Addr::LOCALHOST],
        services: &services,
        forwarded,
    }
    .ask()
}

#[test]
fn recipe_proxmox_matches_the_rules() -> Result<()> {
    let forwarded = [Tcp(10000), Tcp(10999)];
    let original = {
        let net = Proxmox::new()?;
        by_hand(&net.host, "proxmox", &[])?;
        matrix(&net, &forwarded)?
    };
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&configuration("proxmox")?)?;
    let udp = [Difference {
        probes: "cli|srv2 udp 172.22.161.254 10000|10999|11000|22",
        by_hand: "*",
        natbpf: "nothing",
        why: NOT_OUTSIDE,
    }];
    let differences: Vec<Difference<'_>> = DIFFERENCES.into_iter().chain(udp).collect();
    compare(&original, &matrix(&net, &forwarded)?, &differences)
}

#[test]
fn recipe_proxmox_forwards_protocols_to_different_guests_as_rules_do() -> Result<()> {
    let forwarded = [Tcp(10000), Tcp(10999), Udp(10000), Udp(10999)];
    let original = {
        let net = Proxmox::new()?;
        let more = ["vmbr0", "vmbr1"].map(|interface| {
            let from = format!("-t nat -A PREROUTING -d 19.19.8.10 -i {interface}");
            [
                format!(
                    "{from} -p udp --dport 10000:10999 -j DNAT \
                     --to-destination 172.22.161.171:10000-10999"
                ),
                format!("{from} -p icmp -j DNAT --to-destination 172.22.161.171"),
            ]
        });
        by_hand(&net.host, "proxmox", more.as_flattened())?;
        matrix(&net, &forwarded)?
    };
    let net = Proxmox::new()?;
    let _natbpf = net.natbpf(&extended("proxmox")?)?;
    let udp = [
        Difference {
            probes: "cli|srv2 udp 172.22.161.254 11000|22",
            by_hand: "*",
            natbpf: "nothing",
            why: NOT_OUTSIDE,
        },
        Difference {
            probes: "vm1|vm2 udp 19.19.8.10 10000|10999",
            by_hand: "nothing",
            natbpf: "vm2 sees 19.19.8.10",
            why: HAIRPIN,
        },
        Difference {
            probes: "host udp 19.19.8.10|127.0.0.1 10000|10999",
            by_hand: "nothing",
            natbpf: "vm2 sees 172.22.161.254",
            why: LOCAL,
        },
        Difference {
            probes: "vm1|vm2 ping 19.19.8.10",
            by_hand: "nothing",
            natbpf: "vm2 sees 19.19.8.10",
            why: HAIRPIN,
        },
    ];
    let differences: Vec<Difference<'_>> = DIFFERENCES.into_iter().chain(udp).collect();
    compare(&original, &matrix(&net, &forwarded)?, &differences)
}

#[test]
fn recipe_proxmox_forwards_everything_else_to_another_guest_as_rules_do() -> Result<()> {
    let forwarded = [Tcp(10000), Tcp(10999), Tcp(11000)];
    let forwarded: Vec<Service> = forwarded.into_iter().chain(UDP.map(Udp)).collect();
    let original = {
        let net = Proxmox::new()?;
        let more = ["vmbr0", "vmbr1"].map(|interface| {
            format!(
                "-t nat -A PREROUTING -d 19.19.8.10 -i {interface} -j DNAT \
                 --to-destination 172.22.161.171"
            )
        });
        by_hand(&net.host, "proxmox", &more)?;
        matrix(&net, &forwarded)?
    };
    let net = Proxmox::new()?;
    let rest = "[[forward]]\nname = \"rest\"\nuplink = \"wan\"\nprotocol = \"all\"\n\
                address = \"19.19.8.10\"\nto = \"172.22.161.171\"\n";
    let _natbpf = net.natbpf(&(configuration("proxmox")? + rest))?;
    let ssh = |probes, by_hand, natbpf| Difference {
        probes,
        by_hand,
        natbpf,
        why: "ssh stays the host's, unless a rule names its port (`keep`)",
    };
    let (guest, host) = ("vm2 sees 198.51.100.2", "host sees 198.51.100.2");
    let all = [
        ssh("cli tcp 19.19.8.10 22", guest, host),
        ssh("srv2 tcp 19.19.8.10 22", "*", "host sees 198.51.100.4"),
        ssh(
            "vm1 tcp 19.19.8.10 22",
            "nothing",
            "host sees 172.22.161.170",
        ),
        ssh(
            "vm2 tcp 19.19.8.10 22",
            "nothing",
            "host sees 172.22.161.171",
        ),
        Difference {
            probes: "vm1|vm2 udp 19.19.8.10 10000|10999|11000|22",
            by_hand: "nothing",
            natbpf: "vm2 sees 19.19.8.10",
            why: HAIRPIN,
        },
        Difference {
            probes: "vm1|vm2 tcp 19.19.8.10 11000",
            by_hand: "nothing",
            natbpf: "vm2 sees 19.19.8.10",
            why: HAIRPIN,
        },
        Difference {
            probes: "vm1|vm2 ping 19.19.8.10",
            by_hand: "nothing",
            natbpf: "vm2 sees 19.19.8.10",
            why: HAIRPIN,
        },
    ];
    let differences: Vec<Difference<'_>> = DIFFERENCES.into_iter().chain(all).collect();
    compare(&original, &matrix(&net, &forwarded)?, &differences)
}

const UDP: [u16; 4] = [10000, 10999, 11000, 22];
