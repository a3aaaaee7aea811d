//! Guests of rules that the host's routes do not reach.

use std::net::Ipv4Addr;

use nat_config::model::{Config, GuestAddress};
use nat_sys::netlink::{Address, Link, Netlink, RequestError};

use super::{links::named, problem::Problem};
use crate::host::routing::Routing;

/// The targets of `[[forward]]` and `[[nat]]` that no packet can reach on the host as it is. If an
/// interface is missing or down, the target is unknown and no problem.
///
/// # Errors
/// When the kernel does not answer.
pub async fn target_problems(
    netlink: &Netlink,
    config: &Config,
) -> Result<Vec<Problem>, RequestError> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let routing = Routing::new(&netlink.routes().await?);
    let forwards = config.forwards.iter();
    let forwards = forwards.map(|rule| ("forward", &rule.name, &rule.to));
    let nats = config.nats.iter();
    let nats = nats.map(|rule| ("nat", &rule.name, &rule.to));
    let host = Host {
        config,
        links: &links,
        addresses: &addresses,
        routing: &routing,
    };
    let targets = forwards.chain(nats);
    Ok(targets
        .filter_map(|(table, name, to)| {
            let GuestAddress::Fixed(to) = *to else {
                return None;
            };
            let (problem, remedy) = host.problem(to)?;
            Some(Problem::new([table, name, "to"], problem, &remedy))
        })
        .collect())
}

struct Host<'a> {
    config: &'a Config,
    links: &'a [Link],
    addresses: &'a [Address],
    routing: &'a Routing,
}

impl Host<'_> {
    /// Why a target cannot work, and what to do instead.
    fn problem(&self, to: Ipv4Addr) -> Option<(String, String)> {
        if self.addresses.iter().any(|own| own.net.addr() == to) {
            let remedy = "name a guest; the host's own services need no rule";
            return Some((format!("{to} is the host's own address"), remedy.to_owned()));
        }
        if self.is_not_known_yet(to) {
            return None;
        }
        let remedy =
            format!("correct the address, or add a route to the guest (ip route add {to} …)");
        let why = match self.routing.to(to) {
            None => format!("the host has no route to {to}"),
            Some(route) if route.drops => {
                format!("the host drops packets for {to} (route {})", route.prefix)
            }
            Some(route) => {
                let link = self
                    .links
                    .iter()
                    .find(|link| Some(link.index) == route.device)?;
                let mut uplinks = self.config.uplinks.iter();
                let uplink = uplinks.find(|uplink| uplink.interface == link.name)?;
                let (route, name) = (route.prefix, &uplink.name);
                format!(
                    "{to} is reached by uplink \"{name}\" (route {route}), not behind a network"
                )
            }
        };
        Some((why, remedy))
    }

    /// Whether natbpf itself will add the route to an address, or a missing interface may have it.
    fn is_not_known_yet(&self, to: Ipv4Addr) -> bool {
        let mut routes = self.config.routes.iter();
        if routes.any(|route| route.addresses.iter().any(|prefix| prefix.contains(&to))) {
            return true;
        }
        let networks = self.config.networks.iter();
        let mut networks = networks.filter_map(|network| Some((network, network.address?)));
        networks.any(|(network, address)| {
            let link = named(self.links, &network.interface).filter(|link| link.up);
            let has_address = |link: &Link| {
                let mut own = self
                    .addresses
                    .iter()
                    .filter(|own| own.ifindex == link.index);
                own.any(|own| own.net.contains(&address.addr()))
            };
            !link.is_some_and(has_address)
        })
    }
}
