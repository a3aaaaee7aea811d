//! NAT64's translation in memory: packets without a link's header, and the addresses that stand for
//! each other.

use std::collections::BTreeMap;

use nat_common::{
    drop_reason::DropReason,
    nat64::{self, Counterparts, Job, Plan, Prefix, Reshape, Version},
    wire::{
        address::{Addr4, Addr6},
        checksum,
        offload::Offload,
        packet::{Frames, Packet},
    },
};

/// Addresses that stand for each other: guests with both, by their IPv4 address.
#[derive(Debug, Clone)]
pub struct Table {
    /// The prefix of servers.
    pub prefix: Prefix,
    /// The guests.
    pub guests: BTreeMap<[u8; 4], [u8; 16]>,
    /// The source of errors by nodes that have no IPv4 address.
    pub strangers: [u8; 4],
    /// The random number behind identifications.
    pub random: u32,
}

impl Counterparts for Table {
    fn prefix(&self) -> Prefix {
        self.prefix
    }

    fn ipv4_of(&self, guest: Addr6) -> Option<Addr4> {
        self.known_ipv4_of(guest)
    }

    fn known_ipv4_of(&self, guest: Addr6) -> Option<Addr4> {
        let mut entries = self.guests.iter();
        entries
            .find(|(_, address)| **address == guest.bytes())
            .map(|(address, _)| Addr4(*address))
    }

    fn ipv6_of(&self, address: Addr4) -> Option<Addr6> {
        self.guests.get(&address.0).copied().map(Addr6::new)
    }

    fn ipv4_of_strangers(&self) -> Addr4 {
        Addr4(self.strangers)
    }

    fn random(&self) -> u32 {
        self.random
    }
}

/// A packet whose length can change, without a link's header.
struct Bytes(Vec<u8>);

impl Packet for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn make_readable(&mut self, _end: usize) {}

    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.0.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }

    fn sum(&self, offset: usize, end: usize) -> Option<u32> {
        Some(checksum::sum(self.0.get(offset..end)?))
    }

    fn frames(&self) -> Frames {
        Frames { segment_len: 0 }
    }

    fn offload(&self) -> Offload {
        Offload::NOTHING
    }

    fn ingress_interface(&self) -> u32 {
        0
    }
}

impl Reshape for Bytes {
    fn reshape(&mut self, l3: usize, plan: &Plan) -> Option<()> {
        self.0.truncate(l3 + plan.kept_len);
        let start = plan.start.get(..plan.start_len)?;
        self.0
            .splice(l3..l3 + plan.replaced_len, start.iter().copied());
        let version = match plan.version {
            Version::V4 => 4,
            Version::V6 => 6,
        };
        assert_eq!(self.0[l3] >> 4, version);
        assert_eq!(self.0.len(), l3 + plan.new_len());
        Some(())
    }
}

impl Table {
    /// The packet as one of the other family.
    ///
    /// # Errors
    ///
    /// Why it is dropped.
    pub fn translate(&self, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut bytes = Bytes(packet.to_vec());
        let mut job = Job::EMPTY;
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            nat64::to_ipv4(&bytes, 0, self, &mut job)?;
        } else {
            nat64::to_ipv6(&bytes, 0, self, &mut job)?;
        }
        nat64::apply(&mut bytes, 0, &job.plan).ok_or(DropReason::RewriteFailed)?;
        Ok(bytes.0)
    }
}
