//! IPv6 where the configuration restricts IPv4.

use anyhow::{Result, ensure};
use lab::Host;
use lab::topology::Proxmox;
use serde_json::Value;

use super::{finding, follow, no_findings};

const KIND: &str = "unfiltered-ipv6";

fn set_ipv6(host: &Host, interface: &str, disabled: &str) -> Result<()> {
    host.set_sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), disabled)
}

/// Whether the guest reaches the host by that address.
fn is_answered(net: &Proxmox, address: &str) -> Result<bool> {
    Ok(net.vm1.run(["ping", "-n", "-c1", "-W1", address])?.ok())
}

#[test]
fn ipv6_that_passes_a_networks_rules_is_found_until_it_is_off() -> Result<()> {
    let net = Proxmox::new()?;
    for (host, interface, address) in [(&net.host, "vmbr1", "1"), (&net.vm1, "eth0", "2")] {
        set_ipv6(host, "all", "0")?;
        set_ipv6(host, interface, "0")?;
        host.ip(&format!(
            "address add fd00::{address}/64 dev {interface} nodad"
        ))?;
    }
    let restricted = net
        .config()
        .replace("[network.lan]", "[network.lan]\nhost = [\"dhcp\"]");
    let natbpf = net.natbpf(&net.config())?;
    no_findings(&natbpf)?;
    natbpf.reload(&restricted)?;
    ensure!(!is_answered(&net, "172.22.161.254")?, "host allows no echo");
    ensure!(is_answered(&net, "fd00::1")?, "IPv6 does not pass");
    let found = finding(&natbpf, KIND)?;
    ensure!(found["place"] == "vmbr1", "{found:#}");
    ensure!(
        found["why"] == "IPv6 packets pass whatever host says",
        "{found:#}"
    );
    // Whoever uses IPv6 there would lose it.
    ensure!(found["commands"] == Value::Array(Vec::new()), "{found:#}");
    net.host.ip("address del fd00::1/64 dev vmbr1")?;
    follow(&net.host, &finding(&natbpf, KIND)?)?;
    no_findings(&natbpf)?;
    ensure!(!is_answered(&net, "fd00::1")?, "IPv6 still passes");
    Ok(())
}
