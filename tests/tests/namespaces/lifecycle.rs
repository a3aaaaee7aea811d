//! Living with other software: settings, interfaces and addresses that others change, and rules
//! that move in the file.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::{Inside, Options, Proxmox, Uplink};
use lab::{Natbpf, Offload, Packet};
use tests::following::{soon, soon_seen};
use tests::snapshot;
use tests::{at, exchange};

fn log_of(natbpf: &Natbpf) -> String {
    natbpf.log()
}

fn warnings(natbpf: &Natbpf) -> Result<String> {
    Ok(natbpf.status()?["warnings"].to_string())
}

#[test]
fn l14_settings_changed_by_others_are_restored_and_reported() -> Result<()> {
    let net = Proxmox::new()?;
    let natbpf = net.natbpf(&net.config())?;
    for (setting, wanted, other) in [
        ("net.ipv4.ip_forward", "1", "0"),
        ("net.ipv4.conf.vmbr1.forwarding", "1", "0"),
        ("net.ipv4.conf.vmbr0.forwarding", "1", "0"),
        ("net.ipv4.conf.vmbr1.send_redirects", "0", "1"),
        ("net.ipv4.conf.all.send_redirects", "0", "1"),
    ] {
        net.host.set_sysctl(setting, other)?;
        soon(setting, || Ok(net.host.sysctl(setting)? == wanted))?;
        let named = setting.replace('.', "/");
        soon("a warning", || Ok(warnings(&natbpf)?.contains(&named)))?;
    }
    Ok(())
}

#[test]
fn l15_interfaces_that_come_after_the_start_are_taken_into_use() -> Result<()> {
    let net = Proxmox::new()?;
    let far = "[uplink.line]\ninterface = \"line0\"\n[network.far]\ninterface = \"vmbr9\"\n\
               address = \"10.9.0.1/24\"\n";
    let natbpf = net.natbpf(&(net.config() + far))?;
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"the rest works")?;
    for missing in ["line0", "vmbr9"] {
        ensure!(
            warnings(&natbpf)?.contains(missing),
            "nothing about {missing}"
        );
    }
    natbpf.reload(&(net.config() + far))?;
    let said = natbpf.cli(&["check"])?;
    ensure!(
        said.ok() && said.stderr.contains("line0"),
        "{}",
        said.stderr
    );
    net.host
        .ip("link add line0 type bridge\nlink add vmbr9 type bridge")?;
    soon("both are used", || {
        let log = warnings(&natbpf)?;
        Ok(!log.contains("line0") && !log.contains("does not exist"))
    })?;
    // Its owner adds the address, and sets it up.
    ensure!(
        warnings(&natbpf)?.contains("10.9.0.1/24"),
        "{}",
        log_of(&natbpf)
    );
    net.host
        .ip("address add 10.9.0.1/24 dev vmbr9\nlink set vmbr9 up")?;
    soon("no warning", || {
        Ok(!warnings(&natbpf)?.contains("10.9.0.1/24"))
    })
}

fn forward(port: &str, to_port: u16) -> String {
    format!(
        "[[forward]]\nuplink = \"wan\"\nprotocol = \"udp\"\nports = {port}\nto = \"{}\"\n\
         to_ports = {to_port}\n",
        Proxmox::VM1
    )
}

#[test]
fn l13_sessions_go_on_when_their_rule_moves_is_renamed_or_grows() -> Result<()> {
    let net = Proxmox::new()?;
    let config = |rules: &str| net.config() + rules;
    let mine = forward("3000", 3000);
    let natbpf = net.natbpf(&config(&mine))?;
    let client = net.cli.udp("198.51.100.2:7000")?;
    let service = net.vm1.udp("0.0.0.0:3000")?;
    exchange(&client, at(Proxmox::PUBLIC, 3000), &service, b"opened")?;
    let named = format!("{mine}name = \"mine\"\n");
    let grown =
        forward("\"3000-3009\"", 3000).replace("to_ports = 3000", "to_ports = \"3000-3009\"");
    let shrunk =
        forward("\"3000-3004\"", 3000).replace("to_ports = 3000", "to_ports = \"3000-3004\"");
    let grown = format!("{grown}name = \"mine\"\n");
    let shrunk = format!("{shrunk}name = \"mine\"\n");
    for (rules, what) in [
        (
            format!("{}{mine}", forward("3001", 3001)),
            "another before it",
        ),
        (mine.clone(), "that one gone"),
        (named, "a name"),
        (grown, "a wider range"),
        (shrunk, "a narrower one"),
    ] {
        let said = natbpf.reload(&config(&rules))?;
        ensure!(said.contains("; 0 sessions ended"), "{what}: {said}");
        exchange(&client, at(Proxmox::PUBLIC, 3000), &service, b"goes on")
            .with_context(|| what.to_owned())?;
        ensure!(natbpf.conntrack(&[])?.len() == 1, "{what}");
    }
    let said = natbpf.reload(&config(&forward("3000", 3001)))?;
    ensure!(said.contains("; 1 sessions ended"), "elsewhere: {said}");
    Ok(())
}

