//! Policies at the ingress hooks, and sessions of untranslated flows.
//!
//! | flow opened | asked at | answers pass at |
//! | --- | --- | --- |
//! | by a guest | its network's ingress | ingress of uplink or network, network's egress |
//! | from an uplink, to a guest | the uplink's ingress | its network's ingress |
//! | by the host or from elsewhere, to a guest | the network's egress | its network's ingress |
//!
//! A translated flow has a session in any case, and policies apply only when it opens. An
//! untranslated flow gets a session ([`open_plain`]) if a policy applies to it or its answers.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::{
        parsed::{Parsed, Transport},
        quoted::read_quoted,
    },
    pipeline::{
        chains::judge,
        follow::follow,
        fragment_ports::resolve_fragment,
        lookup::{find, generation},
    },
    session::open_plain::{Plain, open_plain},
    tables::{
        Tables,
        interfaces::{Interface, InterfaceFlags},
        policies::{Side, action, side, side_of},
        routes::target,
        sessions::{Session, SessionFlags, View},
        snats::mapping,
    },
    translation::Verdict,
    verifier::verifier_barrier,
    wire::{
        address::{Endpoint, Port},
        packet::Packet,
    },
    work::Work,
};

/// Whether policies apply at this interface.
#[inline(always)]
pub(crate) fn is_policed(interface: Option<&Interface>) -> bool {
    interface.is_some_and(|interface| interface.flags.contains(InterfaceFlags::POLICED))
}

/// Decides on a guest's packet that nothing translates at this hook.
#[inline(never)]
pub(crate) fn police_from_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
    network: u16,
) -> Verdict {
    if is_related(packet, tables, work, network) {
        return Verdict::Untouched;
    }
    let parsed = &mut work.parsed;
    resolve_fragment(tables, parsed, View::Inside, network);
    if established(packet, tables, parsed, View::Inside, network) {
        return Verdict::Untouched;
    }
    let header = &parsed.header;
    let is_group = !header.destination.is_unicast();
    let mut to = side::HOST;
    if !is_group {
        let route = tables.route_lookup(interface, header.source, header.destination);
        if route == target::NOWHERE {
            return Verdict::Untouched;
        }
        if route != target::HOST {
            to = side_of(tables.interface(route));
        }
    }
    let source = header.source;
    prepare(tables, work, network, to);
    match admission(packet, tables, work) {
        Admission::Admitted => {}
        Admission::Unconcerned => return Verdict::Untouched,
        Admission::Refused(reason) => return Verdict::Dropped(reason),
    }
    verifier_barrier(work);
    // A flow that leaves translated gets its session there.
    let is_translated = to & side::UPLINKS != 0
        && to < side::ELSEWHERE
        && is_translated(tables, &work.parsed, to & !side::UPLINKS, network);
    if is_translated || is_group || source == A::UNSPECIFIED {
        note(packet, tables, work, false);
        return Verdict::Untouched;
    }
    let (answer_view, answer_network) = answers_from(to);
    let plain = Plain {
        view: View::Inside,
        network,
        answer_view,
        answer_network,
        rule: work.policy_match.rule,
    };
    open(packet, tables, work, &plain)
}

/// The view in which answers from a side arrive, and the number of their network.
#[inline(always)]
fn answers_from(side: Side) -> (View, u16) {
    match side {
        side::ELSEWHERE | side::HOST => (View::Between, 0),
        uplink if uplink & side::UPLINKS != 0 => (View::Outside, 0),
        network => (View::Inside, network),
    }
}

/// Decides on a packet from outside to an address that is not external: [`Verdict::Beyond`] if no
/// policy applies.
#[inline(never)]
pub(crate) fn police_from_outside<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
) -> Verdict {
    let uplink = tables.interface(interface);
    if !is_policed(uplink) {
        return Verdict::Beyond;
    }
    let from = side_of(uplink);
    let parsed = &work.parsed;
    let header = &parsed.header;
    let network = match tables.inside(generation(tables), header.destination) {
        Some(inside) if { inside.gateway } != header.destination => inside.network,
        _ => 0,
    };
    if network == 0 {
        return Verdict::Beyond;
    }
    prepare(tables, work, from, network);
    match admission(packet, tables, work) {
        Admission::Admitted => {}
        Admission::Unconcerned => return Verdict::Beyond,
        Admission::Refused(reason) => return Verdict::Dropped(reason),
    }
    let plain = Plain {
        view: View::Outside,
        network: 0,
        answer_view: View::Inside,
        answer_network: network,
        rule: work.policy_match.rule,
    };
    open(packet, tables, work, &plain)
}

