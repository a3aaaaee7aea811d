//! Guests' interfaces that come and go: attached by others, by `natbpf port`, and by the scripts
//! that are shipped for QEMU, libvirt and Proxmox VE; and ports that are isolated from each other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab::service::{self, Service};
use lab::topology::{Inside, Options, Proxmox};
use lab::{Host, Natbpf, Output};
use tests::bulk::{Sender, transfer};
use tests::{at, exchange};

const VM3: &str = "172.22.161.172";

/// A guest more, whose interface `port` is nowhere yet.
fn third_guest(net: &Proxmox, port: &str) -> Result<Host> {
    let guest = net.lab().host("vm3")?;
    net.lab().veth((&net.host, port), (&guest, "eth0"))?;
    guest.ip(&format!(
        "address add {VM3}/24 dev eth0\nroute add default via {}",
        Proxmox::GATEWAY
    ))?;
    Ok(guest)
}

/// The guest speaks to the outside, in some packets each way.
fn speaks(net: &Proxmox, guest: &Host) -> Result<()> {
    let server = net.cli.udp("198.51.100.2:7000")?;
    let socket = guest.udp("0.0.0.0:5000")?;
    for _ in 0..3 {
        let seen = exchange(&socket, at(Proxmox::CLI, 7000), &server, b"hello")?;
        ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    }
    Ok(())
}

fn is_port(net: &Proxmox, port: &str, bridge: &str) -> Result<bool> {
    let ports = net
        .host
        .check(["ip", "-o", "link", "show", "master", bridge])?;
    Ok(ports.contains(&format!(": {port}@")) || ports.contains(&format!(": {port}:")))
}

/// natbpf under the names by which the shipped scripts call it; returns the folder for their
/// `PATH`.
fn install(net: &Proxmox) -> Result<PathBuf> {
    let folder = net.lab().folder().join("sbin");
    std::fs::create_dir(&folder)?;
    for name in ["natbpf-ifup", "natbpf-ifdown"] {
        std::os::unix::fs::symlink(Natbpf::binary()?, folder.join(name))?;
    }
    Ok(folder)
}

/// Calls a shipped script as its program would, with what that would say on standard input.
fn call(net: &Proxmox, natbpf: &Natbpf, words: &[&str], input: &str) -> Result<Output> {
    let folder = net.lab().folder().join("sbin");
    let path = std::env::var("PATH").unwrap_or_default();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let variables = [
        format!("PATH={}:{path}", folder.display()),
        format!("NATBPF_CONFIG={}", natbpf.config_file().display()),
        format!("NATBPF_RUN_DIR={}", natbpf.run_dir().display()),
    ];
    let script = script.join(words[0]).display().to_string();
    let all = ["env".to_owned()].into_iter().chain(variables);
    let all = all
        .chain([script])
        .chain(words[1..].iter().map(|&word| word.to_owned()));
    net.host.run_with_input(all, input.as_bytes())
}

