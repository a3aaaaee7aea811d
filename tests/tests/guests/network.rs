//! What a guest expects of its network.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::service::Service;
use lab::topology::{Inside, Options, Proxmox, Uplink};
use lab::{Background, Frame, Host, Packet};
use tests::Watch;

use super::machine::{Image, Machine};

/// Large enough for windows to open and sessions to go by the fast path for most of the time.
const BULK_MIB: usize = 24;
const BULK_LIMIT: Duration = Duration::from_secs(60);

const RULES: &str = r#"
create = true

[network.lan.dhcp]
range = "172.22.161.10-172.22.161.200"
domain = "guests.example"

[network.lan.dns]
forwarders = ["198.51.100.4"]

[[guest]]
name = "alpha"
network = "lan"
address = "172.22.161.50"
mac = "52:54:00:00:00:0a"

[[guest]]
name = "beta"
network = "lan"
address = "172.22.161.51"
mac = "52:54:00:00:00:0b"

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
to = "alpha"
to_ports = 80

[[forward]]
name = "beta-web"
uplink = "wan"
protocol = "tcp"
ports = 10081
to = "beta"
to_ports = 80
"#;

const ALPHA: (&str, &str, &str) = ("alpha", "kvm-a", "52:54:00:00:00:0a");
const BETA: (&str, &str, &str) = ("beta", "kvm-b", "52:54:00:00:00:0b");

/// Two guests at once, from their boot to their end.
#[test]
fn guests_find_everything_that_they_expect_of_a_network() -> Result<()> {
    let net = Proxmox::with(&Options {
        uplink: Uplink::Nic,
        inside: Inside::OnlyPorts,
        ..Options::default()
    })?;
    let folder = net.lab().folder().join("guests");
    let image = Image::make(&folder)?;
    // A wire without offloads: what the guests leave to their device is to be finished on it.
    net.host.set_offloads(net.wire, false)?;
    // One of the taps is there before and after, the other one QEMU makes.
    net.host.ip(&format!("tuntap add {} mode tap", BETA.1))?;
    let mut natbpf = net.natbpf(&(net.config_head() + RULES))?;
    let start = |guest| Machine::start(&image, &net.host, &natbpf, guest);
    let (mut alpha, mut beta) = (start(ALPHA)?, start(BETA)?);
    let _names = nameserver(&net.srv2)?;
    for machine in [&alpha, &beta] {
        machine.wait_until_ready()?;
    }
    let watch = Watch::proxmox(&net)?;
    leases(&mut alpha, &mut beta)?;
    names_and_ways_out(&net, &mut alpha)?;
    services(&net, &mut alpha, &mut beta)?;
    for (machine, port) in [(&mut alpha, 10080), (&mut beta, 10081)] {
        bulk_to_the_guest(&net, machine, &folder, "198.51.100.2:8000")?;
        bulk_from_the_guest(&net, machine, &format!("19.19.8.10:{port}"))?;
        // To the first guest went what a neighbour on the same machine sends, large and with sums
        // unfinished; to the second goes what comes over a wire.
        net.isp.set_offloads(Proxmox::WAN, false)?;
    }
    let sent = watch.finish()?;
    judge(&sent)?;
    for machine in [alpha, beta] {
        machine.power_off()?;
    }
    let gone = net.host.run(["ip", "link", "show", ALPHA.1])?;
    ensure!(!gone.ok(), "{} is left: {}", ALPHA.1, gone.stdout);
    let left = net.host.check(["ip", "-o", "link", "show", BETA.1])?;
    ensure!(!left.contains("master"), "still a port: {left}");
    natbpf.down()
}

/// What was on the wire, beyond what every watch looks at.
fn judge(sent: &[(Frame, Packet)]) -> Result<()> {
    let pending = sent.iter().filter(|(frame, _)| frame.checksum_pending);
    ensure!(
        pending.count() == 0,
        "checksums were left to a wire that finishes none"
    );
    let bytes: usize = sent.iter().map(|(frame, _)| frame.bytes.len()).sum();
    ensure!(
        bytes > (2 * BULK_MIB) << 20,
        "only {bytes} bytes were seen on the wire"
    );
    Ok(())
}

/// A name server somewhere in the internet.
fn nameserver(host: &Host) -> Result<Background> {
    let options = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root \
                   --pid-file= --bind-interfaces --listen-address=198.51.100.4 \
                   --address=/www.example/198.51.100.2";
    host.spawn(["dnsmasq"].into_iter().chain(options.split_whitespace()))
}

