//! NAT64's translation: any packet of either family.

use kit::{
    nat64::Table,
    octets::Octets,
    packets::{ETHERNET, fragments, raw},
};
use nat_common::{
    drop_reason::DropReason,
    nat64::Prefix,
    wire::protocol::{ICMP, ICMPV6, TCP, UDP},
};

use crate::{
    frame::{DCCP, UDP_LITE, View, canonical, correct, reversed},
    header::Read,
    input::Input,
    translation::damaged,
};

type V4 = [u8; 4];
type V6 = [u8; 16];

const GUESTS: [V4; 2] = [[100, 64, 46, 10], [100, 64, 46, 11]];
const STRANGERS: V4 = [100, 64, 46, 1];
/// Servers, and whom no guest reaches: private, and of this host alone.
const REMOTES: [V4; 4] = [
    [203, 0, 113, 2],
    [198, 51, 100, 1],
    [10, 0, 0, 1],
    [127, 0, 0, 1],
];
const PREFIXES: [Prefix; 2] = [
    Prefix::WELL_KNOWN,
    Prefix([0x2001_0db8_u32.to_be(), 0x64_u32.to_be(), 0]),
];
const PROTOCOLS: [u8; 9] = [TCP, UDP, ICMP, ICMPV6, 47, 132, UDP_LITE, DCCP, 44];
/// The longest error that every link of IPv6 takes (RFC 4443 section 2.4 (c)).
const MAX_ERROR: usize = 1280;
/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;

/// Translates a packet of either family, and its answer back.
///
/// # Panics
///
/// If what comes out is no whole packet of the other family, if a right checksum becomes a wrong
/// one, if it has another payload or other ends, or if the answer does not come back as it was
/// sent.
pub(crate) fn nat64(data: &[u8]) {
    let mut input = Input::new(data);
    let table = Table {
        prefix: input.one_of(&PREFIXES),
        guests: GUESTS.map(|guest| (guest, guest_6(guest))).into(),
        strangers: STRANGERS,
        random: 0x1234_5678,
    };
    match input.bit() {
        false => check::<V6, V4>(&table, &mut input),
        true => check::<V4, V6>(&table, &mut input),
    }
}

fn check<I: Member, O: Member>(table: &Table, input: &mut Input<'_>) {
    for frame in frames::<I>(table, input) {
        let packet = frame.get(ETHERNET..).unwrap_or_default();
        let version = if size_of::<I>() == 4 { 4 } else { 6 };
        if packet.first().is_none_or(|first| first >> 4 != version) {
            continue;
        }
        let Ok(after) = table.translate(packet) else {
            continue;
        };
        let old = View::<I>::new(packet).expect("translated without a whole header");
        let new = View::<O>::new(&after).expect("translated into no packet");
        assert_eq!(new.header.total_len, after.len(), "{packet:02x?}");
        assert_eq!(old.is_icmp_error(), new.is_icmp_error());
        assert_eq!(I::class(packet), O::class(&after), "{packet:02x?}");
        assert_eq!(O::hops(&after), I::hops(packet).saturating_add(1));
        match old.is_icmp_error() {
            true => assert_error(table, &old, &new),
            false => {
                assert_same(&old, &new, packet);
                assert_ends(table, &old, &new);
                assert_answered::<I, O>(table, packet, &after);
            }
        }
    }
}

/// A family of NAT64.
pub(crate) trait Member: Read {
    /// The address of a guest, or of a server.
    fn standing_for(table: &Table, ipv4: V4) -> Self;

    /// The IPv4 address that an address stands for.
    fn counterpart(self, table: &Table) -> Option<V4>;

    /// Type of service, or traffic class.
    fn class(packet: &[u8]) -> u8;

    fn hops(packet: &[u8]) -> u8 {
        packet[Self::HOPS]
    }

    /// The packet as it is after two translations of what is right: without options, extension
    /// headers and flow label, with two hops more.
    fn simplest(view: &View<'_, Self>, hops: u8) -> Vec<u8>;
}

impl Member for V4 {
    fn standing_for(_table: &Table, ipv4: V4) -> Self {
        ipv4
    }

    fn counterpart(self, _table: &Table) -> Option<V4> {
        Some(self)
    }

    fn class(packet: &[u8]) -> u8 {
        packet[1]
    }

