//! The whole pipeline: sequences of packets at all hooks of the host in memory.

use nat_common::{
    pipeline::Verdict,
    tables::{
        addresses::ExternalAddresses as _,
        excludes::Excludes as _,
        interfaces::Interfaces as _,
        snats::{Snats as _, filtering, mapping},
    },
    wire::protocol::{TCP, UDP},
};

use crate::{
    frame::{DCCP, UDP_LITE, View, assert_translated, canonical, correct, reversed},
    header::Read,
    input::Input,
};
use kit::{
    ipv4::{C1, C2, C3, POOL, PUBLIC, S1A, S1B, S2},
    packets::{At, ETHERNET, GRE, fragments, raw},
    world::{DMZ, Hook, LAN, SNAT_RULE, UPLINK, World, network_of, run_frame},
};

/// The generation of the rules of the host in memory.
const GENERATION: u16 = 1;
/// The number of its uplink.
const UPLINK_NUMBER: u16 = 1;
/// An external address that is one guest's alone.
const ONE: [u8; 4] = [19, 19, 8, 20];
/// As many as matter, and no more than take no time.
const MAX_STEPS: usize = 24;
/// Longer than any session is idle.
const FOREVER_S: u32 = 100_000;

const SCTP: u8 = 132;
/// 1 stands for the family's ICMP.
const PROTOCOLS: [u8; 9] = [TCP, UDP, 1, TCP, UDP, GRE, SCTP, UDP_LITE, DCCP];
/// The hosts with these addresses.
const ADDRESSES: [[u8; 4]; 16] = [
    C1,
    C2,
    C3,
    S1A,
    S1B,
    S2,
    PUBLIC,
    POOL[0],
    POOL[1],
    ONE,
    [172, 22, 161, 254],
    [8, 8, 8, 8],
    [127, 0, 0, 1],
    [224, 0, 0, 1],
    [255; 4],
    [0; 4],
];
const PORTS: [u16; 12] = [
    5000, 5001, 5002, 7000, 10_000, 10_003, 10_019, 10_020, 20_000, 22, 0, 65535,
];

/// Runs any sequence of packets, answers, fragments and pauses.
///
/// # Panics
///
/// If something does not hold; see `Place::run`.
pub(crate) fn translation<I: Read>(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = world::<I>(&mut input);
    let mut place = Place::inbound();
    let mut last = Vec::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let step = input.byte() % 8;
        if step == 0 {
            world.wait(u32::from(input.word()));
            world.check();
            continue;
        }
        let mut frames = vec![frame::<I>(step, &mut input, &last)];
        if input.byte().is_multiple_of(4) && has_whole_packet::<I>(&frames[0]) {
            frames = cut::<I>(&frames[0], &mut input);
        }
        place = Place::from_input(&mut input, &last, place);
        for frame in frames {
            for (_, sent) in place.run_all(&world, &frame) {
                last = sent;
            }
        }
    }
    world.wait(FOREVER_S);
    world.check();
    assert_eq!(world.entries(), [0; 4], "left over when all has expired");
    assert!(world.tables.guests.entries().is_empty(), "left over");
}

/// A host whose rules the input chooses.
fn world<I: Read>(input: &mut Input<'_>) -> World<I> {
    let mut world = World::new();
    let rules = input.word();
    let has = |bit: u16| rules & 1 << bit != 0;
    let mapping = input.one_of(&[
        mapping::ENDPOINT_INDEPENDENT,
        mapping::ADDRESS_AND_PORT_DEPENDENT,
    ]);
    let filtering = input.one_of(&[
        filtering::ENDPOINT_INDEPENDENT,
        filtering::ADDRESS_DEPENDENT,
        filtering::ADDRESS_AND_PORT_DEPENDENT,
    ]);
    world.snat(|snat| {
        (snat.mapping, snat.filtering) = (mapping, filtering);
        if has(0) {
            (snat.first, snat.last) =
                (I::of_host(POOL[0]).address(), I::of_host(POOL[1]).address());
        }
        if has(1) {
            (snat.first_port, snat.last_port) = (5000, 5002);
        }
    });
    for last in (POOL[0][3]..=POOL[1][3]).filter(|_| has(0)) {
        world.external(I::of_host([19, 19, 8, last]), false);
    }
    for protocol in [TCP, UDP].into_iter().filter(|_| has(2)) {
        world.forward(protocol, 10_000..=10_003, At(I::of_host(C1), 80));
        world.forward_to_one(protocol, 10_016..=10_019, At(I::of_host(C2), 443));
    }
    exceptions(&mut world, has);
    limits(&mut world, has);
    world
}

