//! Sessions that are taken over into new tables, beside packets that use those already.

use nat_common::{
    session::{
        adoption::{Adopted, adopt},
        tracking,
    },
    tables::{
        policies::{DEFAULTS, Policy, action, side},
        ports::{PortKey, PortRecord, Ports as _},
        sessions::{DEAD, Session, SessionFlags, SessionKey, SessionRecord, Sessions as _},
        snats::{filtering, mapping},
    },
    wire::{
        address::{Address as _, Port},
        protocol::{TCP, UDP},
    },
    work::Work,
};

use super::policy::any;
use crate::family::{
    Addr, C1, C2, C3, ICMP, Ip, MemoryTables, POOL, PUBLIC, S1A, S1B, S2, World, addr, ends,
};
use kit::packets::{At, GRE, answer, ping, raw, request, udp};

const FORWARDED: At<Ip> = At(PUBLIC, 10_000);

/// What opens sessions of one kind, and under which rules.
struct Kind {
    name: &'static str,
    rules: fn(&mut World),
    open: fn(&World),
}

/// Every kind of session that there is.
const KINDS: [Kind; 9] = [
    Kind {
        name: "masquerade, of which two share a port and two a permit",
        rules: |_| (),
        open: |world| {
            for remote in [At(S1A, 1), At(S1A, 2), At(S2, 1)] {
                world
                    .guest_sends(&udp(At(C1, 5000), remote).bytes())
                    .uplink();
            }
            world
                .guest_sends(&request(TCP, At(C3, 5000), At(S1A, 80)).bytes())
                .uplink();
            world.guest_sends(&ping(At(C1, 7), S1A).bytes()).uplink();
            world.guest_sends(&raw(GRE, C2, S1A).bytes()).uplink();
        },
    },
    Kind {
        name: "from outside to a mapping",
        rules: |_| (),
        open: |world| {
            world
                .guest_sends(&udp(At(C1, 5000), At(S1A, 1)).bytes())
                .uplink();
            world
                .outside_sends(&udp(At(S1A, 2), At(PUBLIC, 5000)).bytes())
                .guest();
        },
    },
    Kind {
        name: "ports shared between remotes",
        rules: |world| world.snat(|snat| snat.mapping = mapping::ADDRESS_AND_PORT_DEPENDENT),
        open: |world| {
            for (guest, remote) in [(C1, S1A), (C2, S1B), (C1, S2)] {
                world
                    .guest_sends(&udp(At(guest, 5000), At(remote, 1)).bytes())
                    .uplink();
            }
        },
    },
    Kind {
        name: "anybody may send",
        rules: |world| world.snat(|snat| snat.filtering = filtering::ENDPOINT_INDEPENDENT),
        open: |world| {
            world
                .guest_sends(&udp(At(C1, 5000), At(S1A, 1)).bytes())
                .uplink();
            world
                .outside_sends(&udp(At(S2, 2), At(PUBLIC, 5000)).bytes())
                .guest();
        },
    },
    Kind {
        name: "forwards",
        rules: |world| {
            for protocol in [TCP, UDP] {
                world.forward(protocol, 10_000..=10_000, At(C1, 80));
            }
            world.forward(ICMP, 0..=0, At(C1, 0));
        },
        open: |world| {
            for protocol in [TCP, UDP, ICMP] {
                world
                    .outside_sends(&request(protocol, At(S1A, 4000), FORWARDED).bytes())
                    .guest();
            }
        },
    },
    Kind {
        name: "one to one",
        rules: |world| world.one_to_one(POOL[0], C1),
        open: |world| {
            world
                .guest_sends(&request(TCP, At(C1, 5000), At(S1A, 80)).bytes())
                .uplink();
            world
                .outside_sends(&request(TCP, At(S1B, 4000), At(POOL[0], 80)).bytes())
                .guest();
        },
    },
    Kind {
        name: "between guests",
        rules: |world| world.forward(UDP, 10_000..=10_000, At(C2, 80)),
        open: |world| {
            // By a forward, and by a mapping, to the port of which the session refers too.
            world
                .guest_sends(&udp(At(C1, 5000), FORWARDED).bytes())
                .guest();
            world
                .guest_sends(&udp(At(C2, 6000), At(S1A, 1)).bytes())
                .uplink();
            world
                .guest_sends(&udp(At(C3, 7000), At(PUBLIC, 6000)).bytes())
                .guest();
        },
    },
    Kind {
        name: "the host's own",
        rules: |_| (),
        open: |world| {
            world
                .host_sends(&ping(At(PUBLIC, 77), S1A).bytes())
                .uplink();
        },
    },
    Kind {
        name: "without translation, by a policy",
        rules: |world| {
            world.without_snat(C1);
            world.chain(side::ANY, side::ANY, &[accept()]);
        },
        open: |world| {
            world
                .guest_sends(&request(TCP, At(C1, 5000), At(S1A, 80)).bytes())
                .uplink();
            world
                .outside_sends(&request(TCP, At(S1B, 4000), At(C1, 80)).bytes())
                .guest();
            world
                .guest_sends(&udp(At(C1, 5000), At(C3, 80)).bytes())
                .guest();
        },
    },
];