#[test]
fn a_port_attached_by_other_software_is_followed() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    speaks(&net, &net.vm1)?;
    let guest = third_guest(&net, "tap3")?;
    net.host.ip("link set tap3 master vmbr1")?;
    speaks(&net, &guest)?;
    // The fast path has it too, once the daemon has heard of it.
    let followed = || -> Result<bool> {
        let status = nat.status()?;
        let interfaces = status["interfaces"].as_array().context("interfaces")?;
        let lan = interfaces.iter().find(|one| one["name"] == "vmbr1");
        Ok(lan.context("vmbr1")?["fast_path"] == "tc at 3 ports")
    };
    for _ in 0..100 {
        if followed()? {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    anyhow::bail!("not followed: {}", nat.status()?)
}

#[test]
fn a_port_is_added_and_taken_away_by_command() -> Result<()> {
    let net = Proxmox::new()?;
    let mut nat = net.natbpf(&net.config())?;
    let guest = third_guest(&net, "tap3")?;
    net.host.ip("link set tap3 down")?;
    for _ in 0..2 {
        let output = nat.cli(&["port", "add", "tap3"])?.expect_ok()?;
        ensure!(output.is_empty(), "{output}");
    }
    speaks(&net, &guest)?;
    nat.cli(&["port", "del", "tap3", "--network", "lan"])?
        .expect_ok()?;
    ensure!(!is_port(&net, "tap3", "vmbr1")?, "still a port");
    // And without a daemon.
    nat.stop()?;
    nat.cli(&["port", "add", "tap3", "--network", "lan"])?
        .expect_ok()?;
    speaks(&net, &guest)?;
    net.host.ip("link del tap3")?;
    nat.cli(&["port", "del", "tap3"])?.expect_ok()?;
    let refused = nat.cli(&["port", "add", "tap3"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    let expected = "natbpf: there is no interface tap3; create it, or name another\n";
    ensure!(refused.stderr == expected, "{refused:?}");
    Ok(())
}

#[test]
fn isolated_guests_reach_the_outside_and_published_services_alone() -> Result<()> {
    let net = Proxmox::with(&Options {
        inside: Inside::OnlyPorts,
        ..Options::default()
    })?;
    let lan = "interface = \"vmbr1\"\n";
    let ports = "create = true\nports = [\"tap1\", \"tap2\"]\nisolated = true\n";
    let config = net.config().replace(lan, &format!("{lan}{ports}"));
    let nat = net.natbpf(&config)?;
    for sender in [Sender::Client, Sender::Server] {
        transfer(
            &net.vm1,
            at(Proxmox::CLI, 7001),
            &net.cli,
            7001,
            sender,
            1 << 20,
        )?;
    }
    speaks(&net, &net.vm2)?;
    let status = nat.status()?.to_string();
    ensure!(status.contains("tc at 2 ports"), "{status}");
    let ping = net
        .vm1
        .run(["ping", "-n", "-c2", "-W1", &Proxmox::VM2.to_string()])?;
    ensure!(!ping.ok(), "{ping:?}");
    let page = page_of_vm1(&net)?;
    ensure!(page.starts_with("vm1 sees 19.19.8.10:"), "{page}");
    // And once the network is not isolated any more, like any other guest.
    nat.reload(&config.replace("isolated = true", "isolated = false"))?;
    // It would not ask again for a second.
    net.vm1.ip("neigh flush dev eth0")?;
    net.vm1
        .check(["ping", "-n", "-c1", "-W3", &Proxmox::VM2.to_string()])?;
    Ok(())
}

/// As the other guest reads it by the external address.
fn page_of_vm1(net: &Proxmox) -> Result<String> {
    let _web = Service::http(&net.vm1, "0.0.0.0:10080")?;
    service::http_get(&net.vm2, at(Proxmox::PUBLIC, 10080))
}

#[test]
fn libvirts_hook_attaches_interfaces_that_libvirt_does_not() -> Result<()> {
    let net = Proxmox::new()?;
    let nat = net.natbpf(&net.config())?;
    install(&net)?;
    let guest = third_guest(&net, "vnet5")?;
    net.host
        .ip("tuntap add vnet4 mode tap\nlink set vnet4 up")?;
    let xml = "<domain type='kvm' id='3'>\n  <name>web</name>\n  <devices>\n\
        \x20   <interface type='bridge'>\n      <source bridge='vmbr0'/>\n\
        \x20     <target dev='vnet4'/>\n    </interface>\n\
        \x20   <interface type='ethernet'>\n      <mac address='52:54:00:12:34:56'/>\n\
        \x20     <target dev='vnet5'/>\n      <model type='virtio'/>\n    </interface>\n\
        \x20   <disk type='file'>\n      <target dev='vda' bus='virtio'/>\n    </disk>\n\
        \x20 </devices>\n</domain>\n";
    for operation in ["prepare", "start"] {
        call(
            &net,
            &nat,
            &["libvirt-hook", "web", operation, "begin", "-"],
            xml,
        )?
        .expect_ok()?;
        ensure!(!is_port(&net, "vnet5", "vmbr1")?, "too early");
    }
    let started = ["libvirt-hook", "web", "started", "begin", "-"];
    call(&net, &nat, &started, xml)?.expect_ok()?;
    speaks(&net, &guest)?;
    ensure!(
        !is_port(&net, "vnet4", "vmbr1")?,
        "libvirt's own was attached"
    );
    net.host.ip("link del vnet5")?;
    let refused = call(&net, &nat, &started, xml)?;
    ensure!(
        refused.status.code() == Some(1) && refused.stderr.contains("no interface vnet5"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn proxmoxs_hookscript_isolates_the_guests_ports_alone() -> Result<()> {
    let net = Proxmox::new()?;
    let lan = "interface = \"vmbr1\"\n";
    let nat = net.natbpf(
        &net.config()
            .replace(lan, &format!("{lan}isolated = true\n")),
    )?;
    install(&net)?;
    for (tap, bridge) in [
        ("tap100i0", "vmbr0"),
        ("tap100i1", "vmbr1"),
        ("tap10i0", "vmbr1"),
        ("fwpr10p1", "vmbr1"),
    ] {
        net.host.ip(&format!(
            "tuntap add {tap} mode tap\nlink set {tap} master {bridge} up"
        ))?;
    }
    let isolated = || -> Result<Vec<String>> {
        let links = net.host.check(["ip", "-o", "-d", "link", "show"])?;
        let isolated = links.lines().filter(|line| line.contains(" isolated on "));
        let names = isolated.filter_map(|line| line.split([':', '@', ' ']).nth(2));
        Ok(names.map(str::to_owned).collect())
    };
    call(&net, &nat, &["proxmox-hookscript", "100", "pre-start"], "")?.expect_ok()?;
    ensure!(isolated()?.is_empty(), "{:?}", isolated()?);
    call(&net, &nat, &["proxmox-hookscript", "100", "post-start"], "")?.expect_ok()?;
    ensure!(isolated()? == ["tap100i1"], "{:?}", isolated()?);
    call(&net, &nat, &["proxmox-hookscript", "10", "post-start"], "")?.expect_ok()?;
    ensure!(
        isolated()? == ["tap100i1", "tap10i0", "fwpr10p1"],
        "{:?}",
        isolated()?
    );
    Ok(())
}
