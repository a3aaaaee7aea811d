//! The places of neighbours: their Ethernet addresses, and the ports behind which bridges have
//! these.
//!
//! Guests decide how much a bridge learns. Its forwarding database is therefore never listed: the
//! kernel is queried for one address at a time, and only for addresses of neighbours. The host
//! limits the number of neighbours (`net.ipv4.neigh.default.gc_thresh3`, and that of IPv6).
//!
//! [`Whereabouts::look`] blocks: call it in a thread that nothing waits for.

use std::{collections::BTreeSet, io};

use netlink_packet_route::{
    AddressFamily,
    neighbour::{NeighbourAttribute, NeighbourMessage},
};
use rtnetlink::{
    packet_core::{Emitable as _, NLM_F_DUMP, Parseable as _},
    sys::protocols::NETLINK_ROUTE,
};

use crate::{
    exchange::Exchange,
    netlink::{Family, FdbEntry, Neighbour},
};

/// What the kernel knew at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The neighbours behind the queried devices, in any state.
    pub neighbours: Vec<Neighbour>,
    /// The ports behind which bridges have their Ethernet addresses.
    pub fdb: Vec<FdbEntry>,
}

impl Whereabouts {
    /// Queries the neighbours of a family, or of both, behind these devices, some of which are
    /// bridges, by index.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn look<A: Family>(devices: &BTreeSet<u32>, bridges: &BTreeSet<u32>) -> io::Result<Self> {
        let mut kernel = Kernel::new()?;
        // Read after the bridge's table, a neighbour may be missing in the table. In the other
        // order, it might appear behind a port that it has left.
        let mut neighbours = kernel.neighbours(A::FAMILIES)?;
        neighbours.retain(|neighbour| devices.contains(&neighbour.device));
        let on_bridges = neighbours.iter().filter_map(|neighbour| {
            let is_on_bridge = bridges.contains(&neighbour.device);
            let mac = neighbour.usable_mac().filter(|_| is_on_bridge)?;
            Some((neighbour.device, mac))
        });
        let wanted: BTreeSet<(u32, [u8; 6])> = on_bridges.collect();
        let mut fdb = Vec::with_capacity(wanted.len());
        for (bridge, mac) in wanted {
            fdb.extend(kernel.fdb_entry(bridge, mac)?);
        }
        Ok(Self { neighbours, fdb })
    }
}

/// The ports behind which bridges have Ethernet addresses, by index, each queried with its bridge.
///
/// # Errors
/// When the kernel does not answer.
pub fn ports_of(
    asked: impl ExactSizeIterator<Item = (u32, [u8; 6])>,
) -> io::Result<Vec<Option<u32>>> {
    if asked.len() == 0 {
        return Ok(Vec::new());
    }
    let mut kernel = Kernel::new()?;
    let mut port = |(bridge, mac)| -> io::Result<Option<u32>> {
        let entry = kernel.fdb_entry(bridge, mac)?;
        Ok(entry.filter(|entry| !entry.local).map(|entry| entry.port))
    };
    asked.map(&mut port).collect()
}

/// A socket for requests.
struct Kernel(Exchange);

impl Kernel {
    fn new() -> io::Result<Self> {
        Exchange::open(NETLINK_ROUTE).map(Self)
    }

    fn neighbours(&mut self, families: &[AddressFamily]) -> io::Result<Vec<Neighbour>> {
        let mut found = Vec::new();
        for family in families {
            let mut request = NeighbourMessage::default();
            request.header.family = *family;
            self.ask(&request, NLM_F_DUMP, |message| {
                // A kernel without IPv6 answers with what it has.
                if message.header.family == *family {
                    found.extend(Neighbour::parse(message));
                }
            })?;
        }
        Ok(found)
    }

    /// What a bridge without VLAN filtering has about an address (`br_fdb_get()` in
    /// `net/bridge/br_fdb.c`).
    fn fdb_entry(&mut self, bridge: u32, mac: [u8; 6]) -> io::Result<Option<FdbEntry>> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
            NeighbourAttribute::Controller(bridge),
        ];
        let mut found = None;
        let asked = self.ask(&request, 0, |message| found = FdbEntry::parse(message));
        match asked {
            Err(error) if is_unknown(&error) => Ok(None),
            result => result.map(|()| found),
        }
    }

    /// Sends a request and takes each message of the answer.
    fn ask(
        &mut self,
        request: &NeighbourMessage,
        flags: u16,
        mut take: impl FnMut(&NeighbourMessage),
    ) -> io::Result<()> {
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut bytes);
        self.0.ask(libc::RTM_GETNEIGH, flags, &bytes, |body| {
            if let Ok(message) = NeighbourMessage::parse(body) {
                take(&message);
            }
            Ok(())
        })
    }
}