fn accept() -> Policy<Addr> {
    any(action::ACCEPT, 11, DEFAULTS)
}

impl Kind {
    /// Two hosts with these rules; the first one has the sessions.
    fn worlds(&self) -> [World; 2] {
        let worlds = [(), ()].map(|()| {
            let mut world = World::new();
            (self.rules)(&mut world);
            world
        });
        (self.open)(&worlds[0]);
        assert!(worlds[0].entries()[0] >= 2, "{}", self.name);
        worlds
    }
}

/// A session's entry as it is written.
fn record(session: &Session<Addr>) -> SessionRecord<Addr> {
    SessionRecord {
        source: session.source,
        destination: session.destination,
        source_port: session.source_port,
        destination_port: session.destination_port,
        peer_network: session.peer_network,
        peer_view: session.peer_view,
        flags: session.flags,
        rule: session.rule,
        opened_s: session.opened_s,
        seen_s: session.seen_s.load(),
        state: session.state.load(),
        next_hop: session.next_hop.load(),
        xdp_passed_at: session.xdp_passed_at.load(),
    }
}

/// The owner of a port with one reference, as the daemon hands it over; nobody where nothing is
/// held.
fn owner(tables: &MemoryTables, key: &PortKey<Addr>, is_held: bool) -> PortRecord<Addr> {
    match tables.port(key).filter(|_| is_held) {
        None => PortRecord {
            address: Addr::UNSPECIFIED,
            port: Port::ZERO,
            network: 0,
            uplink: 0,
            filtering: 0,
            flags: 0,
            rule: 0,
            references: 0,
        },
        Some(owner) => owner.with_references(1),
    }
}

/// Every session as the daemon hands it over.
fn all(world: &World) -> Vec<Adopted<Addr>> {
    let tables = &world.tables;
    let mut all = Vec::new();
    for (key, session) in tables.sessions.entries() {
        if !session.has(SessionFlags::PRIMARY) {
            continue;
        }
        let peer = tables.session(&session.peer_key(key.protocol)).unwrap();
        let external = PortKey::new(session.source_endpoint(), key.protocol);
        let server = PortKey::new(key.destination_endpoint(), key.protocol);
        all.push(Adopted {
            key,
            record: record(session),
            peer: record(peer),
            port: owner(tables, &external, session.has(SessionFlags::REFS_PORT)),
            server: owner(tables, &server, session.has(SessionFlags::REFS_SERVER)),
        });
    }
    // The order of a table is arbitrary.
    all.sort_by_key(|adopted| format!("{:?}", adopted.key));
    all
}

fn take(world: &World, adopted: &Adopted<Addr>) -> bool {
    adopt(&world.tables, adopted, &mut Work::new().opening)
}

/// All that the tables hold, as text, in order.
fn contents(world: &World) -> Vec<String> {
    let tables = &world.tables;
    let mut lines = Vec::new();
    let sessions = tables.sessions.entries();
    lines.extend(sessions.iter().map(|entry| format!("session {entry:?}")));
    let mappings = tables.mappings.entries();
    lines.extend(mappings.iter().map(|entry| format!("mapping {entry:?}")));
    let ports = tables.ports.entries();
    lines.extend(ports.iter().map(|entry| format!("port {entry:?}")));
    let permits = tables.permits.entries();
    lines.extend(permits.iter().map(|entry| format!("permit {entry:?}")));
    let guests = tables.guests.entries();
    lines.extend(guests.iter().map(|entry| format!("guest {entry:?}")));
    lines.sort();
    lines
}

