//! IPv4 addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
pub use netlink_packet_route::address::AddressScope;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
};
use rtnetlink::AddressMessageBuilder;

use super::{
    connection::{Netlink, RequestError, answer},
    links::Link,
};

/// An IPv4 address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface, by index.
    pub ifindex: u32,
    /// The address and the length of its prefix.
    pub net: Ipv4Net,
    /// The other end's address, where it is not in the same prefix (`ip addr add … peer …`).
    pub peer: Option<Ipv4Addr>,
    /// How far the address is valid.
    pub scope: AddressScope,
    /// Whether another address of the interface is the primary one of their common prefix.
    pub secondary: bool,
}

impl Netlink {
    /// All IPv4 addresses of all interfaces; those of one interface in the kernel's order:
    /// primary ones first, those that are valid on the link only before global ones, and else as
    /// they were added.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses(&self) -> Result<Vec<Address>, RequestError> {
        let request = || {
            let mut request = self.handle.address().get();
            request.message_mut().header.family = AddressFamily::Inet;
            request.execute()
        };
        let messages = self.list("list addresses", request).await?;
        Ok(messages.iter().filter_map(Address::parse).collect())
    }

    /// The IPv4 addresses of one interface in the kernel's order.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses_of(&self, ifindex: u32) -> Result<Vec<Address>, RequestError> {
        let mut addresses = self.addresses().await?;
        addresses.retain(|address| address.ifindex == ifindex);
        Ok(addresses)
    }

    /// Adds an address to an interface.
    ///
    /// # Errors
    /// When it exists already, the interface is gone, or the kernel refuses.
    pub async fn add_address(&self, link: &Link, net: Ipv4Net) -> Result<(), RequestError> {
        let address = IpAddr::V4(net.addr());
        let request = self
            .handle
            .address()
            .add(link.index, address, net.prefix_len());
        answer(&format!("add {net} to {}", link.name), request.execute()).await
    }

    /// Removes an address from an interface.
    ///
    /// The kernel removes an address' secondary ones with it, unless the interface's
    /// `promote_secondaries` is set.
    ///
    /// # Errors
    /// When it does not exist, the interface is gone, or the kernel refuses.
    pub async fn delete_address(&self, link: &Link, net: Ipv4Net) -> Result<(), RequestError> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link.index)
            .address(net.addr(), net.prefix_len())
            .build();
        let request = self.handle.address().del(message).execute();
        answer(&format!("remove {net} from {}", link.name), request).await
    }
}

impl Address {
    fn parse(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut other_end) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => local = Some(*address),
                AddressAttribute::Address(IpAddr::V4(address)) => other_end = Some(*address),
                _ => {}
            }
        }
        let own = local.or(other_end)?;
        Some(Self {
            ifindex: message.header.index,
            net: Ipv4Net::new(own, message.header.prefix_len).ok()?,
            peer: other_end.filter(|address| *address != own),
            scope: message.header.scope,
            secondary: message.header.flags.contains(AddressHeaderFlags::Secondary),
        })
    }
}
