//! The decisions at the four hooks, each from parsing to rewriting.
//!
//! | function | hook | job |
//! | --- | --- | --- |
//! | [`inbound`] | uplink, ingress | established session, else forward rule, else mapping, else the host's |
//! | [`from_guest`] | network, ingress | destination of hairpinned packets |
//! | [`outbound`] | uplink, egress | source translation after the kernel's routing |
//! | [`to_guest`] | network, egress | source of hairpinned packets |
//! | [`from_port`] | bridge port, ingress | established sessions, by the fast path |
//! | [`early`] | uplink, XDP | established sessions, by the fast path |

mod direct;
mod error;
mod exit;
mod fast;
mod hairpin;
mod inside_out;
mod outside_in;
mod policy;

pub use fast::{early, from_port};
pub use hairpin::{from_guest, to_guest};
pub use inside_out::outbound;
pub use outside_in::inbound;

use crate::{
    address::{Address, Endpoint},
    counter::DropReason,
    fragment::{self, FragmentKey, FragmentPorts, Order, needs_first},
    next_hop,
    packet::Packet,
    parse::{Parsed, Transport},
    policy::{ChainKey, side},
    rewrite::rewrite,
    rule::{Interface, interface_flags, role},
    session::{Session, Touch, View, flags},
    tables::{InsertError, Tables},
    tcp::{self, Segment},
};

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on as it came.
    Untouched,
    /// Nothing is known against it as yet, and it goes to an address that is no external one. (Within
    /// the pipeline alone.)
    Beyond,
    /// It goes on rewritten.
    Translated,
    /// It goes on rewritten, and opened a session.
    Opened,
    /// It is received anew at the same interface, rewritten, and then goes on.
    ReceivedAnew,
    /// It is sent on by the fast path, as [`crate::work::Work::sent`] says.
    Forwarded,
    /// A fragment that does not go on: a copy will, when the first one of its packet comes.
    Kept,
}

/// Where a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of its network header.
    pub l3: usize,
    /// Index of the interface.
    pub interface: u32,
    /// Whether it is a frame for the host itself, so that it may be sent on for it.
    pub is_to_host: bool,
}

/// The outcome at a hook: a verdict, or why the packet is dropped.
pub type Outcome = Result<Verdict, DropReason>;

/// An [`Outcome`] in one word. Of the other's two, one is undefined where the compiler sees no use
/// for it, and the verifier refuses a program that so much as moves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The packet goes on, rewritten or not.
    GoesOn,
    /// It goes on, and opened a session.
    Opened,
    /// See [`Verdict::ReceivedAnew`].
    ReceivedAnew,
    /// See [`Verdict::Forwarded`].
    Forwarded,
    /// See [`Verdict::Kept`].
    Kept,
    /// It is dropped.
    Dropped(DropReason),
}

impl From<Outcome> for Decision {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(Verdict::Untouched | Verdict::Beyond | Verdict::Translated) => Self::GoesOn,
            Ok(Verdict::Opened) => Self::Opened,
            Ok(Verdict::ReceivedAnew) => Self::ReceivedAnew,
            Ok(Verdict::Forwarded) => Self::Forwarded,
            Ok(Verdict::Kept) => Self::Kept,
            Err(reason) => Self::Dropped(reason),
        }
    }
}

/// What becomes of a packet that belongs to no session: it opens one, or not. One word, as a
/// [`Decision`] is and for the same reason.
type Opened = Result<(), NotOpened>;

/// Why a packet opens no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NotOpened {
    /// It goes on as it came.
    Passes,
    /// See [`Verdict::Beyond`].
    Beyond,
    /// It is dropped.
    Dropped(DropReason),
}

impl From<DropReason> for NotOpened {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}

#[inline(always)]
const fn outcome(opened: Opened) -> Outcome {
    match opened {
        Ok(()) => Ok(Verdict::Opened),
        Err(NotOpened::Passes) => Ok(Verdict::Untouched),
        Err(NotOpened::Beyond) => Ok(Verdict::Beyond),
        Err(NotOpened::Dropped(reason)) => Err(reason),
    }
}

/// The number of the network that a packet came from, 0 if from none.
#[inline(always)]
fn network_of<A: Address, T: Tables<A>>(tables: &T, interface: u32) -> u16 {
    match tables.interface(interface) {
        Some(interface) if interface.role == role::NETWORK => interface.number,
        _ => 0,
    }
}

/// What becomes of a packet that an ingress hook has rewritten. Where netfilter has seen it before, its
/// conntrack entry is that of the addresses before translation: the kernel receives it anew,
/// without that entry.
#[inline(always)]
fn rewritten<A: Address, T: Tables<A>>(tables: &T, place: Place, verdict: Verdict) -> Verdict {
    let is_first = |interface: &Interface| interface.flags & interface_flags::NETFILTER_FIRST != 0;
    match tables.interface(place.interface).is_some_and(is_first) {
        true => Verdict::ReceivedAnew,
        false => verdict,
    }
}

