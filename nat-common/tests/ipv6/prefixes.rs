//! Translation of prefixes (RFC 6296).

use nat_common::{translation::prefix::PrefixTranslation, wire::address::Address as _};
use proptest::prelude::*;

use crate::packets::address;

fn translation(from: &str, to: &str, len: u32) -> PrefixTranslation {
    PrefixTranslation::new(address(from), address(to), len)
}

/// The example of RFC 6296 section 3.6, as its erratum 3033 has it.
#[test]
fn p6_1_the_example_of_the_rfc_is_translated() {
    let outward = translation("fd01:203:405::", "2001:db8:1::", 48);
    let inside = address("fd01:203:405:1::1234");
    let outside = address("2001:db8:1:d550::1234");
    assert!(outward.covers(inside) && !outward.covers(outside));
    assert_eq!(outward.apply(inside), Some(outside));
    assert_eq!(outward.reversed().apply(outside), Some(inside));
    assert!(outward.reversed().covers(outside));
}

/// A prefix of 49 bits or more changes the first word of the interface identifier that is not
/// 0xffff (section 3.5).
#[test]
fn p6_1_p6_3_words_of_ones_are_passed_by() {
    let outward = translation("fd00:0:0:1::", "fd00:0:0:3::", 64);
    for (inside, outside) in [
        ("fd00:0:0:1::5", "fd00:0:0:3:fffd:0:0:5"),
        ("fd00:0:0:1:2:0:0:5", "fd00:0:0:3:0:0:0:5"),
        ("fd00:0:0:1:ffff:7:0:5", "fd00:0:0:3:ffff:5:0:5"),
        ("fd00:0:0:1:ffff:ffff:7:5", "fd00:0:0:3:ffff:ffff:5:5"),
        ("fd00:0:0:1:ffff:ffff:ffff:5", "fd00:0:0:3:ffff:ffff:ffff:3"),
    ] {
        let (inside, outside) = (address(inside), address(outside));
        assert_eq!(outward.apply(inside), Some(outside));
        assert_eq!(outward.reversed().apply(outside), Some(inside));
    }
    let ones = address("fd00:0:0:1:ffff:ffff:ffff:ffff");
    assert_eq!(outward.apply(ones), None);
    // Where the subnet's word is free, it alone may change.
    let short = translation("fd01:203:405::", "2001:db8:1::", 48);
    assert_eq!(short.apply(address("fd01:203:405:ffff::1")), None);
}

proptest! {
    /// Whatever the prefixes: the sum stays, the prefix is the new one, and the way back leads to
    /// where it came from.
    #[test]
    fn p6_1_p6_2_sums_stay_and_the_way_back_is_exact(
        from in any::<[u32; 4]>(),
        to in any::<[u32; 4]>(),
        host in any::<[u32; 4]>(),
        len in 1_u32..=64,
    ) {
        use nat_common::wire::{address::Addr6, checksum::fold};
        let outward = PrefixTranslation::new(Addr6::of_words(from), Addr6::of_words(to), len);
        let [a, b, c, d] = host;
        let [e, f, g, h] = { outward.mask }.words();
        let [i, j, k, l] = { outward.from }.words();
        let inside = Addr6::of_words([(a & !e) | i, (b & !f) | j, (c & !g) | k, (d & !h) | l]);
        let Some(outside) = outward.apply(inside) else {
            return Ok(());
        };
        prop_assert_eq!(outside.masked(outward.mask), outward.to);
        let sum = |address: Addr6| fold(address.sum()) % 0xffff;
        prop_assert_eq!(sum(inside), sum(outside));
        let back = outward.reversed().apply(outside);
        prop_assert_eq!(back, Some(inside));
    }
}