fn exceptions<I: Read>(world: &mut World<I>, has: impl Fn(u16) -> bool) {
    if has(3) {
        world.forward_all(I::of_host(C2));
    }
    if has(4) {
        world.one_to_one(I::of_host(ONE), I::of_host(C3));
    }
    if has(5) {
        world.exclude(I::of_host(S2), 32);
    }
    if has(6) {
        world.without_snat(I::of_host(C2));
    }
    if has(7) {
        world.mss(1200);
    }
    if has(8) {
        world.anti_spoof(I::of_host(C1), [4; 6]);
    }
    if has(10) {
        world.socket(TCP, At(I::of_host(PUBLIC), 5001), None);
        world.socket(
            UDP,
            At(I::of_host(PUBLIC), 5000),
            Some(At(I::of_host(S1A), 7000)),
        );
    }
}

/// Little room in the tables.
fn limits<I: Read>(world: &mut World<I>, has: impl Fn(u16) -> bool) {
    if has(9) {
        world.caps(3, 2);
    }
    let tables = &mut world.tables;
    if has(11) {
        tables.sessions.capacity = 5;
    }
    if has(12) {
        tables.mappings.capacity = 2;
    }
    if has(13) {
        tables.ports.capacity = 2;
    }
    if has(14) {
        tables.permits.capacity = 2;
    }
    if has(15) {
        tables.guests.capacity = 1;
    }
}

/// A frame: made of valid parts, any bytes, or what the last one makes its receiver send.
fn frame<I: Read>(step: u8, input: &mut Input<'_>, last: &[u8]) -> Vec<u8> {
    match step {
        1..=3 => made::<I>(input),
        4 | 5 if !last.is_empty() => reversed::<I>(last),
        6 if !last.is_empty() => damaged::<I>(last, input),
        _ => {
            let len = usize::from(input.byte());
            [&[0; ETHERNET], input.bytes(len)].concat()
        }
    }
}

/// A packet with a right length, and right checksums unless the input says otherwise.
fn made<I: Read>(input: &mut Input<'_>) -> Vec<u8> {
    let how = input.byte();
    let protocol = match input.one_of(&PROTOCOLS) {
        1 => I::ICMP,
        protocol => protocol,
    };
    let [source, destination] = [0; 2].map(|_| (input.one_of(&ADDRESSES), port(input)));
    let len = usize::from(input.byte() % 64);
    let mut message = input.bytes(len).to_vec();
    match protocol {
        TCP => {
            message.resize(message.len().max(20), 0);
            let words = (message.len() / 4).min(15) as u8;
            message[12] = words << 4;
        }
        UDP => {
            message.resize(message.len().max(8), 0);
            let len = message.len() as u16;
            message[4..6].copy_from_slice(&len.to_be_bytes());
        }
        _ if protocol == I::ICMP => message.resize(message.len().max(8), 0),
        _ => {}
    }
    if matches!(protocol, TCP | UDP) {
        message[..2].copy_from_slice(&source.1.to_be_bytes());
        message[2..4].copy_from_slice(&destination.1.to_be_bytes());
    }
    if protocol == I::ICMP {
        message[0] = input.one_of(&icmp_types::<I>());
        message[4..6].copy_from_slice(&source.1.to_be_bytes());
    }
    let [from, to] = [source, destination].map(|end| I::of_host(end.0));
    let mut make = raw(protocol, from, to).payload(&message);
    if how & 1 != 0 {
        make = make.options(&[1; 8]);
    }
    let mut frame = make.id(u16::from(how >> 6)).bytes();
    if how & 2 == 0 {
        correct::<I>(&mut frame);
    }
    frame
}

