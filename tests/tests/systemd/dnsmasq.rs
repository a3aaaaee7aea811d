//! dnsmasq is killed in every way: the daemon starts another, and leases stay.

use anyhow::{Result, ensure};
use lab::topology::Proxmox;

use super::guest::{Flows, is_resolved, lease};
use super::machine::{Machine, eventually};

#[test]
fn a_dnsmasq_that_is_killed_or_hangs_is_replaced_and_leases_stay() -> Result<()> {
    let net = Proxmox::new()?;
    let machine = Machine::boot(&net, &[])?;
    machine.systemctl("start")?;
    let leased = lease(&net)?;
    let flows = Flows::open(&net)?;
    let daemon = machine.started()?;
    for signal in ["STOP", "KILL", "TERM"] {
        let before = machine.dnsmasq()?;
        machine.kill(signal, before)?;
        let took = eventually("another dnsmasq serves", || {
            Ok(machine.dnsmasq().is_ok_and(|now| now != before) && is_resolved(&net)?)
        })?;
        eprintln!("{signal}: {took:?}");
        ensure!(lease(&net)? == leased, "{signal}: another lease");
    }
    ensure!(machine.started()? == daemon, "the daemon was started again");
    machine.has_logged("hangs and is killed")?;
    flows.finish()
}
