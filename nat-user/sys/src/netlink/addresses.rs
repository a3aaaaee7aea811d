//! Addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
pub use netlink_packet_route::address::AddressScope;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
};
use rtnetlink::AddressMessageBuilder;

use super::{
    connection::{Netlink, RequestError, answer},
    family::Family,
    links::Link,
};

/// Of an IPv6 address that the kernel makes up for some time (`IFA_F_TEMPORARY` in
/// `linux/if_addr.h`, the same bit as `IFA_F_SECONDARY`).
const TEMPORARY: AddressFlags = AddressFlags::Secondary;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address<A: Family = Ipv4Addr> {
    /// The interface, by index.
    pub ifindex: u32,
    /// The address and the length of its prefix.
    pub net: A::Net,
    /// The other end's address, where it is not in the same prefix (`ip addr add … peer …`).
    pub peer: Option<A>,
    /// How far the address is valid.
    pub scope: AddressScope,
    /// Whether another address of the interface is the primary one of their common prefix. IPv6
    /// knows no such difference.
    pub secondary: bool,
    /// Whether it is there to stay: not temporary, deprecated, still being probed or used by
    /// another host (RFC 4862). IPv4 addresses always are.
    pub is_stable: bool,
}

impl Netlink {
    /// All IPv4 addresses of all interfaces; those of one interface in the kernel's order:
    /// primary ones first, those that are valid on the link only before global ones, and else as
    /// they were added.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses(&self) -> Result<Vec<Address>, RequestError> {
        self.addresses_in().await
    }

    /// All addresses of a family of all interfaces, or of both families; those of one interface as
    /// by [`Self::addresses`]. IPv6 addresses are in the order in which they were added.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses_in<A: Family>(&self) -> Result<Vec<Address<A>>, RequestError> {
        let mut found = Vec::new();
        for family in A::FAMILIES {
            let request = || {
                let mut request = self.handle.address().get();
                request.message_mut().header.family = *family;
                request.execute()
            };
            let mut messages = self.list("list addresses", request).await?;
            // A kernel without IPv6 answers with what it has.
            messages.retain(|message| message.header.family == *family);
            if *family == AddressFamily::Inet6 {
                // The kernel puts the newest first (`ipv6_link_dev_addr()` in
                // `net/ipv6/addrconf.c`), so the first one would change with each new address.
                messages.reverse();
            }
            found.extend(messages.iter().filter_map(Address::parse));
        }
        Ok(found)
    }

    /// The addresses of one interface, in the same order.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses_of<A: Family>(
        &self,
        ifindex: u32,
    ) -> Result<Vec<Address<A>>, RequestError> {
        let mut addresses = self.addresses_in().await?;
        addresses.retain(|address| address.ifindex == ifindex);
        Ok(addresses)
    }

    /// Adds an address to an interface. It can be used at once: the kernel does not ask the link
    /// whether another host has the IPv6 address, as it does not for IPv4.
    ///
    /// # Errors
    /// When it exists already, the interface is gone, or the kernel refuses.
    pub async fn add_address(
        &self,
        link: &Link,
        net: impl Into<IpNet>,
    ) -> Result<(), RequestError> {
        let net = net.into();
        let addresses = self.handle.address();
        let mut request = addresses.add(link.index, net.addr(), net.prefix_len());
        if net.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        answer(&format!("add {net} to {}", link.name), request.execute()).await
    }

    /// Removes an address from an interface.
    ///
    /// The kernel removes an IPv4 address' secondary ones with it, unless the interface's
    /// `promote_secondaries` is set.
    ///
    /// # Errors
    /// When it does not exist, the interface is gone, or the kernel refuses.
    pub async fn delete_address(
        &self,
        link: &Link,
        net: impl Into<IpNet>,
    ) -> Result<(), RequestError> {
        let net = net.into();
        let message = match net.addr() {
            IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(link.index)
                .address(address, net.prefix_len())
                .build(),
            IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(link.index)
                .address(address, net.prefix_len())
                .build(),
        };
        let request = self.handle.address().del(message).execute();
        answer(&format!("remove {net} from {}", link.name), request).await
    }
}

impl<A: Family> Address<A> {
    fn parse(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut other_end) = (None, None);
        let mut flags = AddressFlags::empty();
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = A::of(*address),
                AddressAttribute::Address(address) => other_end = A::of(*address),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        let own = local.or(other_end)?;
        let unstable = TEMPORARY
            | AddressFlags::Deprecated
            | AddressFlags::Tentative
            | AddressFlags::Dadfailed;
        let is_ipv6 = own.into().is_ipv6();
        let is_first_bit = message.header.flags.contains(AddressHeaderFlags::Secondary);
        Some(Self {
            ifindex: message.header.index,
            net: own.net(message.header.prefix_len)?,
            peer: other_end.filter(|address| *address != own),
            scope: message.header.scope,
            secondary: is_first_bit && !is_ipv6,
            is_stable: !is_ipv6 || !flags.intersects(unstable),
        })
    }
}