    /// A whole packet that fits into every link of IPv6 may be fragmented, and has a random
    /// identification (RFC 7915 section 5.1).
    fn simplest(view: &View<'_, Self>, hops: u8) -> Vec<u8> {
        let total_len = 20 + view.message().len();
        let [id, flags] = match view.is_fragment() {
            true => {
                let more = if view.header.more { 0x2000 } else { 0 };
                [view.id() as u16, more | (view.header.offset / 8)]
            }
            false if total_len <= 1260 => [0x5678, 0],
            false => [0, 0x4000],
        };
        let mut bytes = vec![0x45, view.class()];
        for word in [total_len as u16, id, flags] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend([hops, view.protocol(), 0, 0]);
        bytes.extend([view.source(), view.destination()].concat());
        let sum = !kit::packets::ones_complement_sum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(view.message());
        bytes
    }
}

impl Member for V6 {
    fn standing_for(table: &Table, ipv4: V4) -> Self {
        match table.guests.get(&ipv4) {
            Some(guest) => *guest,
            None => table
                .prefix
                .address_of(nat_common::wire::address::Addr4(ipv4))
                .bytes(),
        }
    }

    fn counterpart(self, table: &Table) -> Option<V4> {
        let guest = table.guests.iter().find(|(_, guest)| **guest == self);
        let is_server = Self::standing_for(table, self.host()) == self;
        let server = is_server.then_some(self.host());
        guest.map(|(ipv4, _)| *ipv4).or(server)
    }

    fn class(packet: &[u8]) -> u8 {
        packet[0] << 4 | packet[1] >> 4
    }

    fn simplest(view: &View<'_, Self>, hops: u8) -> Vec<u8> {
        let class = view.class();
        let protocol = view.protocol();
        let mut inside = Vec::new();
        let next = match view.is_fragment() {
            true => {
                let field = view.header.offset | u16::from(view.header.more);
                let [a, b] = field.to_be_bytes();
                let [c, d] = (view.id() as u16).to_be_bytes();
                inside.extend([protocol, 0, a, b, 0, 0, c, d]);
                44
            }
            false => protocol,
        };
        inside.extend(view.message());
        let [a, b] = (inside.len() as u16).to_be_bytes();
        let mut bytes = vec![0x60 | class >> 4, class << 4, 0, 0, a, b, next, hops];
        bytes.extend([view.source(), view.destination()].concat());
        bytes.extend(inside);
        bytes
    }
}

impl<I: Member> View<'_, I> {
    fn class(&self) -> u8 {
        I::class(self.bytes)
    }

    fn id(&self) -> u32 {
        let id = &self.bytes[self.header.id.clone()];
        id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte))
    }
}

/// The guest with an IPv4 address.
fn guest_6(ipv4: V4) -> V6 {
    V6::of_host([19, 19, 8, ipv4[3]])
}

/// Checks that the packet behind the header is the same, but for the ICMP type and a checksum that
/// is as right as before.
fn assert_same<I: Member, O: Member>(old: &View<'_, I>, new: &View<'_, O>, packet: &[u8]) {
    let protocol = match old.protocol() {
        protocol if protocol == I::ICMP => O::ICMP,
        protocol => protocol,
    };
    assert_eq!(new.protocol(), protocol, "{packet:02x?}");
    let place = |view: &View<'_, I>| (view.header.offset, view.header.more);
    assert_eq!((new.header.offset, new.header.more), place(old));
    if old.is_fragment() {
        assert_eq!(new.id() as u16, old.id() as u16, "{packet:02x?}");
    }
    let [mut before, mut after] = [old.message(), new.message()].map(<[u8]>::to_vec);
    if let Some(field) = old.checksum() {
        before[field.clone()].fill(0);
        after[field].fill(0);
    }
    if old.is_icmp_query() {
        assert!(new.is_icmp_query());
        assert_eq!(new.is_icmp_reply(), old.is_icmp_reply());
        (before[0], after[0]) = (0, 0);
    }
    assert_eq!(after, before, "{packet:02x?}");
    let [before, after] = [old.sums(), new.sums()];
    assert_eq!(after.0, 0, "header of {packet:02x?}");
    match before.1 {
        // A fragment's sum is that of a part, and a datagram without one may get one.
        _ if old.is_fragment() && old.protocol() == I::ICMP => {}
        None if size_of::<O>() == 16 => assert_eq!(after.1.unwrap_or(0), 0, "{packet:02x?}"),
        sum => assert_eq!(after.1, sum, "{packet:02x?}"),
    }
}

