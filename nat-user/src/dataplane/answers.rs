//! The table of IPv6 addresses for which the programs answer neighbours on an uplink's link. Its
//! entries change with the rules.

use anyhow::Result;
use aya::maps::{LpmTrie, Map, MapData};
use ipnet::Ipv6Net;
use nat_common::{
    tables::neighbours::{NEIGHBOUR_FIXED_BITS, Neighbour, NeighbourKey},
    wire::address::Addr6,
};
use nat_config::compile::Prefix;

use super::{
    Pins, Plain,
    family::open_named,
    rules::{Generational, put, remove},
};

/// The table's name.
const NAME: &str = "NEIGHBOURS6";

/// Whether the programs answer for the addresses of a prefix. Of several prefixes, the longest
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The number of the uplink on whose link they answer.
    pub uplink: u16,
    /// The addresses.
    pub prefix: Ipv6Net,
    /// Whether they answer.
    pub is_given: bool,
}

/// The table.
pub(super) struct AnswerTable(LpmTrie<MapData, Plain<NeighbourKey>, Plain<Neighbour>>);

impl Generational for NeighbourKey {
    fn generation(&self) -> u16 {
        self.generation
    }

    fn with_generation(self, generation: u16) -> Self {
        Self { generation, ..self }
    }
}

impl AnswerTable {
    /// Opens the pinned table.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        Ok(Self(LpmTrie::try_from(Map::LpmTrie(open_named(
            pins, NAME,
        )?))?))
    }

    /// Adds entries, with a generation that packets do not use yet.
    ///
    /// # Errors
    ///
    /// When the table is full. Some entries are there then.
    pub(super) fn write(&mut self, answers: &[Answer], generation: u16) -> Result<()> {
        answers.iter().try_for_each(|answer| {
            let key = NeighbourKey {
                generation,
                uplink: answer.uplink,
                address: Addr6::new(answer.prefix.network().octets()),
            };
            let prefix = Prefix {
                bits: NEIGHBOUR_FIXED_BITS + u32::from(answer.prefix.prefix_len()),
                key,
            };
            let value = Neighbour {
                is_answered: u8::from(answer.is_given),
                reserved: [0; 3],
            };
            put(&mut self.0, NAME, prefix, generation, Plain(value))
        })
    }

    /// Removes the entries of generations.
    ///
    /// # Errors
    ///
    /// When the table cannot be read or written.
    pub(super) fn remove_generations(
        &mut self,
        unwanted: impl Fn(u16) -> bool + Copy,
    ) -> Result<()> {
        remove(&mut self.0, unwanted)
    }
}