/// Types of ICMP: mostly queries and answers, an error, and a redirect.
fn icmp_types<I: Read>() -> [u8; 8] {
    let [first, last] = [0, I::QUERIES.len().min(2) - 1].map(|at| I::QUERIES[at]);
    let [[a, b], [c, d]] = [first, last];
    [a, b, c, d, a, b, I::UNREACHABLE, I::REDIRECT]
}

/// Whether an address is a guest's.
pub(crate) fn is_inside<I: Read>(address: I) -> bool {
    network_of(address).is_some()
}

fn port(input: &mut Input<'_>) -> u16 {
    match input.byte() {
        255 => input.word(),
        chosen => PORTS[usize::from(chosen) % PORTS.len()],
    }
}

/// The frame with other bytes here and there, and maybe shorter.
pub(crate) fn damaged<I: Read>(frame: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..input.byte() % 4 {
        let at = usize::from(input.byte());
        let value = input.byte();
        if let Some(byte) = frame.get_mut(ETHERNET + at) {
            *byte = value;
        }
    }
    if input.byte().is_multiple_of(8) {
        frame.truncate(usize::from(input.byte()));
    }
    if input.bit() {
        correct::<I>(&mut frame);
    }
    frame
}

fn has_whole_packet<I: Read>(frame: &[u8]) -> bool {
    let view = View::<I>::of_frame(frame);
    view.is_some_and(|view| !view.is_fragment() && view.is_right() && view.message().len() > 8)
}

/// The packet's fragments, in an order that the input chooses.
fn cut<I: Read>(frame: &[u8], input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut left = fragments::<I>(frame, 8 * (1 + usize::from(input.byte() % 4)));
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let next = usize::from(input.byte()) % left.len();
        ordered.push(left.remove(next));
    }
    ordered
}

/// A hook, the interface that it is at, and where packets come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) hook: Hook,
    pub(crate) interface: u32,
    pub(crate) ingress: u32,
}

impl Place {
    pub(crate) fn inbound() -> Self {
        Self {
            hook: Hook::Inbound,
            interface: UPLINK,
            ingress: UPLINK,
        }
    }

    pub(crate) fn any(input: &mut Input<'_>) -> Self {
        let hook = input.one_of(&Hook::ALL);
        let network = input.one_of(&[LAN, DMZ]);
        let ingress = input.one_of(&[LAN, DMZ, 0, UPLINK]);
        let (interface, ingress) = match hook {
            Hook::Inbound => (UPLINK, UPLINK),
            Hook::Outbound => (UPLINK, ingress),
            Hook::FromGuest => (network, network),
            Hook::ToGuest => (network, ingress),
        };
        Self {
            hook,
            interface,
            ingress,
        }
    }

    /// Any place, or where the answer to the last frame would come in.
    fn from_input(input: &mut Input<'_>, last: &[u8], place: Self) -> Self {
        let any = Self::any(input);
        if last.is_empty() || input.bit() {
            return any;
        }
        match place.hook {
            Hook::Outbound => Self::inbound(),
            Hook::Inbound => Self {
                hook: Hook::Outbound,
                interface: UPLINK,
                ingress: any.ingress,
            },
            Hook::FromGuest => Self {
                hook: Hook::ToGuest,
                ..place
            },
            Hook::ToGuest => Self {
                hook: Hook::FromGuest,
                interface: place.interface,
                ingress: place.interface,
            },
        }
    }

    /// Runs a frame, and the queued ones that are sent now; returns those that passed.
    fn run_all<I: Read>(self, world: &World<I>, frame: &[u8]) -> Vec<(Verdict, Vec<u8>)> {
        let mut gone = Vec::new();
        gone.extend(self.run(world, frame, false));
        let mut sent = world.tables.sent.take();
        sent.reverse();
        while let Some(frame) = sent.pop() {
            gone.extend(self.run(world, &frame, true));
            let more = world.tables.sent.take();
            assert!(more.is_empty(), "sent on, it sends others on");
        }
        gone
    }

