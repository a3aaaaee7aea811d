//! For which addresses the programs answer neighbours on an uplink's link (`ndp`).

use std::collections::BTreeMap;

use ipnet::Ipv6Net;
use nat_config::model::Config;

use super::host::Host;
use crate::{dataplane::Answer, state::Numbers};

/// The answers of a configuration on a host: those for a network's prefixes are given, except for
/// addresses of the uplink's own interface and for what the host's routes place on the uplink's
/// link, routers among them.
pub(super) fn answers(config: &Config, host: &Host, numbers: &Numbers) -> Vec<Answer> {
    let mut answers = BTreeMap::new();
    for network in &config.networks {
        let uplink = network.ndp.map(|id| &config.uplinks[id.0]);
        let Some((uplink, link)) = uplink.and_then(|one| Some((one, host.link(&one.interface)?)))
        else {
            continue;
        };
        let number = numbers.uplinks.get(&uplink.name).copied().unwrap_or(0);
        let public = network.addresses6.iter();
        let public = public.filter(|net| !net.addr().is_unique_local());
        for prefix in public.map(Ipv6Net::trunc) {
            answers.insert((number, prefix), true);
            let others = on_the_link(host, link.index);
            let others = others.filter(|other| prefix.contains(other) && *other != prefix);
            answers.extend(others.map(|other| ((number, other), false)));
        }
    }
    let answers = answers.into_iter();
    answers
        .map(|((uplink, prefix), is_given)| Answer {
            uplink,
            prefix,
            is_given,
        })
        .collect()
}

/// What has other owners on the link of an interface.
fn on_the_link(host: &Host, device: u32) -> impl Iterator<Item = Ipv6Net> {
    let own = host.ipv6_addresses.iter();
    let own = own.filter(move |address| address.ifindex == device);
    let own = own.map(|address| address.net.addr().into());
    let routes = host.ipv6_routes.iter();
    let routes = routes.filter(move |route| route.device == Some(device));
    let by_it = routes.flat_map(|route| {
        let router = route.gateway.map(Ipv6Net::from);
        let neighbours = (router.is_none()).then_some(route.prefix);
        router.into_iter().chain(neighbours)
    });
    own.chain(by_it)
}
