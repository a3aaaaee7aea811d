//! Bridge networking for namespaces.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use super::matrix::Service::{Ping, Tcp, Udp};
use super::matrix::{Difference, Matrix, Questions, compare};
use super::world::World;
use super::{by_hand, configuration, with_imported};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(175, 18, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(175, 18, 0, 2);
const SECOND: Ipv4Addr = Ipv4Addr::new(175, 18, 0, 3);

/// The host with its bridge, as both have it before.
fn world() -> Result<World> {
    let net = World::new(["ns1", "ns2"], "175.18.0.0/24")?;
    net.host
        .ip("link add ns_br type bridge\nlink set ns_br up\n\
         address add 175.18.0.1/24 dev ns_br\n\
         link set tap0 master ns_br\nlink set tap1 master ns_br")?;
    for (guest, address) in net.guests.iter().zip([FIRST, SECOND]) {
        guest.ip(&format!(
            "address add {address}/24 dev eth0\nroute add default via {GATEWAY}"
        ))?;
    }
    Ok(net)
}

fn matrix(net: &World) -> Result<Matrix> {
    Questions {
        machines: &[&net.out, &net.gw, &net.host, &net.guests[0], &net.guests[1]],
        addresses: &[World::OUT, World::GW, World::HOST, GATEWAY, FIRST, SECOND],
        own: &[Ipv4Addr::LOCALHOST],
        services: &[
            Tcp(80),
            Tcp(8088),
            Tcp(8089),
            Tcp(22),
            Udp(53),
            Udp(8088),
            Ping,
        ],
        forwarded: &[Tcp(8088), Tcp(8089)],
    }
    .ask()
}

const LOCAL: &str = "the host itself reaches what it forwards, by each of its names: the rules \
    have \
    only one of the ports, and nothing for 127.0.0.1";
const AS_THE_GATEWAY: &str = "the rule translates what the host itself says as well, and guests \
    see \
    it by its address in their network";
const HIDDEN: &str = "by masquerade of all that guests send, the other one sees the gateway; here \
    it \
    is the external address";
const ANY_ADDRESS: &str = "the rule names no address: whatever somebody asks of anybody in the \
    world at \
    this port ends at a guest";
const NOT_OUTSIDE: &str = "no inside address is seen outside, not even by who has a route to it";

const fn row<'a>(
    probes: &'a str,
    (by_hand, natbpf): (&'a str, &'a str),
    why: &'a str,
) -> Difference<'a> {
    Difference {
        probes,
        by_hand,
        natbpf,
        why,
    }
}

const ALWAYS: [Difference<'_>; 11] = [
    row(
        "host tcp 127.0.0.1 8088",
        ("refused", "ns1 sees 175.18.0.1"),
        LOCAL,
    ),
    row(
        "host tcp 10.10.10.190 8088",
        ("ns1 sees 10.10.10.190", "ns1 sees 175.18.0.1"),
        AS_THE_GATEWAY,
    ),
    row(
        "host tcp 175.18.0.1 80|22",
        ("host sees 10.10.10.190", "host sees 175.18.0.1"),
        AS_THE_GATEWAY,
    ),
    row(
        "host udp 175.18.0.1 53|8088",
        ("host sees 10.10.10.190", "host sees 175.18.0.1"),
        AS_THE_GATEWAY,
    ),
    row(
        "host ping 175.18.0.1",
        ("host sees 10.10.10.190", "host sees 175.18.0.1"),
        AS_THE_GATEWAY,
    ),
    row(
        "host tcp 175.18.0.1 8088",
        ("ns1 sees 175.18.0.1", "refused"),
        ANY_ADDRESS,
    ),
    row(
        "ns1|ns2 tcp 10.10.10.190 8088",
        ("ns1 sees 175.18.0.1", "ns1 sees 10.10.10.190"),
        HIDDEN,
    ),
    row(
        "ns1|ns2 tcp 10.10.10.190 8089",
        ("ns2 sees 175.18.0.1", "ns2 sees 10.10.10.190"),
        HIDDEN,
    ),
    row(
        "ns1|ns2 tcp 175.18.0.1 8088|8089",
        ("*", "refused"),
        ANY_ADDRESS,
    ),
    row(
        "ns1|ns2 tcp 198.51.100.2 8088|8089",
        ("*", "out sees 10.10.10.190"),
        ANY_ADDRESS,
    ),
    row(
        "ns1|ns2 tcp 10.10.10.1 8088|8089",
        ("*", "gw sees 10.10.10.190"),
        ANY_ADDRESS,
    ),
];