fn assert_ends<I: Member, O: Member>(table: &Table, old: &View<'_, I>, new: &View<'_, O>) {
    let counterparts = [old.source(), old.destination()].map(|address| address.counterpart(table));
    let addresses = [new.source(), new.destination()].map(|address| address.counterpart(table));
    assert_eq!(addresses, counterparts);
    // No guest gets what only this host has, and none sends it out.
    let [source, destination] = addresses.map(|address| address.unwrap_or_default());
    let remote = if size_of::<O>() == 4 {
        destination
    } else {
        source
    };
    let is_local = remote[0] == 10 && table.prefix == Prefix::WELL_KNOWN;
    assert!(remote[0] != 127 && !is_local, "{remote:?}");
}

/// Checks that the answer comes back as it was sent.
fn assert_answered<I: Member, O: Member>(table: &Table, packet: &[u8], after: &[u8]) {
    let framed = |packet: &[u8]| [&[0; ETHERNET], packet].concat();
    let answer = reversed::<O>(&framed(after));
    let own = reversed::<I>(&framed(packet));
    let answer = &answer[ETHERNET..];
    let back = match table.translate(answer) {
        Ok(back) => back,
        // A datagram without a checksum that is not whole.
        Err(DropReason::Untranslatable) if size_of::<I>() == 16 => return,
        // Nothing behind an IPv6 header: the length 0 is that of a packet before segmentation.
        Err(DropReason::Malformed) if size_of::<O>() == 16 && after.len() == O::HEADER => return,
        Err(reason) => panic!("{answer:02x?} to {packet:02x?}: {reason:?}"),
    };
    let view = View::<I>::of_frame(&own).expect("still a packet");
    let hops = I::hops(packet).saturating_add(2);
    let expected = I::simplest(&view, hops);
    let mut both = [&back[..], &expected].map(|packet| canonical::<I>(&framed(packet)));
    if view.protocol() == UDP && view.message_sum().is_none() {
        // It has got a checksum, which is right.
        for packet in &mut both {
            correct::<I>(packet);
        }
    }
    assert_eq!(both[0], both[1], "{answer:02x?} to {packet:02x?}");
}

/// Checks that an error about a packet is one about its counterpart.
fn assert_error<I: Member, O: Member>(table: &Table, old: &View<'_, I>, new: &View<'_, O>) {
    let place = old.message();
    // (Only the kernel looks at the checksum of a header.)
    assert_eq!(old.message_sum(), Some(0), "{place:02x?}");
    assert!(new.is_right(), "{place:02x?}");
    if size_of::<O>() == 16 {
        assert!(new.header.total_len <= MAX_ERROR, "{place:02x?}");
    }
    let [before, after] = [old.message(), new.message()].map(|message| &message[ICMP_HEADER..]);
    let before = View::<I>::quoted(before).expect("quotes no header");
    let after = View::<O>::quoted(after).expect("quotes no header");
    let ends = [before.source(), before.destination()].map(|address| address.counterpart(table));
    let now = [after.source(), after.destination()].map(|address| address.counterpart(table));
    assert_eq!(ends, now, "{place:02x?}");
    assert_eq!(before.class(), after.class());
    assert_eq!(I::hops(before.bytes), O::hops(after.bytes));
    // What is quoted is a part of what was, but for types and checksums.
    assert!(
        after.message().len() <= before.message().len(),
        "{place:02x?}"
    );
    let [mut was, mut is] = [before.message(), after.message()].map(<[u8]>::to_vec);
    was.truncate(is.len());
    if let Some(field) = after.checksum() {
        was[field.clone()].fill(0);
        is[field].fill(0);
    }
    if before.is_icmp_query() && !is.is_empty() {
        (was[0], is[0]) = (0, 0);
    }
    assert_eq!(is, was, "{place:02x?}");
}

