//! The foundations of the pipeline, each by itself: sums, addresses, ports, types, and how they are
//! shown.

use nat_common::{
    family::Family as _,
    tables::{
        guests::GuestKey,
        queued::Queued,
        sessions::{DEAD, OPENING, SessionKey, View},
    },
    wire::{
        address::{Addr4, Address as _, Port},
        checksum::fold,
        protocol::UDP,
    },
    work::port_search::PortSearch,
};

#[test]
fn a_sum_is_folded_until_it_fits_a_word() {
    for (sum, folded) in [
        (0, 0),
        (0xffff, 0xffff),
        (0x1_0000, 1),
        (0x1_ffff, 1),
        (0xffff_0001, 1),
        (0xffff_ffff, 0xffff),
    ] {
        assert_eq!(fold(sum), folded, "{sum:#x}");
    }
}

#[test]
fn addresses_and_ports_are_shown_as_people_write_them() {
    assert_eq!(format!("{:?}", Addr4([192, 0, 2, 1])), "192.0.2.1");
    assert_eq!(format!("{:?}", Port::new(8080)), "8080");
    let slot = format!("{:?}", Queued::<Addr4>::new());
    assert!(slot.starts_with("Queued { seen_s: "), "{slot}");
}

/// A pool of four addresses is used evenly, whether guests differ in the last byte of their address
/// or in the one before.
#[test]
fn neighbours_are_spread_evenly_whichever_network_they_are_in() {
    for byte in [2, 3] {
        let mut counts = [0; 4];
        for value in 0..=255 {
            let mut address = [10, 50, 161, 7];
            address[byte] = value;
            counts[Addr4(address).hash() as usize % 4] += 1;
        }
        let even = counts.iter().all(|count| (32..=96).contains(count));
        assert!(even, "byte {byte}: {counts:?}");
    }
}

/// Sources of a rule that are in no network are guests as well, with a share as theirs.
#[test]
fn only_an_entry_without_address_and_network_is_the_host() {
    let guest = Addr4([192, 0, 2, 1]);
    assert!(GuestKey::new(Addr4::UNSPECIFIED, 0).is_host());
    assert!(!GuestKey::new(guest, 0).is_host());
    assert!(!GuestKey::new(Addr4::UNSPECIFIED, 1).is_host());
    assert!(!GuestKey::new(guest, 1).is_host());
}

#[test]
fn an_identification_has_sixteen_bits_of_chance() {
    assert_eq!(Addr4::id_from(0x1234_5678), 0x5678);
    assert_eq!(Addr4::id_from(0xffff_0000), 0);
}

/// What is waited for is not what has ended.
#[test]
fn an_entry_that_is_being_opened_differs_from_one_that_is_being_removed() {
    assert_ne!(OPENING, DEAD);
}

/// Of two entries of a session every CPU adds the same one first, whatever the two differ in: else
/// two packets that open it at once would wait for each other.
#[test]
fn of_two_different_keys_exactly_one_comes_first() {
    let (low, high) = (Addr4([10, 0, 0, 1]), Addr4([192, 0, 2, 1]));
    let mut keys = Vec::new();
    for number in 0..64_u8 {
        let pick = |bit: u8| number >> bit & 1 == 1;
        let address = |bit| if pick(bit) { high } else { low };
        let port = |bit| Port::new(if pick(bit) { 50_000 } else { 53 });
        keys.push(SessionKey {
            view: if pick(5) { View::Inside } else { View::Outside } as u8,
            network: pick(4).into(),
            source: address(3),
            source_port: port(2),
            destination: address(1),
            destination_port: port(0),
            protocol: UDP,
        });
    }
    // By view, network, source, its port, destination and its port: in this order.
    keys.sort_by_key(|key| (key.view, key.network));
    for (place, key) in keys.iter().enumerate() {
        assert!(!key.precedes(key), "{key:?} comes before itself");
        for later in &keys[place + 1..] {
            assert!(key.precedes(later), "{key:?} is not before {later:?}");
            assert!(!later.precedes(key), "{later:?} is before {key:?}");
        }
    }
}