    /// Runs a frame and checks what must hold at every hook: an untranslated packet is unchanged, a
    /// translated one is translated completely, the tables agree with each other, no inside address
    /// leaves, and the answer reaches the sender.
    pub(crate) fn run<I: Read>(
        self,
        world: &World<I>,
        frame: &[u8],
        was_queued: bool,
    ) -> Option<(Verdict, Vec<u8>)> {
        let (interface, ingress) = (self.interface, self.ingress);
        let outcome = run_frame(
            &world.tables,
            self.hook,
            frame,
            interface,
            ingress,
            was_queued,
        );
        world.check();
        let (verdict, after) = outcome.ok()?;
        match verdict {
            Verdict::Untouched => assert_eq!(after, frame),
            Verdict::Translated | Verdict::Opened | Verdict::ReceivedAnew => {
                assert_translated::<I>(frame, &after);
            }
            Verdict::Forwarded => panic!("there is no next hop"),
            Verdict::Beyond | Verdict::Dropped(_) => panic!("undecided"),
            Verdict::Queued => {
                assert!(!was_queued, "kept twice");
                return None;
            }
        }
        if self.hook == Hook::Outbound {
            self.assert_hidden(world, &after);
            if verdict != Verdict::Untouched {
                self.assert_answered(world, frame, &after);
            }
        }
        Some((verdict, after))
    }

    /// Checks that a packet on the uplink has no source that a rule hides.
    fn assert_hidden<I: Read>(self, world: &World<I>, after: &[u8]) {
        let Some(view) = View::<I>::of_frame(after) else {
            return;
        };
        let network = match self.ingress {
            LAN => 1,
            DMZ => 2,
            _ => 0,
        };
        let tables = &world.tables;
        let source = view.source().address();
        let rule = tables.snat(GENERATION, UPLINK_NUMBER, network, source);
        let is_hidden = rule.is_some_and(|rule| rule.mapping != mapping::NONE);
        let is_excluded = tables.is_excluded(GENERATION, SNAT_RULE, view.destination().address());
        assert!(
            !is_hidden || is_excluded,
            "leaves from {network} with the source {source:?}: {after:02x?}"
        );
    }

    /// Checks that translating there and back gives the original.
    fn assert_answered<I: Read>(self, world: &World<I>, before: &[u8], after: &[u8]) {
        let Some(view) = View::<I>::of_frame(before).filter(View::<I>::is_right) else {
            return;
        };
        let tables = &world.tables;
        let has_answer =
            matches!(view.protocol(), TCP | UDP) || view.is_icmp_query() && !view.is_fragment();
        // A session with an address of the host's or of a guest's is none through the uplink.
        let is_remote = !is_inside(view.destination())
            && tables
                .external_address(GENERATION, view.destination().address())
                .is_none();
        let is_clamped = tables
            .interface(UPLINK)
            .is_some_and(|uplink| uplink.mss != 0);
        if view.is_fragment() || !has_answer || !is_remote || is_clamped {
            return;
        }
        let answer = reversed::<I>(after);
        let run = run_frame(tables, Hook::Inbound, &answer, UPLINK, UPLINK, false);
        world.check();
        let (verdict, delivered) = run.unwrap_or_else(|reason| {
            panic!("answer {answer:02x?} to {before:02x?} at {self:?}: {reason:?}")
        });
        // The host's own queries leave unchanged if no other flow has their identifier.
        let expected = match after == before {
            true => Verdict::Untouched,
            false => Verdict::Translated,
        };
        assert_eq!(verdict, expected, "answer to {before:02x?}");
        assert_eq!(
            canonical::<I>(&delivered),
            canonical::<I>(&reversed::<I>(before))
        );
    }
}