const RECIPE: [Difference<'_>; 4] = [
    row(
        "host tcp 127.0.0.1|10.10.10.190 8089",
        ("refused", "ns2 sees 175.18.0.1"),
        LOCAL,
    ),
    row(
        "out|gw tcp 175.18.0.1|175.18.0.2|175.18.0.3 80|8088|8089|22",
        ("*", "nothing"),
        NOT_OUTSIDE,
    ),
    row(
        "out|gw udp 175.18.0.1|175.18.0.2|175.18.0.3 53|8088",
        ("*", "nothing"),
        NOT_OUTSIDE,
    ),
    row(
        "out|gw ping 175.18.0.1|175.18.0.2|175.18.0.3",
        ("*", "nothing"),
        NOT_OUTSIDE,
    ),
];

/// The rules accept what is sent straight to guests.
const IMPORTED: [Difference<'_>; 7] = [
    row(
        "out|gw tcp 175.18.0.1 80|8088|8089|22",
        ("*", "nothing"),
        NOT_OUTSIDE,
    ),
    row(
        "out|gw udp 175.18.0.1 53|8088",
        ("*", "nothing"),
        NOT_OUTSIDE,
    ),
    row("out|gw ping 175.18.0.1", ("*", "nothing"), NOT_OUTSIDE),
    row(
        "out tcp 175.18.0.2 8089",
        ("ns2 sees 198.51.100.2", "ns1 sees 198.51.100.2"),
        ANY_ADDRESS,
    ),
    row(
        "out tcp 175.18.0.3 8088",
        ("ns1 sees 198.51.100.2", "ns2 sees 198.51.100.2"),
        ANY_ADDRESS,
    ),
    row(
        "gw tcp 175.18.0.2 8089",
        ("ns2 sees 10.10.10.1", "ns1 sees 10.10.10.1"),
        ANY_ADDRESS,
    ),
    row(
        "gw tcp 175.18.0.3 8088",
        ("ns1 sees 10.10.10.1", "ns2 sees 10.10.10.1"),
        ANY_ADDRESS,
    ),
];

#[test]
fn recipe_docker_matches_the_rules() -> Result<()> {
    let original = {
        let net = world()?;
        by_hand(&net.host, "docker", &[])?;
        matrix(&net)?
    };
    let net = world()?;
    let _natbpf = net.natbpf(&configuration("docker")?)?;
    compare(&original, &matrix(&net)?, &[&ALWAYS[..], &RECIPE].concat())
}

#[test]
fn imported_policies_of_docker_match_the_rules() -> Result<()> {
    let original = {
        let net = world()?;
        by_hand(&net.host, "docker", &[])?;
        matrix(&net)?
    };
    let net = world()?;
    let _natbpf = with_imported(&net.host, &net.lab, "docker")?;
    compare(
        &original,
        &matrix(&net)?,
        &[&ALWAYS[..], &IMPORTED].concat(),
    )
}

#[test]
fn recipe_docker_lets_namespaces_ping_when_asked_for() -> Result<()> {
    let net = world()?;
    let config = configuration("docker")?;
    let policy = "from = \"ns\"\n";
    ensure!(config.contains(policy), "{config}");
    let natbpf = net.natbpf(&config.replace(policy, &format!("{policy}protocol = \"icmp\"\n")))?;
    let ask = || {
        Questions {
            machines: &[&net.out, &net.guests[0], &net.host],
            addresses: &[World::OUT, World::HOST],
            own: &[],
            services: &[Tcp(80), Tcp(8088), Udp(53), Ping],
            forwarded: &[Tcp(8088)],
        }
        .ask()
    };
    for (only_ping, ping) in [(true, "out sees 10.10.10.190"), (false, "nothing")] {
        if !only_ping {
            let without = config.split("[[policy]]").next().unwrap_or_default();
            let (_, rules) = config.split_once("[[snat]]").context("no snat")?;
            natbpf.reload(&format!("{without}[[snat]]{rules}"))?;
            // Pings with the same identifier belong to the session that is open already.
            natbpf.cli(&["conntrack", "flush"])?.expect_ok()?;
        }
        let answers = ask()?;
        for (probe, expected) in [
            ("ns1 ping 198.51.100.2", ping),
            ("ns1 tcp 198.51.100.2 80", "nothing"),
            ("ns1 udp 198.51.100.2 53", "nothing"),
            // What is published works, also from the host and by the external address.
            ("out tcp 10.10.10.190 8088", "ns1 sees 198.51.100.2"),
            ("host tcp 10.10.10.190 8088", "ns1 sees 175.18.0.1"),
            ("ns1 tcp 10.10.10.190 8088", "ns1 sees 10.10.10.190"),
        ] {
            let answer = answers.get(probe).context("not asked")?;
            ensure!(answer == expected, "{probe}: {answer}, not {expected}");
        }
    }
    Ok(())
}
