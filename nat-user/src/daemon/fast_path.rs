//! Keeps the fast path right: which next hops there are, and for how long it may be used.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nat_common::{
    next_hop::{NextHopKey, NextHopRecord, flags},
    session::REFRESH_S,
};

use crate::{
    clock,
    dataplane::{NextHops, Pins},
    host::{
        netlink::{BridgePort, Kind, Link, Neighbour, NeighbourState, Netlink, RouteMtu},
        next_hops::{NextHop, abandoned, next_hops},
        xdp_features::{XdpFeatures, xdp_features},
    },
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
    route_mtus: Vec<RouteMtu>,
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
            route_mtus: Vec::new(),
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
        let fdb = netlink.fdb().await?;
        let links = netlink.links().await?;
        if cause == Cause::Routes {
            self.route_mtus = netlink.route_mtus().await?;
        }
        let hops = next_hops(&links, &neighbours, &fdb, &self.route_mtus, devices);
        let features = xdp_features().context("ask drivers for XDP")?;
        let wanted = records(&hops, &links, &features);
        let renewed = match cause {
            Cause::Routes => wanted.keys().copied().collect(),
            Cause::Surroundings => abandoned(&self.neighbours, &neighbours)
                .into_iter()
                .map(|(device, mac)| NextHopKey::new(device, mac))
                .collect(),
        };
        let refused = self.next_hops.set(&wanted, &renewed)?;
        if refused > 0 {
            log::warn!("no room for {refused} next hops: their sessions go through the kernel");
        }
        self.neighbours = neighbours;
        Ok(())
    }

    /// Has the kernel ask after neighbours that it has not heard of for long and the fast path uses,
    /// and looks at everything again: of some changes (a bridge's queue) nobody tells.
    pub(super) async fn care(&mut self, netlink: &Netlink, devices: &BTreeSet<u32>) -> Result<()> {
        if self.cared.elapsed() < CARE_INTERVAL / clock::time_scale() {
            return Ok(());
        }
        self.cared = Instant::now();
        self.follow(netlink, devices, Cause::Surroundings).await?;
        let since_s = clock::monotonic_s().saturating_sub(2 * REFRESH_S);
        let used: BTreeSet<NextHopKey> = self.next_hops.used_since(since_s)?.into_iter().collect();
        for neighbour in &self.neighbours {
            let Neighbour {
                device,
                address,
                mac,
                state,
            } = *neighbour;
            let is_used = mac.is_some_and(|mac| used.contains(&NextHopKey::new(device, mac)));
            if is_used
                && state == NeighbourState::Stale
                && let Err(error) = netlink.use_neighbour(device, address).await
            {
                log::debug!("{error}");
            }
        }
        Ok(())
    }
}

/// Next hops as the programs know them.
fn records(
    hops: &BTreeSet<NextHop>,
    links: &[Link],
    features: &BTreeMap<u32, XdpFeatures>,
) -> BTreeMap<NextHopKey, NextHopRecord> {
    // A tap takes frames whatever is behind it (`tun_xdp_xmit` in `drivers/net/tun.c`), also where
    // the kernel does not say so.
    let taps: BTreeSet<u32> = links
        .iter()
        .filter(|link| link.kind == Kind::Tun)
        .map(|link| link.index)
        .collect();
    let takes_frames = |port: u32| match features.get(&port) {
        Some(features) => features.takes_frames(),
        None => taps.contains(&port),
    };
    let record = |hop: &NextHop| {
        let mut flags = 0;
        if hop.device == hop.port {
            flags |= flags::HAS_EGRESS;
        }
        if takes_frames(hop.port) {
            flags |= flags::TAKES_FRAMES;
        }
        let record = NextHopRecord {
            port: hop.port,
            mtu: hop.mtu,
            destination: hop.mac,
            source: hop.source,
            flags,
            ..NextHopRecord::default()
        };
        (NextHopKey::new(hop.device, hop.mac), record)
    };
    hops.iter().map(record).collect()
}

/// Whether a port's guests may be forwarded from it at once, before its bridge has seen the frame.
pub(super) fn is_open_port(port: &Link, bridge: &Link) -> bool {
    port.up && port.port.is_some_and(BridgePort::is_plain) && !bridge.vlan_filtering
}
