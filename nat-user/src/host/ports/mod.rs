//! Guests' interfaces as ports of a network's bridge, one at a time: what `natbpf port` does.
//!
//! It talks to the kernel directly, so guests can start without a daemon; a running daemon sees the
//! port appear like any other. A port that is attached here belongs to the caller: it is in no
//! journal, and `natbpf down` leaves it attached unless its bridge is removed.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use nat_config::model::{Config, Network};
use nat_sys::netlink::{Kind, Link, Netlink, RequestError};
use tokio::time::{Instant, sleep};

use super::{journal::Journal, setup};
use crate::state;

/// A starting daemon creates the bridge within a second.
const BRIDGE_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// The variable with the name of a network, for programs that call without options.
pub const NETWORK_VARIABLE: &str = "NATBPF_NETWORK";

/// The selected network: the named one, or the only one.
///
/// # Errors
/// When there is no such network, or none is named and there are several.
pub fn choose<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Network> {
    let names: Vec<&str> = (config.networks.iter())
        .map(|network| network.name.as_str())
        .collect();
    let known = names.join(", ");
    match (name, config.networks.as_slice()) {
        (_, []) => bail!("the configuration has no [network.NAME]; add one"),
        (Some(name), networks) => (networks.iter())
            .find(|network| network.name == name)
            .with_context(|| format!("no network is called `{name}`; there are: {known}")),
        (None, [network]) => Ok(network),
        (None, _) => bail!(
            "there is more than one network; say which by --network or {NETWORK_VARIABLE}: {known}"
        ),
    }
}

/// Attaches an interface to the network's bridge and sets it up, unless it is already so. Creates a
/// missing bridge if the configuration says so.
///
/// # Errors
/// When the interface is not there or has another role, when the bridge is missing, or when the
/// kernel refuses.
pub async fn add(
    netlink: &Netlink,
    config: &Config,
    network: &Network,
    port: &str,
    run_dir: &Path,
) -> Result<()> {
    refuse_other_roles(config, port)?;
    let missing = || anyhow!("there is no interface {port}; create it, or name another");
    netlink.link(port).await?.with_context(missing)?;
    let bridge = bridge(netlink, network, run_dir).await?;
    let link = netlink.link(port).await?.with_context(missing)?;
    if let Some(master) = link.master.filter(|master| *master != bridge.index) {
        refuse_anothers_port(netlink, config, &link, master).await?;
    }
    let is_attached = link.master == Some(bridge.index);
    let may_reach_all = !link.port.is_some_and(|port| port.isolated);
    if !is_attached {
        of(&link, netlink.attach(&link, &bridge).await)?;
    }
    // Before it carries anything.
    if network.isolated && (may_reach_all || !is_attached) {
        of(&link, netlink.isolate(&link, true).await)?;
    }
    if !link.up {
        of(&link, netlink.set_up(&link).await)?;
    }
    Ok(())
}

/// Detaches an interface from the network's bridge, or from that of any network if none is named.
/// An interface that is gone, or is not a port of it, is left unchanged.
///
/// # Errors
/// When the kernel refuses.
pub async fn delete(
    netlink: &Netlink,
    config: &Config,
    network: Option<&Network>,
    port: &str,
) -> Result<()> {
    let Some((link, bridge)) = with_master(netlink, port).await? else {
        return Ok(());
    };
    let is_meant = |one: &&Network| network.is_none_or(|network| network.name == one.name);
    let mut meant = config.networks.iter().filter(is_meant);
    if !meant.any(|network| network.interface == bridge.name) {
        return Ok(());
    }
    match netlink.release(&link).await {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        result => Ok(result?),
    }
}

/// An interface and its bridge, if both exist.
async fn with_master(netlink: &Netlink, port: &str) -> Result<Option<(Link, Link)>> {
    let Some(link) = netlink.link(port).await? else {
        return Ok(None);
    };
    let Some(index) = link.master else {
        return Ok(None);
    };
    let master = netlink.link_at(index).await?;
    Ok(master.map(|master| (link, master)))
}

fn refuse_other_roles(config: &Config, port: &str) -> Result<()> {
    let uplinks = config.uplinks.iter();
    let uplinks = uplinks.map(|uplink| ("uplink", &uplink.name, &uplink.interface));
    let networks = config.networks.iter();
    let networks = networks.map(|network| ("network", &network.name, &network.interface));
    match uplinks
        .chain(networks)
        .find(|(_, _, interface)| *interface == port)
    {
        Some((kind, name, _)) => {
            bail!("{port} is the interface of {kind} {name}; name a guest's interface")
        }
        None => Ok(()),
    }
}

/// A port of a foreign bridge is there for a reason: it may be the host's uplink.
async fn refuse_anothers_port(
    netlink: &Netlink,
    config: &Config,
    link: &Link,
    master: u32,
) -> Result<()> {
    let Some(master) = netlink.link_at(master).await? else {
        return Ok(());
    };
    let mut networks = config.networks.iter();
    if networks.any(|network| network.interface == master.name) {
        return Ok(());
    }
    let (port, master) = (&link.name, &master.name);
    bail!("{port} is a port of {master}; release it first: ip link set {port} nomaster")
}

/// The network's bridge. It is created if it is missing and the configuration says so; a running
/// daemon creates it itself.
async fn bridge(netlink: &Netlink, network: &Network, run_dir: &Path) -> Result<Link> {
    let Network {
        name, interface, ..
    } = network;
    let deadline = Instant::now() + BRIDGE_LIMIT;
    loop {
        match netlink.link(interface).await? {
            Some(link) if link.kind == Kind::Bridge => return Ok(link),
            Some(_) => bail!("{interface} of network {name} is not a bridge: it has no ports"),
            None if !network.create => {
                bail!(
                    "there is no bridge {interface} of network {name}; create it, or set create = \
                     true"
                )
            }
            None => {}
        }
        match state::lock(run_dir) {
            Ok(_lock) => {
                let mut journal = Journal::open(run_dir)?;
                setup::make_bridge(netlink, &mut journal, interface).await?;
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("bridge {interface} does not appear")));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// A guest may end at any moment, and its interface with it.
fn of(link: &Link, result: Result<(), RequestError>) -> Result<()> {
    match result {
        Err(error) if error.errno() == Some(libc::ENODEV) => {
            bail!("interface {} has vanished meanwhile", link.name)
        }
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests;