/// The type of an answer stands for that of its query: RFC 792 and RFC 950 number the answer next.
#[test]
fn answers_of_every_kind_belong_to_the_query_of_their_kind() {
    for (query, answer) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        assert_eq!(Addr4::service(query), Port::new(query.into()));
        assert_eq!(Addr4::service(answer), Addr4::service(query));
    }
}

/// A search starts at random, and continues by its stride.
#[test]
fn a_search_for_a_port_starts_at_random_and_keeps_within_the_range() {
    let first = |random| {
        let search = PortSearch::new(UDP, Port::new(53), 2000, 2999, random);
        search.candidate(0).unwrap().number()
    };
    assert_eq!(first(0), 2000);
    assert_eq!(first(7), 2007);
    assert_eq!(first(1999), 2999);
    // System ports keep to themselves, from the first to the last.
    let low = |random| PortSearch::new(UDP, Port::new(53), 1, u16::MAX, random).candidate(1);
    assert_eq!(low(0), Some(Port::new(1)));
    assert_eq!(low(1022), Some(Port::new(1023)));
    assert_eq!(low(1023), Some(Port::new(1)));
    // The first user port is one: from there on no system port is tried.
    for wanted in [1024, 1025] {
        let search = PortSearch::new(UDP, Port::new(wanted), 1, u16::MAX, 0);
        assert_eq!(search.candidate(1), Some(Port::new(1024)));
    }
    // A range that begins there, or ends before, is no band's part.
    let search = PortSearch::new(UDP, Port::new(53), 1024, 2000, 0);
    assert_eq!(search.candidate(0), Some(Port::new(1024)));
    let search = PortSearch::new(UDP, Port::new(53), 1024, 2000, 5);
    assert_eq!(search.candidate(0), Some(Port::new(1029)));
    let search = PortSearch::new(UDP, Port::new(5000), 1, 1000, 4);
    assert_eq!(search.candidate(0), Some(Port::new(5)));
    let search = PortSearch::new(UDP, Port::new(5000), 1, 1024, 0);
    assert_eq!(search.candidate(0), Some(Port::new(1024)));
    assert_eq!(search.candidate(1), None);
    let search = PortSearch::new(UDP, Port::new(53), 1, 1023, 1022);
    assert_eq!(search.candidate(1), Some(Port::new(1023)));
    let search = PortSearch::new(UDP, Port::new(53), 1, 1024, 1023);
    assert_eq!(search.candidate(1), Some(Port::new(1)));
    let search = PortSearch::new(UDP, Port::new(53), 1, 1000, 999);
    assert_eq!(search.candidate(1), Some(Port::new(1000)));
}

/// A range of as many ports as the stride, or a multiple of it, is visited whole all the same.
#[test]
fn a_range_as_long_as_the_stride_is_visited_whole() {
    for count in [4093_u16, 2 * 4093, 4091] {
        let (first, last) = (10_000, 10_000 + count - 1);
        let search = PortSearch::new(UDP, Port::new(80), first, last, 5);
        let mut ports: Vec<u16> = (0..=u32::from(count))
            .map_while(|attempt| search.candidate(attempt))
            .map(Port::number)
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, (first..=last).collect::<Vec<_>>());
    }
}

/// RFC 1918 and RFC 6598.
#[test]
fn addresses_are_private_within_the_ranges_for_that_alone() {
    for (first, last) in [
        ([10, 0, 0, 0], [10, 255, 255, 255]),
        ([172, 16, 0, 0], [172, 31, 255, 255]),
        ([192, 168, 0, 0], [192, 168, 255, 255]),
        ([100, 64, 0, 0], [100, 127, 255, 255]),
    ] {
        let [before, behind] = [u32::from_be_bytes(first) - 1, u32::from_be_bytes(last) + 1];
        for inside in [first, last] {
            assert!(Addr4(inside).is_private(), "{inside:?}");
        }
        for outside in [before, behind].map(u32::to_be_bytes) {
            assert!(!Addr4(outside).is_private(), "{outside:?}");
        }
    }
}
