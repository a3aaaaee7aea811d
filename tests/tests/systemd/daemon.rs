//! The daemon is killed in every way: guests notice nothing, and systemd starts another.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::Proxmox;

use super::guest::{Flows, is_resolved, lease};
use super::machine::{Machine, eventually};

const DROP_IN: &str = "/etc/systemd/system/natbpf.service.d/watchdog.conf";

#[test]
fn a_daemon_that_is_killed_is_started_again_and_guests_notice_nothing() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[])?;
    machine.systemctl("start")?;
    lease(&net)?;
    let (flows, dnsmasq) = (Flows::open(&net)?, machine.dnsmasq()?);
    for signal in ["KILL", "TERM", "ABRT", "SEGV"] {
        let before = machine.started()?;
        let took = machine.kill_daemon(signal, before)?;
        eprintln!("{signal}: {took:?}");
        flows.go_on(signal)?;
        ensure!(machine.dnsmasq()? == dnsmasq, "{signal}: another dnsmasq");
        machine.has_logged("restart counter is at")?;
    }
    eventually("names", || is_resolved(&net))?;
    flows.finish()
}

#[test]
fn a_daemon_that_hangs_is_ended_by_the_watchdog_and_started_again() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[(DROP_IN, "[Service]\nWatchdogSec=5\n")])?;
    machine.systemctl("start")?;
    let flows = Flows::open(&net)?;
    let before = machine.started()?;
    machine.kill("STOP", before.pid)?;
    std::thread::sleep(Duration::from_secs(2));
    flows.go_on("while it hangs")?;
    let took = machine.wait_for_restart(before)?;
    eprintln!("STOP: {took:?}");
    machine.has_logged("Watchdog timeout")?;
    flows.finish()
}

#[test]
fn all_processes_of_the_unit_may_be_killed_at_once() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[])?;
    machine.systemctl("start")?;
    let leased = lease(&net)?;
    let (flows, dnsmasq) = (Flows::open(&net)?, machine.dnsmasq()?);
    let before = machine.started()?;
    machine.check(&[
        "systemctl",
        "kill",
        "--kill-whom=all",
        "--signal=KILL",
        "natbpf",
    ])?;
    machine.wait_for_restart(before)?;
    ensure!(machine.dnsmasq()? != dnsmasq, "it was not killed");
    eventually("names", || is_resolved(&net))?;
    ensure!(lease(&net)? == leased, "another lease");
    flows.finish().context("all killed")
}
