//! The tables of a file, compared with each other.

mod claim;
mod forward;
mod guest;
mod index;
mod nat;
mod network;
mod policy;
mod route;
mod shadow;
mod snat;
mod target;

use self::index::Surroundings;
use crate::{syntax::Report, tables::Parts};

/// Reports what contradicts something else, and warns of what is valid but probably unintended.
pub(crate) fn check(parts: &Parts<'_>, report: &mut Report<'_>) {
    let around = Surroundings::new(parts);
    network::check_prefixes(&parts.networks, report);
    network::published(parts, report);
    guest::check_guests(&parts.guests, &parts.networks, report);
    target::check_targets(&around, report);
    nat::check_nats(&around, report);
    nat::check_prefixes(&parts.prefixes, report);
    policy::check_policies(&parts.policies, report);
    shadow::check_shadows(&parts.forwards, &parts.uplinks, report);
    claim::check_claims(&parts.snat, &parts.uplinks, report);
    snat::shadowed(&parts.snat, &parts.networks, report);
    route::check_routes(&around, report);
    forward::forward_doubts(&around, report);
    nat::nat_doubts(&around, report);
}
