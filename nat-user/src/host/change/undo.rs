//! Undoing one change: only what is still as natbpf made it.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use nat_sys::{
    netlink::{Address, Netlink},
    sysctl::Key,
};

use super::{
    Follower, Undone,
    present::{master_of, same},
};

pub(super) fn sysctl(
    key: &Key,
    before: &str,
    set: &str,
    followers: &[Follower],
    stays: bool,
) -> Result<Undone> {
    match key.read()? {
        None => return Ok(Undone::Nothing),
        Some(now) if now == before => return Ok(Undone::Nothing),
        Some(now) if now == set && stays => {
            return Ok(Undone::LeftAlone(format!(
                "{key} stays {set} (it was {before}): other software may rely on it; \
                 sysctl -w {key}={before} sets it back"
            )));
        }
        Some(now) if now != set => {
            return Ok(Undone::LeftAlone(format!(
                "{key} is {now}, not {set} as natbpf set it: left as it is"
            )));
        }
        Some(_) => {}
    }
    // A value that other software has set for a follower since then is kept, although the kernel
    // changes it again now.
    let mut wanted = Vec::new();
    for follower in followers {
        match follower.key.read()? {
            Some(now) if now == follower.becomes => {
                wanted.push((&follower.key, follower.before.clone()));
            }
            Some(now) => wanted.push((&follower.key, now)),
            None => {}
        }
    }
    key.write(before)?;
    for (follower, value) in wanted {
        if follower.read()?.is_some_and(|now| now != value) {
            follower.write(&value)?;
        }
    }
    Ok(Undone::Done(format!("set {key} back to {before}")))
}

pub(super) async fn address(
    netlink: &Netlink,
    (interface, ifindex): (&str, u32),
    address: IpNet,
) -> Result<Undone> {
    let Some(link) = same(netlink, interface, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    let present: Vec<Address<IpAddr>> = netlink.addresses_of(ifindex).await?;
    let Some(ours) = present.iter().find(|present| present.net == address) else {
        return Ok(Undone::Nothing);
    };
    let others_hang_on_it = !ours.secondary
        && (present.iter()).any(|other| {
            other.secondary
                && other.net.prefix_len() == address.prefix_len()
                && other.net.network() == address.network()
        });
    if others_hang_on_it {
        let key = Key::ipv4_conf(interface, "promote_secondaries")?;
        with_setting(&key, "1", netlink.delete_address(&link, address)).await?;
    } else {
        netlink.delete_address(&link, address).await?;
    }
    Ok(Undone::Done(format!("removed {address} from {interface}")))
}

pub(super) async fn route(
    netlink: &Netlink,
    (interface, ifindex): (&str, u32),
    prefix: IpNet,
    metric: Option<u32>,
) -> Result<Undone> {
    let Some(link) = same(netlink, interface, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    Ok(match netlink.delete_route(&link, prefix, metric).await? {
        true => Undone::Done(format!("removed the route of {prefix} to {interface}")),
        false => Undone::Nothing,
    })
}

pub(super) async fn proxy(
    netlink: &Netlink,
    (interface, ifindex): (&str, u32),
    address: IpAddr,
) -> Result<Undone> {
    let Some(link) = same(netlink, interface, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    Ok(match netlink.delete_proxy(&link, address).await? {
        true => Undone::Done(format!("stopped answering for {address} on {interface}")),
        false => Undone::Nothing,
    })
}

/// Runs `work` while a setting has another value than usual.
async fn with_setting<E>(
    key: &Key,
    value: &str,
    action: impl Future<Output = Result<(), E>>,
) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let usual = key.read()?.unwrap_or_default();
    key.write(value)?;
    let result = action.await;
    key.write(&usual)?;
    Ok(result?)
}

pub(super) async fn all_groups(
    netlink: &Netlink,
    (interface, ifindex): (&str, u32),
) -> Result<Undone> {
    let Some(link) = same(netlink, interface, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    if !link.all_groups {
        return Ok(Undone::Nothing);
    }
    netlink.take_all_groups(&link, false).await?;
    Ok(Undone::Done(format!(
        "stopped hearing solicitations of all guests on {interface}"
    )))
}

pub(super) async fn port(
    netlink: &Netlink,
    (port, ifindex): (&str, u32),
    bridge: &str,
    previous: Option<&str>,
) -> Result<Undone> {
    let Some(link) = same(netlink, port, ifindex).await? else {
        return Ok(Undone::Nothing);
    };
    let master = master_of(netlink, &link).await?;
    match master.as_deref() {
        None => return Ok(Undone::Nothing),
        now if now == previous => return Ok(Undone::Nothing),
        Some(now) if now != bridge => {
            return Ok(Undone::LeftAlone(format!(
                "{port} is in {now}, not in {bridge} to which natbpf attached it: left there"
            )));
        }
        Some(_) => {}
    }
    if let Some(previous) = previous
        && let Some(previous) = netlink.link(previous).await?
    {
        netlink.attach(&link, &previous).await?;
        let back = format!("moved {port} back to {}", previous.name);
        return Ok(Undone::Done(back));
    }
    netlink.release(&link).await?;
    Ok(Undone::Done(format!("released {port} from {bridge}")))
}

pub(super) async fn link_up(
    netlink: &Netlink,
    (name, ifindex): (&str, u32),
    master: Option<&str>,
) -> Result<Undone> {
    let Some(link) = same(netlink, name, ifindex).await?.filter(|link| link.up) else {
        return Ok(Undone::Nothing);
    };
    match master_of(netlink, &link).await? {
        Some(now) if Some(now.as_str()) != master => Ok(Undone::LeftAlone(format!(
            "{name} is in {now} now: left up"
        ))),
        _ => {
            netlink.set_down(&link).await?;
            Ok(Undone::Done(format!("set {name} down again")))
        }
    }
}
