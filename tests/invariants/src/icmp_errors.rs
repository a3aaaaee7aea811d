//! ICMP errors about live sessions, with anything quoted.

use std::collections::HashMap;

use nat_common::{
    pipeline::Verdict,
    tables::sessions::SessionKey,
    wire::protocol::{TCP, UDP},
};

use crate::{
    frame::{Ends, View, correct},
    header::Read,
    input::Input,
    translation::{Place, damaged, is_inside},
};
use kit::{
    ipv4::{C1, C2, C3, PUBLIC, S1A, S1B, S2},
    octets::AddressOf,
    packets::{At, ETHERNET, GRE, answer, raw, request},
    world::{Hook, LAN, World},
};

/// Who sends errors, and to whom: the hosts with these addresses.
const ADDRESSES: [[u8; 4]; 10] = [
    S1A,
    S1B,
    S2,
    [62, 1, 1, 1],
    PUBLIC,
    C1,
    C2,
    C3,
    [172, 22, 161, 254],
    [127, 0, 0, 1],
];
const TYPES: [u8; 10] = [3, 11, 12, 4, 5, 0, 1, 2, 128, 137];

/// Sends an ICMP error with any content about a live session, or about none.
///
/// # Panics
///
/// If it is not translated as a whole, reaches another than it quotes, shows an inside address
/// outside, or changes a session.
pub(crate) fn icmp_errors<I: Read>(data: &[u8]) {
    let mut input = Input::new(data);
    let Sessions {
        mut world,
        packets,
        forms,
    } = Sessions::<I>::new();
    world.advance(7);
    let (before, entries) = (state(&world), world.entries());
    let about = &packets[usize::from(input.byte()) % packets.len()];
    let place = Place::any(&mut input);
    let frame = error::<I>(&mut input, about);
    let outcome = place.run(&world, &frame, false);
    if !View::<I>::of_frame(&frame).is_some_and(|view| view.is_icmp_error()) {
        return;
    }
    assert_eq!(state(&world), before, "changed by {frame:02x?}");
    assert_eq!(world.entries(), entries, "changed by {frame:02x?}");
    if let Some((Verdict::Translated, after)) = outcome {
        assert_delivered(place.hook, &frame, &after, &forms);
    }
}

/// The same packet inside and outside.
struct Forms<I> {
    inside: Ends<I>,
    outside: Ends<I>,
}

/// A host with sessions of all kinds.
struct Sessions<I: Read> {
    world: World<I>,
    /// Their packets as they are seen on all parts of their way.
    packets: Vec<Vec<u8>>,
    forms: Vec<Forms<I>>,
}

impl<I: Read> Sessions<I> {
    fn new() -> Self {
        let mut sessions = Self {
            world: World::new(),
            packets: Vec::new(),
            forms: Vec::new(),
        };
        let at = |host, port| At(I::of_host(host), port);
        let public = I::of_host(PUBLIC);
        for protocol in [TCP, UDP] {
            let world = &mut sessions.world;
            world.forward(protocol, 10_000..=10_003, at(C1, 80));
        }
        for (protocol, from, to) in [
            (UDP, at(C1, 5000), at(S1A, 7000)),
            (TCP, at(C1, 5001), at(S1A, 443)),
            (I::ICMP, at(C2, 77), at(S1B, 0)),
            (GRE, at(C3, 0), at(S2, 0)),
            (UDP, at(C2, 5000), at(S1A, 7000)),
        ] {
            sessions.guest_sends(request(protocol, from, to).bytes());
        }
        for protocol in [TCP, UDP] {
            let client = at(S2, 4000);
            let there = request(protocol, client, At(public, 10_000)).bytes();
            let inside = sessions.world.outside_sends(&there).guest();
            sessions.note(inside, there);
            sessions.guest_sends(answer(protocol, at(C1, 80), client).bytes());
            sessions.hairpin(request(protocol, at(C2, 6000), At(public, 10_001)).bytes());
        }
        sessions
    }

    fn guest_sends(&mut self, inside: Vec<u8>) {
        let outside = self.world.guest_sends(&inside).uplink();
        self.note(inside, outside);
    }

