//! Ports and identifications of fragments, at the hooks after the one by which packets enter.

use crate::{
    drop_reason::DropReason,
    family::Family,
    headers::parsed::Parsed,
    tables::{
        Tables,
        fragments::{FragmentKey, FragmentPorts},
        insert::InsertError,
        sessions::View,
    },
    translation::Translation,
};

/// Gives a fragment its ports. They are read from the first fragment and remembered for later ones.
/// Without the first one, a later fragment has no ports.
#[inline(always)]
pub(crate) fn resolve_fragment<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &mut Parsed<A>,
    view: View,
    network: u16,
) {
    if !parsed.is_fragment() {
        return;
    }
    if !A::has_ports(parsed.header.protocol) {
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
fn live_fragment<'t, A: Family, T: Tables<A>>(
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

/// Gives a translated fragment an identification that no other packet on its way to that
/// destination has: two guests may use the same one, and the receiver would mix their fragments
/// (RFC 6864 section 5.3.1).
#[inline(always)]
pub(crate) fn renumber<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    view: View,
    network: u16,
    translation: &mut Translation<A>,
) -> Result<(), DropReason> {
    if !parsed.is_fragment() || !A::has_ports(parsed.header.protocol) {
        return Ok(());
    }
    let key = parsed.fragment_key(view, network);
    let source = &translation.source.address;
    translation.id =
        fragment_id(tables, parsed, &key, source).ok_or(DropReason::FragmentUnknown)?;
    Ok(())
}

/// The identification of a fragmented packet that leaves with the source `source`: chosen at its
/// first fragment, remembered for the others.
#[inline(never)]
fn fragment_id<A: Family, T: Tables<A>>(
    tables: &T,
    parsed: &Parsed<A>,
    key: &FragmentKey<A>,
    source: &A,
) -> Option<u32> {
    if parsed.header.fragment_offset != 0 {
        return live_fragment(tables, key).map(|ports| ports.id);
    }
    let mut ports = *tables.fragment(key)?;
    let mut outside = FragmentKey {
        source: *source,
        network: 0,
        view: View::Outside as u8,
        // Distinct from the packets of remotes, which have the address as their destination.
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
