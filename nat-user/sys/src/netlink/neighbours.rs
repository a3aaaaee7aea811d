//! Neighbours, and the forwarding databases of bridges.

use std::net::IpAddr;

use futures_util::StreamExt;
pub use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    },
};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

use super::{
    connection::{Netlink, RequestError, answer},
    family::{Family, family},
    links::Link,
};

/// What the kernel knows about an address on a link (an entry of its ARP table, or of its neighbour
/// cache of RFC 4861).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface, by index.
    pub device: u32,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its Ethernet address, if known.
    pub mac: Option<[u8; 6]>,
    /// The state of the entry.
    pub state: NeighbourState,
}

/// The port behind which a bridge has an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdbEntry {
    /// The bridge, by index.
    pub bridge: u32,
    /// Its port, by index; the bridge itself for addresses that are its own and no port's.
    pub port: u32,
    /// The Ethernet address.
    pub mac: [u8; 6],
    /// Whether the bridge delivers frames to this address to the host itself.
    pub local: bool,
}

/// IEEE 802-2014 section 8.2.2: the first bit on the wire says group.
fn is_unicast(mac: [u8; 6]) -> bool {
    mac[0] & 0x01 == 0 && mac != [0; 6]
}

impl Netlink {
    /// The addresses of a family, or of both, for which the host answers ARP or neighbour
    /// solicitations on behalf of their owner, each with the index of the interface.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn proxies<A: Family>(&self) -> Result<Vec<(u32, A)>, RequestError> {
        let mut proxies = Vec::new();
        for family in A::FAMILIES {
            let start = || {
                let mut request = self.handle.neighbours().get().proxies();
                request.message_mut().header.family = *family;
                request.execute()
            };
            let messages = self.list("list proxies", start).await?;
            let found = messages.iter().filter_map(Neighbour::parse);
            proxies.extend(found.filter_map(|one| Some((one.device, A::of(one.address)?))));
        }
        Ok(proxies)
    }

    /// Makes the kernel answer ARP on an interface for an address that it routes elsewhere. For an
    /// IPv6 address it answers solicitations only with `proxy_ndp`, but joins the address' group.
    ///
    /// # Errors
    /// When the interface is gone or the kernel refuses.
    pub async fn add_proxy(&self, link: &Link, address: IpAddr) -> Result<(), RequestError> {
        let proxy = self.handle.neighbours().add(link.index, address);
        let request = proxy.flags(NeighbourFlags::Proxy).execute();
        answer(&format!("answer for {address} on {}", link.name), request).await
    }

    /// The opposite. Returns whether there was an entry to remove.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_proxy(&self, link: &Link, address: IpAddr) -> Result<bool, RequestError> {
        let mut message = about(link.index, address);
        message.header.flags = NeighbourFlags::Proxy;
        let request = self.handle.neighbours().del(message).execute();
        let what = format!("stop answering for {address} on {}", link.name);
        Ok(present(answer(&what, request).await)?.is_some())
    }

    /// Makes the kernel treat an entry as if a packet had just used it: it verifies the neighbour's
    /// Ethernet address when that is due. Returns whether there is such an entry that can be
    /// verified; entries of other software (permanent, without ARP, externally learned, managed)
    /// are left unchanged.
    ///
    /// An entry that becomes permanent between the check and the request is no longer permanent
    /// afterwards: the request clears that state (`__neigh_update()` in `net/core/neighbour.c`).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn use_neighbour(&self, device: u32, address: IpAddr) -> Result<bool, RequestError> {
        let request = format!("use neighbour {address} of interface {device}");
        let mut message = about(device, address);
        let wanted = RouteNetlinkMessage::GetNeighbour(message.clone());
        let found = present(self.exchange(&request, wanted, NLM_F_REQUEST).await)?;
        let is_verified = |answer: &RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewNeighbour(entry) => is_verified_by_kernel(entry),
            _ => false,
        };
        if !found.iter().flatten().any(is_verified) {
            return Ok(false);
        }
        message.header.flags = NeighbourFlags::Use;
        let message = RouteNetlinkMessage::NewNeighbour(message);
        // Without NLM_F_CREATE and NLM_F_REPLACE: a removed entry stays removed.
        let used = self.exchange(&request, message, NLM_F_REQUEST | NLM_F_ACK);
        Ok(present(used.await)?.is_some())
    }

    /// Sends a message and returns what the kernel answers.
    async fn exchange(
        &self,
        request: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, RequestError> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        let mut received = Vec::new();
        let pending = async {
            let mut answers = self.handle.clone().request(message)?;
            while let Some(message) = answers.next().await {
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => received.push(message),
                    NetlinkPayload::Error(error) => {
                        return Err(rtnetlink::Error::NetlinkError(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        answer(request, pending).await?;
        Ok(received)
    }
}

impl Neighbour {
    /// The Ethernet address to which the kernel would send now.
    #[must_use]
    pub fn usable_mac(&self) -> Option<[u8; 6]> {
        let is_usable = matches!(
            self.state,
            NeighbourState::Permanent
                | NeighbourState::Noarp
                | NeighbourState::Reachable
                | NeighbourState::Stale
                | NeighbourState::Delay
                | NeighbourState::Probe
        );
        self.mac.filter(|mac| is_usable && is_unicast(*mac))
    }

    /// From a message of the kernel, if it is about an IP address.
    pub(crate) fn parse(message: &NeighbourMessage) -> Option<Self> {
        let address = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                    Some(IpAddr::from(*address))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                    Some(IpAddr::from(*address))
                }
                _ => None,
            });
        Some(Self {
            device: message.header.ifindex,
            address: address?,
            mac: mac(message),
            state: message.header.state,
        })
    }
}

impl FdbEntry {
    /// Entries of the interfaces themselves (which addresses a card listens to, where a VXLAN has
    /// its peers) name no bridge and do not count.
    pub(crate) fn parse(message: &NeighbourMessage) -> Option<Self> {
        let mut attributes = message.attributes.iter();
        let bridge = attributes.find_map(|attribute| match attribute {
            NeighbourAttribute::Controller(index) => Some(*index),
            _ => None,
        });
        let is_own = message.header.flags.contains(NeighbourFlags::Own);
        Some(Self {
            bridge: bridge.filter(|_| !is_own)?,
            port: message.header.ifindex,
            mac: mac(message)?,
            local: message.header.state == NeighbourState::Permanent,
        })
    }
}

fn about(device: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = device;
    let destination = NeighbourAttribute::Destination(address.into());
    message.attributes.push(destination);
    message
}

fn mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        })
}

/// Whether only the kernel manages an entry. An entry of other software would lose its permanence
/// or its owner's mark.
fn is_verified_by_kernel(entry: &NeighbourMessage) -> bool {
    let kept = entry.attributes.iter().any(|attribute| match attribute {
        NeighbourAttribute::ExtFlags(flags) => {
            flags.intersects(NeighbourExtFlags::Managed | NeighbourExtFlags::ExtValidated)
        }
        _ => false,
    });
    let permanent = matches!(
        entry.header.state,
        NeighbourState::Permanent | NeighbourState::Noarp
    );
    !kept && !permanent && !entry.header.flags.contains(NeighbourFlags::ExtLearned)
}

/// Nothing if the kernel has no such entry, or no such interface.
fn present<T>(result: Result<T, RequestError>) -> Result<Option<T>, RequestError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}