/// In the provider's subnet.
const MOVING: Ipv4Addr = Ipv4Addr::new(19, 19, 8, 77);

fn claiming(net: &Proxmox, claim: &str) -> String {
    let head = "interface = \"vmbr0\"\n";
    let nat = format!(
        "[[nat]]\nname = \"moving\"\nuplink = \"wan\"\naddress = \"{MOVING}\"\nto = \"{}\"\n",
        Proxmox::VM1
    );
    let claim = format!("{head}claim = \"{claim}\"\n");
    net.config().replace(head, &claim) + &nat
}

#[test]
fn o6_an_address_that_another_host_has_is_left_to_it_and_taken_when_it_goes() -> Result<()> {
    for claim in ["arp", "add"] {
        let net = Proxmox::new()?;
        net.isp.ip(&format!("address add {MOVING}/24 dev wan0"))?;
        let natbpf = net.natbpf(&claiming(&net, claim))?;
        let capture = net.isp.capture(Proxmox::WAN)?;
        ensure!(warnings(&natbpf)?.contains("in use by"), "{}", natbpf.log());
        let said = net
            .host
            .check(["ip", "-4", "address", "show", "dev", "vmbr0"])?;
        ensure!(!said.contains("19.19.8.77"), "{said}");
        net.isp.ip(&format!("address del {MOVING}/24 dev wan0"))?;
        soon("taken over", || {
            Ok(!warnings(&natbpf)?.contains("in use by"))
        })?;
        soon("announced", || {
            let frames = capture.frames();
            let announced = frames.iter().any(|frame| {
                let bytes = &frame.bytes;
                bytes.len() >= 42 && bytes[12..14] == [8, 6] && bytes[28..32] == MOVING.octets()
            });
            Ok(announced)
        })?;
        let client = net.cli.udp("198.51.100.2:7000")?;
        let service = net.vm1.udp("0.0.0.0:3000")?;
        let seen = soon_seen(&client, at(MOVING, 3000), &service, |_| true);
        seen.with_context(|| format!("claim = {claim}"))?;
    }
    Ok(())
}

#[test]
fn o6_addresses_of_other_software_are_neither_answered_nor_announced() -> Result<()> {
    let net = Proxmox::new()?;
    let capture = net.isp.capture(Proxmox::WAN)?;
    let natbpf = net.natbpf(&claiming(&net, "none"))?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    let probe = net.isp.udp("19.19.8.1:0")?;
    let _unanswered = probe.send_to(b"who has it", at(MOVING, 3000));
    let guest = net.vm2.udp("0.0.0.0:5000")?;
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"the rest works")?;
    let is_about_it = |bytes: &[u8]| {
        bytes.len() >= 42 && bytes[12..14] == [8, 6] && bytes[28..32] == MOVING.octets()
    };
    let frames = capture.stop();
    ensure!(
        !frames.iter().any(|frame| is_about_it(&frame.bytes)),
        "answered"
    );
    ensure!(
        frames
            .iter()
            .any(|frame| Packet::parse(&frame.bytes[14..]).is_some()),
        "nothing seen"
    );
    net.host.ip(&format!("address add {MOVING}/32 dev vmbr0"))?;
    let service = net.vm1.udp("0.0.0.0:3000")?;
    let seen = soon_seen(&server, at(MOVING, 3000), &service, |_| true);
    seen.context("held by this host now")?;
    drop(natbpf);
    Ok(())
}

