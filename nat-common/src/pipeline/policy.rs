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
        quoted::parse_quoted,
    },
    pipeline::{
        chains::judge,
        follow::follow,
        fragment_ports::resolve_fragment,
        lookup::{find, generation},
        verdict::{Outcome, Verdict},
    },
    session::open_plain::{Plain, open_plain},
    tables::{
        Tables,
        interfaces::{Interface, interface_flags},
        policies::{Side, action, side, side_of},
        routes::way,
        sessions::{Session, View, flags},
        snats::mapping,
    },
    verifier::verifier_barrier,
    wire::{
        address::{Address, Endpoint, Port},
        packet::Packet,
    },
    work::Work,
};

/// Whether policies apply at this interface.
#[inline(always)]
pub(crate) fn is_policed(interface: Option<&Interface>) -> bool {
    interface.is_some_and(|interface| interface.flags & interface_flags::POLICED != 0)
}

/// Decides on a guest's packet that nothing translates at this hook.
#[inline(never)]
pub(crate) fn from_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
    network: u16,
) -> Outcome {
    let parsed = &mut work.parsed;
    if is_related(packet, tables, parsed, network) {
        return Ok(Verdict::Untouched);
    }
    resolve_fragment(tables, parsed, View::Inside, network);
    if let Some(outcome) = established(packet, tables, parsed, View::Inside, network) {
        return outcome;
    }
    let header = &parsed.header;
    let is_group = !header.destination.is_unicast();
    let mut to = side::HOST;
    if !is_group {
        let way = tables.route_lookup(interface, header.source, header.destination);
        if way == way::NOWHERE {
            return Ok(Verdict::Untouched);
        }
        if way != way::HOST {
            to = side_of(tables.interface(way));
        }
    }
    let source = header.source;
    prepare(tables, work, network, to);
    if !is_admitted(packet, tables, work)? {
        return Ok(Verdict::Untouched);
    }
    verifier_barrier(work);
    // A flow that leaves translated gets its session there.
    let is_translated = to & side::UPLINKS != 0
        && to < side::ELSEWHERE
        && is_translated(tables, &work.parsed, to & !side::UPLINKS, network);
    if is_translated || is_group || source == A::UNSPECIFIED {
        note(packet, tables, work, false);
        return Ok(Verdict::Untouched);
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
pub(crate) fn inbound<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    interface: u32,
) -> Outcome {
    let uplink = tables.interface(interface);
    if !is_policed(uplink) {
        return Ok(Verdict::Beyond);
    }
    let from = side_of(uplink);
    let parsed = &work.parsed;
    let header = &parsed.header;
    let network = match tables.inside(generation(tables), header.destination) {
        Some(inside) if inside.gateway != header.destination => inside.network,
        _ => 0,
    };
    if network == 0 {
        return Ok(Verdict::Beyond);
    }
    prepare(tables, work, from, network);
    if !is_admitted(packet, tables, work)? {
        return Ok(Verdict::Beyond);
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
pub(crate) fn to_guest<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    network: u16,
) -> Outcome {
    let parsed = &mut work.parsed;
    if !parsed.header.destination.is_unicast() || is_related(packet, tables, parsed, network) {
        return Ok(Verdict::Untouched);
    }
    resolve_fragment(tables, parsed, View::Between, 0);
    if let Some(outcome) = established(packet, tables, parsed, View::Between, 0) {
        return outcome;
    }
    let is_host = packet.ingress_interface() == 0;
    let from = if is_host { side::HOST } else { side::ELSEWHERE };
    prepare(tables, work, from, network);
    if !is_admitted(packet, tables, work)? {
        return Ok(Verdict::Untouched);
    }
    let plain = Plain {
        view: View::Between,
        network: 0,
        answer_view: View::Inside,
        answer_network: network,
        rule: work.policy_match.rule,
    };
    match open(packet, tables, work, &plain) {
        Err(_) if is_host => Ok(Verdict::Untouched),
        outcome => outcome,
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
fn asked_port<A: Address>(parsed: &Parsed<A>) -> Port {
    match parsed.transport {
        Transport::Tcp { .. } | Transport::Udp => parsed.destination_port,
        // (A later fragment has that of its first fragment, if known.)
        Transport::LaterFragment if parsed.has_ports => parsed.destination_port,
        _ => Port::ZERO,
    }
}

/// Writes the flow that the packet opens into the work area, as policies see it.
#[inline(always)]
fn prepare<A: Address, T: Tables<A>>(tables: &T, work: &mut Work<A>, from: Side, to: Side) {
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

/// Applies the policies. `true` if one of them lets the packet pass, `false` if none applies to it.
#[inline(always)]
fn is_admitted<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
) -> Result<bool, DropReason> {
    judge(tables, &mut work.policy_match);
    let found = work.policy_match.action;
    if found == u32::from(action::NONE) {
        return Ok(false);
    }
    let parsed = &work.parsed;
    let is_unknown = parsed.transport == Transport::LaterFragment && !parsed.has_ports;
    // The host reassembles fragments itself, and cannot without the first one.
    if is_unknown && work.policy_match.to == side::HOST {
        return Ok(false);
    }
    if is_unknown {
        return Err(DropReason::FragmentUnknown);
    }
    if found == u32::from(action::DROP) {
        return Err(refuse(packet, tables, work));
    }
    Ok(true)
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
) -> Outcome {
    let is_in = !matches!(plain.view, View::Inside);
    tables.count(plain.rule, work.parsed.traffic(packet, is_in));
    if !work.parsed.may_open() {
        return Ok(Verdict::Untouched);
    }
    open_plain(tables, work, plain)?;
    Ok(Verdict::Opened)
}

/// A packet of a session that is not translated at this hook.
#[inline(always)]
fn established<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
) -> Option<Outcome> {
    if !parsed.has_ports {
        return None;
    }
    let session = find(tables, parsed, view, network)?;
    // Packets that leave by an uplink are followed there.
    if session.peer_view != View::Outside as u8 {
        pass(packet, tables, parsed, session);
    }
    Some(Ok(Verdict::Untouched))
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
    let traffic = parsed.traffic(packet, session.has(flags::IN));
    tables.count(session.rule, traffic);
}

/// Whether a packet is an ICMP error about a packet of a session of this guest's network. Of the
/// two directions, the guest's own entry says so.
#[inline(always)]
fn is_related<A: Family, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    parsed: &Parsed<A>,
    network: u16,
) -> bool {
    if parsed.transport != Transport::IcmpError {
        return false;
    }
    let Some(quoted) = parse_quoted(packet, parsed) else {
        return false;
    };
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
fn is_translated<A: Address, T: Tables<A>>(
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
