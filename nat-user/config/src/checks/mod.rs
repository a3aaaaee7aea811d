//! The tables of a file, compared with each other.

mod claim;
mod forward;
mod guest;
mod half;
mod index;
mod nat;
mod network;
mod policy;
mod route;
mod shadow;
mod snat;
mod target;

use std::net::Ipv4Addr;

use self::{index::Surroundings, target::Reserved};
use crate::{syntax::Report, tables::Parts};

/// Reports what contradicts something else, and warns of what is valid but probably unintended.
pub(crate) fn check(parts: &Parts<'_>, report: &mut Report<'_>) {
    let of_ipv4: Surroundings<'_, Ipv4Addr> = Surroundings::of_ipv4(parts);
    let of_ipv6 = Surroundings::of_ipv6(parts);
    network::check_prefixes(&parts.networks, report);
    network::check_links(&of_ipv6, report);
    network::published(parts, report);
    network::check_dns64(parts, report);
    guest::check_guests(&parts.guests, &parts.networks, report);
    nat::check_nats(&of_ipv4, report);
    nat::check_prefixes(&parts.prefixes, report);
    nat::check_places(&parts.prefixes, &of_ipv6, report);
    snat::public(&parts.snat6, report);
    policy::check_policies(&parts.policies, report);
    check_family(&of_ipv4, parts, report);
    check_family(&of_ipv6, parts, report);
    route::check_gateways(&of_ipv4.routes, report);
    nat::nat_doubts(&of_ipv4, report);
}

/// What both families have.
fn check_family<A: Reserved>(
    around: &Surroundings<'_, A>,
    parts: &Parts<'_>,
    report: &mut Report<'_>,
) {
    target::check_targets(around, report);
    shadow::check_shadows(around.forwards, around.uplinks, report);
    claim::check_claims(around.snat, around.uplinks, report);
    snat::shadowed(around.snat, &parts.networks, report);
    route::check_routes(around, &parts.networks, report);
    forward::forward_doubts(around, report);
}
