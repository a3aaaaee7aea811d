//! Kinds of addresses, and arithmetic with them.

use nat_common::wire::address::{Addr6, Address as _};

use crate::packets::address;

#[test]
fn kinds_of_addresses_are_told_apart_at_their_borders() {
    for (text, is_source, is_group, is_private, is_link_local) in [
        ("::", false, false, false, false),
        ("::1", false, false, false, false),
        ("::2", true, false, false, false),
        ("::ffff:192.0.2.1", false, false, false, false),
        ("::fffe:c000:201", true, false, false, false),
        ("1::ffff:c000:201", true, false, false, false),
        ("64:ff9b::c000:201", true, false, false, false),
        ("2001:db8::1", true, false, false, false),
        ("fbff::1", true, false, false, false),
        ("fc00::1", true, false, true, false),
        ("fdff:ffff::1", true, false, true, false),
        ("fe7f::1", true, false, false, false),
        ("fe80::1", true, false, false, true),
        ("febf:ffff::1", true, false, false, true),
        ("fec0::1", true, false, false, false),
        ("feff::1", true, false, false, false),
        ("ff00::", false, true, false, false),
        ("ff02::1", false, true, false, false),
    ] {
        let address = address(text);
        assert_eq!(address.is_valid_source(), is_source, "{text}");
        assert_eq!(address.is_group(), is_group, "{text}");
        assert_eq!(address.is_unicast(), !is_group, "{text}");
        assert_eq!(address.is_private(), is_private, "{text}");
        assert_eq!(address.is_link_local(), is_link_local, "{text}");
        assert_eq!(format!("{address:?}"), text);
    }
}

#[test]
fn offsets_and_distances_carry_over_words() {
    for (first, last, distance) in [
        ("2001:db8::1", "2001:db8::1", 0),
        ("2001:db8::1", "2001:db8::ff", 254),
        ("2001:db8::ffff:ffff", "2001:db8::1:0:0", 1),
        ("2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::", u32::MAX),
        ("2001:db8::", "2001:db8::ffff:ffff", u32::MAX),
        ("2001:db8::", "2001:db8::1:0:0", u32::MAX),
        ("2001:db8::2", "2001:db8::1", 0),
        ("2001:db9::", "2001:db8::", 0),
    ] {
        assert_eq!(
            address(first).distance_to(address(last)),
            distance,
            "{first}"
        );
    }
    let carried = address("2001:db8::ffff:ffff:ffff:ffff").offset_by(2);
    assert_eq!(carried, address("2001:db8:0:1::1"));
    let lower = address("2001:db8::ffff:ffff").offset_by(u32::MAX);
    assert_eq!(lower, address("2001:db8::1:ffff:fffe"));
}

#[test]
fn a_mask_keeps_the_prefix_alone() {
    let masked = address("2001:db8:1:2:3:4:5:6").masked(address("ffff:ffff:ffff:fff0::"));
    assert_eq!(masked, address("2001:db8:1::"));
}

#[test]
fn each_word_moves_the_hash() {
    let base = address("2001:db8:1:2:3:4:5:6");
    for word in 0..4 {
        let mut other = base.words();
        other[word] ^= 0x0100_0000;
        assert_ne!(base.hash(), Addr6::of_words(other).hash(), "word {word}");
    }
}
