//! Addresses and prefixes of either family.

use std::{
    fmt,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};

/// An address of one family.
pub trait Address: Copy + Ord + Hash + fmt::Debug + fmt::Display + 'static {
    /// A prefix of this family.
    type Prefix: Prefix<Self>;

    /// The address of no host.
    const UNSPECIFIED: Self;

    /// All addresses from this one to `last`, itself included.
    fn up_to(self, last: Self) -> impl Iterator<Item = Self>;
    /// How many addresses there are from this one to `last`, itself included; 0 if it is lower.
    fn count_to(self, last: Self) -> u128;
}

/// An address and the number of its first bits that count.
pub trait Prefix<A>: Copy + Ord + Hash + fmt::Debug + fmt::Display + From<A> {
    /// All addresses.
    const ALL: Self;

    /// The address as it was written.
    fn addr(&self) -> A;
    /// The lowest address.
    fn network(&self) -> A;
    /// The highest address.
    fn last(&self) -> A;
    /// The bits that count.
    fn netmask(&self) -> A;
    /// The number of bits that count.
    fn prefix_len(&self) -> u8;
    /// The same prefix, written with its lowest address.
    fn trunc(&self) -> Self;
    /// The prefix of `length` bits around it; `None` for a length that no address has.
    fn widened(&self, length: u8) -> Option<Self>;
    /// Whether all addresses of another prefix are in this one.
    fn covers(&self, other: &Self) -> bool;

    /// Whether an address is in the prefix.
    fn holds(&self, address: A) -> bool {
        self.covers(&Self::from(address))
    }
}

macro_rules! family {
    ($address:ty, $prefix:ty, $number:ty) => {
        impl Address for $address {
            type Prefix = $prefix;

            const UNSPECIFIED: Self = Self::UNSPECIFIED;

            fn up_to(self, last: Self) -> impl Iterator<Item = Self> {
                (<$number>::from(self)..=<$number>::from(last)).map(Self::from)
            }

            fn count_to(self, last: Self) -> u128 {
                let (first, last) = (<$number>::from(self), <$number>::from(last));
                let more = last.checked_sub(first);
                more.map_or(0, |more| u128::from(more).saturating_add(1))
            }
        }

        impl Prefix<$address> for $prefix {
            const ALL: Self = Self::new_assert(<$address>::UNSPECIFIED, 0);

            fn addr(&self) -> $address {
                self.addr()
            }

            fn network(&self) -> $address {
                self.network()
            }

            fn last(&self) -> $address {
                self.broadcast()
            }

            fn netmask(&self) -> $address {
                self.netmask()
            }

            fn prefix_len(&self) -> u8 {
                self.prefix_len()
            }

            fn trunc(&self) -> Self {
                self.trunc()
            }

            fn widened(&self, length: u8) -> Option<Self> {
                Self::new(self.addr(), length).ok().map(|net| net.trunc())
            }

            fn covers(&self, other: &Self) -> bool {
                self.contains(other)
            }
        }
    };
}

family!(Ipv4Addr, Ipv4Net, u32);
family!(Ipv6Addr, Ipv6Net, u128);
