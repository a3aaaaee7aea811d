//! The decisions at the four hooks, each from parsing to rewriting.
//!
//! | function | hook | job |
//! | --- | --- | --- |
//! | [`inbound`] | uplink, ingress | established session, else forward rule, else mapping, else the host's |
//! | [`from_guest`] | network, ingress | destination of hairpinned packets |
//! | [`outbound`] | uplink, egress | source translation after the kernel's routing |
//! | [`to_guest`] | network, egress | source of hairpinned packets |

mod error;
mod hairpin;
mod inside_out;
mod outside_in;

pub use hairpin::{from_guest, to_guest};
pub use inside_out::outbound;
pub use outside_in::inbound;

use crate::{
    address::{Address, Endpoint},
    counter::DropReason,
    packet::Packet,
    parse::{ICMP, Parsed, TCP, Transport, UDP},
    rewrite::rewrite,
    rule::{FragmentKey, FragmentPorts, role},
    session::{Session, SessionKey, View, flags},
    tables::Tables,
    tcp::{self, Segment},
};

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on as it came.
    Untouched,
    /// It goes on rewritten.
    Translated,
    /// It goes on rewritten, and opened a session.
    Opened,
}

/// Where a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Offset of its network header.
    pub l3: usize,
    /// Index of the interface.
    pub interface: u32,
}

/// The outcome at a hook: a verdict, or why the packet is dropped.
pub type Outcome = Result<Verdict, DropReason>;

/// The number of the network that a packet came from, 0 if from none.
#[inline(always)]
fn network_of<A: Address, T: Tables<A>>(tables: &T, interface: u32) -> u16 {
    match tables.interface(interface) {
        Some(interface) if interface.role == role::NETWORK => interface.number,
        _ => 0,
    }
}

/// The generation of the rule set in use.
#[inline(always)]
fn generation<A: Address, T: Tables<A>>(tables: &T) -> u16 {
    tables
        .settings()
        .map_or(0, |settings| settings.generation as u16)
}

/// Looks a live session up and notes that a packet passes.
#[inline(always)]
fn find<'t, A: Address, T: Tables<A>>(
    tables: &'t T,
    key: &SessionKey<A>,
) -> Option<&'t Session<A>> {
    tables
        .session(key)
        .filter(|session| session.touch(tables.now_s()))
}

/// Rewrites a packet of a session, follows the connection, and counts.
#[inline(always)]
fn translate<A: Address, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    parsed: &Parsed<A>,
    session: &Session<A>,
    source: Endpoint<A>,
    destination: Endpoint<A>,
) -> Outcome {
    follow(tables, parsed, session);
    let traffic = parsed.traffic(packet, session.has(flags::IN));
    rewrite(packet, parsed, source, destination)?;
    tables.count(session.rule, traffic);
    Ok(Verdict::Translated)
}

/// Takes what a packet says about its connection into both entries of the session.
#[inline(always)]
fn follow<A: Address, T: Tables<A>>(tables: &T, parsed: &Parsed<A>, session: &Session<A>) {
    let from_initiator = session.has(flags::FROM_INITIATOR);
    let state = session.state.load();
    let next = match parsed.transport {
        Transport::Tcp { flags } => tcp::next(
            state,
            Segment {
                flags,
                has_data: parsed.has_data(),
                from_initiator,
            },
        ),
        _ if from_initiator => state,
        _ => state | tcp::REPLIED,
    };
    if next == state {
        return;
    }
    // What is only added is added bit by bit: the two directions may be at it at once.
    let is_addition = next & state == state;
    let write = |entry: &Session<A>| match is_addition {
        true => drop(entry.state.fetch_or(next)),
        false => entry.state.store(next),
    };
    write(session);
    if let Some(peer) = tables.session(&session.peer_key(parsed.header.protocol)) {
        write(peer);
    }
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
    if parsed.has_ports && !parsed.header.more_fragments {
        return;
    }
    if !matches!(parsed.header.protocol, TCP | UDP | ICMP) {
        parsed.has_ports = true;
        return;
    }
    let key = FragmentKey {
        source: parsed.header.source,
        destination: parsed.header.destination,
        id: parsed.header.id,
        network,
        protocol: parsed.header.protocol,
        view: view as u8,
    };
    if parsed.has_ports {
        let ports = FragmentPorts {
            source_port: parsed.source_port,
            destination_port: parsed.destination_port,
            seen_s: tables.now_s(),
        };
        tables.put_fragment(&key, &ports);
        return;
    }
    let lifetime_s = tables.settings().map_or(0, |settings| settings.fragment_s);
    if let Some(ports) = tables.fragment(&key)
        && tables.now_s().saturating_sub(ports.seen_s) < lifetime_s
    {
        parsed.source_port = ports.source_port;
        parsed.destination_port = ports.destination_port;
        parsed.has_ports = true;
    }
}
