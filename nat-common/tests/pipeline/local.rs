//! The host's own access to what it forwards.

use nat_common::{
    pipeline::local::{Caller, redirect},
    tables::destinations::{MAX_OWN, OwnAddresses},
    wire::{
        address::{Endpoint, Port},
        protocol::{TCP, UDP},
    },
};

use crate::family::{Addr, C1, ICMP, IS_IPV6, Ip, PUBLIC, S1A, World, addr, host};
use kit::{packets::At, world::FORWARD_RULE};

const LOOPBACK: Ip = host([127, 0, 0, 1]);
/// A socket that leaves everything to the kernel.
const ANY: At<Ip> = At(host([0; 4]), 0);

fn own(addresses: &[Ip]) -> OwnAddresses<Addr> {
    let mut own = OwnAddresses {
        count: addresses.len() as u32,
        reserved: 0,
        addresses: [addr(host([0; 4])); MAX_OWN],
    };
    for (place, address) in own.addresses.iter_mut().zip(addresses) {
        *place = addr(*address);
    }
    own
}

fn at(At(address, port): At<Ip>) -> Endpoint<Addr> {
    Endpoint::new(addr(address), Port::new(port))
}

/// Whom a socket that is bound to `bound` gets in the place of `asked`; the number of the rule.
fn ask(world: &World, bound: At<Ip>, protocol: u8, asked: At<Ip>) -> Option<(Endpoint<Addr>, u32)> {
    let caller = Caller {
        bound: at(bound),
        interface: 0,
    };
    // The address that is forwarded is the last of those that there are.
    let own = own(&[host([19, 19, 8, 9]), PUBLIC]);
    let found = redirect(&world.tables, &own, &caller, protocol, at(asked));
    found.map(|found| (found.guest, found.rule))
}

fn world() -> World {
    let mut world = World::new();
    for protocol in [TCP, UDP] {
        world.forward_local(protocol, 10_000..=10_010, At(C1, 80));
        world.forward(protocol, 20_000..=20_000, At(C1, 80));
    }
    world
}

#[test]
fn the_host_reaches_a_forward_by_its_own_address_and_by_loopback() {
    let world = world();
    for protocol in [TCP, UDP] {
        for address in [PUBLIC, LOOPBACK] {
            let found = ask(&world, ANY, protocol, At(address, 10_003));
            assert_eq!(found, Some((at(At(C1, 83)), FORWARD_RULE)));
        }
        for elsewhere in [
            At(PUBLIC, 10_011),
            At(LOOPBACK, 10_011),
            At(S1A, 10_000),
            At(C1, 80),
        ] {
            assert_eq!(ask(&world, ANY, protocol, elsewhere), None);
        }
        // IPv6 has but one loopback address.
        if !IS_IPV6 {
            let other = At(host([127, 0, 0, 2]), 10_000);
            assert_eq!(ask(&world, ANY, protocol, other), None);
        }
    }
    assert_eq!(ask(&world, ANY, ICMP, At(PUBLIC, 10_000)), None);
}

#[test]
fn a_forward_that_is_not_for_the_host_is_left_alone() {
    let world = world();
    for address in [PUBLIC, LOOPBACK] {
        assert_eq!(ask(&world, ANY, TCP, At(address, 20_000)), None);
    }
}

#[test]
fn a_socket_that_a_guest_could_not_answer_is_left_alone() {
    let world = world();
    for address in [PUBLIC, LOOPBACK] {
        for bound in [
            At(LOOPBACK, 0),
            At(LOOPBACK, 5000),
            At(host([127, 9, 9, 9]), 0),
        ] {
            assert_eq!(ask(&world, bound, TCP, At(address, 10_000)), None);
        }
        let bound = At(PUBLIC, 5000);
        assert!(ask(&world, bound, TCP, At(address, 10_000)).is_some());
        let caller = Caller {
            bound: at(ANY),
            interface: 3,
        };
        let asked = at(At(address, 10_000));
        let found = redirect(&world.tables, &own(&[PUBLIC]), &caller, TCP, asked);
        assert_eq!(found, None);
    }
}

#[test]
fn s6_a_service_of_the_host_comes_before_a_forward_to_the_host_itself() {
    for address in [PUBLIC, LOOPBACK] {
        let mut world = world();
        world.socket(TCP, At(address, 10_000), None);
        assert_eq!(ask(&world, ANY, TCP, At(address, 10_000)), None);
        assert!(ask(&world, ANY, UDP, At(address, 10_000)).is_some());
        assert!(ask(&world, ANY, TCP, At(address, 10_001)).is_some());
        // One that is connected comes first for whom it is connected to.
        world.socket(UDP, At(address, 10_002), Some(At(address, 5000)));
        let asked = At(address, 10_002);
        assert_eq!(ask(&world, At(host([0; 4]), 5000), UDP, asked), None);
        assert!(ask(&world, At(host([0; 4]), 5001), UDP, asked).is_some());
    }
}

#[test]
fn loopback_has_no_target_without_addresses() {
    let world = world();
    let caller = Caller {
        bound: at(ANY),
        interface: 0,
    };
    let asked = at(At(LOOPBACK, 10_000));
    assert_eq!(
        redirect(&world.tables, &own(&[]), &caller, TCP, asked),
        None
    );
    // More than there is room for: what the loader writes never is.
    let mut own = own(&[]);
    own.count = u32::MAX;
    assert_eq!(redirect(&world.tables, &own, &caller, TCP, asked), None);
}
