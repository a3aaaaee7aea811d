//! Maintains the fast path: its next hops and its lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nat_common::tables::{
    next_hops::{NextHopFlags, NextHopKey, NextHopRecord},
    sessions::REFRESH_S,
};
use nat_sys::{
    netlink::{BridgePort, Kind, Link, Neighbour, NeighbourState, Netlink, RouteMtu},
    whereabouts::Whereabouts,
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::sleep_until,
};

use super::policed::Bounds;
use crate::{
    clock,
    dataplane::{NextHops, Pins},
    host::{
        next_hops::{NextHop, abandoned, next_hops},
        policing::Policing,
        xdp_features::{XdpFeatures, xdp_features},
    },
};

/// For how many seconds the programs may use the fast path without a renewal by the daemon. A dead
/// daemon follows no changes, so the slow path takes over.
pub(super) const LEASE_S: u32 = 5;

/// How often the daemon refreshes neighbours that only the fast path uses: as often as a session
/// takes the slow path.
const CARE_INTERVAL: Duration = Duration::from_secs(REFRESH_S as u64);

/// The interfaces between which the fast path runs, by index.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) uplinks: BTreeSet<u32>,
    pub(super) networks: BTreeSet<u32>,
    /// Whether IPv6 is routed between them too.
    pub(super) has_ipv6: bool,
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
    links: Vec<Link>,
    features: BTreeMap<u32, XdpFeatures>,
    /// The result of the last look.
    found: Whereabouts,
    /// The input of the last computation of next hops.
    neighbours: Vec<Neighbour>,
    route_mtus: Vec<RouteMtu>,
    look: Look,
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
            links: Vec::new(),
            features: BTreeMap::new(),
            found: Whereabouts::default(),
            neighbours: Vec::new(),
            route_mtus: Vec::new(),
            look: Look::default(),
            cared: Instant::now(),
        })
    }

    /// Corrects the next hops behind these interfaces as far as possible without a look at
    /// neighbours, which it requests: see [`Self::looked`].
    pub(super) async fn follow(
        &mut self,
        netlink: &Netlink,
        ends: &Ends,
        cause: Cause,
    ) -> Result<()> {
        self.look.ask();
        if cause == Cause::Neighbours {
            return Ok(());
        }
        self.links = netlink.links().await?;
        self.features = xdp_features().context("ask drivers for XDP")?;
        self.policing = Policing::look(&self.links, &ends.all())?;
        if cause == Cause::Routes {
            self.route_mtus = match ends.has_ipv6 {
                true => netlink.route_mtus::<IpAddr>().await?,
                false => netlink.route_mtus::<Ipv4Addr>().await?,
            };
        }
        self.update(ends, cause)
    }

    /// Whether a look at neighbours is pending: until it is made, no further message matters.
    pub(super) fn is_look_due(&self) -> bool {
        self.look.is_wanted
    }

    /// Waits until a look at neighbours is due and made. Cancelling it loses nothing.
    pub(super) async fn looked(&mut self, ends: &Ends) -> Result<()> {
        let look = match ends.has_ipv6 {
            true => Whereabouts::look::<IpAddr>,
            false => Whereabouts::look::<Ipv4Addr>,
        };
        let devices = ends.all();
        let bridges = self.links.iter();
        let bridges = bridges.filter(|link| link.kind == Kind::Bridge);
        let bridges = bridges.map(|link| link.index).collect();
        self.found = self.look.made(move || look(&devices, &bridges)).await?;
        Ok(())
    }

    /// Updates the next hops with the result of a look.
    pub(super) fn take(&mut self, ends: &Ends) -> Result<()> {
        let begun = Instant::now();
        let result = self.update(ends, Cause::Neighbours);
        self.look.rest_after(begun.elapsed());
        result
    }

    fn update(&mut self, ends: &Ends, cause: Cause) -> Result<()> {
        let bounds = Bounds {
            policing: &self.policing,
            links: &self.links,
            uplinks: &ends.uplinks,
        };
        let open = ends.open(&bounds);
        let Whereabouts { neighbours, fdb } = &self.found;
        let mut hops = next_hops(&self.links, neighbours, fdb, &self.route_mtus, &open);
        hops.retain(|hop| bounds.by_port(hop.port).is_none());
        let wanted = records(&hops, &bounds, &self.features);
        let renewed = match cause {
            Cause::Routes => wanted.keys().copied().collect(),
            Cause::Neighbours | Cause::Surroundings => abandoned(&self.neighbours, neighbours)
                .into_iter()
                .map(|(device, mac)| NextHopKey::new(device, mac))
                .collect(),
        };
        let refused = self.next_hops.set(&wanted, &renewed)?;
        if refused != self.look.refused && refused > 0 {
            log::warn!("no room for {refused} next hops: their sessions go through the kernel");
        }
        self.look.refused = refused;
        self.neighbours.clone_from(neighbours);
        Ok(())
    }

    /// Makes the kernel probe neighbours that the fast path uses and that have been silent for
    /// long, and looks at everything again, because the kernel does not report every change.
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