/// Decides on a packet to a guest that comes neither from a network nor from an uplink. The host
/// may open any flow; the flow is recorded, so that its answers are recognised.
#[inline(never)]
pub(crate) fn police_to_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    network: u16,
) -> Verdict {
    let is_unicast = work.parsed.header.destination.is_unicast();
    if !is_unicast || is_related(packet, tables, work, network) {
        return Verdict::Untouched;
    }
    let parsed = &mut work.parsed;
    resolve_fragment(tables, parsed, View::Between, 0);
    if established(packet, tables, parsed, View::Between, 0) {
        return Verdict::Untouched;
    }
    let is_host = packet.ingress_interface() == 0;
    let from = if is_host { side::HOST } else { side::ELSEWHERE };
    prepare(tables, work, from, network);
    match admission(packet, tables, work) {
        Admission::Admitted => {}
        Admission::Unconcerned => return Verdict::Untouched,
        Admission::Refused(reason) => return Verdict::Dropped(reason),
    }
    let plain = Plain {
        view: View::Between,
        network: 0,
        answer_view: View::Inside,
        answer_network: network,
        rule: work.policy_match.rule,
    };
    match open(packet, tables, work, &plain) {
        // (Read again: with `is_host`, the verifier would follow all of this once for each value.)
        Verdict::Dropped(_) if work.policy_match.from == side::HOST => Verdict::Untouched,
        verdict => verdict,
    }
}

/// A guest that a packet reaches by translation.
pub(crate) struct Target<A> {
    /// The guest's own endpoint.
    pub(super) endpoint: Endpoint<A>,
    /// Number of its network, 0 if it is in none.
    pub(super) network: u16,
    /// Whether it is accepted where no policy says otherwise.
    pub(super) is_accepted: bool,
}

/// Whether a guest may be reached from a side.
#[inline(always)]
pub(crate) fn check<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    from: Side,
    target: &Target<A>,
) -> Result<(), DropReason> {
    let source = work.parsed.header.source;
    // Packets from a guest to itself need no policy.
    if source == target.endpoint.address {
        return Ok(());
    }
    let to = match target.network {
        0 => side::ELSEWHERE,
        network => network,
    };
    prepare(tables, work, from, to);
    (work.policy_match.destination, work.policy_match.port) =
        (target.endpoint.address, target.endpoint.port);
    match admits(packet, tables, work, target.is_accepted) {
        true => Ok(()),
        false => Err(DropReason::Policy),
    }
}

#[inline(never)]
fn admits<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    is_accepted: bool,
) -> bool {
    judge(tables, &mut work.policy_match);
    let is_dropped = work.policy_match.action == u32::from(action::DROP);
    if is_dropped && !(is_accepted && work.policy_match.is_default()) {
        refuse(packet, tables, work);
        return false;
    }
    if !is_dropped && work.policy_match.action != u32::from(action::NONE) {
        note(packet, tables, work, true);
    }
    true
}

/// The port that policies match.
#[inline(always)]
fn asked_port<A: Family>(parsed: &Parsed<A>) -> Port {
    match parsed.transport {
        Transport::Tcp { .. } | Transport::Udp => parsed.destination_port,
        // (A later fragment has that of its first fragment, if known.)
        Transport::LaterFragment if parsed.has_ports => parsed.destination_port,
        _ => Port::ZERO,
    }
}

/// Writes the flow that the packet opens into the work area, as policies see it.
#[inline(always)]
fn prepare<A: Family, T: Tables<A>>(tables: &T, work: &mut Work<A>, from: Side, to: Side) {
    let Work {
        parsed,
        policy_match,
        ..
    } = work;
    policy_match.generation = generation(tables);
    (policy_match.from, policy_match.to) = (from, to);
    policy_match.source = parsed.header.source;
    policy_match.destination = parsed.header.destination;
    policy_match.port = asked_port(parsed);
    policy_match.protocol = u32::from(parsed.header.protocol);
}

