use nat_common::{
    tables::sessions::{DEAD, View},
    wire::protocol::{ICMP, UDP},
};

use super::*;

pub(crate) const SETTINGS: Settings = Settings {
    generation: 1,
    udp_s: 300,
    tcp_opening_s: 240,
    tcp_established_s: 7440,
    tcp_closing_s: 241,
    icmp_s: 60,
    other_s: 600,
    fragment_s: 30,
    sessions_per_guest: 0,
    ports_per_guest: 0,
};

const GUEST: [u8; 4] = [172, 22, 161, 170];
const CLIENT: [u8; 4] = [172, 22, 161, 171];
const EXTERNAL: [u8; 4] = [19, 19, 8, 10];
const REMOTE: [u8; 4] = [1, 2, 3, 4];
const NOW_S: u32 = 1000;
const GRE: u8 = 47;

/// A packet's source and destination.
type Way = ([u8; 4], u16, [u8; 4], u16);

fn key(
    protocol: u8,
    (source, source_port, destination, destination_port): Way,
) -> SessionKey<Addr4> {
    SessionKey {
        source: Addr4(source),
        destination: Addr4(destination),
        source_port: Port::new(source_port),
        destination_port: Port::new(destination_port),
        network: 1,
        protocol,
        view: View::Inside as u8,
    }
}

fn record(
    flags: SessionFlags,
    (source, source_port, destination, destination_port): Way,
) -> SessionRecord<Addr4> {
    SessionRecord {
        source: Addr4(source),
        destination: Addr4(destination),
        source_port: Port::new(source_port),
        destination_port: Port::new(destination_port),
        peer_network: 0,
        peer_view: View::Outside as u8,
        flags,
        rule: 3,
        opened_s: 900,
        seen_s: NOW_S - 20,
        state: 0,
        next_hop: 0,
        xdp_passed_at: 0,
    }
}

fn view(protocol: u8, flags: SessionFlags, before: Way, after: Way) -> SessionView {
    let (key, record) = (key(protocol, before), record(flags, after));
    SessionView::from_entries(&key, &record, None, &SETTINGS, NOW_S).unwrap()
}

fn endpoints(view: &SessionView) -> [String; 3] {
    [view.internal, view.external, view.remote].map(|endpoint| endpoint.to_string())
}

const FROM_INSIDE: SessionFlags = SessionFlags::PRIMARY
    .union(SessionFlags::FROM_INITIATOR)
    .union(SessionFlags::REFS_PORT);
const FROM_OUTSIDE: SessionFlags = SessionFlags::PRIMARY;
const HAIRPINNED: SessionFlags = SessionFlags::PRIMARY
    .union(SessionFlags::FROM_INITIATOR)
    .union(SessionFlags::IN)
    .union(SessionFlags::HAIRPIN);

#[test]
fn the_guests_direction_yields_all_three_endpoints() {
    let view = view(
        TCP,
        FROM_INSIDE,
        (GUEST, 40000, REMOTE, 443),
        (EXTERNAL, 50000, REMOTE, 443),
    );
    let expected = ["172.22.161.170:40000", "19.19.8.10:50000", "1.2.3.4:443"];
    assert_eq!(endpoints(&view), expected);
    assert_eq!((view.protocol, view.rule_number), (Protocol(TCP), 3));
}

#[test]
fn a_hairpinned_sessions_guest_is_the_one_reached_by_the_external_address() {
    let before = (CLIENT, 40000, EXTERNAL, 10080);
    let view = view(TCP, HAIRPINNED, before, (EXTERNAL, 50000, GUEST, 80));
    let expected = ["172.22.161.170:80", "19.19.8.10:10080", "19.19.8.10:50000"];
    assert_eq!(endpoints(&view), expected);
}

#[test]
fn an_echo_shows_its_identifier_at_every_endpoint_whoever_began_it() {
    let from_inside = view(
        ICMP,
        FROM_INSIDE,
        (GUEST, 7, REMOTE, 1),
        (EXTERNAL, 9, REMOTE, 1),
    );
    let expected = ["172.22.161.170:7", "19.19.8.10:9", "1.2.3.4:9"];
    assert_eq!(endpoints(&from_inside), expected);
    let from_outside = view(
        ICMP,
        FROM_OUTSIDE,
        (GUEST, 1, REMOTE, 7),
        (EXTERNAL, 1, REMOTE, 9),
    );
    assert_eq!(endpoints(&from_outside), expected);
    let hairpinned = view(
        ICMP,
        HAIRPINNED,
        (CLIENT, 7, EXTERNAL, 1),
        (EXTERNAL, 9, GUEST, 1),
    );
    let expected = ["172.22.161.170:9", "19.19.8.10:7", "19.19.8.10:9"];
    assert_eq!(endpoints(&hairpinned), expected);
}

#[test]
fn a_protocol_without_ports_shows_addresses_alone() {
    let view = view(
        GRE,
        FROM_INSIDE,
        (GUEST, 0, REMOTE, 0),
        (EXTERNAL, 0, REMOTE, 0),
    );
    assert_eq!(
        endpoints(&view),
        ["172.22.161.170", "19.19.8.10", "1.2.3.4"]
    );
    assert_eq!(view.expires_s, 580);
}

