//! NAT64's tables: what its program is told, and the addresses of guests that no longer need them.

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use nat_common::{
    nat64::{Counterpart, Nat64Settings, Prefix},
    wire::address::{Addr4, Addr6},
};
use nat_config::model::Nat64;

use super::{Dataplane, Plain, family::open_map};

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
            Array::try_from(Map::Array(open_map::<Addr4>(&self.pins, "NAT64")?))?;
        let Plain(before) = table.get(&0, 0).context("read map NAT64")?;
        if before == settings {
            return Ok(());
        }
        table
            .set(0, Plain(settings), 0)
            .context("write map NAT64")?;
        if (before.first, before.count) != (settings.first, settings.count) {
            self.forget_guests(|_| true)?;
        }
        Ok(())
    }

    /// Frees the addresses of guests that have sent nothing for longer than any timeout: none of
    /// their sessions is left then.
    ///
    /// # Errors
    ///
    /// When a map cannot be opened, read or written.
    pub fn expire_nat64(&mut self, now_s: u32) -> Result<()> {
        if self.ipv6.is_none() {
            return Ok(());
        }
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
        self.forget_guests(|counterpart| now_s.saturating_sub(counterpart.used_s) > idle_s)
    }

    fn forget_guests(&self, is_over: impl Fn(&Counterpart) -> bool) -> Result<()> {
        let mut guests: Guests =
            HashMap::try_from(Map::HashMap(open_map::<Addr4>(&self.pins, "NAT64_GUESTS")?))?;
        let mut holders: Holders = HashMap::try_from(Map::HashMap(open_map::<Addr4>(
            &self.pins,
            "NAT64_ADDRESSES",
        )?))?;
        let all: Vec<(Plain<Addr6>, Plain<Counterpart>)> = (guests.iter())
            .collect::<Result<_, _>>()
            .context("read map NAT64_GUESTS")?;
        for (guest, Plain(counterpart)) in all {
            if is_over(&counterpart) {
                // In this order: no guest has an address that another one may get.
                guests.remove(&guest).context("write map NAT64_GUESTS")?;
                holders
                    .remove(&Plain(counterpart.address))
                    .context("write map NAT64_ADDRESSES")?;
            }
        }
        Ok(())
    }
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
    let first = u32::from(host) + 1;
    Nat64Settings {
        prefix: Prefix([word(0), word(1), word(2)]),
        strangers: Addr4(host.octets()),
        first: Addr4(first.to_be_bytes()),
        count: u32::from(nat64.pool.broadcast()).saturating_sub(first),
    }
}
