//! Answers to neighbours on an uplink's link, by the program in the kernel.

use std::{collections::BTreeMap, net::Ipv6Addr};

use anyhow::{Result, ensure};
use kit::packets::icmp;
use nat_common::{
    headers::neighbour::solicited_node,
    tables::{
        interfaces::{Interface, role},
        neighbours::{NEIGHBOUR_FIXED_BITS, Neighbour, NeighbourKey},
    },
    wire::{
        address::Addr6,
        checksum::{fold, sum},
    },
};
use nat_user::dataplane::TestRunOutput;

use super::{
    harness::{HOOK, NETWORK_NUMBER, Plane},
    vectors::{GO_ON, REDIRECT},
};

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const GUEST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 1, 1);
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 2);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Where a frame has its hop limit, and the ICMPv6 message.
const HOP_LIMIT: usize = 14 + 7;
const MESSAGE: usize = 14 + 40;

impl Plane {
    /// With guests in the uplink's own prefix.
    fn with_neighbours() -> Result<Self> {
        let mut plane = Self::with_ipv6()?;
        let uplink = Interface {
            role: role::UPLINK,
            number: NETWORK_NUMBER,
            mac: MAC,
            ..Interface::default()
        };
        plane
            .dataplane
            .set_interfaces(&BTreeMap::from([(HOOK, uplink)]))?;
        let generation = plane.generation()?;
        for (address, bits, is_answered) in [(GUEST, 64, 1), (HOST, 128, 0)] {
            let key = NeighbourKey {
                generation,
                uplink: NETWORK_NUMBER,
                address: Addr6::new(address.octets()),
            };
            let value = Neighbour {
                is_answered,
                reserved: [0; 3],
            };
            plane.put("NEIGHBOURS6", NEIGHBOUR_FIXED_BITS + bits, key, value)?;
        }
        Ok(plane)
    }

    fn heard(&mut self, frame: &[u8]) -> Result<TestRunOutput> {
        self.programs.test_run("nat6_neighbours", frame, HOOK, HOOK)
    }
}

/// Who has this address?
fn asked(target: Ipv6Addr, source: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let target = target.octets();
    let group = solicited_node(Addr6::new(target)).bytes();
    let message = icmp(source.octets(), group, [135, 0, 0, 0, 0, 0]);
    let mut frame = message.payload(&[&target, options].concat()).bytes();
    frame[6..12].copy_from_slice(&ROUTER_MAC);
    frame[HOP_LIMIT] = 255;
    frame
}

#[test]
fn n6_1_a_router_hears_the_hosts_address_on_the_link() -> Result<()> {
    let mut plane = Plane::with_neighbours()?;
    let (link_layer, nonce) = ([1, 1, 2, 0, 0, 0, 0, 1], [14, 1, 1, 2, 3, 4, 5, 6]);
    for options in [&link_layer[..], &[], &[link_layer, nonce].concat()] {
        let said = plane.heard(&asked(GUEST, ROUTER, options))?;
        ensure!(said.verdict == REDIRECT, "verdict {}", said.verdict);
        let frame = said.packet;
        ensure!(frame.len() == MESSAGE + 32, "{} bytes", frame.len());
        ensure!(frame[..12] == [ROUTER_MAC, MAC].concat());
        ensure!(frame[HOP_LIMIT] == 255);
        ensure!(frame[22..38] == GUEST.octets() && frame[38..54] == ROUTER.octets());
        ensure!(frame[MESSAGE] == 136 && frame[MESSAGE + 4] == 0xc0);
        ensure!(frame[MESSAGE + 8..MESSAGE + 24] == GUEST.octets());
        ensure!(frame[MESSAGE + 24..] == [&[2, 1], &MAC[..]].concat());
        let pseudo = sum(&frame[22..54]) + sum(&[0, 32, 0, 58]);
        ensure!(fold(sum(&frame[MESSAGE..]) + pseudo) == 0xffff);
    }
    Ok(())
}

#[test]
fn n6_3_detection_of_a_duplicate_is_answered_to_all_nodes() -> Result<()> {
    let mut plane = Plane::with_neighbours()?;
    let said = plane.heard(&asked(GUEST, Ipv6Addr::UNSPECIFIED, &[]))?;
    ensure!(said.verdict == REDIRECT, "verdict {}", said.verdict);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    ensure!(said.packet[..6] == [0x33, 0x33, 0, 0, 0, 1]);
    ensure!(said.packet[38..54] == all_nodes.octets());
    ensure!(said.packet[MESSAGE + 4] == 0x80);
    Ok(())
}

#[test]
fn n6_2_n6_5_all_other_packets_pass_untouched() -> Result<()> {
    let mut plane = Plane::with_neighbours()?;
    let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 1, 3, 0, 0, 0, 1);
    let right = asked(GUEST, ROUTER, &[]);
    let mut frames = vec![
        asked(HOST, ROUTER, &[]),
        asked(elsewhere, ROUTER, &[]),
        asked(GUEST, Ipv6Addr::UNSPECIFIED, &[1, 1, 2, 0, 0, 0, 0, 1]),
    ];
    for (at, byte) in [
        (HOP_LIMIT, 64),
        (MESSAGE, 136),
        (MESSAGE + 1, 1),
        (MESSAGE + 2, !right[MESSAGE + 2]),
        (MESSAGE + 8, 0xff),
        (20, 44),
    ] {
        let mut frame = right.clone();
        frame[at] = byte;
        frames.push(frame);
    }
    frames.push(right[..right.len() - 1].to_vec());
    for frame in frames {
        let said = plane.heard(&frame)?;
        ensure!(
            said.verdict == GO_ON && said.packet == frame,
            "{frame:02x?}"
        );
    }
    Ok(())
}