#[test]
fn a_session_of_any_kind_is_taken_over_with_all_that_it_holds() {
    for kind in KINDS {
        let [old, mut new] = kind.worlds();
        for adopted in all(&old) {
            assert!(take(&new, &adopted), "{}: {adopted:?}", kind.name);
        }
        assert_eq!(contents(&new), contents(&old), "{}", kind.name);
        new.check();
        // And all of it ends with the sessions.
        new.wait(100_000);
        assert_eq!(contents(&new), [""; 0], "{}", kind.name);
    }
}

#[test]
fn packets_of_a_session_that_was_taken_over_pass_both_ways_and_open_nothing() {
    let [old, new] = KINDS[0].worlds();
    all(&old)
        .iter()
        .for_each(|adopted| assert!(take(&new, adopted)));
    let entries = new.entries();
    let (guest, remote) = (At(C1, 5000), At(S1A, 1));
    let out = new.guest_sends(&udp(guest, remote).bytes()).uplink();
    assert_eq!(ends(&out), (At(PUBLIC, 5000), remote));
    let back = udp(remote, At(PUBLIC, 5000)).bytes();
    assert_eq!(ends(&new.outside_sends(&back).guest()), (remote, guest));
    let back = answer(TCP, At(S1A, 80), At(PUBLIC, 5000)).bytes();
    let back = ends(&new.outside_sends(&back).guest());
    assert_eq!(back, (At(S1A, 80), At(C3, 5000)));
    assert_eq!(new.entries(), entries);
    new.check();
}

#[test]
fn a_session_that_is_there_is_brought_up_to_date_and_added_once() {
    let [old, new] = KINDS[0].worlds();
    let adopted = all(&old).into_iter().find(|one| one.key.protocol == TCP);
    let adopted = adopted.unwrap();
    assert!(take(&new, &adopted));
    let entries = contents(&new).len();
    let entry = |key: &SessionKey<Addr>| new.tables.session(key).unwrap();
    let session = entry(&adopted.key);
    let peer = entry(&session.peer_key(TCP));
    let clocks = || [session, peer].map(|entry| entry.seen_s.load());
    let states = || [session, peer].map(|entry| entry.state.load());
    let later = |seen: [u32; 2], state: u32| {
        let mut later = adopted;
        [later.record.seen_s, later.peer.seen_s] = seen;
        (later.record.state, later.peer.state) = (state, state);
        assert!(take(&new, &later));
    };
    later([1010, 1020], tracking::REPLIED);
    assert_eq!((clocks(), states()), ([1010, 1020], [tracking::REPLIED; 2]));
    // Later changes by packets stay.
    later([1009, 1019], tracking::INITIATOR_SENT);
    let state = tracking::REPLIED | tracking::INITIATOR_SENT;
    assert_eq!((clocks(), states()), ([1010, 1020], [state; 2]));
    // A session that is ending here keeps ending.
    session.seen_s.store(DEAD);
    later([1030, 1030], 0);
    assert_eq!(clocks(), [DEAD, 1030]);
    assert_eq!(contents(&new).len(), entries);
    assert_eq!(new.tables.guests.entries()[0].1.sessions.load(), 1);
}