    fn note(&mut self, inside: Vec<u8>, outside: Vec<u8>) {
        let ends = |frame: &[u8]| View::<I>::of_frame(frame).expect("a packet").ends();
        self.forms.push(Forms {
            inside: ends(&inside),
            outside: ends(&outside),
        });
        self.packets.extend([inside, outside]);
    }

    fn hairpin(&mut self, there: Vec<u8>) {
        let between = self.world.run(Hook::FromGuest, &there, LAN, LAN);
        let between = between.expect("the way between guests").1;
        let received = self.world.guest_sends(&there).guest();
        self.packets.extend([there, between, received]);
    }
}

type State<I> = HashMap<SessionKey<AddressOf<I>>, (u32, u32)>;

/// When each session has last had a packet, and its connection's state.
fn state<I: Read>(world: &World<I>) -> State<I> {
    let entries = world.tables.sessions.entries();
    let entries = entries.into_iter();
    entries
        .map(|(key, session)| (key, (session.seen_s.load(), session.state.load())))
        .collect()
}

/// An error that is right but for what the input changes. It quotes any part of the packet, with
/// anything behind.
fn error<I: Read>(input: &mut Input<'_>, about: &[u8]) -> Vec<u8> {
    let how = input.byte();
    let quoted = &about[ETHERNET..];
    let own = [0, size_of::<I>()].map(|at| I::at(quoted, I::SOURCE + at));
    let [source, other] = [0; 2].map(|_| I::of_host(input.one_of(&ADDRESSES)));
    let destination = if how & 1 == 0 { own[0] } else { other };
    let source = if how & 2 == 0 { own[1] } else { source };
    let [kind, code] = [input.one_of(&TYPES), input.byte()];
    let rest: [u8; 4] = input.array();
    let len = match input.byte() {
        0 => quoted.len(),
        len => quoted.len().min(len.into()),
    };
    let quote = [&[0; ETHERNET], &quoted[..len]].concat();
    let quote = match how & 12 {
        0 | 4 => quote,
        8 => damaged::<I>(&quote, input),
        _ => [&[0; ETHERNET], input.rest()].concat(),
    };
    let quote = quote.get(ETHERNET..).unwrap_or_default();
    let message = [&[kind, code, 0, 0], &rest[..], quote, input.rest()].concat();
    let mut frame = raw(I::ICMP, source, destination).payload(&message).bytes();
    if how & 16 == 0 {
        correct::<I>(&mut frame);
    }
    frame
}

/// Checks that a translated error goes to the source of the quoted packet, and shows only external
/// addresses outside.
fn assert_delivered<I: Read>(hook: Hook, before: &[u8], after: &[u8], forms: &[Forms<I>]) {
    let [old, new] = [before, after].map(|frame| View::<I>::of_frame(frame).expect("a packet"));
    let [old_quote, new_quote] = [&old, &new].map(|view| view.quote().expect("a quotation"));
    match hook {
        Hook::Inbound => {
            assert_eq!(old.sums().1, Some(0), "bad checksum: {before:02x?}");
            assert_eq!(old.destination(), old_quote.source(), "{before:02x?}");
            assert_eq!(new.destination(), new_quote.source(), "{after:02x?}");
            assert!(is_inside(new.destination()), "{after:02x?}");
            let form = forms.iter().find(|form| form.outside == old_quote.ends());
            let form = form.expect("the packet of a session");
            assert_eq!(new_quote.ends(), form.inside);
        }
        // The kernel sends packets there that are for neither a guest nor the host.
        Hook::Outbound
            if !is_inside(old.destination()) && old.destination() != I::of_host(PUBLIC) =>
        {
            assert_eq!(old.destination(), old_quote.source(), "{before:02x?}");
            let shown = [new.source(), new_quote.source(), new_quote.destination()];
            let is_seen = shown.into_iter().any(is_inside);
            assert!(!is_seen, "{before:02x?} became {after:02x?}");
            let form = forms.iter().find(|form| form.inside == old_quote.ends());
            let form = form.expect("the packet of a session");
            assert_eq!(new_quote.ends(), form.outside);
        }
        Hook::FromGuest => assert_eq!(new.destination(), new_quote.source(), "{after:02x?}"),
        Hook::Outbound | Hook::ToGuest => {}
    }
}