/// The result of the policies for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Admission {
    /// None applies to it.
    Unconcerned,
    /// One lets it pass.
    Admitted,
    /// It is dropped.
    Refused(DropReason),
}

/// Applies the policies to a packet.
#[inline(always)]
fn admission<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
) -> Admission {
    judge(tables, &mut work.policy_match);
    let found = work.policy_match.action;
    if found == u32::from(action::NONE) {
        return Admission::Unconcerned;
    }
    let parsed = &work.parsed;
    let is_unknown = parsed.transport == Transport::LaterFragment && !parsed.has_ports;
    // The host reassembles fragments itself, and cannot without the first one.
    if is_unknown && work.policy_match.to == side::HOST {
        return Admission::Unconcerned;
    }
    if is_unknown {
        return Admission::Refused(DropReason::FragmentUnknown);
    }
    if found == u32::from(action::DROP) {
        return Admission::Refused(refuse(packet, tables, work));
    }
    Admission::Admitted
}

/// Counts a packet that a policy drops.
#[inline(always)]
fn refuse<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &Work<A>,
) -> DropReason {
    let is_in = is_in(work.policy_match.from);
    tables.count(work.policy_match.rule, work.parsed.traffic(packet, is_in));
    DropReason::Policy
}

/// Counts a packet that opens a session under another rule.
#[inline(always)]
fn note<A: Family, P: Packet, T: Tables<A>>(packet: &P, tables: &T, work: &Work<A>, opens: bool) {
    let rule = work.policy_match.rule;
    let is_in = is_in(work.policy_match.from);
    tables.count(rule, work.parsed.traffic(packet, is_in));
    if opens || work.parsed.may_open() {
        tables.count_opened(rule);
        tables.count_closed(rule);
    }
}

/// Whether packets from a side count as `in`.
#[inline(always)]
const fn is_in(from: Side) -> bool {
    from & side::UPLINKS != 0
}

#[inline(always)]
fn open<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    plain: &Plain,
) -> Verdict {
    let is_in = !matches!(plain.view, View::Inside);
    tables.count(plain.rule, work.parsed.traffic(packet, is_in));
    if !work.parsed.may_open() {
        return Verdict::Untouched;
    }
    match open_plain(tables, work, plain) {
        Ok(()) => Verdict::Opened,
        Err(reason) => Verdict::Dropped(reason),
    }
}

/// Whether a packet belongs to a session that is not translated at this hook.
#[inline(always)]
fn established<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
) -> bool {
    if !parsed.has_ports {
        return false;
    }
    let Some(session) = find(tables, parsed, view, network) else {
        return false;
    };
    // Packets that leave by an uplink are followed there.
    if session.peer_view != View::Outside as u8 {
        pass(packet, tables, parsed, session);
    }
    true
}

/// Follows and counts a packet of a session that is not translated.
#[inline(always)]
fn pass<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
) {
    follow(tables, parsed, session);
    let traffic = parsed.traffic(packet, session.has(SessionFlags::IN));
    tables.count(session.rule, traffic);
}

/// Whether a packet is an ICMP error about a packet of a session of this guest's network. Of the
/// two directions, the guest's own entry says so.
#[inline(always)]
fn is_related<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    network: u16,
) -> bool {
    let Work {
        parsed,
        translation,
        ..
    } = work;
    let is_error = parsed.transport == Transport::IcmpError;
    if !is_error || !read_quoted(packet, parsed, &mut translation.quoted) {
        return false;
    }
    let quoted = &translation.quoted;
    // An error from the guest quotes a packet that it received, and one to the guest quotes a
    // packet that it sent.
    parsed.header.destination == quoted.source.address
        && (tables
            .session(&quoted.answer_key(View::Inside, network))
            .is_some()
            || tables.session(&quoted.key(View::Inside, network)).is_some())
}

/// Whether a guest's packet leaves by this uplink translated.
#[inline(always)]
fn is_translated<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    uplink: u16,
    network: u16,
) -> bool {
    let generation = generation(tables);
    let header = &parsed.header;
    tables
        .snat(generation, uplink, network, header.source)
        .filter(|snat| snat.mapping != mapping::NONE)
        .is_some_and(|snat| {
            snat.has_excludes == 0 || !tables.is_excluded(generation, snat.rule, header.destination)
        })
}