/// Whether the kernel has no such entry, or no such bridge.
fn is_unknown(error: &io::Error) -> bool {
    let unknown = [libc::ENOENT, libc::ENODEV, libc::EINVAL, libc::EOPNOTSUPP];
    error
        .raw_os_error()
        .is_some_and(|code| unknown.contains(&code))
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Instant};

    use nix::net::if_::if_nametoindex;

    use super::*;
    use crate::{
        netlink::NeighbourState,
        testing::{bridge, in_namespace, ip, without_ipv6},
    };

    const MAC: [u8; 6] = [2, 0x12, 0x34, 0x56, 0x78, 0x9a];

    fn look(device: &str, is_bridge: bool) -> Whereabouts {
        let devices = BTreeSet::from([if_nametoindex(device).unwrap()]);
        let bridges = if is_bridge {
            devices.clone()
        } else {
            BTreeSet::new()
        };
        Whereabouts::look::<IpAddr>(&devices, &bridges).unwrap()
    }

    #[test]
    fn neighbours_are_found_in_every_state() {
        in_namespace(async || {
            without_ipv6();
            ip("link add name uplink type veth peer name isp");
            ip("link set uplink up");
            ip("link set isp up");
            ip("addr add 198.51.100.2/24 dev uplink");
            for (host, state) in [
                (1, NeighbourState::Permanent),
                (3, NeighbourState::Noarp),
                (4, NeighbourState::Reachable),
                (5, NeighbourState::Stale),
                (6, NeighbourState::Failed),
            ] {
                let address = format!("198.51.100.{host}");
                ip(&format!(
                    "neigh add {address} dev uplink lladdr 02:12:34:56:78:9a nud {state}"
                ));
                let expected = Neighbour {
                    device: if_nametoindex("uplink").unwrap(),
                    address: address.parse().unwrap(),
                    mac: (state != NeighbourState::Failed).then_some(MAC),
                    state,
                };
                let found = look("uplink", false).neighbours;
                assert!(
                    found.contains(&expected),
                    "{expected:?} is not in {found:?}"
                );
            }
            assert_eq!(look("isp", false), Whereabouts::default());
        });
    }

    #[test]
    fn neighbours_of_both_families_are_found_as_far_as_asked_for() {
        in_namespace(async || {
            bridge_with_neighbour();
            std::fs::write("/proc/sys/net/ipv6/conf/vmbr1/disable_ipv6", "0").unwrap();
            for address in ["2001:db8::10", "fe80::1"] {
                ip(&format!(
                    "neigh add {address} dev vmbr1 nud permanent lladdr 02:12:34:56:78:9b"
                ));
            }
            bridge("fdb add 02:12:34:56:78:9b dev tap1 master static");
            let devices = BTreeSet::from([if_nametoindex("vmbr1").unwrap()]);
            let both = Whereabouts::look::<IpAddr>(&devices, &devices).unwrap();
            let has = |found: &Whereabouts, address: &str| {
                let address: IpAddr = address.parse().unwrap();
                found.neighbours.iter().any(|one| one.address == address)
            };
            assert!(has(&both, "172.22.161.10"), "{both:?}");
            assert!(
                has(&both, "2001:db8::10") && has(&both, "fe80::1"),
                "{both:?}"
            );
            assert_eq!(both.fdb.len(), 1, "the port is asked for once: {both:?}");
            let ipv4 = Whereabouts::look::<std::net::Ipv4Addr>(&devices, &devices).unwrap();
            assert!(has(&ipv4, "172.22.161.10") && !has(&ipv4, "fe80::1"));
        });
    }

    /// A bridge with a port, and a neighbour behind it.
    fn bridge_with_neighbour() {
        without_ipv6();
        ip("link add vmbr1 type bridge");
        ip("link add name tap1 type veth peer name guest1");
        ip("link set tap1 master vmbr1 up");
        ip("link set guest1 up");
        ip("link set vmbr1 up");
        ip("addr add 172.22.161.254/24 dev vmbr1");
        ip("neigh add 172.22.161.10 dev vmbr1 nud permanent lladdr 02:12:34:56:78:9a");
    }

    #[test]
    fn a_bridge_is_asked_for_the_ports_of_neighbours_alone() {
        in_namespace(async || {
            bridge_with_neighbour();
            assert_eq!(look("vmbr1", true).fdb, []);
            bridge("fdb add 02:12:34:56:78:9a dev tap1 master static");
            bridge("fdb add 02:00:00:00:00:07 dev tap1 master static");
            let expected = FdbEntry {
                bridge: if_nametoindex("vmbr1").unwrap(),
                port: if_nametoindex("tap1").unwrap(),
                mac: MAC,
                local: false,
            };
            assert_eq!(look("vmbr1", true).fdb, [expected]);
            assert_eq!(look("vmbr1", false).fdb, []);
            bridge("fdb replace 02:12:34:56:78:9a dev tap1 master local");
            assert!(look("vmbr1", true).fdb.iter().all(|entry| entry.local));
        });
    }

    #[test]
    fn a_table_full_of_strangers_costs_no_time() {
        in_namespace(async || {
            bridge_with_neighbour();
            let batch = tempfile::NamedTempFile::new().unwrap();
            let lines: String = (0..60_000_u32)
                .map(|number| {
                    let [_, a, b, c] = number.to_be_bytes();
                    format!("fdb add 06:00:00:{a:02x}:{b:02x}:{c:02x} dev tap1 master dynamic\n")
                })
                .collect();
            std::fs::write(batch.path(), lines).unwrap();
            bridge(&format!("-batch {}", batch.path().display()));
            let begun = Instant::now();
            for _ in 0..20 {
                let found = look("vmbr1", true);
                assert!(
                    found.neighbours.len() < 5 && found.fdb.is_empty(),
                    "{found:?}"
                );
            }
            // Listing the table once takes longer than this.
            let taken = begun.elapsed() / 20;
            assert!(taken.as_millis() < 20, "{taken:?}");
        });
    }
}