/// Each guest gets the address that is written for its card, and learns where to go.
fn leases(alpha: &mut Machine, beta: &mut Machine) -> Result<()> {
    for (machine, address) in [(alpha, "172.22.161.50/24"), (beta, "172.22.161.51/24")] {
        let features = machine.check("cat /sys/class/net/eth0/device/features")?;
        // VIRTIO_NET_F_CSUM, GUEST_CSUM and HOST_TSO4 (linux/virtio_net.h): offloads are at work.
        for bit in [0, 1, 11] {
            ensure!(
                features.as_bytes()[bit] == b'1',
                "feature {bit}: {features}"
            );
        }
        machine.check("udhcpc -i eth0 -n -q -t 20 -T 1 -s /udhcpc")?;
        let addresses = machine.check("ip -4 -o addr show dev eth0")?;
        ensure!(addresses.contains(address), "{addresses}");
    }
    Ok(())
}

fn names_and_ways_out(net: &Proxmox, machine: &mut Machine) -> Result<()> {
    let answer = machine.check("nslookup -type=a www.example")?;
    ensure!(answer.contains("198.51.100.2"), "{answer}");
    let answer = machine.check("nslookup -type=a beta.guests.example")?;
    ensure!(answer.contains("172.22.161.51"), "{answer}");
    machine.check("ping -c 3 -W 5 198.51.100.2")?;
    let _web = Service::http(&net.cli, "198.51.100.2:8080")?;
    let page = machine.check("timeout 20 wget -q -O - http://198.51.100.2:8080/")?;
    ensure!(page.starts_with("cli sees 19.19.8.10:"), "{page}");
    Ok(())
}

/// A service of a guest's is reached from outside, from the other guest, and from the guest itself.
fn services(net: &Proxmox, alpha: &mut Machine, beta: &mut Machine) -> Result<()> {
    for machine in [&mut *alpha, &mut *beta] {
        machine.check("hostname > /www/index.html; httpd -p 80 -h /www")?;
    }
    for (port, name) in [(10080, "alpha"), (10081, "beta")] {
        let url = format!("http://19.19.8.10:{port}/");
        let page = net.cli.check(["curl", "-sS", "-m", "10", &url])?;
        ensure!(page.trim() == name, "from outside: {page}");
        for machine in [&mut *alpha, &mut *beta] {
            let page = machine.check(&format!("timeout 20 wget -q -O - {url}"))?;
            ensure!(page == name, "from a guest: {page}");
        }
    }
    Ok(())
}

/// From a server that is made at an address outside.
pub(crate) fn bulk_to_the_guest(
    net: &Proxmox,
    machine: &mut Machine,
    folder: &Path,
    server: &str,
) -> Result<()> {
    let www = folder.join("www");
    fs::create_dir_all(&www)?;
    let make = format!(
        "dd if=/dev/urandom of=bulk bs=1M count={BULK_MIB} 2>/dev/null && sha256sum < bulk"
    );
    let mut command = net.cli.command("sh");
    let made = command.args(["-c", &make]).current_dir(&www).output()?;
    let expected = String::from_utf8(made.stdout).context("a hash")?;
    let mut httpd = net.cli.command("busybox");
    let mut httpd = httpd
        .args(["httpd", "-f", "-p", server, "-h"])
        .arg(&www)
        .stdin(Stdio::null())
        .spawn()
        .context("start busybox httpd")?;
    let fetch = format!("timeout 60 wget -q -O - http://{server}/bulk | sha256sum");
    let got = machine.check_for(&fetch, BULK_LIMIT);
    httpd.kill()?;
    httpd.wait()?;
    let got = got?;
    ensure!(got.trim() == expected.trim(), "{got}, not {expected}");
    Ok(())
}

/// By the address and port at which the guest's server is reached.
pub(crate) fn bulk_from_the_guest(net: &Proxmox, machine: &mut Machine, at: &str) -> Result<()> {
    let make = format!(
        "dd if=/dev/urandom of=/www/bulk bs=1M count={BULK_MIB} 2>/dev/null; sha256sum < /www/bulk"
    );
    let expected = machine.check_for(&make, BULK_LIMIT)?;
    let fetch = format!("curl -gsS -m 25 http://{at}/bulk | sha256sum");
    let got = net.cli.check(["sh", "-c", &fetch])?;
    ensure!(got.trim() == expected.trim(), "{got}, not {expected}");
    Ok(())
}