#[test]
fn down_has_taken_everything_off_when_it_returns() -> Result<()> {
    let net = Proxmox::new()?;
    let mut natbpf = net.natbpf(&net.config())?;
    for _ in 0..5 {
        natbpf.stop()?;
        natbpf.down()?;
        // Another one, with another directory, is refused where programs are left.
        let other = net.lab().place().bpffs().join("another");
        natbpf.set_bpffs(other);
        natbpf.launch()?;
    }
    Ok(())
}

/// All that natbpf sets up on a host at once: XDP, its own bridge, bound and isolated ports, DHCP
/// and DNS, policies, a guest's own address.
fn everything(net: &Proxmox) -> Result<String> {
    let mac = net.vm1.mac("eth0")?.map(|byte| format!("{byte:02x}"));
    let address = "address = \"172.22.161.254/24\"\n";
    let more = "create = true\nports = [\"tap1\", \"tap2\"]\nanti_spoof = true\nisolated = true\n\
                [network.lan.dhcp]\nrange = \"172.22.161.10-172.22.161.100\"\n\
                [network.lan.dns]\nforwarders = [\"198.51.100.4\"]\n";
    let config = net
        .config()
        .replace("[network.lan]", "mode = \"xdp\"\n[network.lan]")
        .replace(address, &format!("{address}{more}"));
    Ok(format!(
        "{config}[[nat]]\nname = \"own\"\nuplink = \"wan\"\naddress = \"{MOVING}\"\nto = \"{}\"\n\
         [[guest]]\nname = \"vm1\"\nnetwork = \"lan\"\naddress = \"{}\"\nmac = \"{}\"\n",
        Proxmox::VM1,
        Proxmox::VM1,
        mac.join(":"),
    ))
}

#[test]
fn down_removes_all_features_together() -> Result<()> {
    let net = Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        uplink: Uplink::Nic,
        ..Options::default()
    })?;
    for vm in [&net.vm1, &net.vm2] {
        vm.set_offload("eth0", Offload::Gro, true)?;
    }
    let before = snapshot::take(&net.host)?;
    let mut natbpf = net.natbpf(&everything(&net)?)?;
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"it works")?;
    let changed = snapshot::take(&net.host)?;
    ensure!(changed != before, "nothing was set up");
    natbpf.stop()?;
    natbpf.down()?;
    let after = snapshot::take(&net.host)?;
    ensure!(
        after == before,
        "changed:\n{}",
        snapshot::difference(&before, &after)
    );
    Ok(())
}

/// Of a simultaneous start and `down`, the second one fails or waits: nothing is ever left half
/// done.
#[test]
fn a_start_and_a_down_at_once_leave_all_or_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let before = snapshot::take(&net.host)?;
    let mut natbpf = net.natbpf(&net.config())?;
    natbpf.stop()?;
    natbpf.down()?;
    for wait_ms in [0, 60, 250, 900] {
        let mut down = natbpf.command(&["down"]);
        let (started, downs) = thread::scope(|scope| {
            let downs = scope.spawn(move || {
                thread::sleep(Duration::from_millis(wait_ms));
                down.output()
            });
            (natbpf.launch(), downs.join().expect("no panic"))
        });
        let said = downs.context("run down")?;
        let is_ended = said.status.success() && !said.stdout.starts_with(b"nothing to remove");
        if started.is_ok() && !is_ended {
            works(&net).context("after a start")?;
        }
        ensure!(
            said.status.success() || !said.stderr.is_empty(),
            "down after {wait_ms} ms says nothing: {said:?}"
        );
        // A daemon whose data plane is gone ends by itself, with its own exit status.
        let mut waits = 0..50;
        while is_ended && natbpf.is_running() && waits.next().is_some() {
            thread::sleep(Duration::from_millis(100));
        }
        if natbpf.is_running() {
            natbpf.stop()?;
        }
        natbpf.down()?;
        let after = snapshot::take(&net.host)?;
        ensure!(
            after == before,
            "down after {wait_ms} ms:\n{}",
            snapshot::difference(&before, &after)
        );
    }
    natbpf.launch().context("a start afterwards")
}

fn works(net: &Proxmox) -> Result<()> {
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    exchange(&guest, at(Proxmox::CLI, 7000), &server, b"it works").map(drop)
}
