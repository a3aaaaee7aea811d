//! What a guest with IPv6 alone expects of its network.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use lab::Background;
use lab::service::Service;
use lab::topology::{Inside, Ipv6, Options, Proxmox, Uplink};
use tests::following::soon;

use super::machine::{Image, Machine};
use super::network::{bulk_from_the_guest, bulk_to_the_guest};

const RULES: &str = r#"
[uplink.wan]
interface = "eno1"

[network.lan]
interface = "vmbr1"
address = ["2001:db8:0:101::1/64", "fd00:18::1/64"]
create = true
anti_spoof = true

[network.lan.ra]
domain = "guests.example"

[network.lan.dns]
forwarders = ["198.51.100.4"]

[[guest]]
name = "alpha"
network = "lan"
address = "::5054:ff:fe00:a"
mac = "52:54:00:00:00:0a"

[[snat]]
name = "lan-out"
network = "lan"
uplink = "wan"
to = "masquerade"

[[forward]]
name = "web"
uplink = "wan"
protocol = "tcp"
ports = 10080
to = "fd00:18::5054:ff:fe00:a"
to_ports = 80

[[policy]]
name = "open"
from = "wan"
to = "alpha"
protocol = "tcp"
ports = 80
action = "accept"
"#;

const ALPHA: (&str, &str, &str) = ("alpha", "kvm-a", "52:54:00:00:00:0a");

/// The address that its kernel makes of the prefix and the card's Ethernet address (RFC 4291
/// appendix A), and the unique local one.
const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x101, 0x5054, 0xff, 0xfe00, 0xa);
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0x5054, 0xff, 0xfe00, 0xa);

#[test]
fn a_guest_of_ipv6_alone_finds_what_it_expects_of_a_network() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        inside: Inside::OnlyPorts,
        ipv6: Some(Ipv6::ROUTED),
        ..Options::default()
    })?;
    let folder = net.lab().folder().join("guests");
    let image = Image::make(&folder)?;
    net.host.set_offloads(net.wire, false)?;
    let mut natbpf = net.natbpf(RULES)?;
    let mut alpha = Machine::start(&image, &net.host, &natbpf, ALPHA)?;
    let _names = name_server(&net)?;
    alpha.wait_until_ready()?;
    addresses(&mut alpha)?;
    names_and_ways_out(&net, &mut alpha)?;
    services(&net, &mut alpha)?;
    let public = Ipv6::ROUTED.public;
    bulk_to_the_guest(&net, &mut alpha, &folder, &format!("[{}]:8000", Ipv6::CLI))?;
    bulk_from_the_guest(&net, &mut alpha, &format!("[{public}]:10080"))?;
    bulk_from_the_guest(&net, &mut alpha, &format!("[{OWN}]:80"))?;
    alpha.power_off()?;
    natbpf.down()
}

fn name_server(net: &Proxmox) -> Result<Background> {
    let options = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root \
                   --pid-file= --bind-interfaces --listen-address=198.51.100.4";
    let record = format!("--address=/www.example/{}", Ipv6::CLI);
    let options = options.split_whitespace().chain([record.as_str()]);
    net.srv2.spawn(["dnsmasq"].into_iter().chain(options))
}

/// It chooses one in each prefix, and learns the router.
fn addresses(machine: &mut Machine) -> Result<()> {
    soon("the guest's addresses", || {
        let all = machine.check("ip -6 addr show dev eth0")?;
        let has = |own| all.lines().any(|line| is_ready(line, own));
        Ok(has(OWN) && has(LOCAL))
    })?;
    let routes = machine.check("ip -6 route show default")?;
    ensure!(routes.contains("via fe80:"), "{routes}");
    Ok(())
}

fn is_ready(line: &str, own: Ipv6Addr) -> bool {
    line.contains(&format!("{own}/64")) && !line.contains("tentative")
}

fn names_and_ways_out(net: &Proxmox, machine: &mut Machine) -> Result<()> {
    let server = Ipv6::CLI;
    let answer = machine.check("nslookup -type=aaaa www.example 2001:db8:0:101::1")?;
    ensure!(answer.contains(&server.to_string()), "{answer}");
    let answer = machine.check("nslookup -type=aaaa alpha.guests.example fd00:18::1")?;
    ensure!(answer.contains(&OWN.to_string()), "{answer}");
    machine.check(&format!("ping -c 3 -W 5 {server}"))?;
    machine.check(&format!("ping -c 3 -W 5 -I {LOCAL} {server}"))?;
    let web = SocketAddr::from((server, 8080));
    let _web = Service::http(&net.cli, &web.to_string())?;
    let page = machine.check(&format!("timeout 20 wget -q -O - http://{web}/"))?;
    ensure!(page.starts_with(&format!("cli sees [{OWN}]:")), "{page}");
    Ok(())
}

/// Its service is reached at its own address, and by the forward from outside and from itself.
fn services(net: &Proxmox, machine: &mut Machine) -> Result<()> {
    machine.check("hostname > /www/index.html; httpd -p '[::]:80' -h /www")?;
    let own = SocketAddr::from((OWN, 80));
    let forward = SocketAddr::from((Ipv6::ROUTED.public, 10080));
    for at in [own, forward] {
        let url = format!("http://{at}/");
        let page = net.cli.check(["curl", "-gsS", "-m", "10", &url])?;
        ensure!(page.trim() == "alpha", "from outside: {page}");
    }
    let page = machine.check(&format!("timeout 20 wget -q -O - http://{forward}/"))?;
    ensure!(page == "alpha", "from the guest: {page}");
    Ok(())
}