#[test]
fn a_full_table_takes_a_session_over_whole_or_not_at_all() {
    for kind in KINDS {
        let [old, complete] = kind.worlds();
        all(&old)
            .iter()
            .for_each(|one| assert!(take(&complete, one)));
        for table in 0..5 {
            for room in 0..complete.tables.sessions.entries().len() {
                let [old, mut new] = kind.worlds();
                let tables = &mut new.tables;
                match table {
                    0 => tables.sessions.capacity = room,
                    1 => tables.mappings.capacity = room,
                    2 => tables.ports.capacity = room,
                    3 => tables.permits.capacity = room,
                    _ => tables.guests.capacity = room,
                }
                for adopted in all(&old) {
                    let before = contents(&new);
                    if !take(&new, &adopted) {
                        assert_eq!(contents(&new), before, "{}, {table}: {room}", kind.name);
                    }
                    new.check();
                }
                let refused = contents(&new) != contents(&complete);
                let needed = [
                    complete.tables.sessions.entries().len(),
                    complete.tables.mappings.entries().len(),
                    complete.tables.ports.entries().len(),
                    complete.tables.permits.entries().len(),
                    complete.tables.guests.entries().len(),
                ];
                assert_eq!(
                    refused,
                    room < needed[table],
                    "{}, {table}: {room}",
                    kind.name
                );
            }
        }
    }
}

#[test]
fn a_guest_takes_over_no_more_sessions_than_it_may_have_and_the_host_any_number() {
    let [old, mut new] = KINDS[0].worlds();
    new.caps(2, 0);
    let of_guest = |one: &&Adopted<Addr>| one.key.source == addr(C1);
    let taken = all(&old)
        .iter()
        .filter(of_guest)
        .filter(|one| take(&new, one))
        .count();
    assert_eq!(taken, 2);
    new.check();
    let [old, mut new] = KINDS[7].worlds();
    new.caps(1, 1);
    old.host_sends(&ping(At(PUBLIC, 78), S1A).bytes()).uplink();
    let all = all(&old);
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|one| take(&new, one)));
    new.check();
}

/// Between two looks at the old tables another guest may have got the port in the new ones.
#[test]
fn a_session_whose_port_has_another_owner_by_now_is_left_out() {
    type Change = fn(&mut PortRecord<Addr>);
    let changes: [Change; 4] = [
        |owner| owner.address = addr(S2),
        |owner| owner.port = Port::new(5001),
        |owner| owner.network = 2,
        |owner| owner.flags = nat_common::tables::ports::SHARED,
    ];
    // By its own port, and by that of whom it was sent to.
    for (kind, holds) in [(0, SessionFlags::REFS_PORT), (6, SessionFlags::REFS_SERVER)] {
        for change in changes {
            let [old, new] = KINDS[kind].worlds();
            let adopted = all(&old)
                .into_iter()
                .find(|one| one.record.flags.contains(holds) && one.key.protocol == UDP)
                .unwrap();
            let (endpoint, mut owner) = match holds {
                SessionFlags::REFS_PORT => (adopted.record.source_endpoint(), adopted.port),
                _ => (adopted.key.destination_endpoint(), adopted.server),
            };
            change(&mut owner);
            new.tables
                .add_port(&PortKey::new(endpoint, UDP), &owner)
                .unwrap();
            let before = contents(&new);
            assert!(!take(&new, &adopted), "{owner:?}");
            assert_eq!(contents(&new), before, "{owner:?}");
        }
    }
}

#[test]
fn a_session_whose_port_is_just_being_given_back_is_left_out() {
    let [old, new] = KINDS[0].worlds();
    let adopted = all(&old).into_iter().find(|one| one.key.protocol == TCP);
    let adopted = adopted.unwrap();
    let key = PortKey::new(adopted.record.source_endpoint(), TCP);
    new.tables.add_port(&key, &adopted.port).unwrap();
    assert!(new.tables.port(&key).unwrap().references.release());
    assert!(!take(&new, &adopted));
    assert!(new.tables.guests.entries().is_empty() && new.entries()[0] == 0);
}

#[test]
fn a_session_whose_answers_belong_to_a_newer_one_is_left_out() {
    for kind in KINDS {
        let [old, _] = kind.worlds();
        for adopted in all(&old) {
            let [_, new] = kind.worlds();
            let session = old.tables.session(&adopted.key).unwrap();
            let answers = session.peer_key(adopted.key.protocol);
            let newer = SessionRecord {
                source: addr(S2),
                ..adopted.peer
            };
            new.tables.add_session(&answers, &newer).unwrap();
            let before = contents(&new);
            assert!(!take(&new, &adopted), "{}", kind.name);
            assert_eq!(contents(&new), before, "{}", kind.name);
        }
    }
}
