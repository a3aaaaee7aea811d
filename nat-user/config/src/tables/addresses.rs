//! The host's addresses in a network.

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    model::Nat64,
    syntax::{Fault, Field, Section},
    values,
};

/// The host's addresses in a network.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    pub(super) ipv4: Option<Ipv4Net>,
    pub(super) ipv6: Vec<Ipv6Net>,
    /// Whether others may put further IPv6 addresses on the interface.
    pub(super) follows: bool,
}

/// Those that the file says. A network that follows its interface needs none.
pub(super) fn addresses_of(section: &Section<'_>) -> Result<Addresses, Fault> {
    let follows = section.field("follow").map(|field| field.boolean());
    let follows = follows == Some(Ok(true));
    match section.field("address") {
        None if follows => Ok(Addresses {
            follows,
            ..Addresses::default()
        }),
        _ => Ok(Addresses {
            follows,
            ..section.required("address", addresses)?
        }),
    }
}

fn addresses(field: Field<'_>) -> Result<Addresses, Fault> {
    let items = field.required_items()?;
    let is_ipv4 = |item: &&Field<'_>| !values::looks_like_ipv6(item);
    if let Some(second) = items.iter().filter(is_ipv4).nth(1) {
        let problem = "is the second IPv4 address of the network";
        return Err(second.fault(problem, "write one, and any number of IPv6 addresses"));
    }
    let (ipv4, ipv6) =
        values::by_family(items, values::address_in_prefix, values::address_in_prefix6)?;
    Ok(Addresses {
        ipv4: ipv4.first().copied(),
        ipv6,
        ..Addresses::default()
    })
}

/// The host's addresses in NAT64's network.
pub(super) fn addresses_of_nat64(nat64: &Nat64) -> Addresses {
    let own = Nat64::host_address(nat64.pool);
    let own6 = Nat64::address_of(nat64.prefix, own);
    Addresses {
        ipv4: Some(Ipv4Net::new_assert(own, nat64.pool.prefix_len())),
        ipv6: vec![Ipv6Net::new_assert(own6, nat64.prefix.prefix_len())],
        ..Addresses::default()
    }
}
