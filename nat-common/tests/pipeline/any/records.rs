//! What the kernel's own record of a packet says about checksums and tunnels.

use nat_common::wire::offload::{FIELDS, Offload, Record, WINDOW};

/// Places of the fields in the order of `nat_common::wire::offload::field`.
const PLACES: [usize; FIELDS] = [0, 9, 5, 12, 3, 20, 22, 40, 44, 62];

/// Values of `ip_summed`.
const NONE: u8 = 0;
const UNNECESSARY: u8 = 1;
const COMPLETE: u8 = 2;
const PARTIAL: u8 = 3;

#[derive(Clone, Copy)]
struct Fields {
    summed: u8,
    is_encapsulated: bool,
    start: u16,
    offset: u16,
    network: u16,
    inner_network: u16,
    inner_transport: u16,
}

/// All headers start at one place.
const FLAT: Fields = Fields {
    summed: NONE,
    is_encapsulated: false,
    start: 0x1234,
    offset: 0,
    network: 0x1234,
    inner_network: 0x1234,
    inner_transport: 0x1234,
};

/// The window of a record; `others` fills what is of no field.
fn record(fields: Fields, others: u8) -> [u16; WINDOW / 2] {
    let mut bytes = [others; WINDOW];
    bytes[9] = others & !(3 << 5) | fields.summed << 5;
    bytes[12] = others & !(1 << 3) | u8::from(fields.is_encapsulated) << 3;
    for (place, value) in [
        (20, fields.start),
        (22, fields.offset),
        (40, fields.network),
        (44, fields.inner_network),
        (62, fields.inner_transport),
    ] {
        bytes[place..place + 2].copy_from_slice(&value.to_ne_bytes());
    }
    core::array::from_fn(|word| u16::from_ne_bytes([bytes[2 * word], bytes[2 * word + 1]]))
}

fn read(fields: Fields) -> Offload {
    let offloads = [0, 0xff].map(|others| {
        let record = record(fields, others);
        Offload::read(&record, |field| PLACES[field])
    });
    assert_eq!(offloads[0], offloads[1], "of no field");
    offloads[0]
}

#[test]
fn each_state_of_the_checksum_is_read() {
    for (summed, expected) in [
        (NONE, Offload::NOTHING),
        (UNNECESSARY, Offload::NOTHING),
        (COMPLETE, Offload::NOTHING.and_summed()),
        (PARTIAL, Offload::unfinished(0)),
    ] {
        let fields = Fields { summed, ..FLAT };
        assert_eq!(read(fields), expected, "{summed}");
        let tunnelled = Fields {
            is_encapsulated: true,
            ..fields
        };
        assert_eq!(read(tunnelled), expected.and_encapsulated(0, 0), "{summed}");
    }
}

#[test]
fn places_count_from_the_network_header() {
    let fields = Fields {
        summed: PARTIAL,
        is_encapsulated: true,
        start: 0x0122,
        offset: 0x0010,
        network: 0x0100,
        inner_network: 0x0132,
        inner_transport: 0x0146,
    };
    let inside = Offload::unfinished(0x32).and_encapsulated(0x32, 0x46);
    assert_eq!(read(fields), inside);
    // In front of it, as a guest may have it.
    let in_front = Fields {
        start: 0x00f0,
        offset: 6,
        ..fields
    };
    let before = Offload::unfinished(-10).and_encapsulated(0x32, 0x46);
    assert_eq!(read(in_front), before);
    assert_eq!(read(in_front).field(), Some(-10));
}

#[test]
fn a_window_is_read_by_bytes_and_words_and_never_outside() {
    let record: [u16; WINDOW / 2] =
        core::array::from_fn(|word| u16::from_ne_bytes([2 * word as u8, 2 * word as u8 + 1]));
    for place in 0..2 * WINDOW {
        let byte = (place % WINDOW) as u8;
        assert_eq!(record.byte(place), byte);
        if place % 2 == 0 {
            assert_eq!(record.word(place), u16::from_ne_bytes([byte, byte + 1]));
        }
    }
}