/// Schedules looks at neighbours: in a separate thread, for at most a tenth of the time. Guests
/// decide how often there is something to look at, and the host how many neighbours it has.
#[derive(Default)]
struct Look {
    is_wanted: bool,
    running: Option<JoinHandle<(io::Result<Whereabouts>, Duration)>>,
    /// Not before.
    rested: Option<Instant>,
    /// How many next hops found no room.
    refused: usize,
}

impl Look {
    /// The pause after a look, in multiples of its duration.
    const REST: u32 = 9;
    const LONGEST_REST: Duration = Duration::from_secs(2);

    fn ask(&mut self) {
        self.is_wanted = true;
    }

    async fn made(
        &mut self,
        look: impl FnOnce() -> io::Result<Whereabouts> + Send + 'static,
    ) -> Result<Whereabouts> {
        if self.running.is_none() {
            if !self.is_wanted {
                return std::future::pending().await;
            }
            if let Some(rested) = self.rested {
                sleep_until(rested.into()).await;
            }
            // Changes from now on are reported.
            self.is_wanted = false;
            self.running = Some(spawn_blocking(move || {
                let begun = Instant::now();
                let found = look();
                (found, begun.elapsed())
            }));
        }
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let ended = running.await;
        self.running = None;
        let found = ended
            .context("look at neighbours")
            .and_then(|(found, taken)| {
                self.rest_after(taken);
                found.context("look at neighbours")
            });
        if found.is_err() {
            self.is_wanted = true;
            self.rest_after(Self::LONGEST_REST);
        }
        found
    }

    fn rest_after(&mut self, taken: Duration) {
        let rest = (taken * Self::REST).min(Self::LONGEST_REST);
        let rested = Instant::now() + rest;
        self.rested = Some(self.rested.map_or(rested, |before| before.max(rested)));
    }
}

/// Next hops as the programs know them.
fn records(
    hops: &BTreeSet<NextHop>,
    bounds: &Bounds,
    features: &BTreeMap<u32, XdpFeatures>,
) -> BTreeMap<NextHopKey, NextHopRecord> {
    // A tap accepts frames whatever is behind it (`tun_xdp_xmit` in `drivers/net/tun.c`), even if
    // the kernel does not report it.
    let taps: BTreeSet<u32> = (bounds.links.iter())
        .filter(|link| link.kind == Kind::Tun)
        .map(|link| link.index)
        .collect();
    let takes_frames = |port: u32| match features.get(&port) {
        Some(features) => features.takes_frames(),
        None => taps.contains(&port),
    };
    let record = |hop: &NextHop| {
        let mut flags = NextHopFlags::empty();
        if hop.device == hop.port {
            flags |= NextHopFlags::HAS_EGRESS;
        }
        if takes_frames(hop.port) && bounds.frames_to(hop.port).is_none() {
            flags |= NextHopFlags::TAKES_FRAMES;
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