/// The generation of the rule set in use.
#[inline(always)]
fn generation<A: Address, T: Tables<A>>(tables: &T) -> u16 {
    tables
        .settings()
        .map_or(0, |settings| settings.generation as u16)
}

/// Looks the live session of a packet up and notes that it passes. Of a reset it is not: if it has a
/// right to, [`follow`] does.
#[inline(always)]
fn find<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
) -> Option<&'t Session<A>> {
    let session = tables.session(&parsed.key(view, network))?;
    let is_usable = match is_reset(parsed) {
        true => session.is_usable(),
        false => session.touch(tables.now_s()) != Touch::Dead,
    };
    is_usable.then_some(session)
}

#[inline(always)]
fn is_reset<A: Address>(parsed: &Parsed<A>) -> bool {
    matches!(parsed.transport, Transport::Tcp { flags } if flags & tcp::RST != 0)
}

/// Looks the session of a packet up that came in by a network, and gives the number of the network under
/// which it is known: that one, or the one behind which the routes put the guest. A guest may send
/// by another way than the one by which it is reached.
#[inline(always)]
fn find_of_guest<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    parsed: &Parsed<A>,
    network: u16,
) -> Option<(&'t Session<A>, u16)> {
    if let Some(session) = find(tables, parsed, View::Inside, network) {
        return Some((session, network));
    }
    if network == 0 {
        return None;
    }
    let home = home_of(tables, &parsed.header.source);
    if home == network {
        return None;
    }
    find(tables, parsed, View::Inside, home).map(|session| (session, home))
}

/// The number of the network behind which the routes put an address, 0 if behind none.
#[inline(never)]
fn home_of<A: Address, T: Tables<A>>(tables: &T, address: &A) -> u16 {
    tables
        .inside(generation(tables), *address)
        .map_or(0, |inside| inside.network)
}

/// Rewrites a packet of a session to have these ends, follows the connection, and counts. A flow of the
/// host's own that is only noted passes as it is.
#[inline(always)]
fn translate<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    ends: &[Endpoint<A>; 2],
) -> Outcome {
    match translate_apart(packet, tables, parsed, session, ends) {
        None if is_only_noted(parsed, session, ends) => Ok(Verdict::Untouched),
        None => Ok(Verdict::Translated),
        Some(reason) => Err(reason),
    }
}

/// As [`translate`]; gives why not. (Apart from what else is done at a hook: the stack has no room for
/// both.)
#[inline(never)]
fn translate_apart<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    ends: &[Endpoint<A>; 2],
) -> Option<DropReason> {
    follow(tables, parsed, session);
    if let Transport::Tcp { flags } = parsed.transport
        && flags & tcp::RST != 0
    {
        show_answers(tables, parsed, session);
    }
    if is_only_noted(parsed, session, ends) {
        return None;
    }
    let traffic = parsed.traffic(packet, session.has(flags::IN));
    let failure = rewrite(packet, parsed, ends[0], ends[1]).err();
    if failure.is_none() {
        tables.count(session.rule, traffic);
    }
    failure
}

/// Whether a packet belongs to a flow of the host's own that is noted, not translated. (A fragment may
/// have got another identification.)
#[inline(always)]
fn is_only_noted<A: Address>(
    parsed: &Parsed<A>,
    session: &Session<A>,
    ends: &[Endpoint<A>; 2],
) -> bool {
    session.has(flags::HOST)
        && *ends == [parsed.source(), parsed.destination()]
        && !parsed.is_fragment()
}

/// Sends the answers to a reset through the kernel. Its connection tracking has taken the reset for
/// the connection's end, which it undoes if it sees that the connection goes on.
#[inline(never)]
fn show_answers<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, session: &Session<A>) {
    if let Some(peer) = tables.session(&session.peer_key(parsed.header.protocol)) {
        peer.next_hop.store(next_hop::NONE);
    }
}

/// Takes what a packet says about its connection into both entries of the session.
#[inline(never)]
fn follow<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, session: &Session<A>) {
    let Transport::Tcp { flags } = parsed.transport else {
        return follow_datagram(tables, parsed, session);
    };
    let state = session.state.load();
    let segment = Segment {
        flags,
        has_data: parsed.has_data(),
        from_initiator: session.has(flags::FROM_INITIATOR),
    };
    let next = tcp::next(state, segment, || ahead(tables, parsed, session));
    let is_reset = flags & tcp::RST != 0;
    if !is_reset {
        session.acknowledge(parsed.acknowledged);
    } else if next != state {
        session.touch(tables.now_s());
    }
    write_state(tables, parsed, session, state, next);
}

/// The same of a packet that is no segment.
#[inline(always)]
fn follow_datagram<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, session: &Session<A>) {
    let state = session.state.load();
    let next = match session.has(flags::FROM_INITIATOR) {
        false => state | tcp::REPLIED,
        // Who sends after an answer does more than ask one question.
        true if state & tcp::REPLIED != 0 => state & !tcp::QUESTION,
        true => state,
    };
    if next != state {
        write_state(tables, parsed, session, state, next);
    }
}

