//! A tenant behind a plain veth.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use lab::topology::Snat;

use super::matrix::Service::{Ping, Tcp, Udp};
use super::matrix::{Difference, Matrix, Questions, compare};
use super::{by_hand, configuration};

/// The rule that names no interface takes more than what leaves by the uplink.
const ANYWHERE: &str = "the rule names no interface, so that it translates what the host itself \
    says to the tenant, and to itself";

fn matrix(net: &Snat) -> Result<Matrix> {
    Questions {
        machines: &[&net.guest, &net.host, &net.gw, &net.out],
        addresses: &[
            Snat::GUEST,
            Snat::GATEWAY,
            Snat::PUBLIC,
            Snat::ROUTER,
            Snat::OUT,
        ],
        own: &[Ipv4Addr::LOCALHOST],
        services: &[Tcp(80), Udp(53), Ping],
        forwarded: &[],
    }
    .ask()
}

#[test]
fn recipe_snat_matches_the_rules() -> Result<()> {
    let original = {
        let net = Snat::new()?;
        by_hand(&net.host, "snat", &[])?;
        matrix(&net)?
    };
    let net = Snat::new()?;
    let natbpf = net.natbpf(&configuration("snat")?)?;
    let difference = |probes, natbpf| Difference {
        probes,
        by_hand: "*",
        natbpf,
        why: ANYWHERE,
    };
    compare(
        &original,
        &matrix(&net)?,
        &[
            difference("host tcp 1.1.1.2 80", "guest sees 1.1.1.3"),
            difference("host udp 1.1.1.2 53", "guest sees 1.1.1.3"),
            difference("host ping 1.1.1.2", "guest sees 1.1.1.3"),
            difference("host tcp 1.1.1.3 80", "host sees 1.1.1.3"),
            difference("host udp 1.1.1.3 53", "host sees 1.1.1.3"),
            difference("host ping 1.1.1.3", "host sees 1.1.1.3"),
        ],
    )?;
    counts(&net, &natbpf)
}

#[test]
fn recipe_snat_by_masquerade_matches_the_rules() -> Result<()> {
    let original = {
        let net = Snat::new()?;
        // Without the first rule the second one is left, which is for addresses that change.
        let first = "-t nat -D POSTROUTING 1".to_owned();
        by_hand(&net.host, "snat", &[first])?;
        matrix(&net)?
    };
    let net = Snat::new()?;
    let config = configuration("snat")?.replace("\"192.168.38.116\"", "\"masquerade\"");
    ensure!(config.contains("masquerade"), "{config}");
    let natbpf = net.natbpf(&config)?;
    compare(&original, &matrix(&net)?, &[])?;
    counts(&net, &natbpf)
}

/// Packets and bytes of the rule are counted, exactly, in both directions.
fn counts(net: &Snat, natbpf: &lab::Natbpf) -> Result<()> {
    let counters = || -> Result<[u64; 4]> {
        let stats = natbpf.stats()?;
        let rule = &stats["rules"][0];
        ensure!(rule["name"] == "fixed", "{stats}");
        let count = |key: &str| {
            rule[key]
                .as_u64()
                .with_context(|| format!("{key}: {stats}"))
        };
        Ok([
            count("packets_out")?,
            count("bytes_out")?,
            count("packets_in")?,
            count("bytes_in")?,
        ])
    };
    let before = counters()?;
    let ping = "ping -n -c5 -i0.2 -W2 -s56 198.51.100.2";
    net.guest.check(ping.split(' '))?;
    let after = counters()?;
    let counted: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    // 20 bytes of IP and 8 of ICMP before the 56.
    ensure!(counted == [5, 5 * 84, 5, 5 * 84], "counted {counted:?}");
    Ok(())
}