#[test]
fn only_primary_entries_of_guests_sessions_that_live_are_shown() {
    let way = (GUEST, 1, REMOTE, 2);
    let is_shown = |record: SessionRecord<Addr4>| {
        let key = key(UDP, way);
        SessionView::from_entries(&key, &record, None, &SETTINGS, NOW_S).is_some()
    };
    assert!(is_shown(record(FROM_INSIDE, way)));
    assert!(!is_shown(record(SessionFlags::IN, way)));
    assert!(!is_shown(record(FROM_INSIDE | SessionFlags::HOST, way)));
    assert!(!is_shown(SessionRecord {
        seen_s: DEAD,
        ..record(FROM_INSIDE, way)
    }));
}

#[test]
fn states_follow_the_packets_that_passed() {
    let way = (GUEST, 1, REMOTE, 2);
    let cases = [
        (TCP, 0, "opening", 220),
        (
            TCP,
            tracking::REPLIED | tracking::INITIATOR_SENT,
            "established",
            7420,
        ),
        (TCP, tracking::RESPONDER_RST, "closing", 221),
        (UDP, 0, "unreplied", 280),
        (UDP, tracking::REPLIED, "replied", 280),
        (ICMP, tracking::REPLIED, "replied", 40),
    ];
    for (protocol, state, name, expires_s) in cases {
        let record = SessionRecord {
            state,
            ..record(FROM_INSIDE, way)
        };
        let key = key(protocol, way);
        let view = SessionView::from_entries(&key, &record, None, &SETTINGS, NOW_S).unwrap();
        assert_eq!((view.state.name(), view.expires_s), (name, expires_s));
    }
}

/// Idle and remaining seconds with a peer that was seen at `peer_seen_s`.
fn times(flags: SessionFlags, peer_seen_s: u32, state: u32) -> (u32, u32) {
    let way = (GUEST, 1, REMOTE, 2);
    let record = SessionRecord {
        state,
        ..record(flags, way)
    };
    let peer = SessionRecord {
        seen_s: peer_seen_s,
        ..record
    };
    let key = key(UDP, way);
    let view = SessionView::from_entries(&key, &record, Some(&peer), &SETTINGS, NOW_S).unwrap();
    (view.idle_s, view.expires_s)
}

#[test]
fn a_packet_of_either_direction_ends_idleness() {
    assert_eq!(times(FROM_INSIDE, NOW_S - 5, 0), (5, 295));
    assert_eq!(times(FROM_INSIDE, NOW_S - 50, 0), (20, 280));
    assert_eq!(times(FROM_INSIDE, DEAD, 0), (20, 280));
    // A packet that passed after the clock was read.
    assert_eq!(times(FROM_INSIDE, NOW_S + 1, 0), (0, 300));
}

#[test]
fn a_remote_alone_does_not_put_off_the_end_of_a_mapping() {
    let to_mapping = SessionFlags::PRIMARY | SessionFlags::REFS_PORT;
    // (Until the guest answers, its timeout is ten seconds.)
    assert_eq!(times(to_mapping, NOW_S - 5, 0), (5, 0));
    assert_eq!(times(to_mapping, NOW_S - 5, tracking::REPLIED), (5, 295));
    assert_eq!(times(SessionFlags::PRIMARY, NOW_S - 5, 0), (5, 5));
}

#[test]
fn a_session_past_its_time_expires_now() {
    let way = (GUEST, 1, REMOTE, 2);
    let (key, record) = (key(ICMP, way), record(FROM_INSIDE, way));
    let view = SessionView::from_entries(&key, &record, None, &SETTINGS, NOW_S + 500).unwrap();
    assert_eq!((view.idle_s, view.expires_s), (520, 0));
}

#[test]
fn a_session_of_ipv6_has_its_ports_behind_brackets_and_icmpv6_its_identifier() {
    let [guest, remote] = [1, 2].map(|last| {
        let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        Addr6::new(address.octets())
    });
    let shown = |protocol, ports: (u16, u16)| {
        let key = SessionKey {
            source: guest,
            destination: remote,
            source_port: Port::new(ports.0),
            destination_port: Port::new(ports.1),
            network: 1,
            protocol,
            view: View::Inside as u8,
        };
        let record = SessionRecord {
            source: guest,
            destination: remote,
            source_port: Port::new(ports.0),
            destination_port: Port::new(ports.1),
            peer_network: 0,
            peer_view: View::Outside as u8,
            flags: FROM_INSIDE,
            rule: 3,
            opened_s: 900,
            seen_s: NOW_S - 20,
            state: 0,
            next_hop: 0,
            xdp_passed_at: 0,
        };
        let view = SessionView::from_entries(&key, &record, None, &SETTINGS, NOW_S).unwrap();
        endpoints(&view)
    };
    let udp = [
        "[2001:db8::1]:5000",
        "[2001:db8::1]:5000",
        "[2001:db8::2]:53",
    ];
    assert_eq!(shown(UDP, (5000, 53)), udp);
    let icmp = ["[2001:db8::1]:77", "[2001:db8::1]:77", "[2001:db8::2]:77"];
    assert_eq!(shown(Addr6::ICMP, (77, Addr6::service(0).number())), icmp);
}
