//! Keeps the fast path right: which next hops there are, and for how long it may be used.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;
use nat_common::{
    next_hop::{NextHopKey, NextHopRecord, flags},
    session::REFRESH_S,
};

use crate::{
    clock,
    dataplane::{NextHops, Pins},
    host::netlink::{BridgePort, FdbEntry, Kind, Layer, Link, Neighbour, Netlink},
};

/// For how many seconds the programs may use the fast path without hearing from the daemon. Dead, it
/// cannot tell them of changes, and the kernel's way serves.
pub(super) const LEASE_S: u32 = 5;

/// How often neighbours that only the fast path may use are looked after: as often as a session shows
/// itself to the kernel.
const CARE_INTERVAL: Duration = Duration::from_secs(REFRESH_S as u64);

/// The daemon's part of the fast path.
pub(super) struct FastPath {
    next_hops: NextHops,
    neighbours: Vec<Neighbour>,
    route_mtus: BTreeMap<u32, u32>,
    cared: Instant,
}

/// What may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Neighbours, links and bridges.
    Surroundings,
    /// Routes as well: any session may have another next hop now.
    Routes,
}

impl FastPath {
    pub(super) fn take_over(pins: &Pins) -> Result<Self> {
        Ok(Self {
            next_hops: NextHops::take_over(pins)?,
            neighbours: Vec::new(),
            route_mtus: BTreeMap::new(),
            cared: Instant::now(),
        })
    }

    /// Looks at what is behind these interfaces, by index, and makes the next hops so.
    pub(super) async fn follow(
        &mut self,
        netlink: &Netlink,
        devices: &BTreeSet<u32>,
        cause: Cause,
    ) -> Result<()> {
        // A neighbour that is read later than a bridge's table may be one that the table has not
        // learned yet; the other way round it might be thought behind a port that it has left.
        let mut neighbours = netlink.neighbours().await?;
        neighbours.retain(|neighbour| devices.contains(&neighbour.device));
        let tables = netlink.forwarding_tables().await?;
        let links = netlink.links().await?;
        if cause == Cause::Routes {
            self.route_mtus = netlink.route_mtus().await?;
        }
        let wanted = next_hops(&links, &neighbours, &tables, &self.route_mtus);
        let renewed = match cause {
            Cause::Routes => wanted.keys().copied().collect(),
            Cause::Surroundings => left(&self.neighbours, &neighbours),
        };
        let refused = self.next_hops.set(&wanted, &renewed)?;
        if refused > 0 {
            log::warn!("no room for {refused} next hops: their sessions go through the kernel");
        }
        self.neighbours = neighbours;
        Ok(())
    }

    /// Has the kernel ask after neighbours that it has not heard of for long and the fast path uses.
    pub(super) async fn care(&mut self, netlink: &Netlink) -> Result<()> {
        if self.cared.elapsed() < CARE_INTERVAL {
            return Ok(());
        }
        self.cared = Instant::now();
        let since_s = clock::monotonic_s().saturating_sub(2 * REFRESH_S * clock::time_scale());
        let used: BTreeSet<NextHopKey> = self.next_hops.used_since(since_s)?.into_iter().collect();
        for neighbour in self
            .neighbours
            .iter()
            .filter(|neighbour| neighbour.is_stale)
        {
            if used.contains(&NextHopKey::new(neighbour.device, neighbour.mac))
                && let Err(error) = netlink
                    .use_neighbour(neighbour.device, neighbour.address)
                    .await
            {
                log::debug!("{error}");
            }
        }
        Ok(())
    }
}

/// Where frames for each neighbour go, if it is clear and nothing else would be done to them there.
fn next_hops(
    links: &[Link],
    neighbours: &[Neighbour],
    tables: &[FdbEntry],
    route_mtus: &BTreeMap<u32, u32>,
) -> BTreeMap<NextHopKey, NextHopRecord> {
    let links: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let mut ports: BTreeMap<(u32, [u8; 6]), Vec<u32>> = BTreeMap::new();
    for entry in tables {
        let found = ports.entry((entry.bridge, entry.mac)).or_default();
        if !found.contains(&entry.port) {
            found.push(entry.port);
        }
    }
    let mut hops = BTreeMap::new();
    for neighbour in neighbours {
        let Some(device) = links.get(&neighbour.device).filter(|link| carries(link)) else {
            continue;
        };
        let port = match device.kind {
            Kind::Bridge if device.filters_vlans => None,
            Kind::Bridge => match ports.get(&(device.index, neighbour.mac)).map(Vec::as_slice) {
                Some([port]) => links.get(port).filter(|port| is_open(port)),
                _ => None,
            },
            _ => Some(device),
        };
        let (Some(port), Some(source)) = (port, device.mac) else {
            continue;
        };
        let route_mtu = route_mtus.get(&device.index).copied().unwrap_or(u32::MAX);
        let record = NextHopRecord {
            port: port.index,
            mtu: device.mtu.min(port.mtu).min(route_mtu),
            destination: neighbour.mac,
            source,
            flags: flags_of(device, port),
            ..NextHopRecord::default()
        };
        hops.insert(NextHopKey::new(device.index, neighbour.mac), record);
    }
    hops
}

fn flags_of(device: &Link, port: &Link) -> u16 {
    let egress = if device.index == port.index {
        flags::HAS_EGRESS
    } else {
        0
    };
    // A tap takes frames whatever is behind it (`tun_xdp_xmit`).
    let frames = if port.kind == Kind::Tun {
        flags::TAKES_FRAMES
    } else {
        0
    };
    egress | frames
}

/// Whether an interface carries Ethernet frames now.
fn carries(link: &Link) -> bool {
    link.up && link.running && link.layer == Layer::Ethernet
}

/// Whether a bridge would hand every frame to the port.
fn is_open(port: &Link) -> bool {
    let is_plain = |port: BridgePort| port.is_forwarding && !port.is_isolated && !port.is_locked;
    carries(port) && port.port.is_some_and(is_plain)
}

/// Whether a port's guests may be forwarded from it at once, before its bridge has seen the frame.
pub(super) fn is_open_port(port: &Link, bridge: &Link) -> bool {
    is_open(port) && !bridge.filters_vlans
}

/// What addresses have left: sessions that have it must find out where to go now, even if another
/// address is still there.
fn left(before: &[Neighbour], now: &[Neighbour]) -> BTreeSet<NextHopKey> {
    let now: BTreeMap<(u32, Ipv4Addr), [u8; 6]> = now
        .iter()
        .map(|neighbour| ((neighbour.device, neighbour.address), neighbour.mac))
        .collect();
    before
        .iter()
        .filter(|old| now.get(&(old.device, old.address)) != Some(&old.mac))
        .map(|old| NextHopKey::new(old.device, old.mac))
        .collect()
}
