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

use super::policed::Bounds;
use crate::{
    clock,
    dataplane::{NextHops, Pins},
    host::{
        netlink::{BridgePort, Kind, Link, Neighbour, NeighbourState, Netlink, RouteMtu},
        next_hops::{NextHop, abandoned, next_hops},
        policing::Policing,
        xdp_features::{XdpFeatures, xdp_features},
    },
};

/// For how many seconds the programs may use the fast path without hearing from the daemon. Dead, it
/// cannot tell them of changes, and the kernel's way serves.
pub(super) const LEASE_S: u32 = 5;

/// How often neighbours that only the fast path may use are looked after: as often as a session shows
/// itself to the kernel.
const CARE_INTERVAL: Duration = Duration::from_secs(REFRESH_S as u64);

/// The interfaces between which the fast path runs, by index.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) uplinks: BTreeSet<u32>,
    pub(super) networks: BTreeSet<u32>,
}

impl Ends {
    fn all(&self) -> BTreeSet<u32> {
        self.uplinks.union(&self.networks).copied().collect()
    }

    /// Those behind which packets take the fast path.
    fn open(&self, bounds: &Bounds) -> BTreeSet<u32> {
        let is_inbound = bounds.inbound().is_none();
        let links = bounds.links.iter();
        let ends = links.filter(|link| {
            self.uplinks.contains(&link.index)
                || (is_inbound && self.networks.contains(&link.index))
        });
        ends.filter(|link| bounds.behind(link).is_none())
            .map(|link| link.index)
            .collect()
    }
}

/// The daemon's part of the fast path.
pub(super) struct FastPath {
    next_hops: NextHops,
    policing: Policing,
    neighbours: Vec<Neighbour>,
    route_mtus: Vec<RouteMtu>,
    cared: Instant,
}

/// What may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Neighbours and forwarding databases of bridges.
    Neighbours,
    /// Links, and what is at them, as well.
    Surroundings,
    /// Routes as well: any session may have another next hop now.
    Routes,
}

impl FastPath {
    pub(super) fn take_over(pins: &Pins) -> Result<Self> {
        Ok(Self {
            next_hops: NextHops::take_over(pins)?,
            policing: Policing::default(),
            neighbours: Vec::new(),
            route_mtus: Vec::new(),
            cared: Instant::now(),
        })
    }

    /// Looks at what is behind these interfaces and makes the next hops so.
    pub(super) async fn follow(
        &mut self,
        netlink: &Netlink,
        ends: &Ends,
        cause: Cause,
    ) -> Result<()> {
        let devices = ends.all();
        // A neighbour that is read later than a bridge's table may be one that the table has not
        // learned yet; the other way round it might be thought behind a port that it has left.
        let mut neighbours = netlink.neighbours().await?;
        neighbours.retain(|neighbour| devices.contains(&neighbour.device));
        let fdb = netlink.fdb().await?;
        let links = netlink.links().await?;
        if cause == Cause::Routes {
            self.route_mtus = netlink.route_mtus().await?;
        }
        if cause != Cause::Neighbours {
            self.policing = Policing::look(&links, &devices)?;
        }
        let bounds = Bounds {
            policing: &self.policing,
            links: &links,
            uplinks: &ends.uplinks,
        };
        let open = ends.open(&bounds);
        let mut hops = next_hops(&links, &neighbours, &fdb, &self.route_mtus, &open);
        hops.retain(|hop| bounds.by_port(hop.port).is_none());
        let features = xdp_features().context("ask drivers for XDP")?;
        let wanted = records(&hops, &bounds, &features);
        let renewed = match cause {
            Cause::Routes => wanted.keys().copied().collect(),
            Cause::Neighbours | Cause::Surroundings => abandoned(&self.neighbours, &neighbours)
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
    /// and looks at everything again: of some changes nobody may tell.
    pub(super) async fn care(&mut self, netlink: &Netlink, ends: &Ends) -> Result<()> {
        if self.cared.elapsed() < CARE_INTERVAL / clock::time_scale() {
            return Ok(());
        }
        self.cared = Instant::now();
        self.follow(netlink, ends, Cause::Surroundings).await?;
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
    bounds: &Bounds,
    features: &BTreeMap<u32, XdpFeatures>,
) -> BTreeMap<NextHopKey, NextHopRecord> {
    // A tap takes frames whatever is behind it (`tun_xdp_xmit` in `drivers/net/tun.c`), also where
    // the kernel does not say so.
    let taps: BTreeSet<u32> = (bounds.links.iter())
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
        if takes_frames(hop.port) && bounds.frames_to(hop.port).is_none() {
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
pub(super) fn is_open_port(port: &Link, bridge: &Link, bounds: &Bounds) -> bool {
    let is_plain = port.up && port.port.is_some_and(BridgePort::is_plain);
    is_plain && !bridge.vlan_filtering && bounds.arriving_by_port(port, bridge).is_none()
}