/// Writes what a packet has changed of the state into both entries. Bit by bit: the two directions may be at
/// it at once.
#[inline(never)]
fn write_state<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    state: u32,
    next: u32,
) {
    let (added, removed) = (next & !state, state & !next);
    let write = |entry: &Session<A>| {
        if removed != 0 {
            entry.state.fetch_and(!removed);
        }
        if added != 0 {
            entry.state.fetch_or(added);
        }
    };
    if added | removed == 0 {
        return;
    }
    write(session);
    if let Some(peer) = tables.session(&session.peer_key(parsed.header.protocol)) {
        write(peer);
    }
}

/// How far a segment is ahead of what the other side has acknowledged last, if that is known.
#[inline(always)]
fn ahead<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
) -> Option<u32> {
    let peer = tables.session(&session.peer_key(parsed.header.protocol))?;
    Some(parsed.sequence.wrapping_sub(peer.acknowledged()?))
}

/// Lets a fragment into the pipeline once the first one of its packet has come.
#[inline(never)]
fn enter<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
) -> Result<Order, DropReason> {
    let (generation, destination) = (generation(tables), parsed.header.destination);
    let may_be_translated = match view {
        View::Outside => tables.external_address(generation, destination).is_some(),
        _ => destination.is_unicast() && tables.inside(generation, destination).is_none(),
    };
    // Policies ask for the ports of what goes to guests.
    let may_be_policed = || {
        let any = ChainKey {
            generation,
            from: side::ANY,
            to: side::ANY,
            reserved: 0,
        };
        destination.is_unicast() && tables.chain(&any).is_some()
    };
    if !may_be_translated && !may_be_policed() {
        return Ok(Order::GoesOn);
    }
    fragment::order(packet, tables, parsed, &parsed.fragment_key(view, network))
}

/// Gives a fragment its ports: the first one says them, later ones are told. Without the first
/// one, a later fragment stays without ports.
#[inline(always)]
fn resolve_fragment<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &mut Parsed<A>,
    view: View,
    network: u16,
) {
    if !parsed.is_fragment() {
        return;
    }
    if !needs_first(parsed.header.protocol) {
        parsed.has_ports = true;
        return;
    }
    let key = parsed.fragment_key(view, network);
    if parsed.has_ports {
        let ports = FragmentPorts {
            source_port: parsed.source_port,
            destination_port: parsed.destination_port,
            seen_s: tables.now_s(),
            id: parsed.header.id,
        };
        tables.put_fragment(&key, &ports);
        return;
    }
    if let Some(ports) = live_fragment(tables, &key) {
        parsed.source_port = ports.source_port;
        parsed.destination_port = ports.destination_port;
        parsed.has_ports = true;
    }
}

#[inline(always)]
fn live_fragment<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    key: &FragmentKey<A>,
) -> Option<&'t FragmentPorts> {
    let lifetime_s = tables.settings().map_or(0, |settings| settings.fragment_s);
    tables
        .fragment(key)
        .filter(|ports| tables.now_s().saturating_sub(ports.seen_s) < lifetime_s)
}

/// How many identifications are tried for a packet in fragments.
const MAX_IDS: u32 = 16;

/// Gives a fragment that gets the source `source` an identification that no other packet has on
/// its way to that destination: two guests may use the same one, and the receiver would mix their
/// fragments (RFC 6864 section 5.3.1).
#[inline(always)]
fn renumber<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
    source: A,
) -> Result<(), DropReason> {
    if !parsed.is_fragment() || !needs_first(parsed.header.protocol) {
        return Ok(());
    }
    let key = parsed.fragment_key(view, network);
    let id = fragment_id(tables, parsed, &key, source).ok_or(DropReason::FragmentUnknown)?;
    if id != parsed.header.id {
        A::write_id(packet, parsed.l3, id).ok_or(DropReason::RewriteFailed)?;
    }
    Ok(())
}

/// The identification of a fragmented packet that leaves with the source `source`: chosen at its
/// first fragment, remembered for the others.
#[inline(never)]
fn fragment_id<A: Address, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    key: &FragmentKey<A>,
    source: A,
) -> Option<u32> {
    if parsed.header.fragment_offset != 0 {
        return live_fragment(tables, key).map(|ports| ports.id);
    }
    let mut ports = *tables.fragment(key)?;
    let mut outside = FragmentKey {
        source,
        network: 0,
        view: View::Outside as u8,
        // Apart from what remotes send: those have the address as their destination.
        ..*key
    };
    let mut chosen = None;
    tables.repeat(MAX_IDS, |attempt| {
        if attempt > 0 {
            outside.id = A::id_from(tables.random());
        }
        let result = tables.add_fragment(&outside, &ports);
        if result != Err(InsertError::Exists) || live_fragment(tables, &outside).is_none() {
            chosen = Some(outside.id);
        }
        chosen.is_none()
    });
    ports.id = chosen?;
    if ports.id != key.id {
        tables.put_fragment(key, &ports);
    }
    Some(ports.id)
}
