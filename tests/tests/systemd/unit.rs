//! What `systemctl` does with the unit, and what happens at boot.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::Proxmox;
use tests::{Watch, at, exchange};

use super::guest::{Flows, is_resolved, lease};
use super::machine::{LEASES, Machine, config, eventually};

const NEW_RULE: &str = r#"
[[forward]]
name = "new"
uplink = "wan"
protocol = "udp"
ports = 3000
to = "172.22.161.170"
"#;

#[test]
fn start_returns_when_packets_are_translated_and_stop_goes_on_translating() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[])?;
    let (server, guest) = (
        net.cli.udp("198.51.100.2:7000")?,
        net.vm1.udp("0.0.0.0:5000")?,
    );
    machine.systemctl("start")?;
    let seen = exchange(&guest, at(Proxmox::CLI, 7000), &server, b"the first")?;
    ensure!(*seen.ip() == Proxmox::PUBLIC, "seen as {seen}");
    lease(&net)?;
    is_for_root_alone(&machine)?;
    let (flows, dnsmasq) = (Flows::open(&net)?, machine.dnsmasq()?);
    machine.systemctl("stop")?;
    let state = machine.state()?;
    ensure!(state == "inactive (dead)", "{state}");
    machine.has_logged("daemon stopped; the data plane keeps translating")?;
    flows.go_on("after stop")?;
    eventually("names after stop", || is_resolved(&net))?;
    thread::sleep(Duration::from_secs(3));
    ensure!(machine.state()? == state, "started again after stop");
    machine.systemctl("start")?;
    ensure!(machine.dnsmasq()? == dnsmasq, "another dnsmasq");
    flows.finish()
}

/// Other users can write none of the unit's files, and read only those that dnsmasq, which is
/// another user, must read.
fn is_for_root_alone(machine: &Machine) -> Result<()> {
    machine.check(&["test", "-s", LEASES])?;
    for search in [
        "/run/natbpf -not -type d -not -path */dhcp/* -perm /077",
        "/run/natbpf -perm /022",
        "/sys/fs/bpf/natbpf -perm /077",
    ] {
        let words: Vec<&str> = ["find"].into_iter().chain(search.split(' ')).collect();
        let found = machine.check(&words)?;
        ensure!(found.is_empty(), "{search}:\n{found}");
    }
    Ok(())
}

#[test]
fn restarts_in_a_row_are_not_limited_and_end_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[])?;
    machine.systemctl("start")?;
    let (flows, dnsmasq) = (Flows::open(&net)?, machine.dnsmasq()?);
    for _ in 0..6 {
        let before = machine.started()?;
        machine.systemctl("restart")?;
        ensure!(machine.started()?.pid != before.pid, "not started again");
    }
    ensure!(machine.dnsmasq()? == dnsmasq, "another dnsmasq");
    flows.finish()
}

#[test]
fn reload_fails_with_the_reason_and_changes_nothing_or_takes_all() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[])?;
    machine.systemctl("start")?;
    let flows = Flows::open(&net)?;
    let before = machine.started()?;
    machine.configure(&config(&net).replace("\"vm1-ping\"", "\"vm1-tcp\""))?;
    let said = machine.run(&["systemctl", "reload", "natbpf"])?;
    ensure!(!said.ok(), "a wrong configuration was taken");
    machine.has_logged("reload refused, nothing changed")?;
    machine.has_logged("vm1-tcp")?;
    ensure!(machine.started()? == before, "not the same process");
    machine.configure(&(config(&net) + NEW_RULE))?;
    machine.systemctl("reload")?;
    let (service, client) = (net.vm1.udp("0.0.0.0:3000")?, net.cli.udp("198.51.100.2:0")?);
    exchange(
        &client,
        at(Proxmox::PUBLIC, 3000),
        &service,
        b"by the new rule",
    )?;
    ensure!(machine.started()? == before, "not the same process");
    flows.finish()
}

#[test]
fn down_ends_the_unit_for_good_and_leaves_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[])?;
    machine.systemctl("start")?;
    machine.check(&["natbpf", "down"])?;
    eventually("the unit is dead", || {
        Ok(machine.state()? == "inactive (dead)")
    })?;
    thread::sleep(Duration::from_secs(3));
    let state = machine.state()?;
    ensure!(
        state == "inactive (dead)",
        "after down {state}\n{}",
        machine.journal()
    );
    machine.has_logged("/sys/fs/bpf stays mounted")?;
    let left = machine.processes("dnsmasq")?;
    ensure!(left.is_empty(), "dnsmasq {left:?}");
    let pins = machine.check(&[
        "find",
        "/sys/fs/bpf",
        "-mindepth",
        "1",
        "-not",
        "-name",
        "*.debug",
    ])?;
    ensure!(pins.is_empty(), "pins:\n{pins}");
    Ok(())
}

#[test]
fn at_boot_no_guest_gets_out_untranslated() -> Result<()> {
    let net = Proxmox::new()?;
    let mut machine = Machine::boot(&net, &[])?;
    machine.systemctl("enable")?;
    machine.power_off()?;
    net.host.set_sysctl("net.ipv4.ip_forward", "0")?;
    let watch = Watch::proxmox(&net)?;
    let server = net.cli.udp("198.51.100.2:7000")?;
    thread::scope(|scope| {
        let (done, end) = std::sync::mpsc::channel::<()>();
        let guest = net.vm1.udp("0.0.0.0:5000")?;
        scope.spawn(move || {
            while end.recv_timeout(Duration::from_millis(2))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                let _no_way_out = guest.send_to(b"let me out", at(Proxmox::CLI, 7000));
            }
        });
        machine.switch_on()?;
        server.recv(&mut [0; 16]).context("nothing arrived")?;
        drop(done);
        anyhow::Ok(())
    })?;
    machine.started()?;
    watch.finish()?;
    Ok(())
}
