//! NAT64's tables: what its program is told, and the addresses of guests that no longer need them.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use nat_common::{
    nat64::{Counterpart, Nat64Settings, Prefix},
    wire::address::{Addr4, Addr6},
};
use nat_config::model::Nat64;

use super::{Dataplane, Plain, family::open_named};

/// The addresses of guests.
type Guests = HashMap<MapData, Plain<Addr6>, Plain<Counterpart>>;

/// The guests of addresses.
type Holders = HashMap<MapData, Plain<Addr4>, Plain<Addr6>>;

impl Dataplane {
    /// Tells NAT64's program its prefix and pool. With another pool, guests get other addresses.
    ///
    /// # Errors
    ///
    /// When a map cannot be opened or written.
    pub fn set_nat64(&mut self, nat64: Option<&Nat64>) -> Result<()> {
        if self.ipv6.is_none() {
            return Ok(());
        }
        let settings = nat64.map_or(NONE, settings);
        let mut table: Array<_, Plain<Nat64Settings>> =
            Array::try_from(Map::Array(open_named(&self.pins, "NAT64")?))?;
        let Plain(before) = table.get(&0, 0).context("read map NAT64")?;
        if before != settings {
            table
                .set(0, Plain(settings), 0)
                .context("write map NAT64")?;
        }
        let (mut guests, mut holders) = self.guests()?;
        if (before.first, before.count) != (settings.first, settings.count) {
            forget(&mut guests, &mut holders, |_, _| true)?;
        }
        for (address, guest) in nat64.iter().flat_map(|nat64| &nat64.holders) {
            hold(&mut guests, &mut holders, *address, *guest)?;
        }
        Ok(())
    }

    fn guests(&self) -> Result<(Guests, Holders)> {
        let open = |name| Ok::<_, anyhow::Error>(Map::HashMap(open_named(&self.pins, name)?));
        Ok((
            HashMap::try_from(open("NAT64_GUESTS")?)?,
            HashMap::try_from(open("NAT64_ADDRESSES")?)?,
        ))
    }

    /// Frees the addresses of guests that have sent nothing for longer than any timeout: none of
    /// their sessions is left then. Those to which rules lead keep theirs.
    ///
    /// # Errors
    ///
    /// When a map cannot be opened, read or written.
    pub fn expire_nat64(&mut self, nat64: &Nat64, now_s: u32) -> Result<()> {
        let settings = self.settings()?;
        let longest_s = [
            settings.udp_s,
            settings.tcp_opening_s,
            settings.tcp_established_s,
            settings.tcp_closing_s,
            settings.icmp_s,
            settings.other_s,
        ];
        let idle_s = longest_s.into_iter().fold(MARGIN_S, u32::max) + MARGIN_S;
        let (mut guests, mut holders) = self.guests()?;
        forget(&mut guests, &mut holders, |guest, counterpart| {
            let holder = nat64.holders.get(&Ipv4Addr::from(counterpart.address.0));
            let is_held = holder.is_some_and(|holder| holder.octets() == guest.bytes());
            !is_held && now_s.saturating_sub(counterpart.used_s) > idle_s
        })
    }
}

/// Takes the addresses of guests that `is_over` names.
fn forget(
    guests: &mut Guests,
    holders: &mut Holders,
    is_over: impl Fn(Addr6, &Counterpart) -> bool,
) -> Result<()> {
    let all: Vec<(Plain<Addr6>, Plain<Counterpart>)> = (guests.iter())
        .collect::<Result<_, _>>()
        .context("read map NAT64_GUESTS")?;
    for (guest, Plain(counterpart)) in all {
        if is_over(guest.0, &counterpart) {
            take(guests, holders, guest, counterpart.address)?;
        }
    }
    Ok(())
}

/// Takes the address of a guest. In this order, no guest has an address that another one may get.
fn take(
    guests: &mut Guests,
    holders: &mut Holders,
    guest: Plain<Addr6>,
    address: Addr4,
) -> Result<()> {
    guests.remove(&guest).context("write map NAT64_GUESTS")?;
    holders
        .remove(&Plain(address))
        .context("write map NAT64_ADDRESSES")
}

/// Gives a guest the address to which rules lead. Another guest that has it gets another one, and
/// its sessions end by their timeouts.
fn hold(
    guests: &mut Guests,
    holders: &mut Holders,
    address: Ipv4Addr,
    guest: Ipv6Addr,
) -> Result<()> {
    let (address, guest) = (Addr4(address.octets()), Plain(Addr6::new(guest.octets())));
    let before = guests.get(&guest, 0).ok().map(|Plain(known)| known.address);
    if before == Some(address) {
        return Ok(());
    }
    if let Some(before) = before {
        take(guests, holders, guest, before)?;
    }
    if let Ok(other) = holders.get(&Plain(address), 0) {
        take(guests, holders, other, address)?;
    }
    holders
        .insert(Plain(address), guest, 0)
        .context("write map NAT64_ADDRESSES")?;
    let counterpart = Counterpart { address, used_s: 0 };
    guests
        .insert(guest, Plain(counterpart), 0)
        .context("write map NAT64_GUESTS")
}

/// How late a guest's clock and the end of a session may be, in seconds.
const MARGIN_S: u32 = 60;

/// Without NAT64.
const NONE: Nat64Settings = Nat64Settings {
    prefix: Prefix([0; 3]),
    strangers: Addr4([0; 4]),
    first: Addr4([0; 4]),
    count: 0,
};

/// The pool's first address is the host's, and the last one none.
fn settings(nat64: &Nat64) -> Nat64Settings {
    let word = |index: usize| {
        let octets = nat64.prefix.network().octets();
        let word = octets.chunks_exact(4).nth(index);
        word.map_or(0, |word| {
            u32::from_ne_bytes([word[0], word[1], word[2], word[3]])
        })
    };
    let host = Nat64::host_address(nat64.pool);
    let addresses = Nat64::guest_addresses(nat64.pool);
    Nat64Settings {
        prefix: Prefix([word(0), word(1), word(2)]),
        strangers: Addr4(host.octets()),
        first: Addr4(addresses.start.to_be_bytes()),
        count: addresses.end - addresses.start,
    }
}
