//! Where a plan does not fit the host.

use std::collections::BTreeMap;

use ipnet::IpNet;
use nat_sys::netlink::{Kind, Layer, Link, Netlink, RequestError};

use super::{
    links::{Held, Routed, named},
    plan::{Network, Plan, Uplink},
    problem::Problem,
    routes,
};
use crate::host::{
    change::Change,
    xdp_features::{XdpFeatures, xdp_features},
};

/// Compares a plan with the host, and changes nothing. Needs no privileges. `ours` is what natbpf
/// did to the host so far (a journal's changes).
///
/// # Errors
/// When the kernel does not answer.
pub async fn problems(
    netlink: &Netlink,
    plan: &Plan,
    ours: &[Change],
) -> Result<Vec<Problem>, RequestError> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses_in().await?;
    let present = routes::present(netlink, plan).await?;
    Ok(find(plan, &links, &addresses, &present, ours))
}

pub(super) fn find(
    plan: &Plan,
    links: &[Link],
    addresses: &[Held],
    present: &[Routed],
    ours: &[Change],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    // Drivers are queried only if the answer is needed. Kernels before 6.3 do not answer.
    let drivers = match plan.uplinks.iter().any(|uplink| uplink.needs_xdp) {
        true => xdp_features().unwrap_or_default(),
        false => BTreeMap::new(),
    };
    for uplink in &plan.uplinks {
        problems.extend(uplink_problem(uplink, links, &drivers));
    }
    for network in &plan.networks {
        problems.extend(network_problem(network, links, addresses, ours));
    }
    problems.extend(routes::route_problems(
        plan, links, addresses, present, ours,
    ));
    problems
}

fn uplink_problem(
    uplink: &Uplink,
    links: &[Link],
    drivers: &BTreeMap<u32, XdpFeatures>,
) -> Option<Problem> {
    let Uplink {
        name, interface, ..
    } = uplink;
    let key = ["uplink", name, "interface"];
    let Some(link) = named(links, interface) else {
        let problem = format!("interface \"{interface}\" of uplink \"{name}\" does not exist");
        return Some(Problem::absence(key, problem, "create it or name another"));
    };
    port_problem(key, link, links).or_else(|| {
        let features = drivers.get(&link.index);
        let has_no_xdp =
            link.kind == Kind::Bridge || features.is_some_and(|features| !features.receives());
        let problem =
            format!("interface \"{interface}\" of uplink \"{name}\" takes no XDP program");
        let remedy = "write mode = \"tc\" or mode = \"auto\", or name a network card";
        (uplink.needs_xdp && link.layer == Layer::Ethernet && has_no_xdp)
            .then(|| Problem::new(["uplink", name, "mode"], problem, remedy))
    })
}

fn network_problem(
    network: &Network,
    links: &[Link],
    addresses: &[Held],
    ours: &[Change],
) -> Option<Problem> {
    let Network {
        name, interface, ..
    } = network;
    let Some(link) = named(links, interface) else {
        let problem = format!("interface \"{interface}\" of network \"{name}\" does not exist");
        let remedy = "create it or set create = true";
        return (!network.create)
            .then(|| Problem::absence(["network", name, "interface"], problem, remedy));
    };
    if link.kind != Kind::Bridge && !network.ports.is_empty() {
        let problem = format!("interface \"{interface}\" of network \"{name}\" is not a bridge");
        let remedy = "remove ports or name a bridge";
        return Some(Problem::new(["network", name, "ports"], problem, remedy));
    }
    port_problem(["network", name, "interface"], link, links).or_else(|| {
        let mut wanted = network.addresses.iter();
        wanted.find_map(|wanted| address_problem(network, *wanted, link, addresses, ours))
    })
}

/// The port of a bridge or bond has no IP layer of its own. Naming the network card instead of the
/// bridge above it is an easy mistake.
fn port_problem(key: [&str; 3], link: &Link, links: &[Link]) -> Option<Problem> {
    let master = (links.iter()).find(|master| Some(master.index) == link.master)?;
    let takes_packets = match &master.kind {
        Kind::Bridge => true,
        Kind::Other(kind) => matches!(kind.as_str(), "bond" | "team" | "openvswitch"),
        _ => false,
    };
    let (port, master) = (&link.name, &master.name);
    let [kind, name, _] = key;
    let problem = format!("interface \"{port}\" of {kind} \"{name}\" is a port of {master}");
    takes_packets.then(|| Problem::new(key, problem, &format!("name {master}")))
}

/// The same address with another prefix length adds a second route to half or twice the guests.
fn address_problem(
    network: &Network,
    wanted: IpNet,
    link: &Link,
    addresses: &[Held],
    ours: &[Change],
) -> Option<Problem> {
    let other = addresses.iter().find(|address| {
        address.ifindex == link.index
            && address.net.addr() == wanted.addr()
            && address.net.prefix_len() != wanted.prefix_len()
            && address.peer.is_none()
    })?;
    let is_ours = ours.iter().any(|change| {
        matches!(change, Change::Address { ifindex, address, .. }
            if *ifindex == link.index && *address == other.net)
    });
    let (interface, present) = (&link.name, other.net);
    let problem = format!("{interface} has {present}, not {wanted}");
    let remedy = "make the prefixes the same";
    (!is_ours).then(|| Problem::new(["network", &network.name, "address"], problem, remedy))
}