/// A packet of a family, in one piece or several.
fn frames<I: Member>(table: &Table, input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let how = input.byte();
    let mut frame = match how % 8 {
        0 => [&[0; ETHERNET], input.rest()].concat(),
        1..=4 => made::<I>(table, input),
        _ => error::<I>(table, input),
    };
    if how & 0x18 == 0x18 {
        frame = damaged::<I>(&frame, input);
    }
    let view = View::<I>::of_frame(&frame);
    let is_whole = view.is_some_and(|view| !view.is_fragment() && view.message().len() > 8);
    match how & 0xe0 == 0x20 && is_whole {
        true => fragments::<I>(&frame, 8 * (1 + usize::from(input.byte() % 8))),
        false => vec![frame],
    }
}

/// Ends of a packet, mostly those of a guest's that is sent or received.
fn ends<I: Member>(table: &Table, input: &mut Input<'_>, is_sent: bool) -> [I; 2] {
    let choice = input.byte();
    let guest = GUESTS[usize::from(choice & 1)];
    let remote = REMOTES[usize::from(choice >> 1 & 3)];
    let ends = match is_sent {
        true => [guest, remote],
        false => [remote, guest],
    };
    let ends = ends.map(|end| I::standing_for(table, end));
    match choice >> 4 {
        15 => [ends[1], ends[0]],
        14 => [I::of_host(remote), ends[1]],
        _ => ends,
    }
}

/// A packet with right checksums.
fn made<I: Member>(table: &Table, input: &mut Input<'_>) -> Vec<u8> {
    let [source, destination] = ends::<I>(table, input, size_of::<I>() == 16);
    packet(input, source, destination)
}

fn packet<I: Member>(input: &mut Input<'_>, source: I, destination: I) -> Vec<u8> {
    let protocol = input.one_of(&PROTOCOLS);
    let len = usize::from(input.word() % 1500);
    let mut message = input.bytes(len.min(64)).to_vec();
    message.resize(len, 0x5a);
    match protocol {
        TCP => {
            message.resize(len.max(20), 0);
            message[12] = 0x50;
        }
        UDP => {
            message.resize(len.max(8), 0);
            let len = message.len() as u16;
            message[4..6].copy_from_slice(&len.to_be_bytes());
        }
        ICMP | ICMPV6 => {
            message.resize(len.max(8), 0);
            let queries = I::QUERIES.as_flattened();
            message[0] = queries[usize::from(input.byte()) % queries.len()];
        }
        _ => {}
    }
    let protocol = if protocol == ICMP { I::ICMP } else { protocol };
    let mut make = raw(protocol, source, destination).payload(&message);
    if input.byte().is_multiple_of(4) {
        make = make.options(&[1; 4]);
    }
    let mut frame = make.bytes();
    let how = input.byte();
    frame[ETHERNET + I::HOPS] = input.byte();
    correct::<I>(&mut frame);
    if how & 1 != 0 && protocol == UDP {
        let view = View::<I>::of_frame(&frame).expect("a packet");
        let field = view.checksum().expect("a datagram");
        let at = ETHERNET + view.header.len + field.start;
        frame[at..at + 2].fill(0);
    }
    frame
}

/// An error about a packet that came the other way, which it quotes up to any byte.
fn error<I: Member>(table: &Table, input: &mut Input<'_>) -> Vec<u8> {
    let is_sent = size_of::<I>() == 16;
    let [source, destination] = ends::<I>(table, input, is_sent);
    let quoted = packet(input, destination, source);
    let quoted = match input.byte() % 4 {
        0 => fragments::<I>(&quoted, 16).pop().unwrap_or(quoted),
        1 => damaged::<I>(&quoted, input),
        _ => quoted,
    };
    let quoted = quoted.get(ETHERNET..).unwrap_or_default();
    let len = match input.word() {
        0 => quoted.len(),
        len => usize::from(len) % (quoted.len() + 1),
    };
    let kind = input.one_of(I::ERRORS);
    let code = input.byte() % 16;
    let rest: [u8; 4] = match input.bit() {
        true => input.array(),
        false => [0, 0, 0, input.byte()],
    };
    let behind = usize::from(input.byte() % 32);
    let behind = input.bytes(behind);
    let message = [&[kind, code, 0, 0], &rest[..], &quoted[..len], behind].concat();
    let mut frame = raw(I::ICMP, source, destination).payload(&message).bytes();
    correct::<I>(&mut frame);
    frame
}
